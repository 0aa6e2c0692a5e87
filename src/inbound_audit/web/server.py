"""Serves an application by uvicorn, with bounds on what a peer may take: time, bytes and connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 512
MAX_HEADER_BYTES = 16_384
"""Of a request: its line and its headers."""
REQUEST_S = 10.0
"""Seconds for the line and the headers of a request."""
STALL_S = 30.0
"""Seconds until a peer is cut off that has not taken what it was sent."""
STOP_S = 1
"""Seconds for the answers that are being sent when the server stops."""


class Connection(H11Protocol):
    """Cuts off a peer that is too slow: with its request, or with what it is sent."""

    transport: asyncio.Transport
    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # pause_writing as soon as anything is not taken
        self._deadline = self.loop.call_later(REQUEST_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_asking = self.cycle is None or self.cycle.response_complete
        if self._deadline is not None and not is_asking:
            self._deadline.cancel()
            self._deadline = None
        elif self._deadline is None and is_asking:
            self._deadline = self.loop.call_later(REQUEST_S, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_stalled()

    def shutdown(self) -> None:
        if self._stalled is not None:
            self.transport.abort()
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._cancel_stalled()
        if self._deadline is not None:
            self._deadline.cancel()

    def _cancel_stalled(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


class Server(uvicorn.Server):
    """Serves until `should_exit` is set. Signals are its caller's."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=MAX_CONNECTIONS,
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
                timeout_graceful_shutdown=STOP_S,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
