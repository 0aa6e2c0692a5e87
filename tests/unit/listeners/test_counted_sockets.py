"""Counted sockets under real servers: each connection is counted from accept to close, whatever the server does."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import os
import pickle
import random
import socket
import ssl
import sys
from collections.abc import Iterator

import pytest
from tests.support import listening as support
from tests.support.effort import effort
from tests.support.frameworks import FRAMEWORKS, Framework, authority
from tests.support.listening import Peer, warnings_kept
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit, Limits
from inbound_audit.listeners import Guard
from inbound_audit.listeners.sockets import MAX_REFUSED, CountedListeningSocket, counted_socket

audit, guard = support.audit, support.guard

LINUX = sys.platform == "linux"  # a gate needs it, and uvloop's loop a gate
SERVERS = [server for server in FRAMEWORKS if LINUX or server.loop == "asyncio"]
every_server = pytest.mark.parametrize("server", SERVERS, ids=str)
TLS = [server for server in SERVERS if str(server) in (
    "aiohttp-asyncio", "websockets-asyncio", "websockets-threads-asyncio", "uvicorn-asyncio", "uvicorn-uvloop",
)]  # fmt: skip


@contextlib.contextmanager
def listening(guard: Guard, refusal: bytes = b"") -> Iterator[CountedListeningSocket]:
    with counted_socket(socket.create_server(("127.0.0.1", 0)), guard, refusal=refusal) as made:
        yield made


def port_of(made: socket.socket) -> int:
    port: int = made.getsockname()[1]
    return port


@every_server
def test_the_count_is_the_number_of_open_connections(server: Framework, guard: Guard) -> None:
    """Clients come and go at random, and end in any way."""
    chance = random.Random(str(server))
    with listening(guard) as made:
        port = port_of(made)
        with server.serving(made):
            open_ones: list[Peer] = []
            for _ in range(effort(25, 60)):
                if len(open_ones) < 8 and chance.random() < 0.6:
                    open_ones.append(Peer("127.0.0.1", port))
                    if chance.random() < 0.8:
                        server.greet(open_ones[-1])
                elif open_ones:
                    leaves = open_ones.pop(chance.randrange(len(open_ones)))
                    server.end(leaves, chance.choice(server.ends))
                eventually(lambda: guard.open == guard.listener.total == len(open_ones), "the count")
            for peer in open_ones:
                server.end(peer)
            eventually(lambda: guard.open == 0, "the end of all")
    assert guard.refused == guard.failures == 0


@every_server
def test_a_connection_is_counted_as_long_as_it_is_open(server: Framework, guard: Guard) -> None:
    """Not until its first protocol was collected: uvicorn exchanges that of a WebSocket."""
    with listening(guard) as made:
        port = port_of(made)
        with server.serving(made), Peer("127.0.0.1", port) as peer:
            server.greet(peer)
            gc.collect()
            assert guard.open == guard.listener.total == 1
            server.end(peer)
            eventually(lambda: guard.open == 0, "the end of the connection")


@every_server
def test_a_peer_over_the_limit_never_reaches_the_server(server: Framework, guard: Guard) -> None:
    guard.policy = Limits({"/32": 1})
    with listening(guard, b"busy\n") as made:
        port = port_of(made)
        with server.serving(made), Peer("127.0.0.1", port) as first:
            server.greet(first)
            with Peer("127.0.0.1", port) as second:
                assert second.rest() == b"busy\n"
            eventually(lambda: guard.listener.total == 1, "the end of the refused one")
            guard.policy = Limits({"/32": 2})  # a reload
            with Peer("127.0.0.1", port) as third:
                server.greet(third)
                assert (guard.opened, guard.accepted, guard.refused) == (3, 2, 1)
                server.end(third)
            server.end(first)
            eventually(lambda: guard.open == 0, "the end of all")


@pytest.mark.parametrize("server", [server for server in SERVERS if server.fails], ids=str)
def test_a_failure_of_the_application_ends_no_count_early(server: Framework, guard: Guard) -> None:
    with listening(guard) as made:
        port = port_of(made)
        with server.serving(made), Peer("127.0.0.1", port) as peer:
            peer.send(server.fails)
            assert b" 500 " in peer.line()
            with Peer("127.0.0.1", port) as other:
                server.greet(other)
                server.end(other)
            server.end(peer)
            eventually(lambda: guard.open == 0, "the end of both")


@every_server
def test_a_server_that_stops_leaves_no_count(server: Framework, guard: Guard) -> None:
    with listening(guard) as made:
        port = port_of(made)
        with server.serving(made):
            peers = [Peer("127.0.0.1", port) for _ in range(3)]
            for peer in peers:
                server.greet(peer)
            assert guard.open == 3
            if server.name in ("asyncssh", "websockets-threads"):  # they leave their clients to themselves
                for peer in peers:
                    server.end(peer)
        gc.collect()  # what a loop was closed with
        eventually(lambda: guard.open == 0, "the end of all")
        for peer in peers:
            peer.close()


@pytest.mark.parametrize("server", TLS, ids=str)
def test_a_handshake_that_never_ends_is_counted(server: Framework, guard: Guard) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("localhost").configure_cert(context)
    client = ssl.create_default_context()
    authority().configure_trust(client)
    guard.policy = Limits({"/32": 2})
    with listening(guard) as made:
        port = port_of(made)
        with server.serving(made, context), Peer("127.0.0.1", port) as silent:
            eventually(lambda: guard.open == 1, "the silent one")
            with Peer("127.0.0.1", port) as peer:
                peer.socket = client.wrap_socket(peer.socket, server_hostname="localhost")
                server.greet(peer)
                gc.collect()
                assert guard.open == guard.listener.total == 2
                with Peer("127.0.0.1", port) as refused:
                    assert refused.rest() == b""  # before its handshake
                assert guard.refused == 1
                peer.socket.close()
            with Peer("127.0.0.1", port) as rude:
                rude.send(b"not a handshake\r\n\r\n")
                rude.rest()
            silent.close()
            eventually(lambda: guard.open == 0, "the end of all")


# ---- the socket itself


def accepted(made: CountedListeningSocket) -> tuple[Peer, socket.socket]:
    peer = Peer("127.0.0.1", port_of(made))
    return peer, made.accept()[0]


def test_a_connection_ends_with_the_last_file_of_it(guard: Guard) -> None:
    with listening(guard) as made:
        peer, connection = accepted(made)
        with peer, connection.makefile("rb") as file:
            connection.close()
            connection.close()
            assert guard.open == 1
            file.close()
            assert guard.open == 0


def test_a_socket_that_another_process_has_does_not_block_it(guard: Guard) -> None:
    """Whether a socket blocks is one state of all that have it: a worker that starts leaves those that accept as they
    are."""
    with socket.create_server(("127.0.0.1", 0)) as others:
        others.setblocking(False)
        with counted_socket(socket.socket(fileno=os.dup(others.fileno())), guard):
            assert not os.get_blocking(others.fileno())


def test_a_connection_is_not_detached(guard: Guard) -> None:
    """`wrap_socket` of a context that does not count would do it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with listening(guard) as made:
        peer, connection = accepted(made)
        with peer, connection, warnings_kept():  # of the object that could not be made
            with pytest.raises(TypeError, match="counted_context"):
                context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            assert guard.open == 0
        with warnings_kept(), pytest.raises(TypeError, match="counted_context"):
            context.wrap_socket(made, server_side=True)


def test_a_socket_that_does_not_block_refuses_a_bounded_number_at_once(guard: Guard) -> None:
    guard.policy = Limits({"/0": 0})
    with counted_socket(socket.create_server(("127.0.0.1", 0), backlog=MAX_REFUSED + 9), guard) as made:
        made.setblocking(False)
        with contextlib.ExitStack() as peers:
            for _ in range(MAX_REFUSED + 1):
                peers.enter_context(Peer("127.0.0.1", port_of(made)))
            with pytest.raises(BlockingIOError):
                made.accept()
            assert guard.refused == MAX_REFUSED
            with pytest.raises(BlockingIOError):
                made.accept()
            assert guard.refused == MAX_REFUSED + 1


def test_a_socket_that_blocks_goes_on_until_one_may_stay(guard: Guard) -> None:
    guard.policy = Limits({"/32": 1})
    with listening(guard, b"busy\n") as made:
        made.settimeout(PATIENCE)
        first, connection = accepted(made)
        with first, connection, Peer("127.0.0.1", port_of(made)) as second:
            made.settimeout(0.05)
            with pytest.raises(TimeoutError):
                made.accept()
            assert second.rest() == b"busy\n"


def test_a_socket_that_blocks_is_closed_by_another_thread(guard: Guard) -> None:
    """After a refusal, which a server with threads that polls first does not know of."""
    guard.policy = Limits({"/0": 0})
    with listening(guard) as made, concurrent.futures.ThreadPoolExecutor(1) as threads:
        accepting = threads.submit(made.accept)
        with Peer("127.0.0.1", port_of(made)) as peer:
            assert peer.rest() == b""
        made.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            accepting.result(PATIENCE)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="without Unix sockets")
def test_a_peer_without_an_address_is_let_in_uncounted(guard: Guard, tmp_path) -> None:  # type: ignore[no-untyped-def]
    guard.policy = Limits({"/0": 0})
    with socket.socket(socket.AF_UNIX) as plain, socket.socket(socket.AF_UNIX) as peer:
        plain.bind(str(tmp_path / "socket"))
        with counted_socket(plain, guard) as made:
            made.listen()
            peer.connect(str(tmp_path / "socket"))
            with made.accept()[0]:
                assert (guard.open, guard.uncounted, guard.listener.total) == (1, 1, 0)
            assert guard.open == 0


def test_what_has_no_connections_or_an_accept_of_its_own_is_not_taken(guard: Guard) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams, pytest.raises(ValueError, match="no connections"):
        counted_socket(datagrams, guard)
    plain = socket.create_server(("127.0.0.1", 0))
    with context.wrap_socket(plain, server_side=True) as tls, pytest.raises(TypeError, match="an `accept` of its own"):
        counted_socket(tls, guard)


def test_a_guard_is_made_once_when_the_socket_begins_to_listen(audit: InboundAudit) -> None:
    made_ones: list[Guard] = []

    def make() -> Guard:
        made_ones.append(Guard(audit.listener("HTTP")))
        return made_ones[-1]

    with counted_socket(socket.create_server(("127.0.0.1", 0)), make) as made:
        assert made_ones == []
        made.listen()
        peer, connection = accepted(made)
        with peer, connection:
            assert made_ones == [made.guard]
            assert made_ones[0].open == 1

    def fail() -> Guard:
        raise ValueError("no guard today")

    with counted_socket(socket.create_server(("127.0.0.1", 0)), fail) as made, pytest.raises(ValueError, match="today"):
        made.listen()


def test_a_guard_is_sent_to_no_process(guard: Guard) -> None:
    with listening(guard) as made, pytest.raises(TypeError, match="a function of a module"):
        pickle.dumps(made)


def test_plain_uvloop_is_refused_and_would_count_nothing(guard: Guard) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def serve(made: socket.socket) -> None:
        with pytest.raises(TypeError, match=r"adapters\.uvloop\.Loop"):
            await asyncio.get_running_loop().create_server(asyncio.Protocol, sock=made)

    loop = uvloop.new_event_loop()
    with listening(guard) as made, contextlib.closing(loop):
        loop.run_until_complete(serve(made))
