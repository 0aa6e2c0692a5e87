"""The control sockets of the shared audits of a process, and the thread that handles requests.

One thread for all of them reads requests and handles them one after the other. Reads and writes never block. Each
connection has `DEADLINE_S` seconds, and there are at most `MAX_CONNECTIONS`: a client that is silent, slow, or sends
without an end is disconnected.

While the thread handles a request it is like any other thread of the program that uses the audit, and may wait for the
same locks. Forks and the end of an audit do not wait for the end of a request: they go on beside it.

Lock rule: `_lock` is held for a few assignments, never for a wait, a read or a write.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

from inbound_audit.descriptor import Descriptor
from inbound_audit.process import BackgroundThread, Stage, register
from inbound_audit.shared.control import MAX_REQUEST, path_of
from inbound_audit.shared.directory import Directory

logger = logging.getLogger("inbound_audit.shared")

MAX_CONNECTIONS = 16
"""Connections at once; the oldest is closed for one more."""

DEADLINE_S = 5.0
"""Seconds for a request to arrive, and again for its answer to be read."""

_RETRY_S = 0.2  # after a failure: there may be no descriptor left
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid

Handle = Callable[[bytes], bytes]
"""Handles a request: a line to a line. It raises nothing."""


def may_request(uid: int) -> bool:
    """Whether a process of that user may change our counts."""
    return uid in (0, os.geteuid())


class ControlServer:
    """The sockets of this process and their thread. All methods may be called from any thread, also from the one that
    handles requests."""

    def __init__(self) -> None:
        self._thread = BackgroundThread("inbound_audit control", self._run)
        self._reset()
        register(self, Stage.SHARED, ControlServer.after_fork_in_child)

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._sockets: dict[Descriptor, Handle] = {}
        self._retired: list[Descriptor] = []
        self._connections: list[_Connection] = []
        self._pauses_until = 0.0

    def listen(self, place: Directory, owner_id: str, handle: Handle) -> Descriptor:
        """Makes the socket of that owner, to be given to `stop_listening`. Raises OSError and RuntimeError."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            os.fchmod(made.fileno(), 0o600)  # its name will have this mode from the first moment on
            made.bind(path_of(place, owner_id))
            made.listen(MAX_CONNECTIONS)
        except OSError:
            made.close()
            raise
        listening = Descriptor(made.detach())
        self._sockets[listening] = handle
        try:
            self._thread.enter(listening)
        except BaseException:
            self.stop_listening(listening)
            raise
        return listening

    def stop_listening(self, listening: Descriptor) -> None:
        """Closes a socket; clients that are connected get their answers, unless it was the last one. Idempotent."""
        if self._sockets.pop(listening, None) is None:
            return
        with self._lock:  # the thread may be about to accept: it closes the socket itself, when it does not use it
            self._retired.append(listening)
        self._thread.wake()
        self._thread.leave(listening)
        if not self._sockets and not self._thread.runs:
            self._close_all()

    def after_fork_in_child(self) -> None:
        """Closes what the parent had open here; the parent's clients are not this process's."""
        for listening in self._sockets:
            listening.close()
        self._close_all()
        self._reset()

    def _close_all(self) -> None:
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
            self._close_retired()

    def _close_retired(self) -> None:
        while self._retired:
            self._retired.pop().close()

    # ---- what it does

    def _run(self, thread: BackgroundThread) -> None:
        while True:
            events = thread.wait(self._timeout(time.monotonic()), self._polled())
            if events is None:
                if not self._sockets:
                    self._close_all()
                return
            with self._lock:
                self._close_retired()
            try:
                self._step(events)
            except Exception:
                logger.exception("control of a shared audit")
                self._pauses_until = time.monotonic() + _RETRY_S

    def _polled(self) -> dict[int, int]:
        """What to wait for, by descriptor. A socket that other code has closed is left out."""
        polled: dict[int, int] = {}
        if time.monotonic() >= self._pauses_until:
            listening = [one.current for one in list(self._sockets)]
            polled = {number: select.POLLIN for number in listening if number is not None}
        for connection in self._connections:
            number = connection.socket.current
            if number is not None:
                polled[number] = connection.events
        return polled

    def _timeout(self, now: float) -> float | None:
        """Seconds; None: until something happens."""
        times = [connection.deadline if connection.events else now for connection in self._connections]
        if now < self._pauses_until:
            times.append(self._pauses_until)
        return max(0.001, min(times) - now) if times else None

    def _step(self, events: set[int]) -> None:
        for listening, handle in list(self._sockets.items()):
            if listening.current in events:
                self._accept(listening, handle)
        for connection in list(self._connections):
            due = not connection.events or connection.socket.current in events
            if (due and not connection.step()) or time.monotonic() > connection.deadline:
                self._connections.remove(connection)
                connection.close()

    def _accept(self, listening: Descriptor, handle: Handle) -> None:
        try:
            with _as_socket(listening) as borrowed:
                made, _ = borrowed.accept()
            with made:
                credentials = made.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
                if not may_request(_CREDENTIALS.unpack(credentials)[1]):
                    return
                made.setblocking(False)
                connection = _Connection(Descriptor(made.detach()), handle, self._thread)
        except BlockingIOError:  # the client has gone
            return
        except OSError:
            self._pauses_until = time.monotonic() + _RETRY_S
            return
        if len(self._connections) == MAX_CONNECTIONS:
            self._connections.pop(0).close()
        self._connections.append(connection)


@contextlib.contextmanager
def _as_socket(descriptor: Descriptor) -> Iterator[socket.socket]:
    """For a few calls. Raises OSError if other code has closed it."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=descriptor.number)
    try:
        yield made
    finally:
        made.detach()


class _Connection:
    """A connection, from its request to the end of its answer."""

    def __init__(self, descriptor: Descriptor, handle: Handle, thread: BackgroundThread) -> None:
        self.socket = descriptor
        self.deadline = time.monotonic() + DEADLINE_S
        self.events = select.POLLIN
        """What to wait for; 0: a request has arrived whole, and was not handled before a stop."""
        self._handle = handle
        self._thread = thread
        self._steps = self._converse()

    def step(self) -> bool:
        """Reads, handles and writes what is possible now. Returns whether more is to follow."""
        try:
            self.events = next(self._steps)
        except (StopIteration, OSError):  # OSError: the client has gone
            return False
        return True

    def _converse(self) -> Iterator[int]:
        """Yields the events to wait for."""
        received = bytearray()
        while b"\n" not in received:
            yield select.POLLIN
            with contextlib.suppress(BlockingIOError), _as_socket(self.socket) as borrowed:
                piece = borrowed.recv(65536)
                received += piece
                if not piece or len(received) > MAX_REQUEST:
                    return
        while not self.has_gone():  # the reply of a client that has gone says, or will say, that nothing was done
            with self._thread.busy() as goes_on:
                answer = self._handle(bytes(received)) if goes_on else None
            if answer is not None:
                break
            yield 0  # after a fork the next thread handles it
        else:
            return
        self.deadline = time.monotonic() + DEADLINE_S
        while answer:
            yield select.POLLOUT
            with contextlib.suppress(BlockingIOError), _as_socket(self.socket) as borrowed:
                answer = answer[borrowed.send(answer, socket.MSG_NOSIGNAL) :]

    def has_gone(self) -> bool:
        """Whether the client has closed the connection."""
        poll = select.poll()
        poll.register(self.socket.number, 0)
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))

    def close(self) -> None:
        """Idempotent."""
        self.socket.close()


control_server = ControlServer()
"""Of this process."""
