"""What a store holds of the system: locks, open change logs, a thread."""

from __future__ import annotations

import time
from collections.abc import Callable

from inbound_audit import _ipcount
from inbound_audit.persist.change_log import ChangeLog
from inbound_audit.persist.locks import Locks
from inbound_audit.persist.state_directory import StateDirectory
from inbound_audit.process import BackgroundThread, persist_lock

SAVE_INTERVAL_S = 5.0
"""Seconds between saves; a killed process loses at most this much."""

SHARE = 20
"""After a slow save the thread waits SHARE times its duration: saving uses at most 1/(SHARE + 1) of the time."""

Job = Callable[[], bool]
"""What the thread runs each time, under the lock; it returns False to end the thread."""


class OsResources:
    """It has no reference to the audit, and may outlive it."""

    def __init__(self, place: StateDirectory, job: Job) -> None:
        self.locks = Locks(place)
        self.logs: dict[str, ChangeLog] = {}
        self.thread = BackgroundThread("inbound_audit state", _every_interval(job))

    def after_fork_in_child(self) -> None:
        """The locks are the parent's; the child writes to the same change logs."""
        self.locks.release_all()

    def release_all(self) -> None:
        """Closes everything. A process that persists the same series next finds what was saved."""
        if not _ipcount.fork_is_pending():  # else all of it is the parent's
            self.thread.stop()
            self.locks.release_all()
            self.locks.place.close()


def _every_interval(job: Job) -> Callable[[BackgroundThread], None]:
    def run(thread: BackgroundThread) -> None:
        pause = SAVE_INTERVAL_S
        while thread.wait(pause) is not None and thread.acquire(persist_lock):
            try:
                began = time.monotonic()
                if not job():
                    return
                pause = max(SAVE_INTERVAL_S, SHARE * (time.monotonic() - began))
            finally:
                persist_lock.release()

    return run
