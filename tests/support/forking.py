"""Forks under AddressSanitizer, whose allocator has locks that a fork copies as they are: one that another thread holds
at that moment is held in the child for ever. Programs that don't run under it need not care.

This is imported before the package, so that what is registered here runs after the package's own hook, which ends its
threads: one that was waited for still gives its memory back.
"""

from __future__ import annotations

import os
import threading
import time

UNDER_ASAN = "libasan" in os.environ.get("LD_PRELOAD", "")
MAX_WAIT_S = 5.0
"""For threads that never end, and that Python does not know: a fork beside them takes its chance."""


def _tasks() -> int:
    return len(os.listdir("/proc/self/task"))


def _let_threads_end() -> None:
    deadline = time.monotonic() + MAX_WAIT_S
    while _tasks() - threading.active_count() > _UNKNOWN and time.monotonic() < deadline:
        time.sleep(0.001)


if UNDER_ASAN:
    _UNKNOWN = _tasks() - threading.active_count()
    """Threads that Python does not count, such as one of pytest-xdist."""
    os.register_at_fork(before=_let_threads_end)
