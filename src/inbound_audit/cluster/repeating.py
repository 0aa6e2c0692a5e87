"""A job that is done again and again on a thread of its own, because it may wait for a disk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from inbound_audit.errors import ClusterError
from inbound_audit.log_limiter import LogLimiter

logger = logging.getLogger("inbound_audit.cluster")
_failures = LogLimiter(logger)

PAUSE_PER_JOB = 3
"""A job that has much to do has a quarter of the time."""

CLOSE_TIMEOUT_S = 1.0
"""Seconds that `close` waits for a job that is being done."""


class Repeating:
    """Calls `job` with a pause of `pause_s` seconds in between, or longer where it takes long. What it raises is
    logged, and it is called again."""

    def __init__(self, job: Callable[[], object], pause_s: float) -> None:
        self._job = job
        self._pause_s = pause_s
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inbound_audit overrides", daemon=True)

    def start(self) -> None:
        """Raises ClusterError."""
        try:
            self._thread.start()
        except RuntimeError as error:
            raise ClusterError(f"no overrides of other nodes can be taken: {error}") from None

    def close(self) -> None:
        """Ends the thread, if it was started."""
        self._ends.set()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        pause_s = self._pause_s
        while not self._ends.wait(pause_s):
            began = time.monotonic()
            try:
                self._job()
            except Exception as error:
                _failures.report(logging.ERROR, "overrides are not shared now, and tried again: %r", error)
            pause_s = max(self._pause_s, PAUSE_PER_JOB * (time.monotonic() - began))
