"""What stands before an asyncio protocol: counts, asks, slows down, turns away, and only then makes the protocol.

A server that is flooded makes one small object for each connection that it refuses. The real protocol is made when
its connection is let in, is handed to the transport itself and is told of it by `connection_made`: from there on
nothing stands between the two, so whatever a framework does with its own protocol (buffered reading, flow control,
TLS in the middle of a connection) works as without a guard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from inbound_audit.listeners.guard import Admission, Guard, Refusal

Make = Callable[[Admission], asyncio.BaseProtocol]

EARLY_LIMIT = 65536
"""Bytes that a peer may send while it waits out a tarpit; above that nothing more is read from it."""


def _never(admission: Admission) -> bool:
    return False


class Door:
    """A protocol factory for `loop.create_server`.

    `make(admission)` makes the protocol of a connection that is let in, and sees to it that the end of that connection
    closes the admission. `refusal` is what a refused peer is sent. Where `asks_later(admission)` is true the
    policy is not asked here: the protocol will, once it knows the client.
    """

    __slots__ = ("asks_later", "guard", "make", "refusal", "waiting")

    def __init__(
        self, guard: Guard, make: Make, refusal: Refusal, asks_later: Callable[[Admission], bool] = _never
    ) -> None:
        self.guard = guard
        self.make = make
        self.refusal = refusal
        self.asks_later = asks_later
        self.waiting: set[Doorman] = set()

    def __call__(self) -> asyncio.BaseProtocol:
        return Doorman(self)

    def dismiss(self) -> None:
        """Closes the connections that wait out a tarpit: no task serves them that could be cancelled.

        To be called in the event loop, when the server is stopped.
        """
        for doorman in list(self.waiting):
            doorman.dismiss()


class Doorman(asyncio.Protocol):
    """The protocol of a connection until it is let in, or to the end if it is refused.

    It goes on reading during a tarpit, so that a peer that leaves is noticed at once; a peer that half-closes while it
    is made to wait counts as gone.
    """

    __slots__ = ("_admission", "_door", "_early", "_timer", "_transport")

    _admission: Admission
    _transport: asyncio.Transport

    def __init__(self, door: Door) -> None:
        self._door = door
        self._early = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        door = self._door
        self._transport = cast("asyncio.Transport", transport)
        admission = door.guard.enter(transport.get_extra_info("peername"), transport.get_extra_info("sockname"))
        self._admission = admission
        if not door.asks_later(admission):
            admission.ask()
        if admission.verdict.tarpit > 0:
            door.waiting.add(self)
            self._timer = asyncio.get_running_loop().call_later(admission.verdict.tarpit, self._decide)
        else:
            self._decide()

    def data_received(self, data: bytes) -> None:
        self._early += data
        if len(self._early) > EARLY_LIMIT:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.waiting.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._admission.close()

    def dismiss(self) -> None:
        self._transport.abort()

    def _decide(self) -> None:
        self._door.waiting.discard(self)
        if self._transport.is_closing():
            return  # left while it waited: connection_lost is on its way
        if self._admission.let_in:
            self._let_in()
        else:
            self._transport.write(self._admission.farewell(self._door.refusal))
            self._transport.close()

    def _let_in(self) -> None:
        transport = self._transport
        try:
            protocol = self._door.make(self._admission)
        except BaseException:
            transport.abort()  # this object is still its protocol, and will close the admission
            raise
        transport.set_protocol(protocol)
        if len(self._early) > EARLY_LIMIT:
            transport.resume_reading()
        protocol.connection_made(transport)
        if self._early:
            _feed(protocol, self._early)


def _feed(protocol: asyncio.BaseProtocol, data: bytes) -> None:
    if not isinstance(protocol, asyncio.BufferedProtocol):
        cast("asyncio.Protocol", protocol).data_received(data)
        return
    rest = memoryview(data)
    while rest:
        with memoryview(protocol.get_buffer(len(rest))) as room:
            taken = min(len(room), len(rest))
            room[:taken] = rest[:taken]
        protocol.buffer_updated(taken)
        rest = rest[taken:]
