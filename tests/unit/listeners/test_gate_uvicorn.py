"""A gate before uvicorn, in both event loops: an HTTP client reads what the gate says when it may not stay."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import http.client
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.gates import descriptors, guarded
from tests.support.waiting import PATIENCE, eventually

from inbound_audit.listeners import Guard
from inbound_audit.listeners.gate import Gate
from inbound_audit.listeners.gate_reply import RETRY_AFTER_S

uvicorn = pytest.importorskip("uvicorn")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux")


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    loop = (asyncio if request.param == "asyncio" else pytest.importorskip("uvloop")).new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def guard() -> Iterator[Guard]:
    with guarded("HTTP") as guard:
        yield guard


@contextlib.contextmanager
def serving(loop: asyncio.AbstractEventLoop, guard: Guard, **options: Any) -> Iterator[tuple[Gate, int]]:
    """A server of uvicorn's own, in a thread, and its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    gate = Gate(guard.listener, guard.policy, [listening], guard=guard, refusal="http", **options)
    config = uvicorn.Config(
        application, http="h11", ws="none", lifespan="off", log_config=None, timeout_keep_alive=3600, access_log=False
    )
    server = uvicorn.Server(config)

    async def serve() -> None:
        with gate.stand_in(loop, idle_s=None):
            await server.serve(sockets=[listening])

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        ended = threads.submit(loop.run_until_complete, serve())
        try:
            eventually(lambda: server.started or ended.done(), "the start of uvicorn")
            yield gate, listening.getsockname()[1]
        finally:
            server.should_exit = True
            ended.result(PATIENCE)
    assert gate.closed
    assert listening.fileno() == -1


@contextlib.contextmanager
def client(port: int) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        yield connection


def reply(connection: http.client.HTTPConnection) -> tuple[int, str | None, bytes]:
    connection.request("GET", "/")
    response = connection.getresponse()
    return response.status, response.getheader("Retry-After"), response.read()


def test_a_client_over_the_limit_reads_429_and_when_to_try_again(loop, guard):
    before = descriptors()
    with serving(loop, guard) as (gate, port):
        with client(port) as first, client(port) as second:
            assert reply(first) == (200, None, b"hello")
            assert reply(second) == (429, str(RETRY_AFTER_S), b"connection limit exceeded\n")
            eventually(lambda: guard.listener.total == 1, "the end of the refused session")
            assert reply(first) == (200, None, b"hello")  # the same connection
            assert (gate.opened, gate.accepted, gate.refused) == (2, 1, 1)
        eventually(lambda: guard.listener.total == 0, "the end of the first")
        with client(port) as third:
            assert reply(third) == (200, None, b"hello")
        assert (guard.opened, guard.accepted, guard.refused) == (3, 2, 1)
    eventually(lambda: descriptors() <= before + 1, "the end of every descriptor but the loop's")


def test_a_client_that_finds_the_queue_full_reads_503_and_when_to_try_again(loop, guard):
    guard.policy = None
    with serving(loop, guard, backlog=1) as (gate, port):
        stands, go_on = threading.Event(), threading.Event()
        loop.call_soon_threadsafe(lambda: (stands.set(), go_on.wait(PATIENCE)))
        assert stands.wait(PATIENCE)
        with client(port) as first, client(port) as second:
            first.connect()
            eventually(lambda: gate.waiting == 1, "one that waits")
            assert reply(second) == (503, str(RETRY_AFTER_S), b"too busy, try again later\n")
            go_on.set()
            assert reply(first) == (200, None, b"hello")
        assert (gate.accepted, gate.queue_full) == (1, 1)
