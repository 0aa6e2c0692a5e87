"""What this node says to the others: its changes, its heartbeats, a snapshot when it is asked, and its goodbye.

A frame leaves as soon as something has changed, but not before a pause after the last one. The pause grows with the
number of nodes, because each frame costs each of them time, and with the processor time of a walk over this host's
trees.
Sessions and windows are said apart from one another, in frames of trees of their own. Frames are numbered together.
With windows goes the clock by which they are numbered. Overrides have frames of a type of their own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from math import inf
from typing import Any, NamedTuple, Protocol

from inbound_audit.cluster.frames import (
    MAX_AGE_MS,
    MAX_CLOCK_MS,
    MAX_PARTS,
    MAX_RECORDS_BYTES,
    OVERRIDES,
    SESSIONS,
    Frame,
    FrameType,
    pack,
)
from inbound_audit.cluster.host_overrides import HostOverrides
from inbound_audit.cluster.leases import HEARTBEAT_S, heartbeat_s
from inbound_audit.cluster.node_trees import Counts, NodeTrees, all_records
from inbound_audit.errors import CapacityError

logger = logging.getLogger("inbound_audit.cluster")

PAUSE_PER_NODE_S = 0.0005
PAUSE_PER_WALK = 10
"""A host that changes all the time walks a tenth of it."""


class Pace(NamedTuple):
    """How often a tree is said: seconds between two walks, and between two heartbeats, at least; and how many frames
    may follow one another. What a walk has found beyond these is said after the next pause."""

    min_pause_s: float
    min_heartbeat_s: float
    max_frames: int


MIN_PAUSE_S = 0.005
SESSIONS_PACE = Pace(MIN_PAUSE_S, HEARTBEAT_S, 64)
WINDOWS_PACE = Pace(1.0, 1.0, 8)
"""2 MiB a second: a quarter of what a node may say."""
MAX_FIRST_FRAMES = 64
"""The first walk has more: until all is said, a snapshot has less than what an agent before this one has said."""


class Source(Protocol):
    """What a tree of frames is about: `NodeTrees`, or the windows of some series."""

    number: int

    def said(self) -> Any: ...
    def difference(self, said: Any, max_bytes: int) -> bytes: ...
    @property
    def complete(self) -> bool: ...
    def changed(self) -> bool: ...


class Stream:
    """What is said in the frames of one tree. `content`: the number of the last change."""

    def __init__(self, number: int, source: Any, pace: Pace, now: float) -> None:
        self.number = number
        self.said: Counts = source.said()
        self.content = 0
        self.spoke_at = now
        self._source = source
        self._pace = pace
        self._walked_at = now
        self._walk_s = 0.0
        self._walked = False
        self._lacks_room = False
        """The last walk had no room for what it found: the next one says the rest."""

    @property
    def has_heartbeats(self) -> bool:
        """Sessions have them always, as signs of life; others from the first change on, as it may be lost."""
        return self.number == SESSIONS or self.content > 0

    def move(self, source: Any) -> None:
        """Goes on with another source: what was said is copied there."""
        said = source.said()
        said.replace(all_records(self.said, MAX_RECORDS_BYTES))
        self._source, self.said = source, said

    def pause(self, nodes: int) -> float:
        """Seconds from one walk to the next, at least."""
        return max(self._pace.min_pause_s, PAUSE_PER_NODE_S * nodes, PAUSE_PER_WALK * self._walk_s)

    def due_at(self, now: float, nodes: int) -> float:
        """When `walk` or a heartbeat is due; `inf`: neither."""
        if not self._walked:
            return now
        beat_at = self._beat_at(nodes)
        walk_at = self._walked_at if self._may_change() else now
        return min(walk_at + self.pause(nodes), beat_at)

    def wants_heartbeat(self, now: float, nodes: int) -> bool:
        return now >= self._beat_at(nodes)

    def _beat_at(self, nodes: int) -> float:
        pause_s = max(self._pace.min_heartbeat_s, heartbeat_s(nodes))
        return self.spoke_at + pause_s if self.has_heartbeats else inf

    def walks(self, now: float, nodes: int) -> bool:
        """Whether something may have changed, and may be said."""
        return not self._walked or (now >= self._walked_at + self.pause(nodes) and self._may_change())

    def _may_change(self) -> bool:
        return self._lacks_room or self._source.changed()

    def changes(self, now: float, cost: Callable[[], float]) -> Iterable[bytes]:
        """The records of what has changed since it was said, a frame each."""
        began = cost()
        max_frames = self._pace.max_frames if self._walked else MAX_FIRST_FRAMES
        self._walked = True
        lacked_room, self._lacks_room = self._lacks_room, False
        for _ in range(max_frames):
            records = self._next_records()
            if records:
                yield records
            if self._lacks_room or self._source.complete:
                break
        if self._lacks_room and not lacked_room:
            logger.warning("this host has no memory for all that it says to other nodes; the rest is tried again")
        self._walk_s = cost() - began
        self._walked_at = now

    def _next_records(self) -> bytes:
        """The next records of a walk, set as said. If there was no room for some, the digest of their frame is that of
        the others, and a node that hears it asks for a snapshot."""
        records = b""
        try:
            records = self._source.difference(self.said, MAX_RECORDS_BYTES)
            if records:
                self.said.set_many(records)
        except CapacityError:
            self._lacks_room = True
        return records


class Sender:
    """What one node says. It belongs to one thread.

    Parameters:
        epoch: the number of this start of the agent.
        trees: this host's sessions.
        clock: monotonic, in seconds.
        windows: what is said apart from the sessions.
        cost: the seconds of the processor that this thread has used; without it, the time of `clock`.
        utc: the clock that numbers windows, in seconds since 1970.
        overrides: those of this host.
    """

    def __init__(
        self,
        epoch: int,
        trees: NodeTrees,
        clock: Callable[[], float],
        windows: Iterable[Source] = (),
        cost: Callable[[], float] | None = None,
        utc: Callable[[], float] = time.time,
        overrides: HostOverrides | None = None,
    ) -> None:
        self.epoch = epoch
        self.nodes = 1
        """How many nodes there are: the agent sets it, and the pauses grow with it."""
        self.silent = False
        """Whether this node says nothing, because a newer one has its name (`Receiver.duplicate`)."""
        self._clock = clock
        self._cost = clock if cost is None else cost
        self._utc = utc
        self._overrides = overrides
        self._began = clock()
        self._first = True
        self._seq = 0
        self._sessions = Stream(SESSIONS, trees, SESSIONS_PACE, self._began)
        others = [Stream(source.number, source, WINDOWS_PACE, self._began) for source in windows]
        self._streams = [self._sessions, *others]

    @property
    def pause(self) -> float:
        """Seconds from one walk over the sessions to the next, at least."""
        return self._sessions.pause(self.nodes)

    @property
    def digest(self) -> int:
        """Of the sessions that were said."""
        return self._sessions.said.digest

    def move(self, trees: NodeTrees) -> None:
        """Goes on with other trees of sessions."""
        self._sessions.move(trees)

    def due(self, now: float) -> float:
        """Returns the seconds until `frames` is to be called, at most `pause`."""
        if self.silent:
            return self.pause
        if self._first:
            return 0.0
        return max(0.0, min(stream.due_at(now, self.nodes) for stream in self._streams) - now)

    def frames(self, now: float) -> list[bytes]:
        """Returns what is to be said now: the changes since the last call, or a heartbeat; [] if there is nothing.

        Costs one load per tree of this host if nothing has changed, else a walk over its hosts.
        """
        if self.silent:
            return []
        said = [frame for stream in self._streams for frame in self._of(stream, now)]
        self._first = False
        lines = None if self._overrides is None else self._overrides.words(now, self.nodes)
        return said if lines is None else [*said, pack(self._overrides_frame(FrameType.OVERRIDES, lines))]

    def snapshot(self) -> list[bytes]:
        """Returns all that was said until now, in parts, of each tree: the answer to a node that has missed something.
        A tree for which there is no room in an answer is left out; the sessions come first.

        A silent node has no answer: [].
        """
        answer: list[bytes] = []
        for stream in [] if self.silent else self._streams:
            parts = all_records(stream.said, MAX_RECORDS_BYTES)
            if len(answer) + len(parts) <= MAX_PARTS:
                frame = self._frame(FrameType.SNAPSHOT, stream, stream.content)  # model: cluster/answer
                answer += _parts(frame, parts)
        if not self.silent and self._overrides:
            parts = self._overrides.parts()
            if len(answer) + len(parts) <= MAX_PARTS:
                answer += _parts(self._overrides_frame(FrameType.SNAPSHOT), parts)
        return answer

    def goodbye(self) -> bytes:
        """Returns the last frame of an agent that ends in order: the others drop this node at once."""
        return self._next(FrameType.GOODBYE, self._sessions)  # model: cluster/goodbye

    def _of(self, stream: Stream, now: float) -> list[bytes]:
        said: list[bytes] = []
        if stream.walks(now, self.nodes):
            said = [self._next(FrameType.DELTA, stream, records) for records in stream.changes(now, self._cost)]
            # model: cluster/say
        if not said and ((self._first and stream is self._sessions) or stream.wants_heartbeat(now, self.nodes)):
            said = [self._next(FrameType.HEARTBEAT, stream)]  # model: cluster/beat
        if said:
            stream.spoke_at = now
            if stream is not self._sessions:
                said.append(self._clock_frame(stream))
        return said

    def _next(self, type_: FrameType, stream: Stream, records: bytes = b"") -> bytes:
        """Each frame has a number of its own: one that is repeated is not a sign of life."""
        self._seq += 1
        data = pack(self._frame(type_, stream, self._seq)._replace(base=stream.content, records=records))
        if type_ == FrameType.DELTA:
            stream.content = self._seq
        return data

    def _clock_frame(self, stream: Stream) -> bytes:
        frame = self._frame(FrameType.CLOCK, stream, self._seq)._replace(hosts=0, total=0, digest=0)
        return pack(frame._replace(clock_ms=min(max(int(1000 * self._utc()), 0), MAX_CLOCK_MS)))

    def _overrides_frame(self, type_: FrameType, lines: bytes = b"") -> Frame:
        assert self._overrides is not None
        number, digest = len(self._overrides), self._overrides.digest
        frame = self._frame(type_, self._sessions, self._seq)
        return frame._replace(tree=OVERRIDES, hosts=number, total=number, digest=digest, records=lines)

    def _frame(self, type_: FrameType, stream: Stream, seq: int) -> Frame:
        age = min(int((self._clock() - self._began) * 1000), MAX_AGE_MS)
        said = stream.said
        return Frame(type_, self.epoch, seq, 0, age, said.hosts, said.total, said.digest, tree=stream.number)


def _parts(frame: Frame, parts: list[bytes]) -> list[bytes]:
    return [pack(frame._replace(records=part, part=at, parts=len(parts))) for at, part in enumerate(parts)]
