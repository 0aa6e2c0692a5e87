"""aiosmtpd under a guard, with real SMTP clients and with peers that behave badly."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.handlers import Sink
from tests.support import listening
from tests.support.listening import LoopThread, Peer, Script, Way, every_way, serving, warnings_kept
from tests.support.waiting import PATIENCE, eventually, until_it_suffices

from inbound_audit import InboundAudit, Limits, LuaPolicy, Session, Verdict
from inbound_audit.listeners import Guard
from inbound_audit.listeners.pending import stop_accepting
from inbound_audit.listeners.smtp import SMTP, Controller, protocol_factory
from inbound_audit.policy.base import Policy
from inbound_audit.policy.message import Message
from inbound_audit.policy.verdict import ACCEPT

pytestmark = pytest.mark.usefixtures("acceptor", "quick_close")

acceptor, audit = listening.acceptor, listening.audit  # fixtures
guard, quick_close = listening.guard, listening.quick_close

BANNER = b"220 mx.example "
SHUTDOWN = b"421 4.3.2 service is shutting down\r\n"
FOREVER = Verdict(tarpit=3600.0)
SHORTLY = Verdict(tarpit=0.05)


class Mailbox:
    """A handler that keeps what was delivered; a message that says "fail" makes it raise."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.servers: list[SMTP] = []

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:
        self.servers.append(server)
        if b"fail" in envelope.content:
            raise RuntimeError("on purpose")
        self.messages.append(envelope.content)
        return "250 delivered"


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture(scope="module")
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "::1", "mx.example").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@contextlib.contextmanager
def mx(guard: Guard, way: Way = listening.WAYS[0], handler: object = None, **kwargs: Any) -> Iterator[Any]:
    """An SMTP server; yields its loop's thread and where to connect."""
    kwargs.setdefault("hostname", "mx.example")
    with serving(protocol_factory(handler or Sink(), guard, **kwargs), way) as (thread, address):
        yield thread, address


def greeted(address: tuple[str, int]) -> Peer:
    peer = Peer(*address)
    assert peer.line().startswith(BANNER)
    return peer


def ask_all(peer: Peer, *lines: bytes) -> list[bytes]:
    return [peer.ask(line)[:3] for line in lines]


# ---- counting


@every_way
def test_a_session_is_counted_while_it_is_open(guard: Guard, audit: InboundAudit, way: Way, mailbox: Mailbox) -> None:
    with mx(guard, way, mailbox) as (_, address):
        with smtplib.SMTP(*address) as one, smtplib.SMTP(*address) as two:
            one.sendmail("a@example.com", ["b@example.com"], "Subject: hello\r\n\r\nhello")
            assert two.ehlo()[0] == 250
            assert audit.inbound_session_count(way.counted) == 2
            assert audit.inbound_session_count("127.0.0.0/8" if way.counted != "::1" else "::/64") == 2
            assert mailbox.servers[0].inbound_session.remote_ip == way.counted
        eventually(lambda: audit.total() == 0)
        assert len(mailbox.messages) == 1
        assert (guard.opened, guard.accepted, guard.refused) == (2, 2, 0)


@every_way
def test_a_handler_that_raises_keeps_its_session(guard: Guard, audit: InboundAudit, way: Way, mailbox: Mailbox) -> None:
    with mx(guard, way, mailbox) as (_, address):
        with smtplib.SMTP(*address) as client:
            with pytest.raises(smtplib.SMTPDataError, match="on purpose"):
                client.sendmail("a@example.com", ["b@example.com"], "fail")
            assert audit.total() == 1
            assert client.noop()[0] == 250
        eventually(lambda: audit.total() == 0)


@every_way
@pytest.mark.parametrize(
    "dialogue",
    [
        pytest.param([], id="after the banner"),
        pytest.param([b"EHLO c.example"], id="after EHLO"),
        pytest.param([b"HELO c", b"MAIL FROM:<a@b.example>", b"RCPT TO:<b@c.example>", b"DATA", b"x"], id="in DATA"),
    ],
)
@pytest.mark.parametrize("ending", ["reset", "close"])
def test_a_peer_that_leaves(guard: Guard, audit: InboundAudit, way: Way, dialogue: list[bytes], ending: str) -> None:
    with mx(guard, way) as (_, address):
        peer = greeted(address)
        for line in dialogue:
            peer.send(line + b"\r\n")
        assert audit.total() == 1
        getattr(peer, ending)()
        eventually(lambda: audit.total() == 0)


def test_peers_that_reset_at_once(guard: Guard, audit: InboundAudit) -> None:
    with mx(guard, listening.WAYS[1]) as (_, address):
        for _ in range(50):
            Peer(*address).reset()
        eventually(lambda: guard.opened == 50)
        eventually(lambda: audit.total() == 0)


def test_a_peer_that_says_nothing_runs_into_the_timeout(guard: Guard, audit: InboundAudit) -> None:
    def attempt(timeout: float) -> bool:
        with mx(guard, timeout=timeout) as (_, address), Peer(*address) as peer:
            *greeting, last = peer.rest().splitlines(keepends=True)
            assert last == b"421 4.4.2 timeout exceeded\r\n"
            eventually(lambda: audit.total() == 0)
            return [line.startswith(BANNER) for line in greeting] == [True]

    until_it_suffices(attempt, 0.05)


def test_a_task_that_is_cancelled(guard: Guard, audit: InboundAudit) -> None:
    with mx(guard) as (thread, address), greeted(address) as peer:
        (task,) = (task for task in asyncio.all_tasks(thread.loop) if "_handle_client" in repr(task))
        thread.loop.call_soon_threadsafe(task.cancel)
        assert peer.rest() == b""
        eventually(lambda: audit.total() == 0)


def test_a_task_that_is_cancelled_before_its_first_step(guard: Guard, audit: InboundAudit) -> None:
    def cancelling(loop: asyncio.AbstractEventLoop, work: Any, **kwargs: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=loop, **kwargs)
        if work.__name__ == "_handle_client":
            task.cancel()
        return task

    with mx(guard) as (thread, address):
        thread.loop.set_task_factory(cancelling)
        with Peer(*address) as peer:
            assert peer.rest() == b""
        eventually(lambda: guard.opened == 1 and audit.total() == 0)


def test_a_unix_socket_is_let_in_uncounted(guard: Guard, audit: InboundAudit, tmp_path: Path) -> None:
    guard.policy = Limits({"/0": 0})
    path = str(tmp_path / "socket")
    factory = protocol_factory(Sink(), guard, hostname="mx.example", proxy_from=["0.0.0.0/0", "::/0"])
    with LoopThread() as thread:
        server: Any = thread.do(lambda: thread.loop.create_unix_server(factory, path))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            assert client.recv(100).startswith(BANNER)
            assert (guard.uncounted, guard.open, audit.total()) == (1, 1, 0)
            client.sendall(b"EHLO c.example\r\n")
            assert client.recv(1000).startswith(b"250-mx.example")
        eventually(lambda: guard.open == 0)
        thread.do(lambda: stop_accepting(server))


# ---- at accept


@every_way
def test_a_refusal_comes_before_the_banner(guard: Guard, audit: InboundAudit, way: Way) -> None:
    guard.policy = Limits({"/32": 1})
    with mx(guard, way) as (_, address):
        with greeted(address) as one:
            with Peer(*address) as two:
                assert two.rest() == b"421 connection limit exceeded\r\n"
            with pytest.raises(smtplib.SMTPConnectError) as refusal:
                smtplib.SMTP(*address)
            assert refusal.value.smtp_code == 421
            assert one.ask(b"NOOP") == b"250 OK\r\n"
            eventually(lambda: audit.total() == 1)
            assert (guard.accepted, guard.refused) == (1, 2)
        eventually(lambda: audit.total() == 0)
        greeted(address).close()


@pytest.mark.parametrize(
    ("verdict", "reply"),
    [
        (Verdict(False), b"421 connection limit exceeded\r\n"),
        (Verdict(False, 554, "5.7.1 go away"), b"554 5.7.1 go away\r\n"),
        (Verdict(True, 421, "later", disconnect=True), b"421 later\r\n"),
        (Verdict(False, 450, "one\ntwo\nthree"), b"450-one\r\n450-two\r\n450 three\r\n"),
        (Verdict(False, 450, "gr\u00fc\u00df Gott\n"), b"450 gr?? Gott\r\n"),
        (Verdict(False, 250, "not so"), b"421 not so\r\n"),
        (Verdict(False, 599, "\n"), b"599 \r\n"),
    ],
)
def test_the_words_of_a_refusal(guard: Guard, verdict: Verdict, reply: bytes) -> None:
    guard.policy = Script({"connect": verdict})
    with mx(guard) as (_, address), Peer(*address) as peer:
        assert peer.rest() == reply


@every_way
def test_a_tarpit_delays_one_banner_alone(guard: Guard, audit: InboundAudit, way: Way) -> None:
    policy = guard.policy = Script({"connect": FOREVER})
    with mx(guard, way) as (_, address):
        slow = Peer(*address)
        eventually(lambda: guard.open == 1)
        policy.answers.clear()
        greeted(address).close()
        slow.reset()
        eventually(lambda: audit.total() == 0)


def test_after_a_tarpit_all_is_as_ever(guard: Guard) -> None:
    guard.policy = Script({"connect": SHORTLY})
    with mx(guard) as (_, address), Peer(*address) as peer:
        peer.send(b"EHLO c.example\r\nQUIT\r\n")  # too early, and not lost
        said = peer.rest()
        assert said.startswith(BANNER)
        assert said.endswith(b"250 HELP\r\n221 Bye\r\n")


def test_a_refusal_after_a_tarpit(guard: Guard) -> None:
    guard.policy = Script({"connect": Verdict(False, 421, "slow down", tarpit=0.05)})
    with mx(guard) as (_, address), Peer(*address) as peer:
        assert peer.rest() == b"421 slow down\r\n"


# ---- further hooks


def test_every_stage_is_asked(guard: Guard, mailbox: Mailbox) -> None:
    policy = guard.policy = Script()
    body = "Subject: hello\r\n\r\nhello\r\n"
    with mx(guard, listening.WAYS[1], mailbox) as (_, address):
        with smtplib.SMTP(*address, local_hostname="c.example") as client:
            client.sendmail("a@example.com", ["b@example.com", "c@example.com"], body)
            assert client.docmd("RSET")[0] == 250
            client.helo("h.example")
        eventually(lambda: len(policy.ended) == 1)
    first, second, whole = (
        Message(mailfrom="a@example.com", rcptto=rcptto, size=len(body))
        for rcptto in ([], ["b@example.com"], ["b@example.com", "c@example.com"])
    )
    seen = [(stage, *(_copied(about) for about in question)) for stage, *question in policy.asked]
    assert [question for question in seen if question[0] not in ("rcptto",)] == [
        ("connect", "::1"),
        ("ehlo", "c.example"),
        ("mailfrom", "a@example.com"),
        ("data", whole),
        ("data_spool", whole),
        ("ehlo", "h.example"),
    ]
    assert [question[1] for question in seen if question[0] == "rcptto"] == ["b@example.com", "c@example.com"]
    del first, second


def _copied(about: object) -> object:
    return Message(about.mailfrom, list(about.rcptto), about.size) if isinstance(about, Message) else about


STAGES = {
    "ehlo": [b"EHLO c.example"],
    "mailfrom": [b"HELO c.example", b"MAIL FROM:<a@example.com>"],
    "rcptto": [b"HELO c.example", b"MAIL FROM:<a@example.com>", b"RCPT TO:<b@example.com>"],
    "data": [b"HELO c", b"MAIL FROM:<a@example.com>", b"RCPT TO:<b@example.com>", b"DATA", b"hello\r\n."],
    "data_spool": [b"HELO c", b"MAIL FROM:<a@example.com>", b"RCPT TO:<b@example.com>", b"DATA", b"hello\r\n."],
}
every_stage = pytest.mark.parametrize("stage", STAGES)


@every_stage
def test_a_stage_that_is_refused_leaves_the_session(
    guard: Guard, audit: InboundAudit, mailbox: Mailbox, stage: str
) -> None:
    policy = guard.policy = Script({stage: Verdict(False, 550, "5.7.1 not\nyou")})
    with mx(guard, handler=mailbox) as (_, address), greeted(address) as peer:
        *before, last = STAGES[stage]
        assert set(ask_all(peer, *before)) <= {b"250", b"354"}
        assert (peer.ask(last), peer.line()) == (b"550-5.7.1 not\r\n", b"550 you\r\n")
        assert peer.ask(b"NOOP") == b"250 OK\r\n"
        assert (audit.total(), mailbox.messages) == (1, [])
        policy.answers.clear()
        again = before[before.index(b"MAIL FROM:<a@example.com>") :] if stage.startswith("data") else []
        assert set(ask_all(peer, *again, last)) <= {b"250", b"354"}


class Once(Script):
    """Gives each answer once; after that all is well."""

    def _answer(self, stage: str, *about: object) -> Verdict:
        answer = super()._answer(stage, *about)
        self.answers.pop(stage, None)
        return answer


@every_stage
@pytest.mark.parametrize(
    "verdict", [Verdict(False, 421, "enough"), Verdict(False, 421, "enough", tarpit=0.01), Verdict(disconnect=True)]
)
def test_a_stage_that_ends_the_connection(
    guard: Guard, audit: InboundAudit, mailbox: Mailbox, stage: str, verdict: Verdict
) -> None:
    guard.policy = Once({stage: verdict})
    with mx(guard, handler=mailbox) as (_, address), greeted(address) as peer:
        *before, last = STAGES[stage]
        ask_all(peer, *before)
        # What comes along in the same packet is not carried out.
        peer.send(last + b"\r\nHELO c\r\nMAIL FROM:<x@example.com>\r\nRCPT TO:<y@example.com>\r\nDATA\r\nx\r\n.\r\n")
        assert peer.rest() == f"421 {verdict.text or 'connection limit exceeded'}\r\n".encode()
        assert mailbox.messages == []
        eventually(lambda: audit.total() == 0)


@every_stage
def test_a_stage_that_ends_the_connection_through_tls(
    guard: Guard, audit: InboundAudit, mailbox: Mailbox, stage: str, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """A TLS connection takes its time to close, and what has come along is decrypted already."""
    guard.policy = Once({stage: Verdict(False, 421, "enough")})
    with mx(guard, handler=mailbox, tls_context=tls[0]) as (_, address), greeted(address) as plain:
        assert plain.ask(b"STARTTLS").startswith(b"220")
        with tls[1].wrap_socket(plain.socket, server_hostname="127.0.0.1") as peer:
            message = b"HELO c\r\nMAIL FROM:<x@example.com>\r\nRCPT TO:<y@example.com>\r\nDATA\r\nx\r\n.\r\n"
            peer.sendall(b"".join(line + b"\r\n" for line in STAGES[stage]) + message)
            with peer.makefile("rb") as replies:
                assert replies.read().endswith(b"421 enough\r\n")
        assert mailbox.messages == []
        eventually(lambda: audit.total() == 0)


@pytest.mark.parametrize("greeting", [b"EHLO", b"HELO"])
def test_a_greeting_that_is_refused_allows_no_mail(guard: Guard, greeting: bytes) -> None:
    policy = guard.policy = Script()
    with mx(guard) as (_, address), greeted(address) as peer:
        assert peer.ask(b"HELO c.example").startswith(b"250")
        policy.answers["ehlo"] = Verdict(False, 550, "not you")
        assert peer.ask(greeting + b" evil.example") == b"550 not you\r\n"
        assert peer.ask(b"MAIL FROM:<a@example.com>").startswith(b"503")


@every_stage
@pytest.mark.parametrize("choice", ["accept", "refuse"])
def test_a_hook_that_fails(audit: InboundAudit, stage: str, choice: Any) -> None:
    guard = Guard(audit.listener("SMTP"), Script({stage: RuntimeError("out of order")}), on_error=choice)
    with mx(guard) as (_, address), greeted(address) as peer:
        *before, last = STAGES[stage]
        ask_all(peer, *before)
        assert peer.ask(last).startswith(b"250" if choice == "accept" else b"421 service not available")
    eventually(lambda: audit.total() == 0)


@every_stage
def test_a_tarpit_at_a_stage(guard: Guard, stage: str) -> None:
    guard.policy = Script({stage: SHORTLY})
    with mx(guard, timeout=PATIENCE) as (_, address), greeted(address) as peer:
        *before, last = STAGES[stage]
        ask_all(peer, *before)
        assert peer.ask(last).startswith(b"250")


@every_stage
def test_a_peer_that_leaves_a_tarpit_at_a_stage(guard: Guard, audit: InboundAudit, stage: str) -> None:
    policy = guard.policy = Script({stage: FOREVER})
    with mx(guard) as (_, address):
        peer = greeted(address)
        for line in STAGES[stage]:
            peer.send(line + b"\r\n")
        eventually(lambda: stage in policy.stages())
        assert audit.total() == 1
        peer.reset()
        eventually(lambda: audit.total() == 0)


def test_a_policy_without_hooks_leaves_all_as_it_was(guard: Guard) -> None:
    guard.policy = Limits({"/32": 5})
    with mx(guard, data_size_limit=1000) as (_, address), greeted(address) as peer:
        peer.send(b"EHLO c.example\r\n")
        assert [peer.line() for _ in range(4)] == [
            b"250-mx.example\r\n",
            b"250-SIZE 1000\r\n",
            b"250-8BITMIME\r\n",
            b"250 HELP\r\n",
        ]
        assert peer.ask(b"HELP STARTTLS").startswith(b"501")
        assert peer.ask(b"HELP EHLO") == b"250 Syntax: EHLO hostname\r\n"
        assert peer.ask(b"MAIL FROM:<a@example.com> SIZE=1001").startswith(b"552")


class Capable(Script):
    def capabilities(self, ac: object) -> tuple[list[str], list[str]]:
        if isinstance(answer := self.answers.get("capabilities"), Exception):
            raise answer
        return ["SIZE 5000", "XNEW"], ["8bitmime"]


def test_a_policy_adds_and_removes_capabilities(guard: Guard) -> None:
    policy = guard.policy = Capable()
    with mx(guard) as (_, address), greeted(address) as peer:
        peer.send(b"EHLO c.example\r\n")
        assert [peer.line() for _ in range(4)] == [
            b"250-mx.example\r\n",
            b"250-SIZE 5000\r\n",
            b"250-XNEW\r\n",
            b"250 HELP\r\n",
        ]
        policy.answers["capabilities"] = RuntimeError("out of order")
        peer.send(b"EHLO c.example\r\nNOOP\r\n")
        assert [peer.line()[:8] for _ in range(5)][1:] == [b"250-SIZE", b"250-8BIT", b"250 HELP", b"250 OK\r\n"]
        assert guard.failures == 1


def test_the_handlers_own_hooks_still_come(guard: Guard) -> None:
    guard.policy = Capable({"mailfrom": Verdict(False, 550, "policy")})

    class Handler(Sink):
        async def handle_EHLO(
            self, server: SMTP, session: Any, envelope: Any, hostname: str, responses: list[str]
        ) -> list[str]:
            if hostname == "no.example":
                return ["550 handler"]
            session.host_name = hostname
            return [*responses[:-1], "250-XHANDLER", responses[-1]]

        async def handle_MAIL(self, server: SMTP, session: Any, envelope: Any, address: str, options: object) -> str:
            raise AssertionError("the policy had refused")

        async def handle_VRFY(self, server: SMTP, session: Any, envelope: Any, address: str) -> str:
            return "252 handler"

    with mx(guard, handler=Handler()) as (_, address), greeted(address) as peer:
        assert peer.ask(b"EHLO no.example") == b"550 handler\r\n"
        peer.send(b"EHLO c.example\r\n")
        lines = [peer.line() for _ in range(5)]
        assert lines[1:] == [b"250-SIZE 5000\r\n", b"250-XNEW\r\n", b"250-XHANDLER\r\n", b"250 HELP\r\n"]
        assert peer.ask(b"MAIL FROM:<a@example.com>") == b"550 policy\r\n"
        assert peer.ask(b"VRFY <a@example.com>") == b"252 handler\r\n"


# ---- STARTTLS


@every_way
def test_starttls_counts_once(
    guard: Guard, audit: InboundAudit, way: Way, tls: tuple[ssl.SSLContext, ssl.SSLContext], mailbox: Mailbox
) -> None:
    policy = guard.policy = Script()
    with mx(guard, way, mailbox, tls_context=tls[0]) as (_, address):
        with smtplib.SMTP(*address) as client:
            client.starttls(context=tls[1])
            assert (audit.total(), guard.opened) == (1, 1)
            client.sendmail("a@example.com", ["b@example.com"], "hello")
            assert mailbox.servers[0].inbound_session.inbound_session_count() == 1
        eventually(lambda: audit.total() == 0)
        assert policy.stages().count("connect") == 1
        assert len(policy.ended) == 1


@every_way
def test_a_reset_after_starttls(
    guard: Guard, audit: InboundAudit, way: Way, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    with mx(guard, way, tls_context=tls[0]) as (_, address):
        peer = greeted(address)
        assert peer.ask(b"STARTTLS").startswith(b"220")
        peer.socket = tls[1].wrap_socket(peer.socket, server_hostname=way.connect)
        peer.socket.sendall(b"NOOP\r\n")
        assert peer.socket.recv(100) == b"250 OK\r\n"
        assert audit.total() == 1
        peer.reset()
        eventually(lambda: audit.total() == 0)


@pytest.mark.parametrize("ending", ["reset", "close", "garbage"])
def test_a_handshake_that_is_broken_off(
    guard: Guard, audit: InboundAudit, tls: tuple[ssl.SSLContext, ssl.SSLContext], ending: str
) -> None:
    with mx(guard, tls_context=tls[0]) as (_, address):
        peer = greeted(address)
        assert peer.ask(b"STARTTLS").startswith(b"220")
        assert audit.total() == 1
        if ending == "garbage":
            peer.send(b"this is no TLS at all\r\n")
            peer.rest()
            peer.close()
        else:
            getattr(peer, ending)()
        eventually(lambda: audit.total() == 0)


def test_a_handshake_that_times_out(
    guard: Guard, audit: InboundAudit, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """aiosmtpd closes a connection whose protocol asyncio has not told of, and would wait for it for ever."""

    def attempt(timeout: float) -> bool:
        with mx(guard, tls_context=tls[0], timeout=timeout) as (_, address), greeted(address) as peer:
            begun = peer.ask(b"STARTTLS").startswith(b"220")
            peer.rest()
            eventually(lambda: audit.total() == 0)
            return begun

    until_it_suffices(attempt)


def test_a_task_that_is_cancelled_in_the_handshake(
    guard: Guard, audit: InboundAudit, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    with mx(guard, tls_context=tls[0]) as (thread, address), greeted(address) as peer:
        assert peer.ask(b"STARTTLS").startswith(b"220")
        (task,) = (task for task in asyncio.all_tasks(thread.loop) if "_handle_client" in repr(task))
        thread.loop.call_soon_threadsafe(task.cancel)
        peer.rest()
        eventually(lambda: audit.total() == 0)


# ---- PROXY

V2 = b"\r\n\r\n\0\r\nQUIT\n"


def proxy_v1(client: str) -> bytes:
    family, server = ("TCP6", "2001:db8::1") if ":" in client else ("TCP4", "192.0.2.1")
    return f"PROXY {family} {client} {server} 4242 25\r\n".encode()


def proxy_v2(client: str, command: int = 1) -> bytes:
    family, server = (socket.AF_INET6, "2001:db8::1") if ":" in client else (socket.AF_INET, "192.0.2.1")
    body = socket.inet_pton(family, client) + socket.inet_pton(family, server) + b"\x10\x92\0\x19"
    kind = 0x21 if family == socket.AF_INET6 else 0x11
    return V2 + bytes([0x20 | command, kind]) + len(body).to_bytes(2, "big") + body


@every_way
@pytest.mark.parametrize("header", [proxy_v1, proxy_v2])
@pytest.mark.parametrize("client", ["198.51.100.7", "2001:db8:7::7"])
def test_a_believed_header_moves_the_count(
    guard: Guard, audit: InboundAudit, way: Way, header: Any, client: str, mailbox: Mailbox
) -> None:
    policy = guard.policy = Script()
    with mx(guard, way, mailbox, proxy_from=["127.0.0.0/8", "::1"]) as (_, address):
        with Peer(*address) as peer:
            eventually(lambda: audit.inbound_session_count(way.counted) == 1)
            assert policy.asked == []
            peer.send(header(client))
            assert peer.line().startswith(BANNER)
            assert policy.asked == [("connect", client)]
            assert (audit.inbound_session_count(way.counted), audit.inbound_session_count(client)) == (0, 1)
            ask_all(peer, *STAGES["data"])
            session = mailbox.servers[0].inbound_session
            assert session.remote_addr == client + (".4242" if ":" in client else ":4242")
        eventually(lambda: audit.total() == 0)
        assert (guard.opened, guard.accepted, len(policy.ended)) == (1, 1, 1)


@every_way
def test_clients_behind_one_balancer_are_limited_each(guard: Guard, audit: InboundAudit, way: Way) -> None:
    guard.policy = Limits({"/32": 1})
    with mx(guard, way, proxy_from=["127.0.0.1", "::1/128"]) as (_, address), contextlib.ExitStack() as stack:
        for client in ("198.51.100.7", "198.51.100.8", "2001:db8::7"):
            peer = stack.enter_context(Peer(*address))
            peer.send(proxy_v1(client))
            assert peer.line().startswith(BANNER)
        with Peer(*address) as peer:
            peer.send(proxy_v2("198.51.100.7"))
            assert peer.rest() == b"421 connection limit exceeded\r\n"
        eventually(lambda: audit.total() == 3)
        assert (guard.accepted, guard.refused) == (3, 1)


@pytest.mark.parametrize(
    "header", [b"PROXY UNKNOWN\r\n", V2 + b"\x20\0\0\0", proxy_v2("198.51.100.7", command=0)], ids=repr
)
def test_a_balancer_that_speaks_for_itself_stays_counted(guard: Guard, audit: InboundAudit, header: bytes) -> None:
    policy = guard.policy = Script()
    with mx(guard, listening.WAYS[1], proxy_from=["::/0"]) as (_, address), Peer(*address) as peer:
        peer.send(header)
        assert peer.line().startswith(BANNER)
        assert policy.asked == [("connect", "::1")]
        assert audit.inbound_session_count("::1") == 1


@pytest.mark.parametrize(
    "header", [b"EHLO c.example\r\n", b"PROXY TCP4 1.2.3.4 5.6.7.8 x 25\r\n", b"\r\n\r\n\0", b"PROX"], ids=repr
)
def test_a_balancer_that_sends_no_header(guard: Guard, audit: InboundAudit, header: bytes) -> None:
    policy = guard.policy = Script()
    with mx(guard, proxy_from=["127.0.0.1"]) as (_, address), Peer(*address) as peer:
        peer.send(header)
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.rest() == b""
        eventually(lambda: audit.total() == 0)
        assert policy.asked == []
        assert (guard.accepted, guard.refused) == (0, 0)


def test_a_balancer_that_says_nothing_runs_into_the_timeout(guard: Guard, audit: InboundAudit) -> None:
    with mx(guard, proxy_from=["127.0.0.1"], proxy_timeout=0.05) as (_, address), Peer(*address) as peer:
        assert peer.rest() == b""
        eventually(lambda: guard.opened == 1 and audit.total() == 0)


def test_a_tarpit_behind_a_balancer_may_be_longer_than_the_headers_time(guard: Guard) -> None:
    def attempt(proxy_timeout: float) -> bool:
        guard.policy = Script({"connect": Verdict(tarpit=1.2 * proxy_timeout)})
        with mx(guard, proxy_from=["127.0.0.1"], proxy_timeout=proxy_timeout) as (_, address), Peer(*address) as peer:
            peer.send(proxy_v1("198.51.100.7"))
            return peer.line().startswith(BANNER)

    until_it_suffices(attempt)


@every_way
def test_a_header_from_anybody_else_is_refused(
    guard: Guard, audit: InboundAudit, way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with mx(guard, way, proxy_from=["192.0.2.0/24", "2001:db8::/32"]) as (_, address):
        with greeted(address) as peer:
            peer.send(proxy_v1("198.51.100.7") + b"EHLO c.example\r\n")
            assert peer.rest() == b"554 5.7.1 PROXY is not accepted from this address\r\n"
        eventually(lambda: audit.total() == 0)
        with greeted(address) as peer:  # its signature is made of what SMTP answers with an error, and QUIT
            peer.send(proxy_v2("198.51.100.7"))
            replies = peer.rest().splitlines()
            assert {reply[:3] for reply in replies[:-1]} == {b"500"}
            assert replies[-1] == b"221 Bye"
        with greeted(address) as peer:  # and no header is expected of it
            assert peer.ask(b"NOOP") == b"250 OK\r\n"
        assert "sent a PROXY header, which is not believed" in caplog.text


def test_a_second_header_is_refused(guard: Guard) -> None:
    with mx(guard, proxy_from=["127.0.0.1"]) as (_, address), Peer(*address) as peer:
        peer.send(proxy_v1("198.51.100.7"))
        assert peer.line().startswith(BANNER)
        assert peer.ask(proxy_v1("198.51.100.8").strip()).startswith(b"554")


def test_a_handler_may_refuse_a_header(guard: Guard, audit: InboundAudit) -> None:
    class Handler(Sink):
        async def handle_PROXY(self, server: SMTP, session: Any, envelope: Any, header: Any) -> bool:
            return str(header.src_addr) != "198.51.100.7"

    with mx(guard, handler=Handler(), proxy_from=["127.0.0.1"]) as (_, address):
        with Peer(*address) as peer:
            peer.send(proxy_v1("198.51.100.7"))
            assert peer.rest() == b""
        with Peer(*address) as peer:
            peer.send(proxy_v1("198.51.100.8"))
            assert peer.line().startswith(BANNER)
            eventually(lambda: audit.total() == 1)


def test_starttls_behind_a_balancer(
    guard: Guard, audit: InboundAudit, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    with mx(guard, proxy_from=["127.0.0.1"], tls_context=tls[0]) as (_, address), Peer(*address) as peer:
        peer.send(proxy_v1("2001:db8::7"))
        assert peer.line().startswith(BANNER)
        assert peer.ask(b"STARTTLS").startswith(b"220")
        with tls[1].wrap_socket(peer.socket, server_hostname="127.0.0.1") as secure:
            secure.sendall(b"NOOP\r\n")
            assert secure.recv(100) == b"250 OK\r\n"
            assert (audit.inbound_session_count("2001:db8::7"), audit.total()) == (1, 1)


# ---- the controller


@contextlib.contextmanager
def controlled(guard: Guard, handler: object = None, **kwargs: Any) -> Iterator[Controller]:
    kwargs.setdefault("server_hostname", "mx.example")
    kwargs.setdefault("gate", listening.accepts_by_gate())
    controller = Controller(handler or Sink(), kwargs.pop("hostname", "127.0.0.1"), 0, guard=guard, **kwargs)
    controller.start()
    try:
        yield controller
    finally:
        controller.stop(no_assert=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_controller_counts_clients_alone(guard: Guard, audit: InboundAudit, host: str) -> None:
    with controlled(guard, hostname=host) as controller:
        ((where, port),) = controller.addresses
        assert (where, guard.opened) == (host, 0)
        with smtplib.SMTP(host, port) as client:
            assert client.noop()[0] == 250
            assert audit.inbound_session_count(host) == 1
        eventually(lambda: audit.total() == 0)
    assert controller.addresses == []


def test_a_controller_starts_again(guard: Guard) -> None:
    with controlled(guard):
        pass
    with controlled(guard) as controller:
        greeted(controller.addresses[0]).close()


@pytest.mark.parametrize("stage", ["banner", "tarpit", "STARTTLS", "TLS", "data"])
def test_a_controller_that_stops_ends_its_sessions(
    guard: Guard, audit: InboundAudit, stage: str, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    policy = guard.policy = Script({"connect": FOREVER} if stage == "tarpit" else {})
    with warnings_kept(), controlled(guard, tls_context=tls[0]) as controller, Peer(*controller.addresses[0]) as peer:
        eventually(lambda: audit.total() == 1)
        if stage != "tarpit":
            peer.line()
        if stage in ("STARTTLS", "TLS"):
            assert peer.ask(b"STARTTLS").startswith(b"220")
        if stage == "TLS":
            peer.socket = tls[1].wrap_socket(peer.socket, server_hostname="127.0.0.1")
        if stage == "data":
            ask_all(peer, *STAGES["data"][:-1])
        controller.stop()
        assert (audit.total(), guard.open) == (0, 0)
        assert len(policy.ended) == 1


def test_a_controller_that_stops_leaves_no_connection_open(guard: Guard) -> None:
    """Of those that come while it stops, too: each gets the reply, or is not accepted at all."""
    for pause in (0.0, 0.001, 0.01):
        with warnings_kept() as warned, contextlib.ExitStack() as peers, controlled(guard) as controller:
            stands = threading.Event()
            controller.loop.call_soon_threadsafe(lambda stands=stands: (stands.set(), time.sleep(0.01)))
            stands.wait(PATIENCE)
            come = [peers.enter_context(Peer(*controller.addresses[0])) for _ in range(20)]
            time.sleep(pause)
            controller.stop()
            assert all(said.endswith(SHUTDOWN) or said == b"" for said in map(Peer.rest, come))
        assert warned == []


def test_implicit_tls(guard: Guard, audit: InboundAudit, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    with controlled(guard, ssl_context=tls[0]) as controller:
        host, port = controller.addresses[0]
        with smtplib.SMTP_SSL(host, port, context=tls[1]) as client:
            assert client.noop()[0] == 250
            assert audit.total() == 1
        eventually(lambda: audit.total() == 0)
        guard.policy = Limits({"/0": 0})
        with pytest.raises(OSError if listening.accepts_by_gate() else smtplib.SMTPConnectError):
            smtplib.SMTP_SSL(host, port, context=tls[1])  # a gate closes it before the handshake
        eventually(lambda: audit.total() == 0)


@every_way
def test_a_policy_is_asked_about_tls(
    guard: Guard, way: Way, tls: tuple[ssl.SSLContext, ssl.SSLContext], mailbox: Mailbox
) -> None:
    """Before each EHLO of a session that uses TLS, with the cipher; a refusal is that of the EHLO."""
    asked: list[str] = []

    class Ciphers(Policy):
        def validate_tls(self, ac: Session, cipher: str) -> Verdict:
            asked.append(cipher)
            return Verdict(False, 554, "weak") if len(asked) > 1 else ACCEPT

    guard.policy = Ciphers()
    with mx(guard, way, mailbox, tls_context=tls[0]) as (_, address), smtplib.SMTP(*address) as client:
        assert client.ehlo()[0] == 250
        assert asked == []
        client.starttls(context=tls[1])
        assert client.ehlo()[0] == 250
        assert asked == [client.sock.cipher()[0]]  # type: ignore[union-attr]
        assert client.ehlo() == (554, b"weak")


class OldGreeting(Sink):
    async def handle_EHLO(self, server: object, session: object, envelope: object, hostname: str) -> str:
        return "250 hello"


class OldDelivery:
    def process_message(self, peer: object, mailfrom: str, rcpttos: object, data: object) -> None:
        """The form of smtpd."""


@pytest.mark.parametrize(
    ("handler", "kwargs", "message"),
    [
        (OldGreeting(), {}, "OldGreeting.handle_EHLO takes 4 arguments"),
        (OldDelivery(), {}, "OldDelivery.process_message is deprecated"),
        (Sink(), {"no_such": 1}, "no_such"),
    ],
    ids=["handle_EHLO", "process_message", "argument"],
)
@pytest.mark.filterwarnings("ignore:Use the 5-argument handle_EHLO:DeprecationWarning")
def test_a_controller_that_cannot_serve_fails_when_it_starts(
    guard: Guard, handler: object, kwargs: dict[str, Any], message: str
) -> None:
    controller = Controller(handler, "127.0.0.1", 0, guard=guard, gate=listening.accepts_by_gate(), **kwargs)
    with pytest.raises(TypeError, match=message):
        controller.start()
    controller.stop()


def test_a_network_that_is_none(guard: Guard) -> None:
    with pytest.raises(ValueError, match=r"192\.0\.2\.300"):
        Controller(Sink(), guard=guard, proxy_from=["192.0.2.300/24"])


def test_a_port_in_use(guard: Guard) -> None:
    with controlled(guard) as controller:
        other = Controller(Sink(), *controller.addresses[0], guard=guard, gate=listening.accepts_by_gate())
        with pytest.raises(OSError, match="address already in use"):
            other.start()
        other.stop(no_assert=True)


def test_a_controller_with_a_factory_of_its_own_has_no_gate(guard: Guard) -> None:
    class Own(Controller):
        def factory(self) -> Any:
            return super().factory()

    with pytest.raises(TypeError, match="Own has a factory of its own"):
        Own(Sink(), "127.0.0.1", 0, guard=guard, gate=True)
    Own(Sink(), "127.0.0.1", 0, guard=guard).stop(no_assert=True)


def test_a_handler_without_a_data_hook_takes_messages(guard: Guard) -> None:
    policy = guard.policy = Script()
    with mx(guard, handler=object()) as (_, address), greeted(address) as peer:
        assert ask_all(peer, *STAGES["data"])[-1] == b"250"
        assert policy.stages()[-2:] == ["data", "data_spool"]


def test_refusals_are_one_line_per_interval(guard: Guard, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "inbound_audit")
    guard.policy = Limits({"/0": 0})
    with mx(guard) as (_, address):
        for _ in range(20):
            with Peer(*address) as peer:
                assert peer.rest() == b"421 connection limit exceeded\r\n"
    lines = [record.getMessage() for record in caplog.records if record.name == "inbound_audit.listeners"]
    assert len(lines) == 1
    assert lines[0].startswith("refused 127.0.0.1:")


# ---- with Lua

STAGES_LUA = Path(__file__).parents[3] / "examples" / "policies" / "stages.lua"


@every_way
def test_a_lua_policy_speaks_at_each_stage(guard: Guard, audit: InboundAudit, way: Way, mailbox: Mailbox) -> None:
    policy = LuaPolicy(STAGES_LUA, max_hook_ms=int(1000 * PATIENCE))
    guard.policy = policy
    with contextlib.closing(policy), mx(guard, way, mailbox, enable_SMTPUTF8=True) as (_, address):
        with greeted(address) as peer:
            reply = peer.ask(b"EHLO mx.example.org")
            assert reply == f"554 5.7.1 mx.example.org is us, and you are {way.counted}\r\n".encode()
            assert peer.rest() == b""
        with smtplib.SMTP(*address) as client:
            assert client.ehlo()[0] == 250
            assert client.esmtp_features["size"] == "31457280"
            client.sendmail("a@example.com", ["b@example.com"], "hello")
            assert client.mail("a@example.com")[0] == 250
            replies = [client.rcpt(f"{name}@example.com") for name in range(101)]
            assert {code for code, _ in replies[:100]} == {250}
            assert replies[100] == (452, b"4.5.3 too many recipients")
        eventually(lambda: audit.total() == 0)
        assert len(mailbox.messages) == 1
        assert (policy.errors, policy.sessions, guard.failures) == (0, 0, 0)


@pytest.mark.parametrize("name", [b"\xff\xfe", "gr\u00fc\u00df".encode(), b"\x00", b"x" * 400])
def test_whatever_bytes_a_peer_sends_the_lua_policy_is_asked(guard: Guard, tmp_path: Path, name: bytes) -> None:
    """And not let in because asking failed."""
    script = tmp_path / "never.lua"
    script.write_text("""
        require("msys.core")
        local mod = {}
        function mod:validate_ehlo(name, ac, vctx)
          vctx:set_code(550, "never, " .. #name .. " bytes")
          return msys.core.VALIDATE_DONE
        end
        msys.registerModule("never", mod)
    """)
    guard.policy = policy = LuaPolicy(script)
    with contextlib.closing(policy), mx(guard, enable_SMTPUTF8=True) as (_, address), greeted(address) as peer:
        assert peer.ask(b"EHLO " + name) == f"550 never, {len(name)} bytes\r\n".encode()
        assert policy.errors == guard.failures == 0


@pytest.mark.parametrize("line", [b"A\rB", b"HELP A\rB", b"EHLO a\rb", b"MAIL FROM:<a\rb@c>", b"VRFY a\rb@c.example"])
def test_a_reply_repeats_no_lone_carriage_return(guard: Guard, line: bytes) -> None:
    with mx(guard) as (_, address), greeted(address) as peer:
        peer.send(b"HELO c.example\r\n" + line + b"\r\nQUIT\r\n")
        replies = peer.rest()
        assert replies.endswith(b"221 Bye\r\n")
        assert b"\r" not in replies.replace(b"\r\n", b"")


@pytest.mark.parametrize("address_text", [b"<b@[192.", b"<b@[", b"<b@[1.2.3.4", b"b@["])
def test_a_malformed_address_is_a_5xx_reply_and_no_error_in_the_log(
    guard: Guard, caplog: pytest.LogCaptureFixture, address_text: bytes
) -> None:
    """Python's parser of addresses raises more than aiosmtpd expects; the connection goes on."""
    with caplog.at_level(logging.ERROR), mx(guard) as (_, address), greeted(address) as peer:
        assert peer.ask(b"HELO c.example").startswith(b"250 ")
        assert peer.ask(b"MAIL FROM:" + address_text)[:1] == b"5"
        assert peer.ask(b"MAIL FROM:<a@c.example>").startswith(b"250 ")
        assert peer.ask(b"RCPT TO:" + address_text)[:1] == b"5"
        assert peer.ask(b"NOOP").startswith(b"250 ")
    assert caplog.records == []
