"""Servers of other people's frameworks in a thread, and what a client says to each so that it is served."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import trustme
from tests.support.listening import Peer
from tests.support.waiting import PATIENCE

with contextlib.suppress(ImportError):
    import asyncssh  # here, as it starts a process, which a unit test may not

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
FAIL = b"GET /fail HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # and empty SETTINGS
SETTINGS = b"\4\0\0\0\0\0"  # type, flags and stream, behind three bytes of a length

Start = Callable[..., contextlib.AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Framework:
    """A server: `start(listening, tls)` serves until its block ends. A client that has sent `hello` reads `answer`."""

    name: str
    needs: str
    start: Start
    hello: bytes
    answer: bytes
    loop: str = "asyncio"
    fails: bytes = b""  # to which the server's own code raises
    ends: tuple[str, ...] = ("close", "reset", "half-close")  # of a client, that the server sees at once

    def __str__(self) -> str:
        return f"{self.name}-{self.loop}"

    def new_loop(self) -> asyncio.AbstractEventLoop:
        pytest.importorskip(self.needs.partition(".")[0])
        if self.loop == "asyncio":
            return asyncio.new_event_loop()
        pytest.importorskip("uvloop")
        from inbound_audit.listeners.adapters.uvloop import Loop

        return Loop()

    @contextlib.contextmanager
    def serving(self, listening: socket.socket, tls: Any = None) -> Iterator[None]:
        """Serves in a thread with an event loop of its own."""
        loop = self.new_loop()
        ready, stop = threading.Event(), asyncio.Event()
        loop.set_exception_handler(lambda loop, context: None)  # what clients break is logged otherwise

        async def serve() -> None:
            async with self.start(listening, tls):
                ready.set()
                await stop.wait()

        def run() -> None:
            asyncio.set_event_loop(loop)
            try:
                loop.run_until_complete(serve())
                for task in asyncio.all_tasks(loop):
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        loop.run_until_complete(task)
            finally:
                ready.set()
                asyncio.set_event_loop(None)
                loop.close()

        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            ended = threads.submit(run)
            try:
                assert ready.wait(PATIENCE)
                yield
            finally:
                if not ended.done():
                    loop.call_soon_threadsafe(stop.set)
                ended.result(PATIENCE)

    def end(self, peer: Peer, way: str = "") -> None:
        """Ends a connection in one of the server's ways."""
        way = way or self.ends[0]
        if way == "half-close":
            peer.socket.shutdown(socket.SHUT_WR)
        peer.reset() if way == "reset" else peer.close()

    def greet(self, peer: Peer) -> None:
        """Returns when the server serves this client."""
        if self.hello:
            peer.send(self.hello)
        came = b""
        while self.answer not in came:
            more = peer.socket.recv(65536)
            assert more, came
            came += more


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An ASGI application: a page, an error, a WebSocket, a lifespan."""
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"].removeprefix("lifespan.")
            await send({"type": f"lifespan.{event}.complete"})
            if event == "shutdown":
                return
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
    elif scope["path"] == "/fail":
        raise RuntimeError("the application fails")
    else:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"hello"})


@contextlib.asynccontextmanager
async def aiohttp_server(listening: socket.socket, tls: Any) -> AsyncIterator[None]:
    from aiohttp import web

    async def page(request: Any) -> web.Response:
        if request.path == "/fail":
            raise RuntimeError("the application fails")
        return web.Response(text="hello")

    async def talk(request: Any) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for _ in socket:
            pass
        return socket

    served = web.Application()
    served.add_routes([web.get("/", page), web.get("/fail", page), web.get("/ws", talk)])
    runner = web.AppRunner(served, access_log=None, shutdown_timeout=0.1, keepalive_timeout=3600)
    await runner.setup()
    await web.SockSite(runner, listening, ssl_context=tls).start()
    yield
    await runner.cleanup()


@contextlib.asynccontextmanager
async def asyncssh_server(listening: socket.socket, tls: Any) -> AsyncIterator[None]:
    key = asyncssh.generate_private_key("ssh-ed25519")
    async with asyncssh.listen(sock=listening, server_host_keys=[key], login_timeout=0):
        yield


@contextlib.asynccontextmanager
async def websockets_server(listening: socket.socket, tls: Any) -> AsyncIterator[None]:
    from websockets.asyncio.server import serve
    from websockets.exceptions import ConnectionClosed

    async def talk(connection: Any) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for _ in connection:
                pass

    async with serve(talk, sock=listening, ssl=tls, close_timeout=0.1, open_timeout=None, ping_interval=None):
        yield


@contextlib.asynccontextmanager
async def websockets_threads(listening: socket.socket, tls: Any) -> AsyncIterator[None]:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.server import serve

    from inbound_audit.listeners.sockets import counted_context

    def talk(connection: Any) -> None:
        with contextlib.suppress(ConnectionClosed):
            for _ in connection:
                pass

    server = serve(
        talk,
        sock=listening,
        ssl=counted_context(tls) if tls else None,
        close_timeout=0.1,
        open_timeout=None,
        ping_interval=None,
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield
    server.shutdown()
    thread.join(PATIENCE)


@contextlib.asynccontextmanager
async def uvicorn_server(listening: socket.socket, tls: Any) -> AsyncIterator[None]:
    import uvicorn

    config = uvicorn.Config(
        application,
        http="h11",
        ws="wsproto",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=3600,
    )
    config.load()
    config.ssl = tls
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started and not task.done():  # noqa: ASYNC110  # it has no event
        await asyncio.sleep(0.001)
    yield
    server.should_exit = True
    await task


@contextlib.asynccontextmanager
async def hypercorn_server(listening: socket.socket, tls: Any) -> AsyncIterator[None]:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config, Sockets

    class Given(Config):
        def create_sockets(self) -> Sockets:
            return Sockets([], [listening], [])

    config, stop = Given(), asyncio.Event()
    config.errorlog, config.graceful_timeout, config.keep_alive_timeout = None, 0.1, 3600
    task = asyncio.create_task(serve(application, config, shutdown_trigger=stop.wait))  # type: ignore[arg-type]
    yield
    stop.set()
    await task


@functools.cache
def authority() -> trustme.CA:
    return trustme.CA()


# hypercorn keeps a connection of HTTP that its client has closed until its time to keep alive is over.
RESET = ("reset",)

FRAMEWORKS = [
    Framework("aiohttp", "aiohttp", aiohttp_server, GET, b"hello", fails=FAIL),
    Framework("aiohttp-websocket", "aiohttp", aiohttp_server, UPGRADE, b" 101 "),
    Framework("asyncssh", "asyncssh", asyncssh_server, b"", b"SSH-2.0-AsyncSSH"),
    Framework("websockets", "websockets", websockets_server, UPGRADE, b" 101 "),
    Framework("websockets-threads", "websockets", websockets_threads, UPGRADE, b" 101 "),
    Framework("hypercorn", "hypercorn", hypercorn_server, GET, b"hello", fails=FAIL, ends=RESET),
    Framework("hypercorn-http2", "hypercorn", hypercorn_server, HTTP2, SETTINGS, ends=RESET),
    Framework("hypercorn-websocket", "hypercorn", hypercorn_server, UPGRADE, b" 101 ", ends=RESET),
    Framework("uvicorn", "uvicorn", uvicorn_server, GET, b"hello", fails=FAIL),
    Framework("uvicorn-websocket", "uvicorn", uvicorn_server, UPGRADE, b" 101 "),
    Framework("uvicorn", "uvicorn", uvicorn_server, GET, b"hello", "uvloop", fails=FAIL),
    Framework("uvicorn-websocket", "uvicorn", uvicorn_server, UPGRADE, b" 101 ", "uvloop"),
    Framework("asyncssh", "asyncssh", asyncssh_server, b"", b"SSH-2.0-AsyncSSH", "uvloop"),
]
