"""The time of a connection of any protocol: how long it may be silent, and how long it may last.

The system knows when bytes of a connection last came or went, so nothing is done per byte: when the time may be over,
the system is asked.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from inbound_audit.listeners.budget import check_bound

IDLE_S = 7440.0
"""Seconds of silence in both directions: 2 hours and 4 minutes. A NAT may forget a connection after as many (RFC 5382,
REQ-5), so a peer that is still there keeps it alive more often; IMAP's IDLE is renewed within half an hour."""

MAX_WAIT_S = 10.0
"""Seconds after which the thread of `time_limited` ends when no connection is left."""

MIN_WAIT_S = 0.1
"""Seconds between two rounds of that thread, which asks the system about every connection."""

_LAST_DATA = struct.Struct("=44xI4xI")
"""tcpi_last_data_sent and tcpi_last_data_recv of struct tcp_info (linux/tcp.h), in milliseconds."""


@dataclass(frozen=True, kw_only=True)
class TimeLimit:
    """Seconds that a connection may be silent, and those that it may be served; None is no limit.

    Raises TypeError or ValueError for what is neither None nor a number above 0.
    """

    idle_s: float | None = IDLE_S
    session_s: float | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) is not None:
                check_bound(each.name, getattr(self, each.name))

    @property
    def first_s(self) -> float:
        """Seconds before which no connection's time is over; infinite without a limit."""
        return min(self.idle_s or math.inf, self.session_s or math.inf)


class Deadline:
    """When the time of one connection, which begins now, is over. `connection` is a socket, or has its getsockopt."""

    __slots__ = ("_connection", "_end", "_idle_s", "over")

    def __init__(self, connection: Any, limit: TimeLimit) -> None:
        self._connection = connection
        self._idle_s = limit.idle_s
        self._end = time.monotonic() + (limit.session_s or math.inf)
        self.over = False

    def left_s(self) -> float:
        """Seconds until the time may be over; 0 once it is, infinite if it never will be."""
        left = self._end - time.monotonic()
        if self._idle_s is not None:
            left = min(left, self._idle_s - silent_s(self._connection))
        left = max(left, 0.0)
        self.over = self.over or left == 0
        return left


def silent_s(connection: Any) -> float:
    """Seconds since a TCP connection has sent or received data; 0 for others, and where the system does not say."""
    if sys.platform != "linux" or connection is None:
        return 0.0
    try:
        sent, received = _LAST_DATA.unpack_from(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60))
    except OSError:  # a Unix socket, or one that is closed
        return 0.0
    return float(min(sent, received)) / 1000


class _Watch:
    """Sockets whose time is limited, and the thread that shuts them down."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watched: dict[Deadline, socket.socket] = {}
        self._thread: threading.Thread | None = None
        self._wakes_at = -math.inf

    def add(self, deadline: Deadline, connection: socket.socket, first_s: float) -> None:
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="time limits", daemon=True)
                thread.start()
                self._thread = thread
            elif time.monotonic() + first_s < self._wakes_at:
                self._changed.notify()
            self._watched[deadline] = connection

    def remove(self, deadline: Deadline) -> None:
        """The connection is not touched from now on."""
        with self._changed:
            self._watched.pop(deadline, None)

    def _run(self) -> None:
        with self._changed:
            while self._watched:
                wait = min(max(MIN_WAIT_S, self._shut_down_those_over()), MAX_WAIT_S)
                self._wakes_at = time.monotonic() + wait
                self._changed.wait(wait)
            self._thread = None

    def _shut_down_those_over(self) -> float:
        """Returns the seconds until one more may be over. Takes time in proportion to the connections."""
        soonest = math.inf
        for deadline, connection in [*self._watched.items()]:
            left = deadline.left_s()
            if deadline.over:
                del self._watched[deadline]
                with contextlib.suppress(OSError):  # the peer has left
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)  # not that of TLS, which would wait
            else:
                soonest = min(soonest, left)
        return soonest


_watch = _Watch()


def _forked() -> None:
    """The thread is not in the child, and the lock may be held there for ever."""
    global _watch
    _watch = _Watch()


os.register_at_fork(after_in_child=_forked)


@contextlib.contextmanager
def time_limited(connection: socket.socket, limit: TimeLimit) -> Iterator[Deadline]:
    """Shuts the connection down if its time is over within the block; reads then find its end, and writes fail.

    An OSError that follows from that ends the block, and is not raised. One thread of the process keeps the time of all
    connections. What is no socket has no limit. Raises RuntimeError if that thread is needed and can't be started.
    """
    deadline = Deadline(connection, limit)
    if limit.first_s < math.inf and isinstance(connection, socket.socket):
        _watch.add(deadline, connection, limit.first_s)
    try:
        yield deadline
    except OSError:
        if not deadline.over:
            raise
    finally:
        _watch.remove(deadline)
