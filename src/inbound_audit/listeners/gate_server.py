"""A gate before an asyncio server: what it lets in becomes transports and protocols of an event loop, uvloop's too.

    gate = Gate(listener, limits, [listening], refusal=factory.refusal, guard=factory.guard)
    server = gate.serve(loop, factory)

Each connection is counted when the gate accepts it, also with TLS from the first byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from inbound_audit._ipcount import parse_prefix
from inbound_audit.descriptor import Descriptor
from inbound_audit.listeners.aio import CountedCallback, counted
from inbound_audit.listeners.guard import Guard
from inbound_audit.listeners.pending import GatedFactory, PendingConnection
from inbound_audit.listeners.sockets import CountedSocket
from inbound_audit.process import Stage, register

if TYPE_CHECKING:
    from inbound_audit.listeners.admission import Admission
    from inbound_audit.listeners.gate import Gate


class ServerOfGate(asyncio.AbstractServer):
    """Takes from a gate what it lets in, in an event loop, until it is closed. A class that derives has `_take`, which
    the loop calls when connections wait.
    """

    _reads: Descriptor | None = None  # what the loop watches

    def __init__(self, gate: Gate, loop: asyncio.AbstractEventLoop) -> None:
        self._gate, self._loop = gate, loop
        self._tasks: set[asyncio.Task[Any]] = set()  # an event loop holds its tasks only weakly
        # The server's own: the gate may be closed first, by other code, and its number is another file's then.
        self._reads = Descriptor(gate.second_fileno())
        register(self, Stage.COUNTS, type(self)._leave)
        try:
            loop.add_reader(self._reads.number, self._take)
        except BaseException:
            self._leave()
            raise

    def _take(self) -> None:
        raise NotImplementedError

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        return self._gate.sockets if self.is_serving() else ()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def is_serving(self) -> bool:
        return self._reads is not None

    async def start_serving(self) -> None:
        """It serves from the beginning."""

    async def serve_forever(self) -> None:
        """Serves until it is cancelled."""
        try:
            await self._loop.create_future()
        finally:
            self.close()

    def close(self) -> None:
        """Stops accepting, closes the gate and the listening sockets. Open connections go on. Idempotent."""
        self._unwatch()
        self._gate.report(last=True)
        self._gate.close()
        for listening in self._gate.sockets:
            listening.close()

    def _unwatch(self) -> None:
        if self._reads is not None and self._reads.current is not None:
            self._loop.remove_reader(self._reads.number)
        self._forget_gate()

    def _forget_gate(self) -> None:
        reads, self._reads = self._reads, None
        if reads is not None:
            reads.close()

    def _leave(self) -> None:
        """In the child of a fork the event loop is the parent's: nothing is done to it."""
        self._forget_gate()

    def __del__(self) -> None:
        self._leave()  # its loop was closed first


class GateServer(ServerOfGate):
    """Serves the connections of a gate in an event loop until it is closed. Made by `Gate.serve`."""

    def __init__(
        self,
        gate: Gate,
        loop: asyncio.AbstractEventLoop,
        factory: Callable[[], asyncio.BaseProtocol] | CountedCallback,
        **tls: Any,
    ) -> None:
        if isinstance(factory, CountedCallback):
            factory = factory.factory()
        if not isinstance(factory, GatedFactory):
            factory = counted(factory, gate.guard or Guard(gate.listener))
        _check_balancers(gate, factory)
        gate.join(factory.guard)
        self._factory, self._tls = factory, tls
        super().__init__(gate, loop)

    async def wait_closed(self) -> None:
        """Waits until each connection that was taken has its protocol."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _take(self) -> None:
        if self._gate.closed:
            self._gate.report()
            self._unwatch()
            return
        for connection, session, asked in self._gate.take_asked():
            admission = self._factory.guard.receive(session, asked, connection)
            connection = _Connection(connection.family, connection.type, connection.proto, connection.detach())
            connection.admission = admission
            pending = PendingConnection(self._factory, admission)
            begun = self._loop.connect_accepted_socket(functools.partial(_same, pending), connection, **self._tls)
            task = self._loop.create_task(begun)
            self._tasks.add(task)
            task.add_done_callback(functools.partial(self._begun, connection, admission))

    def _begun(self, connection: socket.socket, admission: Admission, task: asyncio.Task[Any]) -> None:
        """The connection has its transport; or it has failed: the handshake of TLS, say, or the loop ends."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:
            connection.close()
            admission.close()
        if error is not None and not isinstance(error, OSError):
            self._loop.call_exception_handler({"message": "a connection of a gate failed", "exception": error})


class _Connection(CountedSocket):
    """Ends the count with the connection, also if its protocol was exchanged for another one."""

    __slots__ = ()

    def detach(self) -> int:
        """uvloop calls it when it has closed the descriptor itself."""
        try:
            return socket.socket.detach(self)
        finally:
            if self.admission is not None:
                self.admission.close()


@contextlib.contextmanager
def standing_in(gate: Gate, loop: asyncio.AbstractEventLoop, **options: Any) -> Iterator[None]:
    """See `Gate.stand_in`."""
    guard, create_server = gate.guard or Guard(gate.listener), loop.create_server

    async def create(factory: Any, *arguments: Any, sock: Any = None, **given: Any) -> asyncio.AbstractServer:
        if sock is None or not any(_are_same(sock, listening) for listening in gate.sockets):
            return await create_server(factory, *arguments, sock=sock, **given)
        tls = {name: value for name, value in given.items() if name.startswith("ssl")}
        return gate.serve(loop, counted(factory, guard, **options), **tls)

    replaced = vars(loop).get("create_server")
    setattr(loop, "create_server", create)  # noqa: B010  # a method, to mypy
    try:
        yield
    finally:
        if replaced is None:
            delattr(loop, "create_server")
        else:
            setattr(loop, "create_server", replaced)  # noqa: B010


def _check_balancers(gate: Gate, factory: GatedFactory) -> None:
    """Raises ValueError unless the gate and the factory expect PROXY headers from the same networks."""
    if {*map(parse_prefix, gate.proxy_from)} != {*map(parse_prefix, factory.proxy_from)}:
        raise ValueError(
            f"the gate has proxy_from={gate.proxy_from!r}, its factory {factory.proxy_from!r}: write "
            "Gate(..., proxy_from=factory.proxy_from); a factory of smtp.protocol_factory(..., proxy_from=...) reads "
            "PROXY headers"
        )


def _are_same(sock: socket.socket, listening: socket.socket) -> bool:
    """Whether these are of one open socket: a server may have made an object of its own."""
    return min(sock.fileno(), listening.fileno()) >= 0 and os.path.sameopenfile(sock.fileno(), listening.fileno())


def _same(pending: PendingConnection) -> PendingConnection:
    """The factory of one protocol."""
    return pending
