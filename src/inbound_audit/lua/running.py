"""Who runs the Lua of a policy: a fork waits until no other thread does, since a child would be left in the middle."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inbound_audit._ipcount import Session

POLL_S = 0.0005


class Running:
    """A lock that hooks hold while they run, but for `validate_connect`: its session is in `asked` instead.

    It adds the session first and then reads `forks`, for then it takes the lock after all. A fork sets `forks` first
    and then reads `asked`. So one of the two waits for the other. Whoever else adds a session has the lock.
    """

    def __init__(self, asked: MutableMapping[int, Session]) -> None:
        self.forks = False
        self._asked = asked
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def acquire(self) -> None:
        """Before a fork: waits until no other thread runs Lua."""
        self._lock.acquire()
        self.forks = True
        while set(list(self._asked)) - _asked_by_this_thread():  # noqa: C414 - others change it meanwhile: one step
            time.sleep(POLL_S)

    def release(self) -> None:
        """After it, in parent and child."""
        self.forks = False
        self._lock.release()

    @contextlib.contextmanager
    def instead_of_being_asked(self, handle: int) -> Iterator[None]:
        """Holds the lock for a session that is asked: a fork does not wait for both."""
        session = self._asked.pop(handle)
        with self._lock:
            self._asked[handle] = session
            yield


def _asked_by_this_thread() -> set[int]:
    """The handles of sessions whose hooks this thread is in: it forks in a signal handler or a finalizer."""
    found, frame = set(), sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_globals.get("__name__") == "inbound_audit.lua.policy" and "handle" in frame.f_locals:
            found.add(frame.f_locals["handle"])
    return found
