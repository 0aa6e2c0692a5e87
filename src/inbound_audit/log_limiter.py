"""At most one log line per interval: what happens ten thousand times per second is logged once, with its number."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from inbound_audit.process import ProcessLock


class LogLimiter:
    """Logs one kind of message at most once per `interval` seconds.

    The first occurrence is logged at once. Those that follow within the interval are counted, and the next line
    reports how many they were. Any thread may report; a line that is not written is not formatted.
    """

    def __init__(
        self, logger: logging.Logger, interval: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._interval = interval
        self._clock = clock
        # Re-entrant: a finalizer that reports may run in the middle of a report of the same thread.
        self._lock = ProcessLock()
        self._quiet_until: float | None = None
        self._held_back = 0

    def admit(self) -> int | None:
        """How many messages were held back before this one, which is to be logged; None if it is held back, too."""
        now = self._clock()
        with self._lock:
            if self._quiet_until is not None and now < self._quiet_until:
                self._held_back += 1
                return None
            self._quiet_until = now + self._interval
            held_back, self._held_back = self._held_back, 0
            return held_back

    def report(self, level: int, message: str, *args: object) -> None:
        """Logs `message % args`, or counts it. `level` is one of `logging`'s; a disabled one costs next to nothing."""
        if not self._logger.isEnabledFor(level):
            return
        held_back = self.admit()
        if held_back is None:
            return
        if held_back:
            message, args = message + " (and %d more like it since the last such line)", (*args, held_back)
        self._logger.log(level, message, *args)
