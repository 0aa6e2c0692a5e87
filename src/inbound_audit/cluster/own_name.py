"""Whether another node has the name of this one."""

from __future__ import annotations

from inbound_audit.cluster.frames import Frame

SAME_AGE_S = 0.2
"""The ages of two starts of a node say which is newer if they differ by more."""
RESUME_S = 5.0
"""A duplicate speaks again when the other node of its name has been silent for so long, or up to twice as long."""


class OwnName:
    """What is heard under this node's own name: its own frames, those of an older life, or those of another node.

    Of two nodes of one name the older one yields, after two words of the other.
    """

    def __init__(self, epoch: int, began: float) -> None:
        self.epoch = epoch
        self.taken = False
        """A newer node has this name."""
        self._began = began
        self._heard_at = 0.0
        self._last: dict[int, int] = {}
        """The number of the last frame of the newer node, by its epoch."""

    def hear(self, frame: Frame, now: float) -> None:
        """Takes a frame of this node's name."""
        if frame.epoch == self.epoch:
            return
        later = now - frame.age_ms / 1000 - self._began
        newer = later > SAME_AGE_S or (later > -SAME_AGE_S and frame.epoch > self.epoch)
        if self.taken or newer:
            self._heard_at = now
        last = self._last.get(frame.epoch)
        if not newer or (last is not None and frame.seq <= last):
            return
        if last is not None:
            self.taken = True  # model: cluster/yield
        self._last = {frame.epoch: frame.seq}

    def tick(self, now: float) -> None:
        """Takes the name again when the other has been silent: the nodes of a name differ in how long they wait."""
        if self.taken and now - self._heard_at > RESUME_S * (1 + self.epoch % 1024 / 1024):
            self.taken = False  # model: cluster/resume
            self._last.clear()
