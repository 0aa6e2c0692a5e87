"""A gate before an event loop: protocols, streams, TLS and the end. The adapters' own tests run with a gate, too."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import sys
import threading
from collections.abc import Iterator

import pytest
import trustme
from aiosmtpd.handlers import Sink
from tests.support.gates import Other, Own, connect, descriptors, guarded, said
from tests.support.listening import LoopThread, Script, fill
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit, Limits, Verdict
from inbound_audit.listeners import Guard
from inbound_audit.listeners.aio import counted, session_of
from inbound_audit.listeners.gate import Gate
from inbound_audit.listeners.smtp import protocol_factory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux")


class Hello(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        transport.write(b"hello\n")

    def data_received(self, data):
        self.transport.write(data)


@pytest.fixture
def guard() -> Iterator[Guard]:
    with guarded("SMTP") as guard:
        yield guard


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    with LoopThread() as thread:
        yield thread
        assert thread.complaints == []


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def serve(thread: LoopThread, gate: Gate, factory, **tls):
    async def begin():
        return gate.serve(thread.loop, factory, **tls)

    return thread.do(begin)


def stop(thread: LoopThread, server) -> None:
    async def end():
        server.close()
        await server.wait_closed()

    thread.do(end)


def test_any_protocol_is_counted_to_its_end(guard, thread, listening):
    gate = Gate(guard.listener, guard.policy, [listening], refusal=b"no\n")  # without a guard: it gets one of its own
    server = serve(thread, gate, Hello)
    with connect(listening.getsockname()[1]) as peer, connect(listening.getsockname()[1]) as second:
        assert said(second) == b"no\n"
        assert peer.recv(6) == b"hello\n"
        peer.sendall(b"echo")
        assert peer.recv(4) == b"echo"
        eventually(lambda: guard.listener.total == 1, "the end of the refused session")
        assert (gate.guard.opened, gate.guard.accepted, gate.guard.refused) == (2, 1, 1)
    eventually(lambda: guard.listener.total == 0, "its end")
    assert server.is_serving()
    assert server.sockets == (listening,)
    assert server.get_loop() is thread.loop
    stop(thread, server)
    stop(thread, server)
    assert (server.is_serving(), server.sockets, gate.closed, listening.fileno()) == (False, (), True, -1)


def test_what_was_refused_just_before_the_end_is_logged(guard, thread, listening, caplog):
    caplog.set_level(logging.INFO, "inbound_audit")
    gate = Gate(guard.listener, Limits({"/32": 0}), [listening], guard=guard)
    server = serve(thread, gate, counted(Hello, guard))
    stands, go_on = threading.Event(), threading.Event()
    thread.loop.call_soon_threadsafe(lambda: (stands.set(), go_on.wait(PATIENCE), server.close()))
    stands.wait(PATIENCE)
    with connect(listening.getsockname()[1]) as peer:
        assert said(peer).startswith(b"421 ")
    go_on.set()
    eventually(lambda: gate.closed, "the end of the gate")
    assert "refused 127.0.0.1:" in caplog.text


def test_connections_outlive_the_server(guard, thread, listening):
    gate = Gate(guard.listener, guard.policy, [listening], guard=guard)
    server = serve(thread, gate, counted(Hello, guard))
    with connect(listening.getsockname()[1]) as peer:
        assert peer.recv(6) == b"hello\n"
        stop(thread, server)
        peer.sendall(b"still")
        assert peer.recv(5) == b"still"
        assert guard.open == 1


def test_streams(guard, thread, listening):
    async def converse(reader, writer):
        writer.write(f"{session_of(writer).remote_ip}\n".encode())
        await reader.readline()
        writer.close()

    def stream():
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=thread.loop), converse, loop=thread.loop)

    gate = Gate(guard.listener, guard.policy, [listening], guard=guard)
    server = serve(thread, gate, stream)
    with connect(listening.getsockname()[1], "127.0.0.5") as peer:
        assert peer.recv(100) == b"127.0.0.5\n"
        peer.sendall(b"bye\n")
        assert said(peer) == b""
    stop(thread, server)


def test_a_script_refuses_behind_the_gate(guard, thread, listening):
    guard.policy = Script({"connect": Verdict(False, 550, "by script", tarpit=0.01)})
    gate = Gate(guard.listener, Limits({"/32": 1}), [listening], guard=guard)
    server = serve(thread, gate, counted(Hello, guard, refusal=lambda verdict: verdict.text.encode()))
    with connect(listening.getsockname()[1]) as peer:
        assert said(peer) == b"by script"
    assert (guard.opened, guard.refused) == (1, 1)
    stop(thread, server)


def test_with_tls_a_connection_is_counted_before_its_handshake(guard, thread, listening):
    authority = trustme.CA()
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(ours)
    authority.configure_trust(theirs)
    gate = Gate(guard.listener, guard.policy, [listening], guard=guard, refusal=b"")
    server = serve(thread, gate, counted(Hello, guard), ssl=ours)
    port = listening.getsockname()[1]
    with connect(port) as silent, connect(port) as second:
        assert said(second) == b""  # the first one has the only place, although it has said nothing
        eventually(lambda: guard.open == 1, "one that shakes hands")
        silent.sendall(b"no handshake at all\n")
        assert b"hello" not in said(silent)
    eventually(lambda: guard.open == guard.listener.total == 0, "the end of the handshake")
    with theirs.wrap_socket(connect(port), server_hostname="localhost") as peer:
        assert peer.recv(6) == b"hello\n"
    stop(thread, server)


def test_a_stopped_loop_lets_no_more_in_than_the_queue_has_places(guard, thread, listening):
    guard.policy = None
    gate = Gate(guard.listener, None, [listening], guard=guard, backlog=4)
    server = serve(thread, gate, counted(Hello, guard))
    stands, go_on = threading.Event(), threading.Event()
    thread.loop.call_soon_threadsafe(lambda: (stands.set(), go_on.wait(PATIENCE)))
    stands.wait(PATIENCE)
    peers = [connect(listening.getsockname()[1]) for _ in range(20)]
    eventually(lambda: gate.accepted + gate.queue_full == 20, "all of them")
    assert (gate.opened, gate.accepted, gate.queue_full) == (20, 4, 16)
    go_on.set()
    for peer in peers:
        peer.close()
    eventually(lambda: guard.open == 0, "their end")
    stop(thread, server)


def test_another_guard_than_the_gate_s_is_an_error(guard, thread, listening):
    other = Guard(guard.listener)
    with Gate(guard.listener, guard.policy, [listening], guard=guard) as gate:
        with pytest.raises(ValueError, match="another guard"):
            serve(thread, gate, counted(Hello, other))
        gate.join(guard)


def test_a_server_that_creates_its_own_gets_what_the_gate_lets_in(guard, thread, listening):
    async def converse(reader, writer):
        writer.write(await reader.readline() + str(guard.listener.total).encode())
        writer.close()

    gate = Gate(guard.listener, guard.policy, [listening], guard=guard, refusal=b"no\n")
    kept = contextlib.ExitStack()

    async def begin():
        with gate.stand_in(thread.loop, idle_s=None):
            # An object of the server's own for the same socket.
            through = await asyncio.start_server(converse, sock=kept.enter_context(listening.dup()), backlog=7)
            beside = await thread.loop.create_server(Hello, "127.0.0.1", 0)
        return through, beside, await thread.loop.create_server(Hello, "127.0.0.1", 0)

    through, *others = thread.do(begin)
    for other in others:
        with connect(other.sockets[0].getsockname()[1]) as peer:
            assert peer.recv(6) == b"hello\n"
    with connect(listening.getsockname()[1]) as peer, connect(listening.getsockname()[1]) as second:
        assert said(second) == b"no\n"
        eventually(lambda: guard.listener.total == 1, "the end of the refused session")
        peer.sendall(b"x\n")
        assert said(peer) == b"x\n1"
    eventually(lambda: (guard.opened, guard.accepted, guard.refused, guard.open) == (2, 1, 1, 0), "its end")
    for server in (through, *others):
        stop(thread, server)
    kept.close()
    assert gate.closed


def the_number(number: int) -> tuple[socket.socket, socket.socket]:
    """A pair of sockets, the first of which has this descriptor, which was closed."""
    pairs = [socket.socketpair()]
    while number not in (ends := [end.fileno() for end in pairs[-1]]):
        assert max(ends) < number + 20, "other code took it"
        pairs.append(socket.socketpair())
    for pair in pairs[:-1]:
        for end in pair:
            end.close()
    first, second = pairs[-1]
    return (first, second) if first.fileno() == number else (second, first)


@pytest.mark.parametrize("lost", ["reads", "writes"])
def test_a_server_whose_gate_has_lost_its_queue_ends_and_says_so(guard, thread, listening, caplog, lost):
    own = Own(listening)
    gate, other = Gate(guard.listener, guard.policy, [listening], guard=guard), Other("stream")
    found = own.find(gate)[lost]
    with caplog.at_level(logging.ERROR):
        server = serve(thread, gate, counted(Hello, guard))
        other.take(found)
        eventually(lambda: not server.is_serving(), "its end")
    assert "other code of this process has closed a descriptor" in caplog.text
    stop(thread, server)
    other.end()


def test_a_number_of_a_server_that_other_code_has_got_is_left_open(guard, thread, listening):
    server = serve(thread, Gate(guard.listener, guard.policy, [listening], guard=guard), counted(Hello, guard))
    other = Other("stream")
    other.take([server._reads.number])
    with connect(listening.getsockname()[1]) as peer:  # the loop watches the open stream, which is the gate's still
        assert peer.recv(6) == b"hello\n"
    stop(thread, server)
    other.end()


@pytest.mark.parametrize("server_first_reads", [False, True], ids=["closed at once", "closed by the loop's time"])
def test_a_gate_that_is_closed_first_leaves_nothing_in_the_loop(guard, thread, listening, server_first_reads):
    gate = Gate(guard.listener, guard.policy, [listening], guard=guard)
    before = descriptors()
    server = serve(thread, gate, counted(Hello, guard))
    number = gate.fileno()

    async def an_unrelated_connection():
        gate.close()
        if server_first_reads:
            await asyncio.sleep(0.01)
            assert not server.is_serving()
        ours, theirs = the_number(number)
        ours.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=ours)
        await asyncio.sleep(0)
        server.close()
        theirs.send(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await writer.wait_closed()
        theirs.close()

    thread.do(an_unrelated_connection)
    assert listening.fileno() == -1
    assert descriptors() < before


def test_a_gate_that_is_closed_is_not_served(guard, thread, listening):
    gate = Gate(guard.listener, guard.policy, [listening], guard=guard)
    gate.close()
    with pytest.raises(OSError, match="can't be watched"):
        serve(thread, gate, counted(Hello, guard))


@pytest.mark.parametrize(
    ("of_gate", "of_factory"), [([], ["10.0.0.0/8"]), (["10.0.0.0/8"], []), (["10.0.0.0/8", "::1"], ["10.0.0.0/9"])]
)
def test_other_balancers_than_the_factory_s_are_an_error(guard, thread, listening, of_gate, of_factory):
    factory = protocol_factory(Sink(), guard, proxy_from=of_factory)
    words = pytest.raises(ValueError, match=r"write Gate\(\.\.\., proxy_from=factory\.proxy_from\)")
    with Gate(guard.listener, None, [listening], guard=guard, proxy_from=of_gate) as gate, words:
        serve(thread, gate, factory)


def test_a_factory_that_reads_no_header_has_no_balancers(guard, thread, listening):
    words = pytest.raises(ValueError, match="reads PROXY headers")
    with Gate(guard.listener, None, [listening], guard=guard, proxy_from=["10.0.0.0/8"]) as gate, words:
        serve(thread, gate, counted(Hello, guard))


def test_the_same_balancers_may_be_written_otherwise(guard, thread, listening):
    factory = protocol_factory(Sink(), guard, proxy_from=["10.0.0.1/24", "::1/128"])
    gate = Gate(guard.listener, None, [listening], guard=guard, proxy_from=["::1", "::ffff:10.0.0.0/120", "::1"])
    stop(thread, serve(thread, gate, factory))


def test_a_balancer_without_room_is_believed(thread, listening):
    balancers = ["127.0.0.0/8"]
    with InboundAudit(capacity=8192) as audit:
        guard = Guard(audit.listener("SMTP"))
        kept = fill(guard.listener)
        audit.deny("192.0.2.1")
        gate = Gate(guard.listener, None, [listening], guard=guard, proxy_from=balancers)
        server = serve(thread, gate, protocol_factory(Sink(), guard, proxy_from=balancers))
        with connect(listening.getsockname()[1], "127.77.66.55") as peer:
            peer.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.9 1000 25\r\n")
            assert said(peer) == b"421 access denied\r\n"
        stop(thread, server)
        for session in kept:
            session.close()


def test_a_loop_that_is_closed_first_leaves_no_descriptor(listening):
    before = descriptors()

    async def begin():
        with InboundAudit(capacity=1 << 22) as audit:
            factory = counted(Hello, Guard(audit.listener("SMTP")))
            factory.gate([listening]).serve(asyncio.get_running_loop(), factory)

    asyncio.run(begin())
    eventually(lambda: descriptors() <= before, "the end of the gate and of its server")


def test_serve_forever_ends_when_it_is_cancelled(guard, thread, listening):
    server = serve(thread, Gate(guard.listener, guard.policy, [listening], guard=guard), counted(Hello, guard))

    async def forever():
        await server.start_serving()
        task = thread.loop.create_task(server.serve_forever())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    thread.do(forever)
    assert not server.is_serving()


def test_uvloop_serves_as_asyncio_does(guard, listening):
    uvloop = pytest.importorskip("uvloop")

    async def main():
        loop = asyncio.get_running_loop()
        gate = Gate(guard.listener, guard.policy, [listening], guard=guard, refusal=b"no\n")
        server = gate.serve(loop, counted(Hello, guard))
        address = listening.getsockname()
        first, writer = await asyncio.open_connection(*address)
        assert await first.readline() == b"hello\n"
        second, other = await asyncio.open_connection(*address)
        assert await second.read() == b"no\n"
        writer.close()
        other.close()
        await writer.wait_closed()
        while guard.open:  # noqa: ASYNC110  # no event says so
            await asyncio.sleep(0.01)
        server.close()
        await server.wait_closed()

    uvloop.new_event_loop().run_until_complete(main())
