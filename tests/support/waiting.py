"""Waits of tests. They need no other library, so that scripts in processes of their own use them too."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

PATIENCE = 120.0
"""Seconds until something is given up that takes milliseconds on a machine without other work."""


def eventually(condition: Callable[[], object], what: str = "the condition", within_s: float = PATIENCE) -> None:
    """Polls until a condition holds; fails when it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come to hold"
        time.sleep(0.002)


def until_it_suffices(attempt: Callable[[float], bool], first_s: float = 0.2) -> None:
    """Tries with ever longer time limits, until the attempt returns that its limit did not come too early.

    A test of a limit has to do something first. How short a limit leaves time for that is up to the machine.
    """
    limit_s = first_s
    while not attempt(limit_s):
        limit_s *= 3
        assert limit_s < PATIENCE, "no time was enough"


def end_of(pid: int) -> int:
    """Waits for a child: its exit status, or the negative number of a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
