"""The frames that have come to an agent and were not handled yet."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

from inbound_audit.cluster.frames import may_wait

MAX_FRAMES, MAX_BYTES = 100_000, 64 << 20
"""What waits in the inbox at most."""

MAX_FRAMES_A_STEP = 500
"""Frames that are taken at once."""

Arrived = tuple[str, bytes, float]
"""The node, the frame, and when it came (`time.monotonic`)."""


class Inbox:
    """Frames that have come and were not handled yet: at most MAX_FRAMES, and MAX_BYTES of them.

    A heartbeat wakes nothing, since most say nothing new: it waits for the next frame of another kind, or for the end
    of the wait.

    Lock rule: its own lock, held for a few assignments.
    """

    def __init__(self) -> None:
        self.dropped = 0
        """How many frames gave way to later ones."""
        self._frames: deque[Arrived] = deque()
        self._bytes = 0
        self._woken = False
        self._changed = threading.Condition()

    def put(self, node: str, frame: bytes) -> None:
        """Called by any thread. O(1), amortized."""
        with self._changed:
            self._frames.append((node, frame, time.monotonic()))
            self._bytes += len(frame)
            self._keep_bounds()
            if not (self._woken or may_wait(frame)):
                self._woken = True
                self._changed.notify()

    def put_back(self, frames: Sequence[Arrived]) -> None:
        """Frames that were taken and not handled: they are taken first. O(frames)."""
        with self._changed:
            self._frames.extendleft(reversed(frames))
            self._bytes += sum(len(frame) for _, frame, _ in frames)
            self._keep_bounds()
            self._woken = True

    def _keep_bounds(self) -> None:
        while len(self._frames) > MAX_FRAMES or self._bytes > MAX_BYTES:
            self._bytes -= len(self._frames.popleft()[1])
            self.dropped += 1

    def since(self, now: float) -> float:
        """When the oldest frame that waits came, `now` if no frame waits. O(1)."""
        with self._changed:
            return self._frames[0][2] if self._frames else now

    def wake(self) -> None:
        """Lets `take` return."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def take(self, timeout_s: float) -> list[Arrived]:
        """The oldest MAX_FRAMES_A_STEP frames, after at most `timeout_s` seconds."""
        with self._changed:
            if not self._woken:
                self._changed.wait(timeout_s)
            taken = [self._frames.popleft() for _ in range(min(len(self._frames), MAX_FRAMES_A_STEP))]
            self._bytes -= sum(len(frame) for _, frame, _ in taken)
            self._woken = bool(self._frames)
            return taken
