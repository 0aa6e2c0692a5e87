"""A server of aiosmtpd with a policy, driven without a network and without waiting: for the targets `proxy` and `smtp`.

Not a target. A transport that keeps what is written stands in for the socket, and the time of the loop runs on when
there is nothing else to do.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable
from typing import Any

from inbound_audit import InboundAudit, Session, Verdict
from inbound_audit.listeners import Guard
from inbound_audit.listeners.smtp import protocol_factory
from inbound_audit.policy.verdict import ACCEPT

MAX_SPINS = 2000
IDLE_SPINS = 4  # without a callback that was scheduled: nothing more will happen by itself
REPLY = re.compile(rb"[2-5][0-9]{2}[ -][^\r\n]*\r\n")
PEER = ("127.0.0.1", 4242)


class Transport(asyncio.Transport):
    """Keeps what is written, and reports its loss to the protocol as a socket would."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__({"peername": PEER, "sockname": ("127.0.0.1", 25), "socket": None})
        self._loop = loop
        self.written = bytearray()
        self.protocol: Any = None
        self.closed = False

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.call_soon(lambda: self.protocol.connection_lost(None))

    abort = close

    def write(self, data: Any) -> None:
        assert not self.closed, "the server writes to a connection that it has closed"
        self.written += data

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Remembering:
    """A policy that lets every session in and remembers which client it was asked about."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def validate_connect(self, ac: Session) -> Verdict:
        self.asked.append(ac.remote_ip)
        return ACCEPT


class Mailbox:
    """Takes every message."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.messages.append(envelope.content)
        return "250 2.0.0 stored"


class Complaints(logging.Handler):
    """Collects what is logged at WARNING or above."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []
        root = logging.getLogger()
        root.handlers[:] = [self]
        root.setLevel(logging.ERROR)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class Server:
    """One server for all inputs: `talk` is one connection, whose count must have ended afterwards."""

    def __init__(self, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._report)
        self.complaints = Complaints()
        self.audit = InboundAudit(capacity=1 << 20)
        self.policy = Remembering()
        self.guard = Guard(self.audit.listener("SMTP"), self.policy)
        self.mailbox = Mailbox()
        self.factory = protocol_factory(
            self.mailbox, self.guard, loop=self.loop, hostname="mx.example", timeout=1e6, **options
        )

    def _report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.complaints.lines.append(f"{context.get('message')}: {context.get('exception')!r}")

    def open(self) -> Transport:
        """A connection, after its first steps."""
        self.policy.asked.clear()
        self.mailbox.messages.clear()
        self.complaints.lines.clear()
        transport = Transport(self.loop)
        transport.protocol = self.loop.run_until_complete(self._made())
        self.loop.call_soon(transport.protocol.connection_made, transport)
        self.spin(transport)
        return transport

    async def _made(self) -> Any:
        return self.factory()

    def send(self, transport: Transport, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            if transport.closed:
                break
            self.loop.call_soon(transport.protocol.data_received, piece)
            self.spin(transport)

    def end(self, transport: Transport) -> None:
        """The peer sends nothing more. Afterwards nothing of the connection is left."""
        if not transport.closed:
            self.loop.call_soon(self._half_close, transport)
            self.spin(transport)
        assert transport.closed, "a connection that the peer has ended stays open"
        assert self.audit.total() == 0, "a session is counted after its end"
        assert self.guard.open == 0, "the guard keeps a connection after its end"
        assert not self.complaints.lines, self.complaints.lines

    def _half_close(self, transport: Transport) -> None:
        if not transport.protocol.eof_received():
            transport.close()

    def spin(self, transport: Transport) -> None:
        """Lets the loop run until it has nothing to do."""
        idle = 0
        for _ in range(MAX_SPINS):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
            idle = 0 if self.loop._ready else idle + 1  # type: ignore[attr-defined]
            if idle == IDLE_SPINS:
                return
        raise AssertionError("the server never rests")


def pieces(data: bytes, size: int) -> list[bytes]:
    """`data` in pieces of `size` bytes; whole for size 0."""
    return [data[at : at + size] for at in range(0, len(data), size)] if size else [data]


def check_replies(written: bytes) -> list[bytes]:
    """The replies; each line is one that RFC 5321 (4.2) allows."""
    lines = written.splitlines(keepends=True)
    for line in lines:
        assert REPLY.fullmatch(line), line
    return lines
