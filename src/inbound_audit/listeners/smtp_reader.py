"""What an SMTP session reads: command lines, messages and headers, none of them without a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from inbound_audit.listeners.smtp_data import IncomingMessage

READ_BYTES = 1 << 14
"""Bytes that are kept unread of what a peer has sent; beyond twice as many the transport stops reading."""

RECEIVE_BYTES = 1 << 16
"""Bytes that are received at a time; asyncio's 256 KiB take a buffer of that size, and other peers wait for longer."""

MAX_DROPPED_BYTES = 1 << 16
"""Bytes of a line that is too long, until its end is no longer waited for."""


class LineTooLong(Exception):
    """A line has more bytes than it may have. `ended`: it has been read to its end, and the next line may follow."""

    def __init__(self, ended: bool) -> None:
        super().__init__("line too long")
        self.ended = ended


class CommandReader(asyncio.StreamReader):
    """asyncio's reader. It ends the session's task if the transport is closing, or at the end of what has come."""

    def has_line(self) -> bool:
        """Whether a line can be read without waiting for the peer."""
        return b"\n" in self._buffer  # type: ignore[attr-defined]

    async def line(self, max_bytes: int, begun: Callable[[], None] | None = None) -> bytes:
        """The next line, with its LF. Calls `begun` once a byte of it is there. Raises LineTooLong."""
        buffer: bytearray = self._buffer  # type: ignore[attr-defined]
        if not buffer:
            await self._more()
        if begun is not None:
            begun()
        searched = dropped = 0
        while (end := buffer.find(b"\n", searched)) < 0:
            searched = len(buffer)
            if searched > max_bytes:
                dropped += searched
                buffer.clear()
                searched = 0
                if dropped > MAX_DROPPED_BYTES:
                    raise LineTooLong(ended=False)
            await self._more()
        line = bytes(buffer[: end + 1])
        del buffer[: end + 1]
        self._maybe_resume_transport()  # type: ignore[attr-defined]
        if dropped or len(line) > max_bytes:
            raise LineTooLong(ended=True)
        return line

    async def message(self, message: IncomingMessage, received: Callable[[int], None]) -> None:
        """Feeds a message until its end has come, or until it is endless. Calls `received` per piece with its bytes."""
        rest = None
        while rest is None and not message.is_endless:
            if not self._buffer:  # type: ignore[attr-defined]
                await self._more()
            data = await self.read(1 << 18)
            received(len(data))
            rest = message.feed(data)
        self._buffer[:0] = rest or b""  # type: ignore[attr-defined]

    async def _more(self) -> None:
        if self.exception() is not None or self._eof or self._transport.is_closing():  # type: ignore[attr-defined]
            raise asyncio.CancelledError
        await self._wait_for_data("line")  # type: ignore[attr-defined]
