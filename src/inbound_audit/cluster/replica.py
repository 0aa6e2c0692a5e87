"""The copy of what another node has said: which of its changes are in it, which wait, and whether a snapshot is wanted.

Each change names the change before it (its base), so a copy knows what it misses. Until the missing one comes, or a
snapshot, what is there stays counted and later changes wait. The digest of each frame tells when the copy differs
although nothing seems to be missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from inbound_audit.cluster.frames import Frame
from inbound_audit.cluster.node_trees import Counts

Tree = TypeVar("Tree", bound=Counts)

WAITING_FRAME_BYTES = 512
"""What a frame that waits costs beside its records."""


class Replica(Generic[Tree]):
    """The copy of one node's tree, or of its windows.

    `gaps`: how often something was missing; `refused`: changes that were no records; `agreed_at`: when the digest of a
    frame was that of the tree for the last time.

    Changes that wait take at most `max_waiting_bytes`; beyond, the oldest is dropped, which a snapshot mends.
    """

    def __init__(self, tree: Tree, max_waiting_bytes: int, now: float) -> None:
        self.tree = tree
        self.max_waiting_bytes = max_waiting_bytes
        self.has: int | None = (
            0  # the last change that is in the tree; None: what is in it is of another epoch or damaged
        )
        self.wanted = 0  # the last change that the node has made, as far as is known
        self.waiting: dict[int, Frame] = {}  # by the change before each
        self.waiting_bytes = 0
        self.gaps = self.refused = 0
        self.agreed_at = now
        self.refused_until = 0.0
        """When what was too much may be tried again; 0: it is within the bounds."""

    @property
    def whole(self) -> bool:
        """Whether all is in the tree that the node is known to have said."""
        return self.has is not None and self.has >= self.wanted

    def begin(self, now: float) -> None:
        """Another epoch begins. What is in the tree stays counted until a snapshot or a digest says better."""
        self.drop_waiting()
        self.has = None if self.tree.hosts else 0
        self.wanted = 0
        self.agreed_at = now

    def empty(self) -> None:
        """Drops all hosts in one moment, and what waits. Only a snapshot brings them back."""
        self.tree.empty()
        self.drop_waiting()
        self.has = None

    def change(self, frame: Frame, now: float) -> None:
        """Takes a change: it is made, or waits for those before it. Raises ValueError, CapacityError."""
        if self.has is not None and frame.seq <= self.has:
            return  # it is in the tree already
        was_whole = self.whole
        self.wanted = max(self.wanted, frame.seq)
        if frame.base == self.has:
            self._make(frame, now)
            self._make_waiting(now)
        else:
            self._wait(frame)  # model: cluster/wait
        self.gaps += was_whole and not self.whole

    def confirms(self, frame: Frame, now: float) -> bool:
        """Whether a heartbeat says what is in the tree already, as nearly all do: then it is not to be compared."""
        return self.has == self.wanted == frame.base and not self.waiting and self._agrees(frame, now)

    def compare(self, frame: Frame, now: float) -> None:
        """Takes a heartbeat, which changes nothing and has the digest of all that was said."""
        if self.has is not None and frame.content < self.has:
            return  # it is late
        was_whole = self.whole
        self.wanted = max(self.wanted, frame.content)
        if self._agrees(frame, now):
            self.has = frame.content  # model: cluster/agree
            self._make_waiting(now)
        elif frame.content == self.has:
            self.has = None
        self.gaps += was_whole and not self.whole

    def swap(self, frame: Frame, parts: Sequence[bytes], now: float) -> bool:
        """Takes a whole snapshot, and returns whether it is of use. Raises ValueError, CapacityError."""
        if self.has is not None and frame.content < self.has:
            return False
        if self.whole and frame.content == self.has and self._agrees(frame, now):
            return False
        self.tree.replace(parts)  # model: cluster/swap
        agrees = self._agrees(frame, now)
        self.has = frame.content if agrees else None
        self._make_waiting(now)
        self.wanted = max([frame.content, *(waiting.seq for waiting in self.waiting.values())])
        return agrees

    def _agrees(self, frame: Frame, now: float) -> bool:
        tree = self.tree
        agrees = tree.digest == frame.digest and tree.hosts == frame.hosts and tree.total == frame.total
        if agrees:
            self.agreed_at = now
        return agrees

    def _make(self, frame: Frame, now: float) -> None:
        self.tree.set_many(frame.records)  # model: cluster/change
        self.has = frame.seq if self._agrees(frame, now) else None

    def _make_waiting(self, now: float) -> None:
        """Makes the changes that have waited for this one, and drops those that are in the tree."""
        while self.has is not None and (frame := self._take(self.has)) is not None:
            try:
                self._make(frame, now)
            except ValueError:
                self.refused += 1
                break
        for base in [base for base, frame in self.waiting.items() if self.has is not None and frame.seq <= self.has]:
            self._take(base)

    def _wait(self, frame: Frame) -> None:
        self._take(frame.base)
        self.waiting[frame.base] = frame
        self.waiting_bytes += len(frame.records) + WAITING_FRAME_BYTES
        while self.waiting_bytes > self.max_waiting_bytes:
            self._take(next(iter(self.waiting)))

    def _take(self, base: int) -> Frame | None:
        frame = self.waiting.pop(base, None)
        if frame is not None:
            self.waiting_bytes -= len(frame.records) + WAITING_FRAME_BYTES
        return frame

    def drop_waiting(self) -> None:
        """Drops the changes that wait; a snapshot mends what they would have changed."""
        self.waiting.clear()
        self.waiting_bytes = 0
