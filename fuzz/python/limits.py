"""Texts of limits and networks: `Limits` is made or refused with a reason, and then limits what its texts say.

An input is lines ``network key=value``: a name or nothing, a prefix length or a prefix, a number or a limit over time.
"""

from __future__ import annotations

import ipaddress

from inbound_audit import InboundAudit, Limits
from inbound_audit._ipcount import parse_address, parse_pair, parse_prefix
from inbound_audit.errors import AddressError, CidrError, PolicyError

audit = InboundAudit(capacity=1 << 20)
listener = audit.listener("SMTP")


def number(text: str) -> object:
    """What a program may pass by mistake, too."""
    try:
        return int(text)
    except ValueError:
        return text


def run(data: bytes) -> None:
    default: dict[str, object] = {}
    networks: dict[str, dict[str, object]] = {}
    exempt = []
    for line in data.decode("utf-8", "replace").split("\n")[:32]:
        check_text(line)
        left, equals, value = line.partition("=")
        name, blank, key = left.partition(" ")
        if not blank:
            default[left] = number(value)
        elif not equals:
            exempt.append(key)
        elif key.startswith("/"):
            networks.setdefault(name, {}).setdefault("limits", {})[key] = number(value)  # type: ignore[index]
        else:
            networks.setdefault(name, {}).setdefault("prefixes", []).append(key)  # type: ignore[attr-defined]
            networks[name].setdefault("total", number(value))
    try:
        policy = Limits(default, exempt=exempt, networks=networks)
        policy.prepare(audit)  # sooner or later it has no room for another monitor
    except PolicyError as error:
        assert str(error)
        return
    for remote in ("192.0.2.7", "2001:db8::7"):
        with listener.session(remote) as ac:
            assert policy.validate_connect(ac).accepted in (True, False)


def check_text(text: str) -> None:
    """One text by every reader: a value or its own error, with the text in it."""
    for read, error in ((parse_prefix, CidrError), (parse_pair, CidrError), (parse_address, AddressError)):
        try:
            read(text)
        except error as raised:
            assert repr(text) in str(raised)
    try:
        expected = ipaddress.ip_address(text)
    except ValueError:
        return
    expected = getattr(expected, "ipv4_mapped", None) or expected
    assert parse_address(text)[:2] == (expected.version, expected.packed)
