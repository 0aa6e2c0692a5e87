"""Connections of mail servers that ask: one thing after another, bounded in bytes and time, each of them fairly."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import socket
from typing import Any, cast

from inbound_audit.listeners.guard import Guard
from inbound_audit.listeners.pending import CLOSE_TIMEOUT_S, close_transport, until
from inbound_audit.policy.verdict import REFUSAL_TEXT, Verdict, reply_code, smtp_lines

MAX_TARPIT_S = 20.0
"""The longest wait before an answer: mail servers give up a milter that does not answer for 30 s (Postfix) or 10 s
(Sendmail, unless its administrator has chosen more)."""

BEGIN_S = 60.0
"""Seconds until the first question, and for the rest of one of which a part has come."""

_KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Seconds and numbers with which the system finds out that the host of a mail server is gone, where it has them."""

_AT_ONCE = 64
"""Questions of one connection that are served before those of others are."""


_STATUS = re.compile(r"([245])\.\d{1,3}\.\d{1,3}(?: |$)", re.ASCII)


@functools.lru_cache(maxsize=256)
def reply_with_status(verdict: Verdict) -> bytes:
    """A refusal's reply, in lines.

    A text without an enhanced status code (RFC 3463) gets one: Postfix takes a reply for malformed whose text begins
    with another digit than the code.
    """
    text = verdict.text or REFUSAL_TEXT
    status = _STATUS.match(text)
    has_status = status is not None and status[1] == str(reply_code(verdict))[0]
    return smtp_lines(verdict, text, "" if has_status else "7.1")


class ProtocolError(ValueError):
    """What a mail server has sent is not of the protocol, or comes in the wrong place."""


class Reader:
    """Cuts what comes in from one mail server into questions. A class that derives from it does so in `take`."""

    max_waiting_bytes: int
    too_much: str
    """What a mail server does of which more than `max_waiting_bytes` wait."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def __len__(self) -> int:
        """The bytes that wait."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Raises ProtocolError if too much waits."""
        self._buffer += data
        if len(self._buffer) > self.max_waiting_bytes:
            raise ProtocolError(self.too_much)

    def take(self) -> Any:
        """The next question; None if it has not come whole. Raises ProtocolError."""
        raise NotImplementedError


class MailServers:
    """Makes the protocol of each connection of a mail server, for `loop.create_server`, and ends them all."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.connections: set[MailServerConnection] = set()

    def __call__(self) -> MailServerConnection:
        raise NotImplementedError

    def stop(self) -> int:
        """Closes the connections outside of a transaction. Returns how many are inside of one; they are closed when it
        ends. To be called in the event loop, once nothing is accepted any more."""
        return sum(connection.stop() for connection in list(self.connections))

    async def shut_down(self, grace: float, cut: asyncio.Event) -> int:
        """`stop`, then closes all after `grace` seconds, or when `cut` is set. Returns how many were inside a
        transaction."""
        self.stop()
        await until(lambda: cut.is_set() or not self._inside(), grace)
        number = self._inside()
        for connection in list(self.connections):
            connection.end()
        await until(lambda: not self.connections, 2 * CLOSE_TIMEOUT_S)
        return number

    def _inside(self) -> int:
        return sum(connection.in_transaction for connection in self.connections)


class MailServerConnection(asyncio.Protocol):
    """One connection of a mail server. A class that derives from it answers in `_handle`."""

    _transport: asyncio.Transport

    def __init__(self, servers: MailServers, reader: Reader) -> None:
        self._servers = servers
        self._reader = reader
        self._timer: asyncio.TimerHandle | None = None
        self._wait: asyncio.TimerHandle | None = None  # until an answer that comes late
        self._blocked = self._partial = self._stopping = self._again = False

    @property
    def idle_s(self) -> float:
        """Seconds without a question, once there was one."""
        return BEGIN_S

    @property
    def in_transaction(self) -> bool:
        """Whether what has begun has not ended: here, whether an answer waits."""
        return self._wait is not None

    def stop(self) -> bool:
        """Ends at once, or when the transaction has ended. Returns whether there is one."""
        self._stopping = True
        if not self.in_transaction:
            self.end()
        return self.in_transaction

    def end(self) -> None:
        """Closes the connection, in at most `CLOSE_TIMEOUT_S` if its answers are not read."""
        close_transport(self._transport)

    # ---- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._servers.connections.add(self)
        _keep_alive(transport.get_extra_info("socket"))
        self._limit(BEGIN_S)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
        except ProtocolError as error:
            self._broken(error)
        else:
            self._serve()

    def pause_writing(self) -> None:
        """The mail server does not read its answers: nothing more is read before it does."""
        self._blocked = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._blocked = False
        self._read_on()
        self._serve()

    def connection_lost(self, exc: Exception | None) -> None:
        self._servers.connections.discard(self)
        for timer in (self._timer, self._wait):
            if timer is not None:
                timer.cancel()
        self._timer = self._wait = None

    # ---- questions and answers

    def _handle(self, question: Any) -> None:
        """Answers, by `_write` or `_write_later`. Raises ProtocolError, which ends the connection."""
        raise NotImplementedError

    def _serve(self) -> None:
        """Serves what has come, until an answer has to wait."""
        served = 0
        try:
            while not (self._wait or self._blocked or self._transport.is_closing()):
                if served == _AT_ONCE:
                    self._serve_later()
                    break
                question = self._reader.take()
                if question is None:
                    break
                served += 1
                self._handle(question)
        except ProtocolError as error:
            self._broken(error)
        else:
            self._watch(served > 0)

    def _serve_later(self) -> None:
        if not self._again:
            self._again = True
            self._transport.pause_reading()  # what has come is served before more does
            asyncio.get_running_loop().call_soon(self._serve_again)

    def _serve_again(self) -> None:
        self._again = False
        self._read_on()
        self._serve()

    def _read_on(self) -> None:
        if not (self._blocked or self._again or self._transport.is_closing()):
            self._transport.resume_reading()

    def _write(self, answer: bytes) -> None:
        self._transport.write(answer)

    def _write_later(self, answer: bytes, seconds: float) -> None:
        self._wait = asyncio.get_running_loop().call_later(min(seconds, MAX_TARPIT_S), self._write_late, answer)

    def _write_late(self, answer: bytes) -> None:
        self._wait = None
        self._write(answer)
        self._end_if_stopping()
        self._serve()

    def _end_if_stopping(self) -> None:
        if self._stopping and not self.in_transaction:
            self.end()

    # ---- bounds

    def _watch(self, moved: bool) -> None:
        """Bounds the time until the next question, or until the rest of this one: its bytes may come one by one, but
        the whole has to come."""
        if self._transport.is_closing():
            return
        partial = len(self._reader) > 0 and not (self._wait or self._blocked)
        if moved or partial != self._partial:
            self._limit(BEGIN_S if partial else self.idle_s)
        self._partial = partial

    def _limit(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._time_over)

    def _time_over(self) -> None:
        self._broken(ProtocolError("time over"))

    def _broken(self, error: ProtocolError) -> None:
        self._servers.guard.refusals.report(logging.INFO, "the connection of %s is closed: %s", self, error)
        self._transport.abort()


def _keep_alive(connection: socket.socket) -> None:
    """Has the system end a connection whose other host is gone without a word: its clients would stay counted."""
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEP_ALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
