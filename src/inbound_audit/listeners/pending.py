"""Gates a protocol factory: counts a connection, asks the policy, waits out a tarpit, and only then makes the protocol.

A refused connection costs one small object. An accepted connection gets its protocol from `make`; the transport is then
handed over with `set_protocol` and `connection_made`. Nothing stays between transport and protocol, so buffered
reading, flow control and `start_tls` work as without a guard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from inbound_audit.listeners.admission import Admission, Refusal
from inbound_audit.listeners.budget import SessionBudget
from inbound_audit.listeners.guard import Guard

if TYPE_CHECKING:
    import socket

    from inbound_audit.listeners.gate import Gate

Make = Callable[[Admission], asyncio.BaseProtocol]

CLOSE_TIMEOUT_S = 1.0
"""Seconds that a closing connection has for its last bytes and for the peer's TLS close; then it is aborted."""

_POLL_S = 0.01


def limit_tls_close(transport: asyncio.BaseTransport) -> None:
    """Makes every later `close` of a TLS transport end after `CLOSE_TIMEOUT_S`; asyncio's default is 30 s."""
    tls = getattr(transport, "_ssl_protocol", None)
    if tls is not None:
        tls._ssl_shutdown_timeout = CLOSE_TIMEOUT_S  # Python 3.10 has no such limit: see `close_transport`


def takes_replies(transport: asyncio.BaseTransport | None) -> bool:
    """Whether what is written may reach the peer. After its TLS close asyncio drops what is written, and logs that."""
    if transport is None or transport.is_closing():
        return False
    return not getattr(getattr(transport, "_ssl_protocol", None), "_conn_lost", 0)


def close_transport(transport: asyncio.WriteTransport) -> None:
    """Closes a transport, and aborts it after `CLOSE_TIMEOUT_S` if closing needs something from the peer.

    A TLS transport waits for the peer's close, any transport waits until the peer has read what is buffered.
    """
    if getattr(transport, "_ssl_protocol", transport) is None:
        return  # a TLS transport that was closed twice: it can do nothing more, and the first close ends by itself
    limit_tls_close(transport)
    if not transport.is_closing():
        transport.close()
    if transport.get_extra_info("sslcontext") is not None or transport.get_write_buffer_size():
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, transport.abort)


async def stop_accepting(server: asyncio.AbstractServer) -> None:
    """Closes a server; each connection that it has accepted has its protocol when this returns.

    asyncio makes the transport of a connection in a task. If the server is closed before the task's first step, the
    connection gets no reply, and its socket stays open until the transport is collected.
    """
    loop = asyncio.get_running_loop()
    for listening in getattr(server, "sockets", ()):
        loop.remove_reader(listening.fileno())
    await asyncio.sleep(0)  # the first step of each task: a transport
    server.close()
    await asyncio.sleep(0)  # the next call of the loop: `connection_made`


async def until(condition: Callable[[], bool], seconds: float) -> None:
    """Waits until a condition holds, at most so long."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition() and loop.time() < deadline:  # noqa: ASYNC110  # no event covers all conditions
        await asyncio.sleep(_POLL_S)


class GatedFactory:
    """A protocol factory for `loop.create_server`.

    `make(admission)` makes the protocol of an accepted connection, and must have the admission closed when that
    connection ends. `refusal` is sent to a refused peer. Where `asks_later(admission)` is true the policy is not asked
    here: the protocol asks once it knows the client; those are connections from the networks `proxy_from`. During a
    tarpit reading pauses after `max_early_bytes`.
    """

    __slots__ = ("__weakref__", "_stop_reply", "asks_later", "guard", "make", "max_early_bytes", "refusal", "waiting")

    proxy_from: Sequence[str] = ()

    def __init__(
        self,
        guard: Guard,
        make: Make,
        refusal: Refusal,
        asks_later: Callable[[Admission], bool] = lambda admission: False,
        max_early_bytes: int = SessionBudget.max_early_bytes,
    ) -> None:
        self.guard = guard
        self.make = make
        self.refusal = refusal
        self.asks_later = asks_later
        self.max_early_bytes = max_early_bytes
        self.waiting: set[PendingConnection] = set()
        self._stop_reply: bytes | None = None

    def __call__(self) -> asyncio.BaseProtocol:
        return PendingConnection(self)

    def gate(self, sockets: Iterable[socket.socket], **options: Any) -> Gate:
        """A gate before this factory: of its guard and the guard's policy, if that is a `Limits`, with its refusal and
        its balancers, unless `options`, which are those of `Gate`, say otherwise. Then `Gate.serve` gets the factory.
        Raises what `Gate` raises."""
        from inbound_audit.listeners.gate import gate_of

        return gate_of(self.guard, sockets, **{"refusal": self.refusal, "proxy_from": self.proxy_from, **options})

    def close_pending(self, reply: bytes) -> None:
        """Sends `reply` to the connections in a tarpit and to all that come later, and closes them.

        Call it in the event loop.
        """
        self._stop_reply = reply
        for pending in list(self.waiting):
            pending.close(reply)


class PendingConnection(asyncio.Protocol):
    """The protocol of a connection until it is accepted, or to its end if it is refused.

    It reads during a tarpit, so a peer that leaves is noticed at once. A peer that half-closes has left if it has sent
    nothing; otherwise what it has sent is served after the tarpit.
    """

    __slots__ = ("_admission", "_counted", "_early", "_factory", "_half_closed", "_timer", "_transport")

    _admission: Admission
    _transport: asyncio.Transport

    def __init__(self, factory: GatedFactory, admission: Admission | None = None) -> None:
        """`admission`: of a connection that a gate has counted."""
        self._factory = factory
        self._counted = admission
        self._early = bytearray()
        self._half_closed = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        factory = self._factory
        self._transport = cast("asyncio.Transport", transport)
        admission = self._counted or factory.guard.enter(
            transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        )
        self._admission = admission
        if factory._stop_reply is not None:
            self.close(factory._stop_reply)
            return
        if not factory.asks_later(admission):
            admission.evaluate()
        if admission.verdict.tarpit > 0:
            factory.waiting.add(self)
            self._timer = asyncio.get_running_loop().call_later(admission.verdict.tarpit, self._decide)
        else:
            self._decide()

    def data_received(self, data: bytes) -> None:
        self._early += data
        if len(self._early) > self._factory.max_early_bytes:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        # A TLS transport closes after this, whatever is returned.
        self._half_closed = bool(self._early) and self._transport.get_extra_info("sslcontext") is None
        return self._half_closed

    def connection_lost(self, exc: Exception | None) -> None:
        self._factory.waiting.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._admission.close()

    def close(self, reply: bytes) -> None:
        """Sends `reply` and closes the connection."""
        self._transport.write(reply)
        close_transport(self._transport)

    def _decide(self) -> None:
        self._factory.waiting.discard(self)
        if self._transport.is_closing():
            return  # the peer left during the tarpit: connection_lost is on its way
        if self._admission.let_in:
            self._hand_over()
        else:
            self.close(self._admission.refusal_bytes(self._factory.refusal))

    def _hand_over(self) -> None:
        transport = self._transport
        try:
            protocol = self._factory.make(self._admission)
        except BaseException:
            transport.abort()  # this object is still its protocol, and closes the admission
            raise
        transport.set_protocol(protocol)
        if len(self._early) > self._factory.max_early_bytes:
            transport.resume_reading()
        protocol.connection_made(transport)
        if self._early:
            _feed(protocol, bytes(self._early))
        if self._half_closed and not cast("asyncio.Protocol", protocol).eof_received():
            transport.close()


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
