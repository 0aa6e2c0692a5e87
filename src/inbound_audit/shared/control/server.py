"""The socket on which a process of a shared audit is asked, and the thread that answers.

One thread reads what comes and carries it out, one request after the other; it is not the one that scans. What
is read and written never waits for anybody. Each connection has a few seconds, and there are only so many at once: who
is silent, slow or sends without an end is let go.

While the thread carries out a request it is like any other thread of the program that uses the audit, and may wait for
the same locks. So whoever stops it does not wait for the end of a request: forks and the end of an audit may go on
beside it. In all other moments the thread holds nothing, and is waited for.

Lock rule: `_gate` is held for a few assignments, never for a wait, a read or a write.
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
from collections.abc import Callable

from inbound_audit.shared.control.protocol import MAX_REQUEST, Directory, path_of

logger = logging.getLogger("inbound_audit.shared")

MAX_CONNECTIONS = 16
"""Connections at once; the oldest is let go for one more."""

DEADLINE_S = 5.0
"""Seconds for a question to come, and again for its answer to be read."""

_REST_S = 0.2  # seconds, after a connection could not be accepted: there may be no descriptor
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid

Carry = Callable[[bytes], bytes]
"""Carries out a request: a line to a line. It raises nothing."""


def is_welcome(uid: int) -> bool:
    """Whether who has that user id may change our counts."""
    return uid in (0, os.geteuid())


class ControlServer:
    """A socket and its thread. All methods may be called from any thread, also from the one that answers."""

    def __init__(self, name: str, handle: Carry) -> None:
        self._name = name
        self._handle = handle
        self._gate = threading.RLock()
        self._thread: threading.Thread | None = None
        self._stopped = True
        self._closed = False
        self._busy = False  # a request is being carried out
        self._socket: socket.socket | None = None
        self._retired: list[socket.socket] = []
        self._callers: list[_Connection] = []
        self._wake_fd = -1
        self._rests_until = 0.0

    @property
    def listens(self) -> bool:
        return self._socket is not None

    def listen(self, place: Directory, owner_id: str) -> None:
        """Makes the socket of that owner, in the place of the one before, whose name is not our business any more.

        Raises OSError.
        """
        door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            os.fchmod(door.fileno(), 0o600)  # its name will have this mode from the first moment on
            door.bind(path_of(place, owner_id))
            door.listen(MAX_CONNECTIONS)
        except OSError:
            door.close()
            raise
        with self._gate:
            self._retire()
            self._socket = door
        self._wake()

    def stop_listening(self) -> None:
        """Nobody listens any more; who is connected is answered."""
        with self._gate:
            self._retire()
        self._wake()

    def _retire(self) -> None:
        """The thread may be about to accept: it closes the socket itself, when it does not use it."""
        if self._socket is not None:
            self._retired.append(self._socket)
            self._socket = None

    # ---- the thread's life

    def start(self) -> None:
        """Starts the thread, unless it runs. Raises OSError and RuntimeError when it can't."""
        with self._gate:
            if self._closed:
                return
            if self._wake_fd < 0:
                self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._stopped = False
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=f"control of inbound_audit {self._name}", daemon=True)
                thread.start()
                self._thread = thread

    def stop(self) -> None:
        """Ends the thread, and waits for that unless it carries out a request, after which it ends."""
        with self._gate:
            self._stopped = True
            thread = None if self._busy else self._thread
        self._wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def close(self) -> None:
        """Lets go of everything. Idempotent."""
        self.stop()
        with self._gate:
            self._closed = True
            if not self._busy:
                self._let_go()

    def in_child(self) -> None:
        """A fork's child has no thread, and what its parent is asked is not its business."""
        self._gate = threading.RLock()
        self._thread, self._busy, self._stopped = None, False, True
        self._let_go()

    def _let_go(self) -> None:
        self._retire()
        for caller in self._callers:
            caller.close()
        self._callers.clear()
        self._close_retired()
        bell, self._wake_fd = self._wake_fd, -1
        if bell >= 0:
            os.close(bell)

    def _close_retired(self) -> None:
        while self._retired:
            self._retired.pop().close()

    def _wake(self) -> None:
        with self._gate, contextlib.suppress(OSError):
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    # ---- what it does

    def _run(self) -> None:
        while self._goes_on():
            try:
                self._poll_once()
            except Exception:  # whatever it is: nobody could be asked any more
                logger.exception("control of %s", self._name)
                time.sleep(_REST_S)

    def _goes_on(self) -> bool:
        with self._gate:
            if self._stopped:
                self._thread = None
                if self._closed:
                    self._let_go()
                return False
            self._close_retired()
            return True

    def _poll_once(self) -> None:
        """Waits until there is something to do, and does it."""
        poll, now = select.poll(), time.monotonic()
        poll.register(self._wake_fd, select.POLLIN)
        door = self._socket
        if door is not None and now >= self._rests_until:
            poll.register(door, select.POLLIN)
        for caller in self._callers:
            poll.register(caller.socket, caller.events)
        events = {fd for fd, _ in poll.poll(self._timeout(now))}
        if self._wake_fd in events:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)
        if door is not None and door.fileno() in events:
            self._accept(door)
        for caller in list(self._callers):
            if caller.socket.fileno() in events:
                caller.step()
            if caller.request is not None:
                self._handle_for(caller)
            if caller.done or time.monotonic() > caller.deadline:
                self._callers.remove(caller)
                caller.close()

    def _timeout(self, now: float) -> float | None:
        """Milliseconds; None: until something happens."""
        # For a request that has come whole, and was not carried out before a stop, nothing will wake us.
        times = [now if caller.request is not None else caller.deadline for caller in self._callers]
        if now < self._rests_until:
            times.append(self._rests_until)
        return max(0.0, 1000 * (min(times) - now)) + 1 if times else None

    def _accept(self, door: socket.socket) -> None:
        try:
            connection, _ = door.accept()
        except BlockingIOError:  # it has gone again
            return
        except OSError:
            self._rests_until = time.monotonic() + _REST_S
            return
        _, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if not is_welcome(uid):
            connection.close()
            return
        if len(self._callers) == MAX_CONNECTIONS:
            self._callers.pop(0).close()
        self._callers.append(_Connection(connection))

    def _handle_for(self, caller: _Connection) -> None:
        if caller.has_gone():  # it was told that nothing has happened, or will be
            caller.done = True
            return
        with self._gate:
            if self._stopped:  # after a fork it is its turn
                return
            self._busy = True
        try:
            answer = self._handle(caller.request or b"")
        finally:
            with self._gate:
                self._busy = False
        caller.reply(answer)


class _Connection:
    """A connection, from its question to the end of its answer."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.deadline = time.monotonic() + DEADLINE_S
        self.request: bytes | None = None  # complete, and not carried out yet
        self.done = False
        self._received = bytearray()
        self._unsent = memoryview(b"")
        self._replied = False

    @property
    def events(self) -> int:
        if self._replied:
            return select.POLLOUT
        return 0 if self.request is not None else select.POLLIN

    def step(self) -> None:
        """Reads or writes what is possible now."""
        try:
            if self._replied:
                self._unsent = self._unsent[self.socket.send(self._unsent, socket.MSG_NOSIGNAL) :]
                self.done = not self._unsent
            elif self.request is None:
                self._take(self.socket.recv(65536))
        except BlockingIOError:
            pass
        except OSError:  # it has gone
            self.done = True

    def _take(self, piece: bytes) -> None:
        self._received += piece
        if b"\n" in piece:
            self.request = bytes(self._received)
        elif not piece or len(self._received) > MAX_REQUEST:
            self.done = True

    def has_gone(self) -> bool:
        poll = select.poll()
        poll.register(self.socket, 0)
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))

    def reply(self, answer: bytes) -> None:
        self.request = None
        self._received.clear()
        self._unsent = memoryview(answer)
        self._replied = True
        self.deadline = time.monotonic() + DEADLINE_S

    def close(self) -> None:
        self.socket.close()
