"""Open sessions: ``audit_service`` and its kin. Each answers a list of one number, as the reference's do."""

from __future__ import annotations

from inbound_audit._ipcount import PrefixCounter
from inbound_audit.errors import CidrError
from inbound_audit.sieve.functions import Function, Parameter
from inbound_audit.sieve.run import Run
from inbound_audit.sieve.values import Value, text

_LEAST = 1 << 16
_PEERS = ("192.0.2.1", "2001:db8::1")


def check_cidr(cidr: str) -> None:
    """Raises CidrError for a text that is a `cidr` for no session, be it IPv4 or IPv6."""
    # The core reads it where nothing is counted; a length has an address put before it, one of either family.
    four, comma, six = cidr.partition(",")
    if not cidr.startswith("/"):
        _read(cidr, cidr)
    elif comma:
        _read(_PEERS[0] + four, cidr)
        _read(_PEERS[1] + six if six.startswith("/") else cidr, cidr)
    else:
        try:
            _read(_PEERS[0] + cidr, cidr)
        except CidrError:
            _read(_PEERS[1] + cidr, cidr)


def _read(absolute: str, cidr: str) -> None:
    try:
        PrefixCounter(capacity=_LEAST).count(absolute)
    except CidrError as error:
        raise CidrError(f"{cidr!r}: {str(error).removeprefix(f'{absolute!r}: ')}") from None


def audit_service(run: Run, service: str, cidr: str) -> Value:
    return [run.ac.inbound_session_count(cidr, service)]


def audit_connections_on_service(run: Run, cidr: str) -> Value:
    return [run.ac.inbound_session_count(cidr)]


def audit_connections_on_listener(run: Run, cidr: str) -> Value:
    ac = run.ac
    if cidr == "/32":
        return [ac.inbound_session_count()]
    return [ac.inbound_session_count(cidr, ac.service_type)]


_CIDR = Parameter("address/mask", text, check_cidr)

SESSIONS = {
    "audit_service": Function(audit_service, (Parameter("service", text), _CIDR), (2,), answers=True),
    "audit_connections_on_service": Function(audit_connections_on_service, (_CIDR,), (1,), answers=True),
    "audit_connections_on_listener": Function(audit_connections_on_listener, (_CIDR,), (1,), answers=True),
}
