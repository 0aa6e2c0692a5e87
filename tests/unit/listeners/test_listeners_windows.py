"""What the listeners count over time: connections, rejections and receptions, by the address of the real client."""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.handlers import Sink
from tests.support import listening
from tests.support.listening import Clock, Peer, Script, Way, every_way
from tests.unit.listeners import test_listeners_smtp, test_listeners_threads
from tests.unit.listeners.test_listeners_aio import Echo, echo_stream, streaming
from tests.unit.listeners.test_listeners_smtp import Mailbox, ask_all, greeted, mx, proxy_v1, proxy_v2

from inbound_audit import InboundAudit, Limits, Verdict
from inbound_audit.listeners import Guard
from inbound_audit.listeners.aio import counted, counted_callback
from inbound_audit.listeners.smtp import Controller
from inbound_audit.policy.verdict import ACCEPT, REFUSE

pytestmark = pytest.mark.usefixtures("acceptor")

acceptor, guard, tls = listening.acceptor, listening.guard, test_listeners_smtp.tls  # fixtures

KINDS = ("connections", "receptions", "rejections")
HELLO, MAIL, RCPT = b"EHLO c.example", b"MAIL FROM:<a@example.com>", b"RCPT TO:<b@example.com>"
GONE = Verdict(False, 421, "bye", disconnect=True)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def audit(clock: Clock) -> Iterator[InboundAudit]:
    with InboundAudit(capacity=1 << 22, monitors=["300,6", "60,2"], clock=clock) as audit:
        yield audit


def seen(audit: InboundAudit, host: str, window: int = 0) -> tuple[int, ...]:
    """Connections, receptions and rejections of a host in a window. In the current one both monitors have the same."""
    found = tuple(getattr(audit, kind)(0, host, window) for kind in KINDS)
    assert window or found == tuple(getattr(audit, kind)("60, 2", host) for kind in KINDS)
    return found


def everybody(audit: InboundAudit) -> tuple[int, ...]:
    return tuple(getattr(audit, kind)(0, "0.0.0.0/0") + getattr(audit, kind)(0, "::/0") for kind in KINDS)


# ---- the guard, for every adapter


@pytest.mark.parametrize(
    ("answer", "rejections"),
    [
        (ACCEPT, 0),
        (Verdict(tarpit=0.01), 0),
        (REFUSE, 1),
        (Verdict(False, 554, "no", tarpit=0.01), 1),
        (Verdict(True, disconnect=True), 1),
    ],
)
@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7"])
def test_what_a_policy_refuses_is_a_rejection(
    guard: Guard, audit: InboundAudit, host: str, answer: Verdict, rejections: int
) -> None:
    guard.policy = Script({"connect": answer})
    for _ in range(3):
        guard.admit(host).close()
    assert seen(audit, host) == (3, 0, 3 * rejections)
    assert everybody(audit) == (3, 0, 3 * rejections)


@pytest.mark.parametrize(("answer", "rejections"), [(ACCEPT, 0), (Verdict(tarpit=9.0), 0), (REFUSE, 1), (GONE, 1)])
def test_so_is_what_a_hook_refuses(guard: Guard, audit: InboundAudit, answer: Verdict, rejections: int) -> None:
    guard.policy = Script({"ehlo": answer})
    admission = guard.admit("192.0.2.7")
    admission.hook("validate_ehlo", "c.example")
    admission.hook("validate_mailfrom", "a@example.com")
    admission.hook("no such hook")
    assert seen(audit, "192.0.2.7") == (1, 0, rejections)
    admission.close()
    admission.hook("validate_ehlo", "c.example")  # it is over
    assert seen(audit, "192.0.2.7") == (1, 0, rejections)


@pytest.mark.parametrize(("choice", "rejections"), [("accept", 0), ("refuse", 1)])
def test_a_policy_that_fails_records_a_rejection(audit: InboundAudit, choice: Any, rejections: int) -> None:
    guard = Guard(audit.listener(), Script({"connect": ValueError("on purpose"), "ehlo": None}), on_error=choice)
    admission = guard.admit("192.0.2.7")
    admission.hook("validate_ehlo", "c.example")
    admission.close()
    assert seen(audit, "192.0.2.7") == (1, 0, 2 * rejections)


def test_a_dry_run_rejects_no_session(guard: Guard, audit: InboundAudit) -> None:
    guard.policy = limits = Limits({"/32": 1}, dry_run=True)
    admissions = [guard.admit("192.0.2.7") for _ in range(3)]
    assert sum(limits.would_refuse.values()) == 2
    assert seen(audit, "192.0.2.7") == (3, 0, 0)
    for admission in admissions:
        admission.close()


@pytest.mark.parametrize("choice", ["accept", "refuse"])
def test_a_session_that_is_not_counted_is_not_recorded_over_time(choice: Any) -> None:
    with InboundAudit(capacity=8192, monitors=["300,6"]) as audit:
        guard = Guard(audit.listener(), Script({"connect": REFUSE}), when_full=choice)
        kept = listening.fill(guard.listener)
        before = everybody(audit)
        for peer in ("2001:db8::7", "\0abstract"):
            admission = guard.admit(peer)
            assert admission.session is None
            admission.record_reception()
            admission.close()
        assert guard.uncounted == 2
        assert everybody(audit) == before
        for session in kept:
            session.close()


def test_a_client_that_becomes_known_is_the_one_that_is_counted(guard: Guard, audit: InboundAudit) -> None:
    guard.policy = Script({"connect": REFUSE, "ehlo": REFUSE})
    admission = guard.enter("192.0.2.1")
    admission.rebind("2001:db8::7")
    admission.ask()
    admission.hook("validate_ehlo", "c.example")
    admission.record_reception()
    assert seen(audit, "192.0.2.1") == (0, 0, 0)
    assert seen(audit, "2001:db8::7") == (1, 1, 2)
    admission.close()


def test_each_is_counted_in_the_window_in_which_it_happens(guard: Guard, audit: InboundAudit, clock: Clock) -> None:
    guard.policy = Script({"ehlo": REFUSE})
    admission = guard.admit("192.0.2.7")
    clock.now += 300
    admission.hook("validate_ehlo", "c.example")
    clock.now += 300
    admission.record_reception()
    assert [seen(audit, "192.0.2.7", window) for window in range(3)] == [(0, 1, 0), (0, 0, 1), (1, 0, 0)]
    admission.close()


def test_without_monitors_nothing_is_counted_and_nothing_fails() -> None:
    with InboundAudit(capacity=1 << 22) as audit:
        guard = Guard(audit.listener(), Script({"connect": REFUSE}))
        admission = guard.admit("192.0.2.7")
        admission.record_reception()
        admission.close()
        assert (guard.refused, guard.failures, audit.monitors) == (1, 0, ())


# ---- refusals at accept, by real sockets


@contextlib.contextmanager
def protocols(guard: Guard, way: Way) -> Iterator[tuple[str, int]]:
    with listening.serving(counted(Echo, guard, refusal=b"busy\n"), way) as (_, address):
        yield address


@contextlib.contextmanager
def streams(guard: Guard, way: Way) -> Iterator[tuple[str, int]]:
    with streaming(counted_callback(echo_stream, guard, refusal=b"busy\n"), way) as (_, address):
        yield address


@contextlib.contextmanager
def threads(guard: Guard, way: Way, kind: type[Any] = test_listeners_threads.Threading) -> Iterator[tuple[str, int]]:
    with test_listeners_threads.serving(kind, guard, way, refusal=b"busy\n") as (_, address):
        yield address


def children(guard: Guard, way: Way) -> Any:
    return threads(guard, way, test_listeners_threads.Forking)


@contextlib.contextmanager
def mail(guard: Guard, way: Way) -> Iterator[tuple[str, int]]:
    with mx(guard, way) as (_, address):
        yield address


@every_way
@pytest.mark.parametrize(
    "server",
    [protocols, streams, threads, pytest.param(children, marks=pytest.mark.system), mail],
    ids=lambda server: server.__name__,
)
@pytest.mark.parametrize("tarpit", [0.0, 0.05])
def test_refused_connections(guard: Guard, audit: InboundAudit, way: Way, server: Any, tarpit: float) -> None:
    policy = guard.policy = Script({"connect": Verdict(False, 421, "busy", tarpit=tarpit)})
    with server(guard, way) as address:
        for _ in range(3):
            with Peer(*address) as peer:
                assert peer.rest().strip() in (b"busy", b"421 busy")
        policy.answers.clear()
        with Peer(*address) as peer:
            assert peer.line()[:3] in (b"hel", b"220")
    assert seen(audit, way.counted) == everybody(audit) == (4, 0, 3)


# ---- SMTP


def deliver(address: tuple[str, int], *messages: str) -> None:
    with smtplib.SMTP(*address) as client:
        for message in messages:
            client.sendmail("a@example.com", ["b@example.com", "c@example.com"], message)


@every_way
def test_each_message_is_received_once(guard: Guard, audit: InboundAudit, way: Way) -> None:
    guard.policy = Script()
    mailbox = Mailbox()
    with mx(guard, way, mailbox) as (_, address):
        with smtplib.SMTP(*address) as client:
            client.sendmail("a@example.com", ["b@example.com", "c@example.com"], "one")
            assert seen(audit, way.counted) == (1, 1, 0)  # before the peer reads that it was
            client.sendmail("a@example.com", ["b@example.com"], "two")
            client.mail("a@example.com")
            client.rset()
        deliver(address, "three")
    assert len(mailbox.messages) == 3
    assert seen(audit, way.counted) == everybody(audit) == (2, 3, 0)


class Answers:
    """A handler that replies to DATA as the test sets."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    async def handle_DATA(self, server: object, session: object, envelope: object) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "reply", "received"),
    [
        ("250 mine", b"250 mine", 1),
        (b"250 mine", b"250 mine", 1),
        ("250-it is\r\n250 mine", b"250-it is", 1),
        ("252 perhaps", b"252 perhaps", 1),
        ("550 no", b"550 no", 0),
        (b"451 later", b"451 later", 0),
        ("354 go on", b"354 go on", 0),
        ("", b"", 0),
        (None, b"500 Error: (AssertionError) ", 0),
        (RuntimeError("on purpose"), b"500 Error: (RuntimeError) on purpose", 0),
    ],
)
def test_only_what_the_handler_accepts_is_received(
    guard: Guard, audit: InboundAudit, answer: object, reply: bytes, received: int
) -> None:
    with mx(guard, handler=Answers(answer)) as (_, address), greeted(address) as peer:
        assert ask_all(peer, b"HELO c.example", MAIL, RCPT, b"DATA") == [b"250", b"250", b"250", b"354"]
        assert peer.ask(b"Subject: x\r\n\r\nx\r\n.").rstrip(b"\r\n") == reply
        assert seen(audit, "127.0.0.1") == (1, received, 0)


def test_a_handler_without_a_hook_receives(guard: Guard, audit: InboundAudit) -> None:
    with mx(guard, handler=object()) as (_, address):
        deliver(address, "x")
    assert seen(audit, "127.0.0.1") == (1, 1, 0)


def test_what_aiosmtpd_itself_refuses_is_neither(guard: Guard, audit: InboundAudit) -> None:
    with mx(guard, data_size_limit=10) as (_, address), greeted(address) as peer:
        assert ask_all(peer, b"NONSENSE", b"DATA", b"HELO c.example") == [b"500", b"503", b"250"]
        assert ask_all(peer, MAIL, RCPT) == [b"250", b"250"]
        assert peer.ask(b"DATA")[:3] == b"354"
        assert peer.ask(b"a line that is too much\r\n.")[:3] == b"552"
        assert ask_all(peer, MAIL, RCPT, b"DATA") == [b"250", b"250", b"354"]
        peer.send(b"never ended\r\n")
    assert seen(audit, "127.0.0.1") == (1, 0, 0)


STAGES = {
    "ehlo": ([HELLO], b"550"),
    "mailfrom": ([HELLO, MAIL], b"550"),
    "rcptto": ([HELLO, MAIL, RCPT], b"550"),
    "data": ([HELLO, MAIL, RCPT, b"DATA", b"x\r\n."], b"550"),
    "data_spool": ([HELLO, MAIL, RCPT, b"DATA", b"x\r\n."], b"550"),
}


@pytest.mark.parametrize("stage", STAGES)
@every_way
def test_each_command_that_the_policy_refuses_is_a_rejection(
    guard: Guard, audit: InboundAudit, way: Way, stage: str
) -> None:
    policy = guard.policy = Script({stage: Verdict(False, 550, "no")})
    dialogue, code = STAGES[stage]
    mailbox = Mailbox()
    with mx(guard, way, mailbox, enable_SMTPUTF8=True) as (_, address), greeted(address) as peer:
        for line in dialogue[:-1]:
            peer.send(line + b"\r\n")
            while peer.line()[3:4] == b"-":
                pass
        assert peer.ask(dialogue[-1])[:3] == code
        assert seen(audit, way.counted) == (1, 0, 1)
        again = dialogue[1:] if "data" in stage else dialogue[-1:]
        assert ask_all(peer, *again)[-1] == code
        assert seen(audit, way.counted) == (1, 0, 2)
        policy.answers.clear()
        deliver(address, "x")
    assert seen(audit, way.counted) == everybody(audit) == (2, 1, 2)
    assert len(mailbox.messages) == 1


@pytest.mark.parametrize("stage", STAGES)
def test_a_command_that_ends_the_connection_is_one_rejection(guard: Guard, audit: InboundAudit, stage: str) -> None:
    guard.policy = Script({stage: Verdict(True, 250, "", disconnect=True, tarpit=0.01)})
    with mx(guard) as (_, address), greeted(address) as peer:
        peer.send(b"".join(line + b"\r\n" for line in STAGES[stage][0]))
        assert peer.rest().splitlines()[-1].startswith(b"421 ")
        assert seen(audit, "127.0.0.1") == (1, 0, 1)


def test_a_recipient_that_is_refused_and_one_that_is_not(guard: Guard, audit: InboundAudit) -> None:
    class OneOnly(Script):
        def validate_rcptto(self, ac: object, text: str, message: object) -> Verdict:
            return ACCEPT if text.startswith("b@") else Verdict(False, 550, "no")

    guard.policy = OneOnly()
    with mx(guard) as (_, address), smtplib.SMTP(*address) as client:
        refused = client.sendmail("a@example.com", ["x@example.com", "b@example.com", "y@example.com"], "x")
        assert len(refused) == 2
        assert seen(audit, "127.0.0.1") == (1, 1, 2)


@every_way
def test_through_starttls(
    guard: Guard, audit: InboundAudit, way: Way, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    policy = guard.policy = Script()
    with mx(guard, way, tls_context=tls[0]) as (_, address), smtplib.SMTP(*address) as client:
        client.sendmail("a@example.com", ["b@example.com"], "in clear")
        client.starttls(context=tls[1])
        client.sendmail("a@example.com", ["b@example.com"], "under cover")
        assert seen(audit, way.counted) == (1, 2, 0)
        policy.answers["mailfrom"] = Verdict(False, 550, "no")
        with pytest.raises(smtplib.SMTPSenderRefused):
            client.sendmail("a@example.com", ["b@example.com"], "no more")
        assert seen(audit, way.counted) == everybody(audit) == (1, 2, 1)


@every_way
@pytest.mark.parametrize("header", [proxy_v1, proxy_v2])
@pytest.mark.parametrize("client", ["198.51.100.7", "2001:db8:7::7"])
def test_behind_a_balancer(guard: Guard, audit: InboundAudit, way: Way, header: Any, client: str) -> None:
    policy = guard.policy = Script()
    with mx(guard, way, proxy_from=["127.0.0.0/8", "::1"]) as (_, address):
        with Peer(*address) as peer:
            peer.send(header(client))
            assert peer.line()[:3] == b"220"
            ask_all(peer, b"HELO c.example", MAIL, RCPT, b"DATA", b"x\r\n.")
            policy.answers["mailfrom"] = Verdict(False, 550, "no")
            assert peer.ask(MAIL)[:3] == b"550"
        policy.answers["connect"] = Verdict(False, 421, "no")
        with Peer(*address) as peer:
            peer.send(header(client))
            assert peer.rest() == b"421 no\r\n"
    assert seen(audit, client) == everybody(audit) == (2, 1, 2)


@every_way
def test_behind_a_balancer_through_starttls(
    guard: Guard, audit: InboundAudit, way: Way, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    with mx(guard, way, tls_context=tls[0], proxy_from=["127.0.0.0/8", "::1"]) as (_, address), Peer(*address) as peer:
        peer.send(proxy_v1("198.51.100.7"))
        assert peer.line()[:3] == b"220"
        assert peer.ask(b"STARTTLS")[:3] == b"220"
        with tls[1].wrap_socket(peer.socket, server_hostname="mx.example") as covered:
            lines = covered.makefile("rb")
            for line in (b"HELO c.example", MAIL, RCPT, b"DATA", b"x\r\n."):
                covered.sendall(line + b"\r\n")
                assert lines.readline()[:3] in (b"250", b"354")
            lines.close()
    assert seen(audit, "198.51.100.7") == everybody(audit) == (1, 1, 0)


def test_a_balancers_header_that_is_not_trusted_records_no_rejection(guard: Guard, audit: InboundAudit) -> None:
    """The policy has not said so."""
    guard.policy = Script()
    with mx(guard) as (_, address), greeted(address) as peer:
        peer.send(proxy_v1("198.51.100.7"))
        assert peer.line()[:3] == b"554"
    assert everybody(audit) == (1, 0, 0)


def test_a_unix_socket_counts_nothing(guard: Guard, audit: InboundAudit, tmp_path: Path) -> None:
    guard.policy = Script({"mailfrom": REFUSE})
    with listening.LoopThread() as thread:
        path = str(tmp_path / "socket")
        factory = test_listeners_smtp.protocol_factory(Sink(), guard, hostname="mx.example")

        async def converse() -> bytes:
            server = await thread.loop.create_unix_server(factory, path)
            reader, writer = await asyncio.open_unix_connection(path)
            lines = (b"HELO c.example", MAIL, RCPT, b"DATA", b"x\r\n.", b"QUIT")
            writer.write(b"".join(line + b"\r\n" for line in lines))
            said = await reader.read()
            writer.close()
            server.close()
            return said

        assert [line[:3] for line in thread.do(converse).splitlines()] == [  # type: ignore[attr-defined]
            b"220", b"250", b"250", b"250", b"354", b"250", b"221",
        ]  # fmt: skip
    assert everybody(audit) == (0, 0, 0)
    assert guard.uncounted == 1


def test_a_controller_counts_the_same(guard: Guard, audit: InboundAudit) -> None:
    controller = Controller(Sink(), "127.0.0.1", 0, guard=guard, gate=listening.accepts_by_gate())
    controller.start()
    try:
        deliver(controller.addresses[0], "one", "two")
    finally:
        controller.stop()
    assert seen(audit, "127.0.0.1") == everybody(audit) == (1, 2, 0)


# ---- policies that look back


class Grudge:
    """Refuses a client whose network was refused twice within the last half hour; MAIL is refused always."""

    def validate_connect(self, ac: Any) -> Verdict:
        rejections = ac.listener.audit.rejections("300,6", "/24,/64", 0, 5, ac=ac)
        return Verdict(rejections < 2, 421, f"{rejections} rejections")

    def validate_mailfrom(self, ac: Any, text: str) -> Verdict:
        return Verdict(False, 550, "no")


def test_a_policy_may_ask_for_what_was_rejected(guard: Guard, audit: InboundAudit, clock: Clock) -> None:
    guard.policy = Grudge()
    with mx(guard) as (_, address):
        with greeted(address) as peer:
            assert ask_all(peer, b"HELO c.example", MAIL, MAIL) == [b"250", b"550", b"550"]
        for known in (2, 3):
            with Peer(*address) as peer:
                assert peer.rest() == b"421 %d rejections\r\n" % known
        clock.now += 300 * 6
        greeted(address).close()
    assert [seen(audit, "127.0.0.1", window) for window in (0, 5)] == [(1, 0, 0), (0, 0, 0)]
