"""asyncio servers: counted from accept to close, once, however the connection ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.support import listening
from tests.support.listening import LoopThread, Peer, Script, Way, every_way, serving, warnings_kept
from tests.support.waiting import eventually

from inbound_audit import InboundAudit, Limits, Verdict
from inbound_audit.listeners import Guard
from inbound_audit.listeners.aio import CountedCallback, counted, counted_callback, session_of
from inbound_audit.listeners.budget import SessionBudget
from inbound_audit.listeners.pending import GatedFactory, PendingConnection, stop_accepting

# asyncio's own, in Python 3.10: it closes the connection and forgets the transport.
pytestmark = [
    pytest.mark.usefixtures("acceptor", "quick_close"),
    pytest.mark.filterwarnings("ignore:unclosed transport <asyncio.sslproto:ResourceWarning"),
]

acceptor, audit = listening.acceptor, listening.audit  # fixtures
guard, quick_close = listening.guard, listening.quick_close

FOREVER = Verdict(tarpit=3600.0)
SHORTLY = Verdict(tarpit=0.05)
BUSY = Verdict(accepted=False, code=421, text="busy")


class Echo(asyncio.Protocol):
    """Greets with "hello", then sends back what comes; "fail" makes it raise."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(b"hello\n")

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"fail"):
            raise RuntimeError("on purpose")
        self.transport.write(data)


class Upgrading(Echo):
    """It hands itself to `loop.start_tls` at "starttls"."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._task: asyncio.Task[None] | None = None

    def data_received(self, data: bytes) -> None:
        if data == b"starttls\r\n":
            self._task = asyncio.get_running_loop().create_task(self.upgrade())
        elif self._task is not None and not self._task.done():  # it came with the end of the handshake
            self._task.add_done_callback(lambda _: super(Upgrading, self).data_received(data))
        else:
            super().data_received(data)

    async def upgrade(self) -> None:
        self.transport.write(b"go ahead\n")
        loop = asyncio.get_running_loop()
        upgraded = await loop.start_tls(self.transport, self, self._context, server_side=True)
        assert isinstance(upgraded, asyncio.Transport)
        self.transport = upgraded


class SlottedEcho(Echo):
    __slots__ = ()


class Bare(asyncio.Protocol):
    """An `Echo` whose objects have neither a __dict__ nor weak references."""

    __slots__ = ("transport",)

    connection_made = Echo.connection_made
    data_received = Echo.data_received


class BufferedEcho(asyncio.BufferedProtocol):
    """An `Echo` that has data read into a small buffer of its own."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.buffer = bytearray(512)

    connection_made = Echo.connection_made

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        Echo.data_received(self, bytes(self.buffer[:nbytes]))  # type: ignore[arg-type]


KINDS = [Echo, SlottedEcho, Bare, BufferedEcho]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@pytest.fixture(scope="module")
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "::1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """`Echo` with streams: ends at the end of the stream or after "bye"; "fail" makes it raise."""
    writer.write(b"hello\n")
    while (line := await reader.readline()) not in (b"", b"bye\n"):
        if line == b"fail\n":
            raise RuntimeError("on purpose")
        writer.write(line)
    writer.close()


@contextlib.contextmanager
def streaming(
    callback: CountedCallback, way: Way, ssl: ssl.SSLContext | None = None
) -> Iterator[tuple[LoopThread, tuple[str, int]]]:
    """As `serving`, for `asyncio.start_server`."""
    with LoopThread() as thread, way.listening() as bound:

        async def start() -> asyncio.AbstractServer:
            if listening.accepts_by_gate():
                factory = callback.factory()
                return factory.gate([bound]).serve(thread.loop, factory, ssl=ssl)
            return await asyncio.start_server(callback, sock=bound, ssl=ssl)

        address = (way.connect, bound.getsockname()[1])
        server: Any = thread.do(start)
        try:
            yield thread, address
        finally:
            thread.do(lambda: stop_accepting(server))


# ---- protocol factories


@every_way
@every_kind
def test_counted_while_it_is_open(guard: Guard, audit: InboundAudit, way: Way, kind: type[Echo]) -> None:
    with serving(counted(kind, guard), way) as (_, address):
        with Peer(*address) as one, Peer(*address) as two:
            assert (one.line(), two.line()) == (b"hello\n", b"hello\n")
            assert audit.inbound_session_count(way.counted) == 2
            assert (guard.opened, guard.accepted, guard.open) == (2, 2, 2)
            assert one.ask(b"over") == b"over\r\n"
        eventually(lambda: guard.open == audit.total() == 0)


@every_way
@every_kind
def test_a_reset_ends_the_session(guard: Guard, audit: InboundAudit, way: Way, kind: type[Echo]) -> None:
    with serving(counted(kind, guard), way) as (_, address):
        peer = Peer(*address)
        assert peer.line() == b"hello\n"
        assert audit.total() == 1
        peer.reset()
        eventually(lambda: audit.total() == 0)


def test_a_reset_before_the_server_looks_ends_the_session(guard: Guard, audit: InboundAudit) -> None:
    with serving(counted(Echo, guard), listening.WAYS[0]) as (_, address):
        for _ in range(50):
            Peer(*address).reset()
        eventually(lambda: guard.opened == 50)
        eventually(lambda: audit.total() == 0)


@every_kind
def test_a_protocol_that_raises_ends_its_session(guard: Guard, audit: InboundAudit, kind: type[Echo]) -> None:
    with serving(counted(kind, guard), listening.WAYS[1]) as (thread, address), Peer(*address) as peer:
        peer.line()
        peer.send(b"fail")
        assert peer.rest() == b""
        eventually(lambda: audit.total() == 0)
        assert [str(complaint["exception"]) for complaint in thread.complaints] == ["on purpose"]


@pytest.mark.parametrize("method", ["connection_made", "connection_lost"])
def test_a_protocol_that_raises_at_either_end(guard: Guard, audit: InboundAudit, method: str) -> None:
    def fail(self: Echo, argument: object) -> None:
        raise RuntimeError("on purpose")

    broken = type("Broken", (Echo,), {method: fail})
    with serving(counted(broken, guard), listening.WAYS[0]) as (thread, address):
        with Peer(*address):
            eventually(lambda: audit.total() == 1)
        eventually(lambda: audit.total() == 0)
        eventually(lambda: thread.complaints)


@every_way
def test_a_refused_peer_reads_the_reason_and_no_protocol_is_made(guard: Guard, audit: InboundAudit, way: Way) -> None:
    made: list[Echo] = []

    def factory() -> Echo:
        made.append(Echo())
        return made[-1]

    guard.policy = Limits({"/32": 1})
    with serving(counted(factory, guard, refusal=b"busy\n"), way) as (_, address), Peer(*address) as one:
        assert one.line() == b"hello\n"
        with Peer(*address) as two:
            assert two.rest() == b"busy\n"
        eventually(lambda: audit.total() == 1)
        assert (guard.accepted, guard.refused, len(made)) == (1, 1, 1)
        assert one.ask(b"still here") == b"still here\r\n"
        one.close()
        eventually(lambda: audit.total() == 0)
        with Peer(*address) as three:
            assert three.line() == b"hello\n"


def test_a_refusal_may_be_made_of_the_verdict(guard: Guard) -> None:
    guard.policy = Script({"connect": BUSY})
    factory = counted(Echo, guard, refusal=lambda verdict: f"{verdict.code} {verdict.text}\n".encode())
    with serving(factory, listening.WAYS[0]) as (_, address), Peer(*address) as peer:
        assert peer.rest() == b"421 busy\n"


def test_a_refusal_may_be_silent(guard: Guard) -> None:
    guard.policy = Script({"connect": BUSY})
    with serving(counted(Echo, guard), listening.WAYS[0]) as (_, address), Peer(*address) as peer:
        assert peer.rest() == b""


def test_a_policy_that_raises_lets_in(guard: Guard) -> None:
    guard.policy = Script({"connect": RuntimeError("out of order")})
    with serving(counted(Echo, guard), listening.WAYS[0]) as (_, address), Peer(*address) as peer:
        assert peer.line() == b"hello\n"
        assert guard.failures == 1


def pending_ones() -> list[object]:
    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, PendingConnection)]


@every_way
def test_a_tarpit_does_not_stop_the_others(guard: Guard, audit: InboundAudit, way: Way) -> None:
    policy = guard.policy = Script({"connect": FOREVER})
    with serving(counted(Echo, guard), way) as (_, address), Peer(*address) as slow:
        eventually(lambda: guard.open == 1)
        policy.answers.clear()
        with Peer(*address) as quick:
            assert quick.line() == b"hello\n"
            assert audit.inbound_session_count(way.counted) == 2
        slow.reset()  # noticed at once, although its bytes are not read
        eventually(lambda: audit.total() == 0)
        eventually(lambda: not pending_ones(), "the end of the timer that would have let it in")


def test_a_peer_that_stops_sending_in_a_tarpit_is_gone(guard: Guard, audit: InboundAudit) -> None:
    guard.policy = Script({"connect": FOREVER})
    with serving(counted(Echo, guard), listening.WAYS[1]) as (_, address), Peer(*address) as peer:
        eventually(lambda: audit.total() == 1)
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.rest() == b""
        eventually(lambda: audit.total() == 0)


@every_kind
def test_what_came_during_a_tarpit_is_not_lost(guard: Guard, kind: type[Echo]) -> None:
    """More than is kept: the rest waits in the kernel."""
    guard.policy = Script({"connect": SHORTLY})
    early = b"".join(b"%07d\n" % number for number in range(SessionBudget.max_early_bytes // 2))
    with serving(counted(kind, guard), listening.WAYS[0]) as (thread, address), Peer(*address) as peer:
        sent = thread.loop.run_in_executor(None, peer.send, early)
        assert peer.line() == b"hello\n"
        assert b"".join(peer.line() for _ in range(early.count(b"\n"))) == early
        eventually(sent.done)


def test_a_refusal_waits_out_its_tarpit(guard: Guard) -> None:
    guard.policy = Script({"connect": Verdict(accepted=False, tarpit=0.05)})
    with serving(counted(Echo, guard, refusal=b"busy\n"), listening.WAYS[1]) as (_, address), Peer(*address) as peer:
        assert peer.rest() == b"busy\n"


def test_the_server_holds_what_the_factory_made(guard: Guard) -> None:
    made: list[Echo] = []

    class Curious(Echo):
        def __init__(self) -> None:
            made.append(self)

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            assert transport.get_protocol() is self
            session = session_of(self)
            assert session is session_of(transport)
            assert session is not None
            transport.write(f"{type(self).__name__} {isinstance(self, Curious)} {session.remote_addr}\n".encode())
            self.transport = transport

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost_with = session_of(self)

    with serving(counted(Curious, guard), listening.WAYS[0]) as (_, address), Peer(*address) as peer:
        host, port = peer.socket.getsockname()
        assert peer.line() == f"Curious True {host}:{port}\n".encode()
    assert len(made) == 1
    eventually(lambda: guard.open == 0)
    assert made[0].lost_with is not None
    assert session_of(made[0]) is None


def test_a_factory_that_raises_leaves_nothing_behind(guard: Guard, audit: InboundAudit) -> None:
    def factory() -> Echo:
        raise RuntimeError("on purpose")

    with serving(counted(factory, guard), listening.WAYS[0]) as (thread, address), Peer(*address) as peer:
        assert peer.rest() == b""
        eventually(lambda: guard.opened == 1 and audit.total() == 0)
        assert [str(complaint["exception"]) for complaint in thread.complaints] == ["on purpose"]


def test_one_protocol_for_two_connections_is_refused(guard: Guard, audit: InboundAudit) -> None:
    shared = Echo()
    with serving(counted(lambda: shared, guard), listening.WAYS[0]) as (thread, address), Peer(*address) as one:
        assert one.line() == b"hello\n"
        with Peer(*address) as two:
            assert two.rest() == b""
        assert "one protocol for each" in str(thread.complaints[0]["exception"])
        eventually(lambda: audit.total() == 1)
        one.close()
        eventually(lambda: audit.total() == 0)
        with Peer(*address) as three:  # one after another is no mistake
            assert three.line() == b"hello\n"
            assert audit.total() == 1


def test_a_class_that_cannot_be_counted_says_so(guard: Guard) -> None:
    with serving(counted(object, guard), listening.WAYS[0]) as (thread, address), Peer(*address) as peer:  # type: ignore[arg-type]
        assert peer.rest() == b""
        assert "object can't be counted, derive a Python class from it" in str(thread.complaints[0]["exception"])


def test_a_transport_that_is_taken_away_ends_the_session_with_a_warning(guard: Guard, audit: InboundAudit) -> None:
    """An upgrade: the counted protocol will hear no more of the connection. Behind a gate the socket itself is counted,
    and so the connection stays."""

    class Upgrading(Echo):
        def data_received(self, data: bytes) -> None:
            self.transport.set_protocol(successor := Echo())
            successor.transport = self.transport
            self.transport.write(b"upgraded\n")

    stays = listening.accepts_by_gate()
    with serving(counted(Upgrading, guard), listening.WAYS[0]) as (_, address), Peer(*address) as peer:
        peer.line()
        with warnings_kept() as warned:
            assert peer.ask(b"up") == b"upgraded\n"
            if not stays:
                eventually(lambda: audit.total() == 0)
        assert len([text for text in warned if "without being closed" in text]) == (not stays)
        assert peer.ask(b"still served") == b"still served\r\n"
        assert audit.total() == stays
    eventually(lambda: audit.total() == 0)


def test_a_unix_socket_is_let_in_uncounted(guard: Guard, audit: InboundAudit, tmp_path: Path) -> None:
    guard.policy = Limits({"/0": 0})
    path = str(tmp_path / "socket")
    with LoopThread() as thread:
        server: Any = thread.do(lambda: thread.loop.create_unix_server(counted(Echo, guard), path))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            assert client.recv(100) == b"hello\n"
            assert (guard.uncounted, guard.accepted, guard.open, audit.total()) == (1, 1, 1, 0)
        eventually(lambda: guard.open == 0)
        thread.do(lambda: stop_accepting(server))


def test_a_full_arena_lets_in() -> None:
    with InboundAudit(capacity=8192) as audit:
        listener = audit.listener("SMTP")
        kept = listening.fill(listener, size=4)
        guard = Guard(listener)
        with serving(counted(Echo, guard), listening.WAYS[0]) as (_, address):
            with Peer(*address) as peer:
                assert peer.line() == b"hello\n"
                assert (guard.uncounted, guard.open, listener.total) == (1, 1, len(kept))
            eventually(lambda: guard.open == 0)
        for session in kept:
            session.close()


# ---- TLS


@every_way
def test_tls_from_the_first_byte(
    guard: Guard, audit: InboundAudit, way: Way, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    with serving(counted(Echo, guard), way, ssl=tls[0]) as (_, address):
        for ending in ("unwrap", "reset"):
            peer = Peer(*address)
            peer.socket = tls[1].wrap_socket(peer.socket, server_hostname=way.connect)
            assert peer.socket.recv(100) == b"hello\n"
            assert audit.inbound_session_count(way.counted) == 1
            if ending == "unwrap":
                with contextlib.suppress(ssl.SSLEOFError):  # Python 3.10 closes without an answer
                    peer.socket.unwrap().close()
                peer.close()
            else:
                peer.reset()
            eventually(lambda: audit.total() == 0)


def test_a_refusal_through_tls(guard: Guard, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    guard.policy = Script({"connect": BUSY})
    with serving(counted(Echo, guard, refusal=b"busy\n"), listening.WAYS[1], ssl=tls[0]) as (_, address):
        with tls[1].wrap_socket(socket.create_connection(address), server_hostname="::1") as peer:
            assert peer.recv(100) == b"busy\n"
            assert peer.recv(100) == b""
        eventually(lambda: guard.open == 0)


@every_way
def test_tls_in_the_middle_of_a_connection(
    guard: Guard, audit: InboundAudit, way: Way, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """The protocol hands itself to `loop.start_tls`; its `connection_lost` still comes through."""

    with serving(counted(partial(Upgrading, tls[0]), guard), way) as (_, address):
        peer = Peer(*address)
        peer.line()
        assert peer.ask(b"starttls") == b"go ahead\n"
        with tls[1].wrap_socket(peer.socket, server_hostname=way.connect) as secure:
            secure.sendall(b"secret\n")
            assert secure.recv(100) == b"secret\n"
            assert (audit.inbound_session_count(way.counted), guard.opened) == (1, 1)
        peer.close()
        eventually(lambda: audit.total() == 0)


# ---- the server goes


def test_a_server_that_closes_leaves_its_sessions_to_end(guard: Guard, audit: InboundAudit) -> None:
    with LoopThread() as thread:
        server: Any = thread.do(lambda: thread.loop.create_server(counted(Echo, guard), "127.0.0.1", 0))
        with Peer(*server.sockets[0].getsockname()) as peer:
            peer.line()
            thread.do(lambda: stop_accepting(server))
            assert peer.ask(b"still served") == b"still served\r\n"
            assert audit.total() == 1
        eventually(lambda: audit.total() == 0)


@contextlib.contextmanager
def dying_loop(guard: Guard, kind: type[Echo]) -> Iterator[None]:
    """A loop is closed under an open connection; then comes the block, then all of it is collected."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(counted(kind, guard), "::1", 0))
    with socket.create_connection(server.sockets[0].getsockname()[:2]):
        while not guard.open or asyncio.all_tasks(loop):
            loop.run_until_complete(asyncio.sleep(0))
        server.close()
        loop.close()
        yield
        del server, loop
        gc.collect()


@every_kind
def test_a_loop_that_dies_takes_its_sessions_along(guard: Guard, audit: InboundAudit, kind: type[Echo]) -> None:
    with warnings_kept() as warned, dying_loop(guard, kind):
        guard.close_all()
        assert audit.total() == 0
    assert not [text for text in warned if "without being closed" in text]


@every_kind
def test_a_loop_that_dies_unnoticed_does_so_too(guard: Guard, audit: InboundAudit, kind: type[Echo]) -> None:
    with warnings_kept() as warned, dying_loop(guard, kind):
        assert audit.total() == 1
    assert audit.total() == 0
    assert len([text for text in warned if "without being closed" in text]) == 1


def test_a_loop_of_these_tests_leaves_nothing_open(guard: Guard, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """Else a later test would fail. Peers at the end: with and without TLS, one that reads nothing, new ones."""
    with contextlib.ExitStack() as peers, warnings_kept() as warned:
        for context in (None, tls[0]):
            factory = counted(partial(Upgrading, tls[0]), guard)
            with serving(factory, listening.WAYS[0], ssl=context) as (thread, address):
                for number in range(20):
                    peer = peers.enter_context(Peer(*address))
                    if number < 2 and context is not None:
                        peer.socket = peers.enter_context(tls[1].wrap_socket(peer.socket, server_hostname="127.0.0.1"))
                    if number == 0:
                        peer.send(b"x" * 100 + b"\n")
                    if number == 2:
                        thread.loop.call_soon_threadsafe(time.sleep, 0.02)  # the others are not accepted before the end
    assert warned == []


# ---- start_server callbacks


@every_way
def test_a_callback_is_counted_while_its_connection_is_open(guard: Guard, audit: InboundAudit, way: Way) -> None:
    with streaming(counted_callback(echo_stream, guard), way) as (_, address):
        with Peer(*address) as one, Peer(*address) as two:
            assert (one.line(), two.line()) == (b"hello\n", b"hello\n")
            assert audit.inbound_session_count(way.counted) == 2
            assert one.ask(b"over") == b"over\r\n"
            one.send(b"bye\n")
            assert one.rest() == b""
            eventually(lambda: audit.total() == 1)
        eventually(lambda: guard.open == 0)


@every_way
def test_a_callback_whose_peer_resets(guard: Guard, audit: InboundAudit, way: Way) -> None:
    with streaming(counted_callback(echo_stream, guard), way) as (thread, address):
        peer = Peer(*address)
        peer.line()
        peer.reset()
        eventually(lambda: audit.total() == 0)
        thread.do(lambda: asyncio.sleep(0))
        assert not thread.complaints  # it was not the callback's fault


def test_a_callback_that_fails_to_connect_elsewhere(guard: Guard, audit: InboundAudit) -> None:
    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise ConnectionRefusedError("nobody there")

    with streaming(counted_callback(forward, guard), listening.WAYS[0]) as (thread, address), Peer(*address) as peer:
        assert peer.rest() == b""
        assert [str(complaint["exception"]) for complaint in thread.complaints] == ["nobody there"]


def test_a_callback_that_raises(guard: Guard, audit: InboundAudit) -> None:
    with streaming(counted_callback(echo_stream, guard), listening.WAYS[1]) as (thread, address):
        with Peer(*address) as peer:
            peer.line()
            peer.send(b"fail\n")
            assert peer.rest() == b""
            eventually(lambda: audit.total() == 0)
        assert [str(complaint["exception"]) for complaint in thread.complaints] == ["on purpose"]


def test_a_callback_that_is_cancelled(guard: Guard, audit: InboundAudit) -> None:
    tasks: list[asyncio.Task[None] | None] = []

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        writer.write(b"hello\n")
        await asyncio.Event().wait()

    with streaming(counted_callback(wait, guard), listening.WAYS[0]) as (thread, address), Peer(*address) as peer:
        assert peer.line() == b"hello\n"
        assert tasks[0] is not None
        thread.loop.call_soon_threadsafe(tasks[0].cancel)
        assert peer.rest() == b""
        eventually(lambda: audit.total() == 0)
        assert not thread.complaints


def test_a_callback_that_is_cancelled_before_its_first_step(guard: Guard, audit: InboundAudit) -> None:
    started: list[bool] = []

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        started.append(True)

    def cancelling(loop: asyncio.AbstractEventLoop, work: Any, **kwargs: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=loop, **kwargs)
        if work.__name__ == "never":
            task.cancel()
        return task

    with streaming(counted_callback(never, guard), listening.WAYS[0]) as (thread, address):
        thread.loop.set_task_factory(cancelling)
        with Peer(*address) as peer:
            assert peer.rest() == b""
        eventually(lambda: guard.opened == 1 and audit.total() == 0)
        assert not started


def test_a_callback_that_leaves_the_connection_open_is_still_counted(guard: Guard, audit: InboundAudit) -> None:
    writers: list[asyncio.StreamWriter] = []

    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(b"later\n")

    with streaming(counted_callback(leave, guard), listening.WAYS[0]) as (thread, address), Peer(*address) as peer:
        assert peer.line() == b"later\n"
        session = session_of(writers[0])
        assert session is not None
        assert session.remote_port == peer.socket.getsockname()[1]
        assert audit.total() == 1
        thread.loop.call_soon_threadsafe(writers[0].close)
        assert peer.rest() == b""
        eventually(lambda: audit.total() == 0)


def test_a_plain_callback(guard: Guard, audit: InboundAudit) -> None:
    def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        writer.close()

    with streaming(counted_callback(plain, guard), listening.WAYS[1]) as (_, address), Peer(*address) as peer:
        assert peer.rest() == b"hello\n"
        eventually(lambda: guard.accepted == 1 and audit.total() == 0)


def test_a_plain_callback_that_raises(guard: Guard, audit: InboundAudit) -> None:
    def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise RuntimeError("on purpose")

    with streaming(counted_callback(plain, guard), listening.WAYS[1]) as (thread, address), Peer(*address) as peer:
        assert peer.rest() == b""
        eventually(lambda: audit.total() == 0)
        assert [str(complaint["exception"]) for complaint in thread.complaints] == ["on purpose"]


@every_way
def test_a_stream_that_is_refused(guard: Guard, audit: InboundAudit, way: Way) -> None:
    guard.policy = Limits({"/32": 1})
    with streaming(counted_callback(echo_stream, guard, refusal=b"busy\n"), way) as (thread, address):
        with Peer(*address) as one:
            one.line()
            with Peer(*address) as two:
                assert two.rest() == b"busy\n"
            eventually(lambda: audit.total() == 1)
        eventually(lambda: audit.total() == 0)
        gc.collect()
        assert not thread.complaints


@pytest.mark.parametrize("answer", [SHORTLY, Verdict(accepted=False, tarpit=0.05)], ids=["let in", "refused"])
def test_a_stream_in_a_tarpit(guard: Guard, answer: Verdict) -> None:
    guard.policy = Script({"connect": answer})
    callback = counted_callback(echo_stream, guard, refusal=b"busy\n")
    with streaming(callback, listening.WAYS[0]) as (_, address), Peer(*address) as peer:
        peer.send(b"early\nbye\n")
        assert peer.rest() == (b"hello\nearly\n" if answer else b"busy\n")


def test_a_stream_whose_peer_leaves_a_tarpit(guard: Guard, audit: InboundAudit) -> None:
    guard.policy = Script({"connect": Verdict(tarpit=0.5)})
    served: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(writer.get_extra_info("peername")[1])
        await echo_stream(reader, writer)

    with streaming(counted_callback(serve, guard), listening.WAYS[0]) as (_, address):
        Peer(*address).reset()
        eventually(lambda: guard.opened == 1 and audit.total() == 0)
        with Peer(*address) as later:  # whose time is up after that of the first
            assert later.line() == b"hello\n"
            assert served == [later.socket.getsockname()[1]]


def test_a_stream_through_tls(guard: Guard, audit: InboundAudit, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    with streaming(counted_callback(echo_stream, guard), listening.WAYS[1], ssl=tls[0]) as (_, address):
        with tls[1].wrap_socket(socket.create_connection(address), server_hostname="::1") as peer:
            assert peer.recv(100) == b"hello\n"
            assert audit.inbound_session_count("::1") == 1
        eventually(lambda: audit.total() == 0)


def test_a_gated_factory_is_a_factory_of_its_own(guard: Guard) -> None:
    """Two servers may have one factory."""
    factory = counted(Echo, guard)
    assert isinstance(factory, GatedFactory)
    with serving(factory, listening.WAYS[0]) as (_, one), serving(factory, listening.WAYS[1]) as (_, two):
        first, second = Peer(*one), Peer(*two)
        assert (first.line(), second.line()) == (b"hello\n", b"hello\n")
        assert guard.open == 2
        first.close()
        second.close()
