"""A session's budget: which values it takes, and the bounds that `serve` has no way to reach."""

from __future__ import annotations

import asyncio
import math
from dataclasses import fields
from typing import Any

import pytest
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import AuthResult
from tests.support import listening
from tests.support.listening import WAYS, Peer, serving

from inbound_audit import InboundAudit
from inbound_audit.listeners import Guard
from inbound_audit.listeners.budget import SessionBudget
from inbound_audit.listeners.smtp import SMTP, Controller, SMTPFactory, protocol_factory

audit, guard = listening.audit, listening.guard  # fixtures

NAMES = [each.name for each in fields(SessionBudget)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, "5", None, True, 1.5])
def test_a_value_that_bounds_nothing(name: str, value: Any) -> None:
    if value == 1.5 and name.endswith("_s"):
        assert getattr(SessionBudget(**{name: value}), name) == 1.5
        return
    with pytest.raises((TypeError, ValueError), match=f"^{name}="):
        SessionBudget(**{name: value})


def test_a_budget_is_made_of_keywords_and_a_budget() -> None:
    options = {"max_errors": 3, "timeout": 5, "data_size_limit": 100, "proxy_timeout": 2, "hostname": "mx"}
    budget = SessionBudget.taken_from(options, SessionBudget(max_commands=7, max_errors=9))
    assert options == {"hostname": "mx"}
    assert budget == SessionBudget(max_commands=7, max_errors=3, idle_s=5, max_message_bytes=100, proxy_s=2)
    assert SessionBudget.taken_from({}) == SessionBudget()
    assert SessionBudget.taken_from({}, budget) is budget


@pytest.mark.parametrize("wrong", [{"max_errors": 0}, {"message_memory": 5}, {"data_size_limit": None}])
def test_a_budget_that_is_none_fails_where_it_is_given(guard: Guard, wrong: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        protocol_factory(Sink(), guard, **wrong)
    with pytest.raises((TypeError, ValueError)):
        Controller(Sink(), "127.0.0.1", 0, guard=guard, **wrong)


def served(guard: Guard, **kwargs: Any) -> Any:
    return serving(protocol_factory(Sink(), guard, hostname="mx", **kwargs), WAYS[0])


def authenticate(*args: Any) -> AuthResult:
    return AuthResult(success=args[-1].password == b"right", handled=False)


def test_attempts_to_authenticate_have_a_limit(guard: Guard) -> None:
    options = {"authenticator": authenticate, "auth_require_tls": False, "max_auth_attempts": 2}
    with served(guard, **options) as (_, address), Peer(*address) as peer:
        peer.send(b"EHLO c\r\n" + b"AUTH PLAIN AGEAYg==\r\n" * 3)
        assert peer.rest().splitlines()[-3:] == [
            b"535 5.7.8 Authentication credentials invalid",
            b"535 5.7.8 Authentication credentials invalid",
            b"421 4.7.0 too many attempts to authenticate",
        ]


def test_a_line_of_auth_may_be_longer_than_a_command(guard: Guard) -> None:
    options = {"authenticator": authenticate, "auth_require_tls": False}
    with served(guard, **options) as (_, address), Peer(*address) as peer:
        peer.send(b"EHLO c\r\n")
        assert peer.line().startswith(b"220")
        while peer.line()[3:4] == b"-":
            pass
        assert peer.ask(b"NOOP " + b"x" * 5000) == b"500 5.5.2 line too long\r\n"
        assert peer.ask(b"AUTH PLAIN " + b"A" * 5000).startswith(b"501 5.5.2 Can't split")
        assert peer.ask(b"AUTH PLAIN").startswith(b"334")
        assert peer.ask(b"A" * 12_000).startswith(b"501 5.5.2 Can't split")
        assert peer.ask(b"AUTH PLAIN").startswith(b"334")
        assert peer.ask(b"A" * 13_000) == b"500 5.5.2 line too long\r\n"
        assert peer.ask(b"AUTH PLAIN AGEAcmlnaHQ=").startswith(b"235")


@pytest.mark.parametrize("address", [b"a" * 600 + b"@b.example", b"(a)" * 300 + b"x@b.example", b"(" * 1500])
def test_an_address_has_a_limit(guard: Guard, address: bytes) -> None:
    """`email` takes a time to parse it that grows with its square."""
    with served(guard) as (_, address_of_server), Peer(*address_of_server) as peer:
        assert peer.line().startswith(b"220")
        assert peer.ask(b"HELO c").startswith(b"250")
        assert peer.ask(b"MAIL FROM:<" + address + b">").startswith(b"55")
        assert peer.ask(b"VRFY " + address).startswith(b"502")
        assert peer.ask(b"MAIL FROM:<" + b"a" * 500 + b"@b>").startswith(b"250")
        assert peer.ask(b"RCPT TO:<" + address + b">").startswith(b"55")
        assert peer.ask(b"RCPT TO:<" + b"a" * 500 + b"@b>").startswith(b"250")


def test_bytes_of_a_message_give_time_but_never_more_than_the_idle_time(audit: InboundAudit) -> None:
    loop = asyncio.new_event_loop()
    guard = Guard(audit.listener("SMTP"))
    now = [1000.0]
    loop.time = lambda: now[0]  # type: ignore[method-assign]
    admission = guard.enter(("192.0.2.7", 25))
    session = SMTP(Sink(), admission, hostname="mx", loop=loop, idle_s=10, min_bytes_per_second=100, session_s=25)
    session._reset_timeout()
    assert session._deadline == 1010
    now[0] += 5
    session._received(200)
    assert session._deadline == 1012
    session._received(1_000_000)
    assert session._deadline == 1015
    now[0] += 9
    session._received(1_000_000)
    assert session._deadline == 1024
    now[0] += 9
    session._received(1_000_000)
    assert session._deadline == 1025  # the session's own end
    admission.close()
    loop.close()


@pytest.mark.parametrize("end", [b"\n.\r\n", b"\r\n.\n", b"\n.\n", b"\r.\r", b"\r\n.\r", b"\0\r\n.\0\r\n"])
def test_no_second_message_is_smuggled_in(guard: Guard, end: bytes) -> None:
    kept: list[bytes] = []

    class Keep:
        async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
            kept.append(envelope.content)
            return "250 kept"

    begin = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"
    with serving(SMTPFactory(Keep(), guard, hostname="mx"), WAYS[0]) as (_, address), Peer(*address) as peer:
        peer.send(b"HELO c\r\n" + begin + b"one" + end + begin + b"two\r\n.\r\nQUIT\r\n")
        assert [line[:3] for line in peer.rest().splitlines()] == [b"220", *[b"250"] * 3, b"354", b"250", b"221"]
    assert len(kept) == 1
    assert kept[0].startswith(b"one")
    assert kept[0].endswith(b"\r\nDATA\r\ntwo\r\n")
    assert kept[0].count(b"\r") == kept[0].count(b"\n") == kept[0].count(b"\r\n")
