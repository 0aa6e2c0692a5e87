"""What this node says to the others: its changes, its heartbeats, a snapshot when it is asked, and its goodbye.

A frame leaves as soon as something has changed, but not before a pause after the last one. The pause grows with the
number of nodes, because each frame costs each of them time, and with the time that a walk over this host's trees takes.
"""

from __future__ import annotations

from collections.abc import Callable

from inbound_audit.cluster.frames import MAX_AGE_MS, MAX_RECORDS_BYTES, Frame, FrameType, pack
from inbound_audit.cluster.node_trees import NodeTrees, all_records

MIN_PAUSE_S = 0.005
PAUSE_PER_NODE_S = 0.0005
PAUSE_PER_WALK = 20
HEARTBEAT_S = 0.25
MAX_FRAMES_AT_ONCE = 64
"""What a walk has found beyond so many frames is said after the next pause."""


class Sender:
    """What one node says. It belongs to one thread. `clock` is monotonic, in seconds."""

    def __init__(self, epoch: int, trees: NodeTrees, clock: Callable[[], float]) -> None:
        self.epoch = epoch
        self.nodes = 1
        """How many nodes are heard: the agent sets it, and the pause grows with it."""
        self.silent = False
        """Whether this node says nothing, because a newer one has its name (`Receiver.duplicate`)."""
        self._trees = trees
        self._said = trees.said()
        self._clock = clock
        self._began = self._spoke_at = self._walked_at = clock()
        self._walk_s = 0.0
        self._first = True
        self._seq = 0
        self._content = 0  # the number of the last delta

    @property
    def pause(self) -> float:
        """Seconds from one walk to the next, at least."""
        return max(MIN_PAUSE_S, PAUSE_PER_NODE_S * self.nodes, PAUSE_PER_WALK * self._walk_s)

    def move(self, trees: NodeTrees) -> None:
        """Goes on with other trees: what was said is copied there."""
        said = trees.said()
        said.replace(all_records(self._said, MAX_RECORDS_BYTES))
        self._trees, self._said = trees, said

    def due(self, now: float) -> float:
        """Returns the seconds until `frames` is to be called, at most `pause`."""
        if self.silent:
            return self.pause
        if self._first:
            return 0.0
        walk_at = self._walked_at if self._trees.changed() else now
        return max(0.0, min(walk_at + self.pause, self._spoke_at + HEARTBEAT_S) - now)

    def frames(self, now: float) -> list[bytes]:
        """Returns what is to be said now: the changes since the last call, or a heartbeat; [] if there is nothing.

        Costs one load per tree of this host if nothing has changed, else a walk over its hosts.
        """
        said: list[bytes] = []
        if self.silent:
            return said
        if self._first or (now >= self._walked_at + self.pause and self._trees.changed()):
            said = self._changes(now)
        if not said and (self._first or now >= self._spoke_at + HEARTBEAT_S):
            said = [self._next(FrameType.HEARTBEAT)]  # model: cluster/beat
        if said:
            self._spoke_at = now
            self._first = False
        return said

    def snapshot(self) -> list[bytes]:
        """Returns all that was said until now, in parts: the answer to a node that has missed something.

        A silent node has no answer: [].
        """
        if self.silent:
            return []
        parts = all_records(self._said, MAX_RECORDS_BYTES)
        frame = self._frame(FrameType.SNAPSHOT, self._content)  # model: cluster/answer
        return [pack(frame._replace(records=part, part=at, parts=len(parts))) for at, part in enumerate(parts)]

    def goodbye(self) -> bytes:
        """Returns the last frame of an agent that ends in order: the others drop this node at once."""
        return self._next(FrameType.GOODBYE)  # model: cluster/goodbye

    def _changes(self, now: float) -> list[bytes]:
        began = self._clock()
        said: list[bytes] = []
        complete = False
        while not complete and len(said) < MAX_FRAMES_AT_ONCE:
            records = self._trees.difference(self._said, MAX_RECORDS_BYTES)
            complete = self._trees.complete
            if records:
                self._said.set_many(records)
                said.append(self._next(FrameType.DELTA, records))  # model: cluster/say
        self._walk_s = self._clock() - began
        self._walked_at = now
        return said

    def _next(self, type_: FrameType, records: bytes = b"") -> bytes:
        """Each frame has a number of its own: one that is repeated is not a sign of life."""
        self._seq += 1
        data = pack(self._frame(type_, self._seq)._replace(base=self._content, records=records))
        if type_ == FrameType.DELTA:
            self._content = self._seq
        return data

    def _frame(self, type_: FrameType, seq: int) -> Frame:
        age = min(int((self._clock() - self._began) * 1000), MAX_AGE_MS)
        said = self._said
        return Frame(type_, self.epoch, seq, 0, age, said.hosts, said.total, said.digest)
