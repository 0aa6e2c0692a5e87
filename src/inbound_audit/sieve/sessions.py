"""Open sessions: ``audit_service`` and its twins. Each returns a list of one number, as the reference's do."""

from __future__ import annotations

from inbound_audit._ipcount import parse_pair, parse_prefix
from inbound_audit.sieve.functions import Function, Parameter
from inbound_audit.sieve.run import Run
from inbound_audit.sieve.values import Value, text


def check_cidr(cidr: str) -> None:
    """Raises CidrError for a text that is a `cidr` of no session, be it IPv4 or IPv6."""
    (parse_pair if cidr.startswith("/") else parse_prefix)(cidr)


def audit_service(run: Run, service: str, cidr: str) -> Value:
    return [run.ac.inbound_session_count(cidr, service)]


def audit_connections_on_service(run: Run, cidr: str) -> Value:
    return [run.ac.inbound_session_count(cidr)]


def audit_connections_on_listener(run: Run, cidr: str) -> Value:
    return [run.ac.listener.inbound_session_count(cidr, run.ac)]


_CIDR = Parameter("address/mask", text, check_cidr)

SESSIONS = {
    "audit_service": Function(audit_service, (Parameter("service", text), _CIDR), (2,), has_value=True),
    "audit_connections_on_service": Function(audit_connections_on_service, (_CIDR,), (1,), has_value=True),
    "audit_connections_on_listener": Function(audit_connections_on_listener, (_CIDR,), (1,), has_value=True),
}
