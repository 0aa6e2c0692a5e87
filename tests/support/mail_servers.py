"""Mail servers that speak to a milter: frames made by another implementation, over a socket in the test's own loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from typing import Any

from kilter.protocol import messages as wire
from kilter.protocol.buffer import SimpleBuffer
from tests.support.waiting import PATIENCE

from inbound_audit.listeners.mail_server import MailServers

ALL_STEPS = wire.ProtocolFlags(0x1FFFFF)


def packed(message: Any) -> bytes:
    buffer = SimpleBuffer(1 << 18)
    message.pack(buffer)
    return bytes(buffer[:])


def macros(stage: str, values: dict[str, str]) -> bytes:
    return packed(wire.Macro(ord(stage), values))


class MailServer:
    """A connection to a milter. `say` sends frames and returns the letter of the answer and its data."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, path: str) -> MailServer:
        return cls(*await asyncio.open_unix_connection(path))

    async def answer(self) -> tuple[bytes, bytes]:
        """Raises asyncio.IncompleteReadError if the milter has closed the connection."""
        async with asyncio.timeout(PATIENCE) if hasattr(asyncio, "timeout") else contextlib.nullcontext():
            length = int.from_bytes(await self._reader.readexactly(4), "big")
            data = await self._reader.readexactly(length)
        return data[:1], data[1:]

    def send(self, *parts: Any) -> None:
        self._writer.write(b"".join(part if isinstance(part, bytes) else packed(part) for part in parts))

    async def say(self, *parts: Any) -> tuple[bytes, bytes]:
        self.send(*parts)
        return await self.answer()

    async def negotiate(self, version: int = 6, actions: int = 0x1FF, steps: int = ALL_STEPS) -> wire.Negotiate:
        letter, data = await self.say(wire.Negotiate(version, wire.ActionFlags(actions), wire.ProtocolFlags(steps)))
        assert letter == b"O"
        found: wire.Negotiate = wire.Negotiate.from_buffer(memoryview(data))
        return found

    async def begin(self, address: str = "192.0.2.7", **options: int) -> tuple[bytes, bytes]:
        """Negotiates, and names a client. The answer to the client."""
        await self.negotiate(**options)
        return await self.client(address)

    async def client(self, address: str) -> tuple[bytes, bytes]:
        return await self.say(wire.Connect("client.example", ip_address(address), 40000))

    async def closed(self) -> bool:
        """Waits until the milter has closed the connection. Whether it has sent nothing more."""
        with contextlib.suppress(ConnectionError):
            return await self._reader.read() == b""
        return True

    def close(self) -> None:
        self._writer.close()

    def vanish(self) -> None:
        self._writer.transport.abort()


@contextlib.asynccontextmanager
async def listening(factory: MailServers, path: str) -> AsyncIterator[Callable[[], Any]]:
    """Serves at a Unix socket. Gives a function that connects; its connections are closed at the end."""
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(factory, path)
    made: list[MailServer] = []

    async def connect() -> MailServer:
        made.append(await MailServer.connect(path))
        return made[-1]

    try:
        yield connect
    finally:
        server.close()
        for one in made:
            one.vanish()
        await holds(lambda: not factory.connections)


async def holds(condition: Callable[[], object]) -> None:
    """Lets the loop run until a condition holds."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "the condition did not come to hold"
        await asyncio.sleep(0.002)
