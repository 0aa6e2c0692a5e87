"""By how much the clock of another node differs from that of this host.

Windows are those of UTC, so what a node records just before a turn lies in another window on a host whose clock
differs. That changes no count here: it is measured and named.
"""

from __future__ import annotations

from collections import deque
from math import inf

MIN_DIFFERENCE_S, MAX_EQUAL_S = 1.0, 0.5
"""From the first on a clock differs, and again below the second it does not."""

WORDS = 3
"""What counts is the word of so many that was on its way for the shortest time: each way makes a clock seem behind."""
MIN_APART_S = 0.5
"""What comes within so long is one word: after a pause of either host several come at once, and all of them late."""


class ClockDifference:
    """What a node has said of its clock, against that of this host. It belongs to one thread."""

    def __init__(self) -> None:
        self.differs = False
        """Whether it is named."""
        self._said: deque[float] = deque(maxlen=WORDS)
        self._said_at = -inf

    @property
    def ahead_s(self) -> float | None:
        """Seconds by which that clock is ahead, negative if it is behind; None before WORDS words."""
        return max(self._said) if len(self._said) == WORDS else None

    def note(self, ahead_s: float, now: float) -> None:
        """Takes a word: by how much that clock, when it was said, was ahead of this one, when it was heard. `now`:
        monotonic, in seconds. O(1)."""
        if now - self._said_at < MIN_APART_S:
            self._said[-1] = max(self._said[-1], ahead_s)
        else:
            self._said.append(ahead_s)
            self._said_at = now
        difference_s = abs(self.ahead_s or 0.0)
        self.differs = difference_s >= (MAX_EQUAL_S if self.differs else MIN_DIFFERENCE_S)


def in_words(ahead_s: float) -> str:
    """``its clock is 3.2 s ahead``."""
    return f"its clock is {abs(ahead_s):.1f} s {'ahead' if ahead_s > 0 else 'behind'}"
