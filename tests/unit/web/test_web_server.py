"""A connection whose peer is too slow is cut off: with its request, or with what it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tests.support.simulated_loop import SimulatedLoop, simulate
from uvicorn.server import ServerState

from inbound_audit.web.server import REQUEST_S, STALL_S, Connection, Server

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Transport(asyncio.Transport):
    """Keeps what was written, and how it ended."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = self.closed = False
        self.connection: Connection | None = None
        """Paused when more than `high` bytes were not taken. None: the peer takes all."""
        self.high = 65536

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None
        self.high = high

    def write(self, data: Any) -> None:
        self.written += data
        if self.connection is not None and len(self.written) > self.high:
            self.connection.pause_writing()
            self.connection = None

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.aborted or self.closed


def with_connection(test: Callable[[Connection, Transport], Coroutine[Any, Any, None]]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def main(loop: SimulatedLoop) -> None:
        transport = Transport()
        connection = Connection(Server(app).config, ServerState(), {}, loop)
        connection.connection_made(transport)
        await test(connection, transport)
        connection.connection_lost(None)

    simulate(main)


def test_a_request_that_does_not_come() -> None:
    async def test(connection: Connection, transport: Transport) -> None:
        for byte in REQUEST[:8]:  # each of them in time
            connection.data_received(bytes([byte]))
            await asyncio.sleep(REQUEST_S / 9)
        assert not transport.aborted
        await asyncio.sleep(REQUEST_S / 4)
        assert transport.aborted

    with_connection(test)


def test_a_second_request_that_does_not_come_to_its_end() -> None:
    async def test(connection: Connection, transport: Transport) -> None:
        connection.data_received(REQUEST)
        await asyncio.sleep(1)
        assert transport.written.endswith(b"ok")
        connection.data_received(REQUEST[:8])
        await asyncio.sleep(REQUEST_S - 1)
        assert not transport.is_closing()
        await asyncio.sleep(2)
        assert transport.aborted

    with_connection(test)


def test_a_connection_that_waits_for_its_next_request_is_closed() -> None:
    async def test(connection: Connection, transport: Transport) -> None:
        connection.data_received(REQUEST)
        await asyncio.sleep(2 * REQUEST_S)
        assert transport.closed

    with_connection(test)


def test_a_peer_that_takes_nothing_of_what_it_is_sent() -> None:
    async def test(connection: Connection, transport: Transport) -> None:
        connection.data_received(REQUEST)
        for _ in range(3):  # slow, but it takes something
            connection.pause_writing()
            await asyncio.sleep(STALL_S - 1)
            connection.resume_writing()
        assert not transport.aborted
        connection.pause_writing()
        await asyncio.sleep(STALL_S + 1)
        assert transport.aborted

    with_connection(test)


def test_a_peer_that_does_not_take_a_short_answer() -> None:
    async def test(connection: Connection, transport: Transport) -> None:
        transport.connection = connection
        connection.data_received(REQUEST)
        await asyncio.sleep(STALL_S - 1)
        assert not transport.aborted
        await asyncio.sleep(2)
        assert transport.aborted

    with_connection(test)


def test_a_stop_does_not_wait_for_it() -> None:
    async def test(connection: Connection, transport: Transport) -> None:
        connection.data_received(REQUEST)
        connection.pause_writing()
        connection.shutdown()
        assert transport.aborted

    with_connection(test)
