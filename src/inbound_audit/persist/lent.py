"""What the system has lent a keeper: locks, open logs, a thread."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable

from inbound_audit.persist.locks import Locks
from inbound_audit.persist.log import Log
from inbound_audit.persist.place import StateDirectory
from inbound_audit.persist.turn import turn

PERIOD = 5.0
"""Seconds between two saves: the most that a process which is killed has counted in vain."""

SHARE = 20
"""A save that takes long is followed by a pause of so many times its time."""

SOON = 0.02

Job = Callable[[], bool]
"""What the thread does in its turn, each time; False: never again."""


class Lent:
    """It knows nothing of the audit, and can outlive it."""

    def __init__(self, place: StateDirectory) -> None:
        self.locks = Locks(place)
        self.logs: dict[str, Log] = {}
        self._thread: threading.Thread | None = None
        self._wake: int | None = None  # the thread ends when this end of its pipe is closed

    def start(self, job: Job) -> None:
        """Starts the thread, unless it runs. Raises OSError."""
        if self._thread is not None:
            return
        told, wake = os.pipe()
        thread = threading.Thread(target=_work, args=(job, told), name="inbound_audit state", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            os.close(told)
            os.close(wake)
            raise OSError(f"nobody saves: {error}") from None
        self._thread, self._wake = thread, wake

    def stop(self) -> None:
        """Ends the thread, and waits for that."""
        thread, self._thread = self._thread, None
        wake, self._wake = self._wake, None
        if wake is not None:
            os.close(wake)
        if thread is not None and thread is not threading.current_thread():  # which may be the one that collects us
            thread.join()

    def in_child(self) -> None:
        """A fork's child has none of its parent's locks; logs it writes to as the parent does."""
        self.stop()  # which was done before the fork, or else it is not the child's thread
        self.locks.let_go()

    def let_go(self) -> None:
        """All of it. What was saved is there for who keeps the same series next."""
        self.stop()
        for log in self.logs.values():
            log.close()
        self.locks.let_go()
        self.locks.place.close()


def _work(job: Job, told: int) -> None:
    """The thread."""
    with contextlib.ExitStack() as held:
        held.callback(os.close, told)
        poll = select.poll()
        poll.register(told, select.POLLIN)
        pause = PERIOD
        while not poll.poll(1000 * pause):
            while not turn.take(SOON):
                if poll.poll(0):
                    return
            try:
                began = time.monotonic()
                if not job():
                    return
                pause = max(PERIOD, SHARE * (time.monotonic() - began))
            finally:
                turn.give()
