"""How much of its listener's time a script may take once it has taken too much."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Ration:
    """Seconds that a script may still take for what no bound of a single hook ends: hooks that use up their time, waits
    for files, the collection of garbage.

    There are `most_s` of them, and each second in which the script takes nothing brings one back: a script that always
    takes too much has half of the time. Any thread may use it; of two that spend at once one may count for both.
    """

    def __init__(self, most_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_s, self._clock = most_s, clock
        self._whole_at = -math.inf

    @property
    def left_s(self) -> float:
        """What is left; below 0 if more was taken."""
        return min(self._most_s, self._most_s - self._whole_at + self._clock())

    @property
    def is_whole(self) -> bool:
        return self._whole_at <= self._clock()

    def spend(self, seconds: float) -> None:
        """Takes the seconds that have just passed: they come back in as many that follow."""
        self._whole_at = max(self._clock() - seconds, self._whole_at) + 2 * seconds

    @contextmanager
    def spending(self) -> Iterator[float]:
        """Spends the time of a block, which gets what is left, at least 0."""
        began = self._clock()
        try:
            yield max(0.0, self.left_s)
        finally:
            self.spend(self._clock() - began)
