"""The time of a connection in the adapters of any protocol: silence ends it, and its end comes in any case."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from tests.support import listening
from tests.support.listening import WAYS, Peer, serving
from tests.support.waiting import end_of, eventually, until_it_suffices
from tests.unit.listeners import test_listeners_aio, test_listeners_threads
from tests.unit.listeners.test_listeners_aio import KINDS, Echo, Upgrading, echo_stream, streaming
from tests.unit.listeners.test_listeners_threads import Forking, Serial, Threading

from inbound_audit.listeners import Guard, TimeLimit, time_limit
from inbound_audit.listeners.aio import counted, counted_callback
from inbound_audit.listeners.time_limit import IDLE_S, Deadline

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.usefixtures("quick_close"),
    pytest.mark.filterwarnings("ignore:unclosed transport <asyncio.sslproto:ResourceWarning"),
]
on_linux = pytest.mark.skipif(not os.path.exists("/proc/self"), reason="Linux says since when a connection is silent")

audit, guard, quick_close = listening.audit, listening.guard, listening.quick_close  # fixtures
tls = test_listeners_aio.tls

Server = contextlib.AbstractContextManager[tuple[Any, tuple[str, int]]]


def asyncio_protocol(guard: Guard, kind: type[Any] = Echo, **limit: Any) -> Server:
    return serving(counted(kind, guard, **limit), WAYS[0])


def asyncio_stream(guard: Guard, **limit: Any) -> Server:
    return streaming(counted_callback(echo_stream, guard, **limit), WAYS[0])


def socketserver(kind: type[Any]) -> Callable[..., Server]:
    return lambda guard, **limit: test_listeners_threads.serving(kind, guard, **limit)


@contextlib.contextmanager
def own_server(guard: Guard, **limit: Any) -> Iterator[tuple[None, tuple[str, int]]]:
    """A server without an adapter, which serves one connection."""

    def serve() -> None:
        connection, peer = listening.accept()
        admission = guard.admit(peer)
        with connection, contextlib.closing(admission), admission.time_limited(connection, TimeLimit(**limit)):
            connection.sendall(b"hello\n")
            while data := connection.recv(100):
                connection.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield None, listening.getsockname()
        thread.join()


SERVERS = {
    **{
        f"asyncio {kind.__name__}": lambda guard, kind=kind, **limit: asyncio_protocol(guard, kind, **limit)
        for kind in KINDS
    },
    "asyncio stream": asyncio_stream,
    "serial": socketserver(Serial),
    "threading": socketserver(Threading),
    "guard alone": own_server,
}
every_server = pytest.mark.parametrize(
    "server",
    [*SERVERS.values(), pytest.param(socketserver(Forking), marks=pytest.mark.system)],
    ids=[*SERVERS, "forking"],
)


def answers(peer: Peer, line: bytes) -> bool:
    """Whether the connection lasts until the peer's line has come back."""
    try:
        return peer.ask(line) == line + b"\r\n"
    except OSError:
        return False


def until_the_end(peer: Peer, began: float) -> float:
    """Talks until the connection ends. Returns the longest silence in seconds, since it `began` for the first one."""
    longest, last = 0.0, began
    with contextlib.suppress(OSError):
        while peer.ask(b"still here"):
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            time.sleep(0.01)
    return max(longest, time.monotonic() - last)


@on_linux
@every_server
def test_silence_ends_a_connection(guard: Guard, server: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def attempt(idle_s: float) -> bool:
        with server(guard, idle_s=idle_s) as (_, address), Peer(*address) as peer:
            assert peer.line() == b"hello\n"
            in_time = answers(peer, b"here")
            assert peer.rest() == b""
            eventually(lambda: guard.open == 0)
            return in_time

    until_it_suffices(attempt)
    assert {record.levelno for record in caplog.records} <= {logging.INFO}


@every_server
def test_a_connection_that_is_never_silent_has_an_end(guard: Guard, server: Any) -> None:
    def attempt(session_s: float) -> bool:
        with server(guard, session_s=session_s) as (_, address), Peer(*address) as peer:
            in_time = peer.line() == b"hello\n"
            until_the_end(peer, time.monotonic())
            eventually(lambda: guard.open == 0)
            return in_time

    until_it_suffices(attempt, 0.3)


@on_linux
@pytest.mark.parametrize("server", [asyncio_protocol, asyncio_stream, SERVERS["threading"], own_server])
def test_who_talks_is_not_cut_off(guard: Guard, server: Any) -> None:
    """Only the end of its session ends the connection, unless this machine itself stood still for so long."""
    began = time.monotonic()
    with server(guard, idle_s=0.3, session_s=0.7) as (_, address), Peer(*address) as peer:
        peer.line()  # "hello", or nothing on a machine that stood still
        longest = until_the_end(peer, began)
        assert time.monotonic() - began > 0.6 or longest > 0.25


@on_linux
def test_who_listens_is_not_cut_off_and_who_does_not_read_is(guard: Guard) -> None:
    class Radio(Echo):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.send()

        def send(self) -> None:
            if not self.transport.is_closing():
                self.transport.write(b"x" * (1 << 16))
                asyncio.get_running_loop().call_later(0.01, self.send)

    last, longest = time.monotonic(), 0.0
    with asyncio_protocol(guard, Radio, idle_s=0.5) as (_, address), Peer(*address) as deaf, Peer(*address) as listener:
        eventually(lambda: guard.opened == 2)
        ended = False
        while guard.open == 2 and not ended:
            try:
                ended = not listener.socket.recv(1 << 17)
            except ConnectionError:
                ended = True
            now = time.monotonic()
            last, longest = now, max(longest, now - last)
        assert not ended or longest > 0.4
        with contextlib.suppress(ConnectionError):
            while deaf.socket.recv(1 << 20):  # what the system has kept for it
                pass


@on_linux
@pytest.mark.parametrize("starts_tls", [False, True])
def test_tls_is_ended_too(guard: Guard, tls: tuple[ssl.SSLContext, ssl.SSLContext], starts_tls: bool) -> None:
    server_context, client_context = tls

    def attempt(idle_s: float) -> bool:
        factory, context = counted(partial(Upgrading, server_context), guard, idle_s=idle_s), server_context
        server = serving(factory, WAYS[0], ssl=None if starts_tls else context)
        shaken = False
        with server as (_, address), Peer(*address) as peer, contextlib.suppress(OSError):
            if starts_tls:
                assert peer.line() == b"hello\n"
                peer.ask(b"starttls")
            with client_context.wrap_socket(peer.socket, server_hostname="127.0.0.1") as secure:
                shaken = True
                secure.sendall(b"here\n")
                while secure.recv(100):
                    pass
            eventually(lambda: guard.open == 0)
        return shaken

    until_it_suffices(attempt)


@pytest.mark.parametrize("name", ["idle_s", "session_s"])
@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, "5", True])
def test_a_value_that_limits_nothing(guard: Guard, name: str, value: Any) -> None:
    for made in (
        lambda: TimeLimit(**{name: value}),
        lambda: counted(Echo, guard, **{name: value}),
        lambda: counted_callback(echo_stream, guard, **{name: value}),
        lambda: Threading(("127.0.0.1", 0), guard=guard, **{name: value}),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^{name}="):
            made()


def test_the_default_is_what_a_nat_keeps() -> None:
    assert TimeLimit() == TimeLimit(idle_s=IDLE_S, session_s=None)
    assert IDLE_S == (2 * 60 + 4) * 60
    assert TimeLimit(idle_s=None).first_s == math.inf


class Silent:
    """A connection that the system says has been silent for so long."""

    def __init__(self, sent_ms: int, received_ms: int) -> None:
        self.answer = struct.pack("=44xI4xI4x", sent_ms, received_ms)

    def getsockopt(self, level: int, name: int, size: int) -> bytes:
        return self.answer[:size]


@on_linux
def test_both_directions_count() -> None:
    for sent, received in ((9_000, 4_000), (4_000, 9_000)):
        assert Deadline(Silent(sent, received), TimeLimit(idle_s=5)).left_s() == 1
        deadline = Deadline(Silent(sent, received), TimeLimit(idle_s=4))
        assert deadline.left_s() == 0
        assert deadline.over


@pytest.mark.parametrize("family", [socket.AF_UNIX])
def test_a_socket_without_such_a_time_is_not_silent(family: int) -> None:
    one, other = socket.socketpair(family)
    with one, other:
        assert Deadline(one, TimeLimit(idle_s=5)).left_s() == 5
        one.close()
        assert Deadline(one, TimeLimit(idle_s=5)).left_s() == 5


def test_the_thread_ends_after_the_last_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = time_limit._Watch()
    monkeypatch.setattr(time_limit, "_watch", watch)
    monkeypatch.setattr(time_limit, "MAX_WAIT_S", 0.1)
    one, other = socket.socketpair()
    with one, other:
        for _ in range(2):
            with time_limit.time_limited(one, TimeLimit()):
                assert watch._thread is not None
            eventually(lambda: watch._thread is None)


def test_an_error_that_does_not_follow_is_raised() -> None:
    one, other = socket.socketpair()
    with one, other, pytest.raises(ConnectionError), time_limit.time_limited(one, TimeLimit()):
        raise ConnectionError


@pytest.mark.system
def test_a_child_has_time_limits_of_its_own() -> None:
    one, other = socket.socketpair()
    with one, other, time_limit.time_limited(one, TimeLimit()), time_limit._watch._changed:
        pid = os.fork()
        if pid == 0:
            with time_limit.time_limited(other, TimeLimit(session_s=0.1)):
                os._exit(len(other.recv(1)))
        assert end_of(pid) == 0
