"""asyncio servers: a protocol factory for `loop.create_server`, a callback for `asyncio.start_server`.

    server = await loop.create_server(counted(EchoProtocol, guard), "::", 2525)
    server = await asyncio.start_server(counted_callback(serve, guard), "::", 2525)

A session begins with the protocol's `connection_made` and ends with its `connection_lost`: the connection is counted,
whatever becomes of the code that serves it. With TLS from the first byte asyncio calls `connection_made` after the
handshake, so a connection is not counted during its handshake.

The class of each protocol is replaced by a subclass with its own `connection_lost`. A wrapper object would not work: a
protocol that starts TLS hands *itself* to the event loop, which then no longer calls the wrapper.
"""

from __future__ import annotations

import asyncio
import functools
import math
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, cast

from inbound_audit._ipcount import Session
from inbound_audit.listeners.admission import Admission, Refusal
from inbound_audit.listeners.budget import SessionBudget, check_bound
from inbound_audit.listeners.guard import Guard
from inbound_audit.listeners.pending import GatedFactory, close_transport
from inbound_audit.listeners.time_limit import IDLE_S, Deadline, TimeLimit

STREAM_BYTES = 1 << 16
"""What `asyncio.start_server` takes for its `limit` if none is given."""

Callback = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None] | None]

# Keyed by identity: protocols with __slots__ (aiohttp's) can hold neither an attribute nor a weak reference. A counted
# protocol removes its own entry, at the latest when it is collected.
_connections: dict[int, _Connection] = {}


def counted(
    factory: Callable[[], asyncio.BaseProtocol],
    guard: Guard,
    *,
    refusal: Refusal = b"",
    idle_s: float | None = IDLE_S,
    session_s: float | None = None,
    max_early_bytes: int = SessionBudget.max_early_bytes,
) -> GatedFactory:
    """A protocol factory that counts each connection and asks the policy before `factory` is called.

    A refused connection is sent `refusal` (bytes, or a function from the Verdict to bytes) and closed. The server
    holds the object that `factory` made; `factory` must make one for each connection.

    A connection that is silent for `idle_s` seconds, or is served for `session_s`, is closed; None is no limit. During
    a tarpit `max_early_bytes` are read. Raises TypeError or ValueError for wrong numbers.
    """
    limit = TimeLimit(idle_s=idle_s, session_s=session_s)
    check_bound("max_early_bytes", max_early_bytes)

    def make(admission: Admission) -> asyncio.BaseProtocol:
        protocol = factory()
        _adopt(protocol, admission, limit)
        return protocol

    return GatedFactory(guard, make, refusal, max_early_bytes=max_early_bytes)


def counted_callback(
    callback: Callback,
    guard: Guard,
    *,
    refusal: Refusal = b"",
    idle_s: float | None = IDLE_S,
    session_s: float | None = None,
) -> CountedCallback:
    """A `client_connected_cb` for `asyncio.start_server` that counts each connection and asks the policy.

    `callback` is a coroutine function or a plain one. If a coroutine raises or is cancelled, even before its first
    step, its connection is closed. `idle_s` and `session_s` are as for `counted`.
    """
    return CountedCallback(callback, guard, refusal, TimeLimit(idle_s=idle_s, session_s=session_s))


def session_of(connection: object) -> Session | None:
    """The accept construct of a counted protocol, transport or StreamWriter; None when it is not counted."""
    if isinstance(connection, asyncio.StreamWriter):
        connection = connection.transport
    found = _connections.get(id(connection))
    if found is None and hasattr(connection, "get_protocol"):
        found = _connections.get(id(connection.get_protocol()))
    return None if found is None else found.admission.session


class _Connection:
    """A counted connection, and the timer of its limit, which runs while it is served.

    It keeps neither transport nor event loop alive: a connection that both have forgotten is to be collected.
    """

    __slots__ = ("_deadline", "_limit", "_timer", "_transport", "admission")

    _transport: weakref.ref[asyncio.BaseTransport]
    _deadline: Deadline

    def __init__(self, admission: Admission, limit: TimeLimit) -> None:
        self.admission = admission
        self._limit = limit
        self._timer: weakref.ref[asyncio.TimerHandle] | None = None

    def begin(self, transport: asyncio.BaseTransport) -> None:
        """Called when the connection begins to be served, and perhaps again after STARTTLS."""
        if self._timer is None and self._limit.first_s < math.inf:
            self._transport = weakref.ref(transport)
            self._deadline = Deadline(transport.get_extra_info("socket"), self._limit)
            self._wait(self._limit.first_s)

    def stop(self) -> None:
        timer = None if self._timer is None else self._timer()
        if timer is not None:
            timer.cancel()

    def _wait(self, seconds: float) -> None:
        self._timer = weakref.ref(asyncio.get_running_loop().call_later(seconds, self._check))

    def _check(self) -> None:
        left, transport = self._deadline.left_s(), self._transport()
        if not self._deadline.over:
            self._wait(left)
        elif transport is not None:
            self.admission.report_time_over()
            close_transport(cast("asyncio.WriteTransport", transport))


class CountedCallback:
    """What `counted_callback` returns, and the tasks that it started.

    asyncio has made the stream's protocol before it calls the callback, so that protocol stays in place during a
    tarpit; a stream stops reading by itself when its buffer is full.
    """

    def __init__(self, callback: Callback, guard: Guard, refusal: Refusal, limit: TimeLimit) -> None:
        self._callback = callback
        self._guard = guard
        self._refusal = refusal
        self._limit = limit
        self._tasks: set[asyncio.Task[None]] = set()  # the event loop holds tasks only weakly

    def factory(self, limit: int = STREAM_BYTES) -> GatedFactory:
        """A protocol factory with the same callback, guard and refusal: for `Gate.serve`, which does without
        `asyncio.start_server`. `limit` is the one of that function: bytes of a reader's buffer."""
        return GatedFactory(self._guard, functools.partial(self._make, limit), self._refusal)

    def _make(self, limit: int, admission: Admission) -> asyncio.BaseProtocol:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, self._serve, loop=loop)
        _adopt(protocol, admission, self._limit)
        return protocol

    def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        admission = self._guard.admit(transport.get_extra_info("peername"), transport.get_extra_info("sockname"))
        _adopt(transport.get_protocol(), admission, self._limit)
        if admission.verdict.tarpit > 0:
            loop = asyncio.get_running_loop()
            loop.call_later(admission.verdict.tarpit, self._decide, reader, writer, admission)
        else:
            self._decide(reader, writer, admission)

    def _decide(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, admission: Admission) -> None:
        if writer.transport.is_closing():
            return  # the peer left during the tarpit
        if not admission.let_in:
            writer.write(admission.refusal_bytes(self._refusal))
            close_transport(writer.transport)
            return
        _connections[id(writer.transport.get_protocol())].begin(writer.transport)
        self._serve(reader, writer)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            serving = self._callback(reader, writer)
        except BaseException:
            writer.close()
            raise
        if asyncio.iscoroutine(serving):
            task = asyncio.get_running_loop().create_task(serving)
            self._tasks.add(task)
            task.add_done_callback(functools.partial(self._served, writer.transport))

    def _served(self, transport: asyncio.WriteTransport, task: asyncio.Task[None]) -> None:
        # Not a `finally` in a coroutine around the callback's: a task that is cancelled before it began never runs it.
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        # A peer that resets makes most callbacks raise: not worth a log line per peer.
        if error is not None and not (isinstance(error, ConnectionError) and transport.is_closing()):
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a start_server callback raised", "exception": error, "transport": transport, "task": task}
            )
        if error is not None or task.cancelled():
            close_transport(transport)


def _adopt(protocol: asyncio.BaseProtocol, admission: Admission, limit: TimeLimit) -> None:
    """Makes a protocol's `connection_lost` close the admission. Raises TypeError if its class can't be replaced."""
    if id(protocol) in _connections:
        raise TypeError(f"{protocol!r} serves a connection already: the factory must make one protocol for each")
    kind: Any = type(protocol)
    try:
        protocol.__class__ = _counted_class(kind)
    except TypeError as error:
        # Classes of extension modules. A Python class that derives from such a class can be counted.
        raise TypeError(f"{kind.__qualname__} can't be counted, derive a Python class from it: {error}") from error
    _connections[id(protocol)] = _Connection(admission, limit)


@functools.cache
def _counted_class(kind: Any) -> Any:
    """A subclass of the same layout and name whose `connection_lost` ends the session; a counted class itself."""
    if getattr(kind, "_inbound_audit_counted", False):
        return kind

    class Counted(kind):  # type: ignore[misc]
        __slots__ = ()
        _inbound_audit_counted = True

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            connection = _connections.get(id(self))
            if connection is not None:
                connection.begin(transport)
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            try:
                super().connection_lost(exc)
            finally:
                connection = _connections.pop(id(self), None)
                if connection is not None:
                    connection.stop()
                    connection.admission.close()

        def __del__(self) -> None:
            # The transport got another protocol, or its loop was closed. The admission warns and closes.
            connection = _connections.pop(id(self), None)
            if connection is not None:
                connection.stop()
            inherited = getattr(super(), "__del__", None)
            if inherited is not None:
                inherited()

    Counted.__name__, Counted.__qualname__, Counted.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    return Counted
