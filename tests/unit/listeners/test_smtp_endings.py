"""How SMTP sessions end: half-closed, reset, timed out, stopped; and what must not be lost then."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import trustme
from aiosmtpd.handlers import Sink
from tests.support import listening
from tests.support.listening import WAYS, Clock, LoopThread, Peer, Script, Way, every_way, serving
from tests.support.waiting import PATIENCE, eventually, until_it_suffices

from inbound_audit import InboundAudit, Verdict
from inbound_audit.listeners import Guard
from inbound_audit.listeners.aio import counted
from inbound_audit.listeners.smtp import Controller, SMTPFactory, protocol_factory

pytestmark = pytest.mark.usefixtures("acceptor", "quick_close")

acceptor, quick_close = listening.acceptor, listening.quick_close  # fixtures

GREETED = [b"EHLO c.example"]
BEGUN = [*GREETED, b"MAIL FROM:<a@example.com>", b"RCPT TO:<b@example.com>"]
MESSAGE = [*BEGUN, b"DATA", b"Subject: hello\r\n\r\nhello\r\n."]
SHUTDOWN = b"421 4.3.2 service is shutting down\r\n"
FOREVER = Verdict(tarpit=3600.0)


def lines(*commands: bytes) -> bytes:
    return b"".join(command + b"\r\n" for command in commands)


class Store:
    """A handler whose storing waits until the test lets it go on."""

    def __init__(self) -> None:
        self.begun = 0
        self.stored: list[bytes] = []
        self.go_on = threading.Event()

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
        self.begun += 1
        while not self.go_on.is_set():  # noqa: ASYNC110  # the event belongs to another thread
            await asyncio.sleep(0.001)
        self.stored.append(envelope.content)
        return "250 stored"


@pytest.fixture
def audit() -> Iterator[InboundAudit]:
    with InboundAudit(capacity=1 << 22, monitors=["3600,2"], clock=Clock()) as audit:
        yield audit


@pytest.fixture
def guard(audit: InboundAudit) -> Iterator[Guard]:
    guard = Guard(audit.listener("SMTP"))
    yield guard
    eventually(lambda: guard.open == audit.total("SMTP") == 0, "the end of every connection and of its count")
    guard.listener._check()


@pytest.fixture(scope="module")
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "::1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


class Served:
    """A server in a thread of its own."""

    def __init__(self, thread: LoopThread, factory: SMTPFactory, address: tuple[str, int]) -> None:
        self.thread, self.factory, self.address = thread, factory, address

    def peer(self, *commands: bytes) -> Peer:
        """A peer that has read the banner, and a reply of 2xx or 3xx to each command."""
        peer = Peer(*self.address)
        assert peer.line().startswith(b"220 mx.example ")
        for command in commands:
            reply = peer.ask(command)
            while reply[3:4] == b"-":
                reply = peer.line()
            assert reply[:1] in (b"2", b"3")
        return peer

    def secret(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        peer = self.peer()
        assert peer.ask(b"STARTTLS").startswith(b"220")
        return context.wrap_socket(peer.socket, server_hostname="127.0.0.1")

    def stop(self) -> int:
        async def stop() -> int:
            return self.factory.stop()

        return self.thread.do(stop)  # type: ignore[return-value]

    def shut_down(self, grace: float = 0.0) -> int:
        return self.thread.do(lambda: self.factory.shut_down(grace))  # type: ignore[return-value]


@contextlib.contextmanager
def mx(guard: Guard, handler: object = None, way: Way = WAYS[0], **kwargs: Any) -> Iterator[Served]:
    factory = protocol_factory(handler or Sink(), guard, **{"hostname": "mx.example", **kwargs})
    with serving(factory, way) as (thread, address):
        yield Served(thread, factory, address)
        assert thread.complaints == []


def received(guard: Guard, audit: InboundAudit) -> tuple[int, int]:
    """Accepted messages as the guard and the audit's window have them."""
    return guard.received, audit.receptions(0, "0.0.0.0/0") + audit.receptions(0, "::/0")


# ---- a peer that half-closes


@every_way
def test_what_came_before_a_half_close_is_served_and_answered(guard: Guard, audit: InboundAudit, way: Way) -> None:
    """``nc -N host 25 < file``"""
    store = Store()
    store.go_on.set()
    with mx(guard, store, way) as server:
        for number in range(1, 6):
            with Peer(*server.address) as peer:
                peer.send(lines(*MESSAGE, b"QUIT"))
                peer.socket.shutdown(socket.SHUT_WR)
                replies = peer.rest().splitlines()
                assert [reply[:3] for reply in replies if reply[3:4] == b" "] == [
                    b"220", b"250", b"250", b"250", b"354", b"250", b"221"
                ]  # fmt: skip
            assert (len(store.stored), *received(guard, audit)) == (number, number, number)


@pytest.mark.parametrize(
    ("sent", "last"),
    [
        (lines(*GREETED, b"NOOP"), b"250 OK"),
        (lines(*GREETED) + b"NOOP", b"250 HELP"),
        (lines(*BEGUN, b"DATA", b"half a mess") + b"age", b"354"),
        (lines(*MESSAGE, *MESSAGE[1:]), b"250 stored"),
        (b"", b"220"),
    ],
    ids=["whole", "half a line", "half a message", "two messages", "nothing"],
)
def test_a_session_ends_where_a_half_closed_peer_has_sent_no_more(guard: Guard, sent: bytes, last: bytes) -> None:
    store = Store()
    store.go_on.set()
    with mx(guard, store) as server, Peer(*server.address) as peer:
        peer.send(sent)
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.rest().splitlines()[-1].startswith(last)
        eventually(lambda: guard.open == 0)


@pytest.mark.parametrize("stage", ["connect", "ehlo", "mailfrom", "rcptto", "data"])
def test_a_half_closed_peer_is_served_after_its_tarpit(guard: Guard, audit: InboundAudit, stage: str) -> None:
    guard.policy = Script({stage: Verdict(tarpit=0.05)})
    with mx(guard) as server, Peer(*server.address) as peer:
        peer.send(lines(*MESSAGE, b"QUIT"))
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.rest().endswith(b"221 Bye\r\n")
        assert received(guard, audit) == (1, 1)


def test_a_half_closed_peer_behind_a_balancer_is_served(guard: Guard, audit: InboundAudit) -> None:
    with mx(guard, proxy_from=["127.0.0.1"]) as server, Peer(*server.address) as peer:
        peer.send(lines(b"PROXY TCP4 192.0.2.7 127.0.0.1 4242 25", *MESSAGE, b"QUIT"))
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.rest().endswith(b"221 Bye\r\n")
        assert audit.receptions(0, "192.0.2.7") == 1


class Collector(asyncio.Protocol):
    """Replies with what it has received once the peer has half-closed."""

    def connection_made(self, transport: Any) -> None:
        self.transport, self.data = transport, b""

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.transport.write(self.data)
        self.transport.close()
        return True


def test_a_protocol_hears_of_a_half_close_during_a_tarpit(guard: Guard) -> None:
    guard.policy = Script({"connect": Verdict(tarpit=0.05)})
    with serving(counted(Collector, guard), WAYS[0]) as (_, address), Peer(*address) as peer:
        peer.send(b"hello")
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.rest() == b"hello"


# ---- storing and recording belong together


@pytest.mark.parametrize("ending", ["reset", "close", "half-close", "stop", "cut"])
def test_a_message_that_is_being_stored_is_recorded(guard: Guard, audit: InboundAudit, ending: str) -> None:
    store = Store()
    with mx(guard, store) as server:
        with server.peer() as peer:
            peer.send(lines(*MESSAGE))
            eventually(lambda: store.begun == 1)
            if ending == "half-close":
                peer.socket.shutdown(socket.SHUT_WR)
            elif ending == "stop":
                assert server.stop() == 1
            elif ending == "cut":
                threading.Timer(0.05, store.go_on.set).start()
                assert server.shut_down() == 0
                assert received(guard, audit) == (1, 1)
                assert peer.rest().endswith(b"250 stored\r\n" + SHUTDOWN)
            else:
                getattr(peer, ending)()
            if ending not in ("close", "half-close", "stop"):  # those see their answer, or its lack, when it is written
                eventually(lambda: guard.open == 0)
            store.go_on.set()
            eventually(lambda: received(guard, audit) == (1, 1))
        assert len(store.stored) == 1


def test_a_message_that_is_being_stored_at_the_time_out_is_recorded(guard: Guard, audit: InboundAudit) -> None:
    def attempt(timeout: float) -> bool:
        store = Store()
        with mx(guard, store, timeout=timeout) as server, server.peer() as peer:
            peer.send(lines(*MESSAGE))
            eventually(lambda: store.begun or guard.open == 0)
            eventually(lambda: guard.open == 0)
            store.go_on.set()
            eventually(lambda: received(guard, audit) == (store.begun, store.begun))
        return len(store.stored) == 1

    until_it_suffices(attempt)


def test_a_controller_that_stops_lets_a_message_be_stored(guard: Guard, audit: InboundAudit) -> None:
    store = Store()
    controller = Controller(
        store, "127.0.0.1", 0, guard=guard, gate=listening.accepts_by_gate(), server_hostname="mx.example"
    )
    controller.start()
    with Peer(*controller.addresses[0]) as peer, Peer(*controller.addresses[0]) as idle:
        peer.send(lines(*MESSAGE))
        assert idle.line().startswith(b"220")
        eventually(lambda: store.begun == 1)
        threading.Timer(0.05, store.go_on.set).start()
        controller.stop()
        assert (len(store.stored), *received(guard, audit)) == (1, 1, 1)
        assert peer.rest().endswith(b"250 stored\r\n" + SHUTDOWN)
        assert idle.rest() == SHUTDOWN


def test_a_message_that_takes_long_to_store_holds_up_no_stop(
    guard: Guard, audit: InboundAudit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inbound_audit.listeners.smtp.DELIVERY_TIMEOUT_S", 0.05)
    store = Store()
    with mx(guard, store) as server, server.peer() as peer:
        peer.send(lines(*MESSAGE))
        eventually(lambda: store.begun == 1)
        assert server.shut_down() == 1
        assert peer.rest().endswith(b"354 End data with <CR><LF>.<CR><LF>\r\n" + SHUTDOWN)
        store.go_on.set()
        eventually(lambda: received(guard, audit) == (1, 1))


def test_a_policy_that_disconnects_after_data_stores_and_records_nothing(guard: Guard, audit: InboundAudit) -> None:
    store = Store()
    guard.policy = Script({"data_spool": Verdict(True, disconnect=True)})
    with mx(guard, store) as server, server.peer(*MESSAGE[:-1]) as peer:
        peer.send(lines(MESSAGE[-1], *MESSAGE[1:]))
        assert peer.rest().startswith(b"421")
        assert (store.begun, *received(guard, audit)) == (0, 0, 0)


def test_a_message_is_recorded_though_its_audit_has_been_closed(audit: InboundAudit) -> None:
    guard = Guard(audit.listener("SMTP"))
    admission = guard.admit(("192.0.2.7", 25))
    admission.close()
    admission.record_reception()
    assert received(guard, audit) == (1, 1)
    audit.close()
    admission.record_reception()
    assert guard.received == 2


# ---- every wait for a peer has an end


def is_closed_in_its_silence(
    guard: Guard, address: tuple[str, int], context: ssl.SSLContext, implicit: bool = False
) -> bool:
    """Whether a peer gets so far that it is silent over TLS. Then it is closed."""
    before = guard.opened  # a gate counts a peer as soon as it has connected
    with Peer(*address) as peer, contextlib.suppress(OSError):
        if not implicit:
            assert peer.line().startswith(b"220")
            if not peer.ask(b"STARTTLS").startswith(b"220"):
                return False
        with context.wrap_socket(peer.socket, server_hostname="127.0.0.1"):
            eventually(lambda: guard.opened == before + 1 and guard.open == 0)
            return True
    return False


def test_a_silent_peer_is_closed_at_the_time_out_over_tls(
    guard: Guard, audit: InboundAudit, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """A TLS close waits for the peer's, and this peer never reads."""

    def attempt(timeout: float) -> bool:
        with mx(guard, tls_context=tls[0], timeout=timeout) as server:
            return is_closed_in_its_silence(guard, server.address, tls[1])

    until_it_suffices(attempt)


@pytest.mark.parametrize("implicit", [False, True])
def test_a_silent_peer_is_closed_at_the_time_out_of_a_controller(
    guard: Guard, tls: tuple[ssl.SSLContext, ssl.SSLContext], implicit: bool
) -> None:
    contexts = {"ssl_context": tls[0]} if implicit else {"tls_context": tls[0]}

    def attempt(timeout: float) -> bool:
        options = {**contexts, "gate": listening.accepts_by_gate(), "server_hostname": "mx.example", "timeout": timeout}
        controller = Controller(Sink(), "127.0.0.1", 0, guard=guard, **options)
        controller.start()
        try:
            return is_closed_in_its_silence(guard, controller.addresses[0], tls[1], implicit)
        finally:
            controller.stop()

    until_it_suffices(attempt)


@pytest.mark.parametrize("last", ["QUIT", "BOGUS", "refused"])
def test_a_tls_session_ends_without_the_peers_consent(
    guard: Guard, tls: tuple[ssl.SSLContext, ssl.SSLContext], last: str
) -> None:
    guard.policy = Script({"ehlo": Verdict(False, 421, "not you")} if last == "refused" else {})
    sent = {"QUIT": b"QUIT", "BOGUS": b"BOGUS\r\n" * 20 + b"BOGUS", "refused": b"EHLO c.example"}[last]
    with mx(guard, tls_context=tls[0]) as server:
        secret = server.secret(tls[1])
        secret.sendall(sent + b"\r\n")
        eventually(lambda: guard.open == 0)
        secret.close()


def test_a_refused_peer_of_implicit_tls_is_not_waited_for(
    guard: Guard, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    guard.policy = Script({"connect": Verdict(False, 421, "not you")})
    with serving(counted(Collector, guard, refusal=b"no\n"), WAYS[0], ssl=tls[0]) as (_, address):
        secret = tls[1].wrap_socket(socket.create_connection(address, PATIENCE), server_hostname="127.0.0.1")
        eventually(lambda: guard.refused == 1 and guard.open == 0)
        secret.close()


def test_a_peer_that_reads_nothing_is_closed_at_the_time_out(guard: Guard) -> None:
    guard.policy = Script({"ehlo": Verdict(False, 550, "x" * 8192)})
    with mx(guard, timeout=0.5, max_idle_commands=10_000) as server, Peer(*server.address) as peer:
        with contextlib.suppress(OSError):  # on a busy machine it may be closed meanwhile
            peer.send(lines(*GREETED * 2000))
        eventually(lambda: guard.open == 0)


@pytest.mark.parametrize("secret", [False, True])
def test_after_the_reply_that_closes_nothing_is_carried_out(
    guard: Guard, audit: InboundAudit, tls: tuple[ssl.SSLContext, ssl.SSLContext], secret: bool
) -> None:
    store = Store()
    store.go_on.set()
    with (
        mx(guard, store, tls_context=tls[0]) as server,
        contextlib.closing(server.secret(tls[1]) if secret else server.peer().socket) as peer,
    ):
        peer.sendall(lines(*[b"BOGUS"] * 20, *MESSAGE))
        with peer.makefile("rb") as replies:
            assert replies.read().splitlines()[-1].startswith(b"421 4.7.0 too many errors")
        eventually(lambda: guard.open == 0)
        assert (store.begun, *received(guard, audit)) == (0, 0, 0)


# ---- a stop


KINDS = ["banner", "greeted", "STARTTLS", "TLS", "PROXY", "tarpit", "tarpit at EHLO", "tarpit at MAIL", "AUTH"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_outside_of_a_transaction_gets_421_at_once(
    guard: Guard, tls: tuple[ssl.SSLContext, ssl.SSLContext], kind: str
) -> None:
    stage = {"tarpit": "connect", "tarpit at EHLO": "ehlo", "tarpit at MAIL": "mailfrom"}.get(kind)
    policy = guard.policy = Script({stage: FOREVER} if stage else {})
    options: dict[str, Any] = {"auth_callback": lambda *_: True, "auth_require_tls": False}
    with mx(guard, tls_context=tls[0], proxy_from=["127.0.0.1"] if kind == "PROXY" else [], **options) as server:
        peer = Peer(*server.address) if kind in ("PROXY", "tarpit") else server.peer()
        eventually(lambda: guard.open == 1 and (stage != "connect" or policy.asked))
        if kind in ("STARTTLS", "TLS"):
            assert peer.ask(b"STARTTLS").startswith(b"220")
        if kind == "TLS":
            peer.socket = tls[1].wrap_socket(peer.socket, server_hostname="127.0.0.1")
        if kind in ("greeted", "AUTH", "tarpit at EHLO", "tarpit at MAIL"):
            peer.send(lines(b"EHLO c.example", *({"AUTH": [b"AUTH LOGIN"]}.get(kind, [b"MAIL FROM:<a@b.example>"]))))
        if kind == "greeted":
            peer.send(b"RSET\r\n")
        if stage in ("ehlo", "mailfrom"):
            eventually(lambda: policy.stages()[-1] == stage)
        if kind in ("greeted", "AUTH"):
            wanted = b"334" if kind == "AUTH" else b"250 OK"
            while not peer.line().startswith(wanted):
                continue
            if kind == "greeted":
                assert peer.line().startswith(b"250 OK")
        assert server.stop() == 0
        reply = peer.socket.recv(1000) if kind == "TLS" else peer.rest()
        assert reply.endswith(b"" if kind == "STARTTLS" else SHUTDOWN)
        eventually(lambda: guard.open == 0)
        peer.close()


def test_a_transaction_may_end_and_the_next_one_may_not_begin(guard: Guard, audit: InboundAudit) -> None:
    store = Store()
    with mx(guard, store) as server, server.peer() as peer:
        peer.send(lines(*MESSAGE, *MESSAGE[1:], b"QUIT"))  # pipelined
        eventually(lambda: store.begun == 1)
        assert server.stop() == 1
        store.go_on.set()
        assert peer.rest().splitlines()[-2:] == [b"250 stored", SHUTDOWN.strip()]
        assert (store.begun, *received(guard, audit)) == (1, 1, 1)


@pytest.mark.parametrize("last", [b"RSET", b"EHLO c.example", b"HELO c.example"])
def test_a_transaction_that_is_given_up_ends_the_session(guard: Guard, last: bytes) -> None:
    with mx(guard) as server, server.peer(*BEGUN) as peer:
        assert server.stop() == 1
        assert peer.ask(b"RCPT TO:<c@example.com>").startswith(b"250")
        peer.send(last + b"\r\nNOOP\r\n")
        *replies, bye = peer.rest().splitlines(keepends=True)
        assert {reply[:3] for reply in replies} == {b"250"}
        assert bye == SHUTDOWN


def test_a_connection_that_comes_during_a_stop_gets_421(guard: Guard) -> None:
    policy = guard.policy = Script()
    with mx(guard) as server:
        server.stop()
        with Peer(*server.address) as peer:
            assert peer.rest() == SHUTDOWN
        assert (policy.asked, guard.accepted, guard.refused) == ([], 0, 0)


def test_the_end_of_the_grace_cuts_transactions_and_counts_them(guard: Guard) -> None:
    with mx(guard) as server, server.peer(*BEGUN) as one, server.peer(*BEGUN, b"DATA") as two, server.peer() as idle:
        assert server.shut_down(grace=0.05) == 2
        assert [peer.rest() for peer in (one, two, idle)] == [SHUTDOWN] * 3
        assert guard.open == 0


# ---- limits


def test_a_message_has_at_most_so_many_recipients(guard: Guard, audit: InboundAudit) -> None:
    policy = guard.policy = Script()
    with mx(guard, max_recipients=3) as server, server.peer(*GREETED) as peer:
        for _ in range(2):
            assert peer.ask(b"MAIL FROM:<a@example.com>").startswith(b"250")
            replies = [peer.ask(b"RCPT TO:<%d@example.com>" % number) for number in range(5)]
            assert replies == [b"250 OK\r\n"] * 3 + [b"452 4.5.3 too many recipients\r\n"] * 2
            assert peer.ask(b"DATA").startswith(b"354")
            assert peer.ask(b".").startswith(b"250")
        assert policy.stages().count("rcptto") == 6
        assert received(guard, audit) == (2, 2)
        assert audit.rejections(0, "127.0.0.1") == 0


def test_recipients_beyond_the_limit_are_no_errors_of_the_peer(guard: Guard) -> None:
    """A client that sends all recipients at once has its message accepted for the first ones."""
    with mx(guard, max_recipients=3, max_errors=2) as server, server.peer(*BEGUN[:2]) as peer:
        peer.send(b"RCPT TO:<b@example.com>\r\n" * 100 + b"DATA\r\n")
        assert [peer.line()[:3] for _ in range(101)] == [b"250"] * 3 + [b"452"] * 97 + [b"354"]
        assert peer.ask(b".").startswith(b"250")


def test_the_default_is_a_thousand_recipients(guard: Guard) -> None:
    with mx(guard) as server, server.peer(*BEGUN[:2]) as peer:
        peer.send(b"RCPT TO:<b@example.com>\r\n" * 1001)
        assert [peer.line()[:3] for _ in range(1001)] == [b"250"] * 1000 + [b"452"]


@pytest.mark.parametrize("command", [b"NOOP", b"RSET", b"VRFY <a@example.com>", b"HELO c.example"])
def test_commands_without_a_message_have_a_limit(guard: Guard, command: bytes) -> None:
    with mx(guard, max_idle_commands=4) as server, server.peer() as peer:
        for _ in range(2):  # a message gives the session its commands back
            peer.send(lines(b"HELO c.example", *[command] * 3, *MESSAGE[1:]))
            replies = [peer.line()[:3] for _ in range(8)]
            assert set(replies) <= {b"250", b"252", b"354"}
        peer.send(lines(*[command] * 9))
        assert peer.rest().splitlines()[-1] == b"421 4.7.0 too many commands without a message"


# ---- AUTH


def offered(peer: Peer) -> set[bytes]:
    peer.send(b"EHLO c.example\r\n")
    keywords = set()
    while (line := peer.line())[3:4] == b"-":
        keywords.add(line[4:].split()[0])
    return keywords


class Mechanism(Sink):
    async def auth_TOKEN(self, server: Any, args: Any) -> Any:
        return True


class AuthHook(Sink):
    async def handle_AUTH(self, server: Any, session: Any, envelope: Any, args: Any) -> str:
        return "235 as you like"


@pytest.mark.parametrize(
    ("handler", "options", "auth"),
    [
        (Sink(), {}, False),
        (object(), {}, False),
        (Sink(), {"auth_callback": lambda mechanism, login, password: True}, True),
        (Sink(), {"authenticator": lambda *about: None}, True),
        (Mechanism(), {}, True),
        (AuthHook(), {}, True),
    ],
    ids=["none", "no handler", "auth_callback", "authenticator", "mechanism", "hook"],
)
@pytest.mark.parametrize("secret", [False, True])
def test_auth_is_offered_where_it_can_be_used(
    guard: Guard, tls: Any, handler: object, options: dict[str, Any], auth: bool, secret: bool
) -> None:
    more = {"tls_context": tls[0]} if secret else {"auth_require_tls": False}
    with mx(guard, handler, **options, **more) as server, server.peer() as peer:
        if secret:
            assert b"AUTH" not in offered(peer)
            assert peer.ask(b"STARTTLS").startswith(b"220")
            peer.socket = tls[1].wrap_socket(peer.socket, server_hostname="127.0.0.1")
            peer._read = peer.socket.makefile("rb")
        assert (b"AUTH" in offered(peer)) is auth
        reply = peer.ask(b"AUTH NONSENSE")
        assert reply.startswith(b"504" if auth else b'500 Error: command "AUTH" not recognized')
        assert (b"AUTH" in peer.ask(b"HELP")) is auth


def test_a_mechanism_that_is_not_offered_can_not_be_used(guard: Guard) -> None:
    with mx(guard, Mechanism(), auth_require_tls=False) as server, server.peer(*GREETED) as peer:
        assert peer.ask(b"AUTH PLAIN AGEAYg==").startswith(b"504")
        assert peer.ask(b"AUTH TOKEN").startswith(b"235")


@pytest.mark.parametrize("value", [b"<>", b"e+3Dmc2@example.com"])
@pytest.mark.parametrize("options", [{}, {"auth_callback": lambda *_: True, "auth_require_tls": False}])
def test_the_auth_parameter_of_mail_is_accepted(guard: Guard, value: bytes, options: dict[str, Any]) -> None:
    with mx(guard, **options) as server, server.peer(*GREETED) as peer:
        assert peer.ask(b"MAIL FROM:<a@example.com> AUTH=" + value) == b"250 OK\r\n"
        assert peer.ask(b"RCPT TO:<b@example.com> AUTH=" + value).startswith(b"555")
        assert peer.ask(b"RSET").startswith(b"250")
        assert peer.ask(b"MAIL FROM:<a@example.com> SIZE=10 AUTH=<> BODY=8BITMIME").startswith(b"250")
        assert peer.ask(b"RSET").startswith(b"250")
        assert peer.ask(b"MAIL FROM:<a@example.com> AUTH").startswith(b"555")
        assert peer.ask(b"MAIL FROM:<a@example.com> AUTH=<> OTHER=1").startswith(b"555")


# ---- names


@pytest.fixture
def no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*about: object) -> str:
        raise AssertionError(f"the resolver was asked for {about}")

    for name in ("getfqdn", "gethostbyaddr", "gethostbyname", "gethostbyname_ex", "getnameinfo"):
        monkeypatch.setattr(socket, name, asked)


@pytest.mark.usefixtures("no_resolver")
@pytest.mark.parametrize(
    ("given", "banner"),
    [({"hostname": "mx.example"}, "mx.example"), ({}, socket.gethostname()), ({"hostname": ""}, socket.gethostname())],
)
def test_a_name_is_never_looked_up(guard: Guard, given: dict[str, str], banner: str) -> None:
    with serving(protocol_factory(Sink(), guard, **given), WAYS[0]) as (_, address), Peer(*address) as peer:
        assert peer.line().decode().split()[:2] == ["220", banner]
        assert peer.ask(b"HELO c.example").decode() == f"250 {banner}\r\n"


@pytest.mark.usefixtures("no_resolver")
@pytest.mark.parametrize(("given", "banner"), [("mx.example", "mx.example"), (None, socket.gethostname())])
def test_a_controller_never_looks_a_name_up(guard: Guard, given: str | None, banner: str) -> None:
    controller = Controller(
        Sink(), "127.0.0.1", 0, guard=guard, gate=listening.accepts_by_gate(), server_hostname=given
    )
    controller.start()
    with Peer(*controller.addresses[0]) as peer:
        assert peer.line().decode().split()[:2] == ["220", banner]
    controller.stop()


# ---- the log


def test_a_refusal_formats_nothing_for_a_log_that_is_not_written(
    guard: Guard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    formatted: list[object] = []
    from inbound_audit.listeners.admission import Admission

    monkeypatch.setattr(Admission, "__str__", lambda admission: formatted.append(admission) or "a peer")
    guard.policy = Script({"connect": Verdict(False, 421, "not you")})
    for level in (logging.WARNING, logging.INFO):
        caplog.set_level(level, "inbound_audit")
        for _ in range(10):
            guard.admit(("192.0.2.7", 25)).close()
        assert bool(formatted) is (level == logging.INFO)
    assert len(set(map(id, formatted))) == 1
