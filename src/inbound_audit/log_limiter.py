"""At most one log line per interval: what happens ten thousand times per second is logged once, with its number."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Hashable

from inbound_audit.process import ProcessLock

MAX_KINDS = 64
"""Kinds of messages that one limiter tells apart within an interval; all others are one more kind."""

_DETAIL = re.compile(r"""\d+|'[^']*'|"[^"]*\"""")


class LogLimiter:
    """Logs each kind of message at most once per `interval` seconds, so that a frequent one hides no other.

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
        self._kinds: dict[Hashable, tuple[float, int]] = {}  # quiet until, and how many were held back

    def admit(self, kind: Hashable = None) -> int | None:
        """How many messages of that kind were held back before this one, which is to be logged; None if it is held
        back, too. O(1), or O(MAX_KINDS) for a new kind."""
        now = self._clock()
        with self._lock:
            if kind not in self._kinds and len(self._kinds) >= MAX_KINDS:
                kind = self._replaced(kind, now)
            quiet_until, held_back = self._kinds.get(kind, (now, 0))
            if now < quiet_until:
                self._kinds[kind] = quiet_until, held_back + 1
                return None
            self._kinds[kind] = now + self._interval, 0
            return held_back

    def _replaced(self, kind: Hashable, now: float) -> Hashable:
        """Forgets kinds whose interval is over, but for what they held back. Returns the kind, if there is room now."""
        over = [known for known, (quiet_until, _) in self._kinds.items() if quiet_until <= now]
        held_back = sum(self._kinds.pop(known)[1] for known in over)
        if held_back:
            self._kinds[kind] = now, held_back
        return kind if len(self._kinds) < MAX_KINDS or held_back else "another kind"

    def report(self, level: int, message: str, *args: object, kind: Hashable = None) -> None:
        """Logs `message % args`, or counts it. `level` is one of `logging`'s; a disabled one costs next to nothing.

        `kind` (None: as `kind_of` finds it) says which messages are alike.
        """
        if not self._logger.isEnabledFor(level):
            return
        held_back = self.admit(kind_of(message, args) if kind is None else kind)
        if held_back is None:
            return
        if held_back:
            message, args = message + " (and %d more like it since the last such line)", (*args, held_back)
        self._logger.log(level, message, *args)


def kind_of(message: object, args: object) -> Hashable:
    """Messages of one format are alike, unless they report errors of different kinds."""
    errors = [one for one in args if isinstance(one, BaseException)] if isinstance(args, tuple) else []
    return (message, *((type(error), getattr(error, "errno", None)) for error in errors))


def kind_of_text(text: str) -> str:
    """A message without its numbers and quoted parts."""
    return _DETAIL.sub("", text)
