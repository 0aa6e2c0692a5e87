"""What a store holds of the system: locks, open change logs, a thread."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable

from inbound_audit.persist.change_log import ChangeLog
from inbound_audit.persist.locks import Locks
from inbound_audit.persist.process_lock import process_lock
from inbound_audit.persist.state_directory import StateDirectory

SAVE_INTERVAL_S = 5.0
"""Seconds between saves; a killed process loses at most this much."""

SHARE = 20
"""After a slow save the thread waits SHARE times its duration: saving uses at most 1/(SHARE + 1) of the time."""

LOCK_POLL_S = 0.02

Job = Callable[[], bool]
"""What the thread runs each time; it returns False to end the thread."""


class OsResources:
    """It knows nothing of the audit, and can outlive it."""

    def __init__(self, place: StateDirectory) -> None:
        self.locks = Locks(place)
        self.logs: dict[str, ChangeLog] = {}
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
        self.locks.release_all()

    def release_all(self) -> None:
        """All of it. What was saved is there for who keeps the same series next."""
        self.stop()
        for log in self.logs.values():
            log.close()
        self.locks.release_all()
        self.locks.place.close()


def _work(job: Job, told: int) -> None:
    """The thread."""
    with contextlib.ExitStack() as held:
        held.callback(os.close, told)
        poll = select.poll()
        poll.register(told, select.POLLIN)
        pause = SAVE_INTERVAL_S
        while not poll.poll(1000 * pause):
            while not process_lock.take(LOCK_POLL_S):
                if poll.poll(0):
                    return
            try:
                began = time.monotonic()
                if not job():
                    return
                pause = max(SAVE_INTERVAL_S, SHARE * (time.monotonic() - began))
            finally:
                process_lock.give()
