"""Whether this host, or this process, stood still: then the others were not silent, but not heard."""

from __future__ import annotations

MAX_PAUSE_S = 0.4
"""A longer pause between two checks is a stand-still. A shorter one makes no node seem silent: with the pause of a
heartbeat it is less than SILENCE_S, and than a lease."""


class StandStill:
    """Finds stand-stills by the pauses between checks, which are to come several times within MAX_PAUSE_S. It belongs
    to one thread. Times are monotonic, in seconds."""

    def __init__(self, now: float) -> None:
        self.ended_at = now
        """When the last one ended; before the first: when the checks began."""
        self._checked_at = now

    def check(self, now: float) -> bool:
        """Returns whether one has ended since the last check. O(1)."""
        pause_s, self._checked_at = now - self._checked_at, now
        if pause_s <= MAX_PAUSE_S:
            return False
        self.ended_at = now
        return True
