"""What is known of one other node: how it is, which start of it is heard, and the copies of what it has said."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from inbound_audit.cluster import frames
from inbound_audit.cluster.clock_difference import ClockDifference
from inbound_audit.cluster.node_trees import NodeTree
from inbound_audit.cluster.replica import Replica
from inbound_audit.cluster.windows import WindowTrees

MAX_OTHERS = 8
"""Other starts of a node of which is kept when they began."""

MIN_ASK_S = 0.1
MAX_ASK_S = 1.0
"""From one request for a snapshot to the next of the same node. It doubles while the node goes on to need them."""
MAX_UNANSWERED_S = 0.25
"""But only so far while the node does not answer: it may have no connection yet, and no answer costs little."""

MAX_JITTER_S = 0.4
"""By how much the way of a frame may take longer than that of another one, if both have come as fast as they were sent.
"""

FRAME_COST_BYTES = 8192
"""What a frame counts in a node's bound of bytes per second beside its own."""
WINDOW_COST_BYTES = 1024
"""What a window of which a frame says something counts there: to make and to drop its tree takes 40 microseconds. And
what a line of overrides counts: to read it takes 15."""


class State(IntEnum):
    """How a node is: what other processes of this host read, too. Only HEARD and DUPLICATE are counted."""

    HEARD = 1
    LOST = 2
    DUPLICATE = 3
    OTHER_VERSION = 4
    THIS_HOST = 5
    TOO_LARGE = 6


COUNTED = frozenset((State.HEARD, State.DUPLICATE))


@dataclass(slots=True, eq=False)
class NodeState:
    """What is known of one node. Times are those of the receiver's clock, in seconds."""

    name: str
    replica: Replica[NodeTree]
    """Of its sessions."""
    windows: dict[int, Replica[WindowTrees]] = field(default_factory=dict)
    """Of its windows, by the tree of frames; none before there is something."""
    clock: ClockDifference = field(default_factory=ClockDifference)
    state: State = State.LOST
    epoch: int | None = None
    """The number of its last start, as far as it was heard."""
    others: dict[int, tuple[float, int]] = field(default_factory=dict)
    """When other starts began, as far as their frames were heard (a copy that is late seems newer than it is), and the
    number of the last frame of each."""
    rival: tuple[int, float, float] = (0, 0.0, 0.0)
    """The other start that was heard last: since when its frames have come as fast as they were sent, and when it began
    by these."""
    seq: int = 0
    began: float = 0.0
    heard_at: float = 0.0
    deadline: float = 0.0
    lost_at: float = 0.0
    rival_at: float = 0.0
    version: int = frames.VERSION
    snapshots: int = 0
    dropped: int = 0
    """Frames that were not taken: damaged, repeated, late, too many, or of an older start."""
    bytes: int = 0
    why: str = ""
    """Why the last frame was dropped."""
    allowance: float = 0.0
    ask_at: float = 0.0
    ask_pause: float = MIN_ASK_S
    overrides_ask_at: float = 0.0
    """When it may be asked again because its overrides differ from those of this host."""
    overrides_pause: float = 0.0

    @property
    def hosts(self) -> int:
        return self.replica.tree.hosts

    @property
    def total(self) -> int:
        return self.replica.tree.total

    @property
    def replicas(self) -> tuple[Replica[Any], ...]:
        """Of its sessions, and of its windows."""
        return (self.replica, *self.windows.values()) if self.windows else (self.replica,)

    @property
    def gaps(self) -> int:
        """How often something of it was missing."""
        return sum(replica.gaps for replica in self.replicas)

    @property
    def whole(self) -> bool:
        """Whether all is counted that it is known to have said."""
        return self.replica.whole and all(replica.whole for replica in self.windows.values())

    @property
    def refused_windows(self) -> bool:
        """Whether its windows are more than the bounds, and are not counted."""
        return any(replica.refused_until for replica in self.windows.values())

    def say(self, now_in: State) -> None:
        """Notes how the node is, also for other processes of this host."""
        self.state = now_in
        self.replica.tree.set_word(now_in, int(self.heard_at * 1e9))

    def age(self, now: float) -> float:
        """Returns the seconds since its last word."""
        return now - self.heard_at

    def begin_of(self, epoch: int, began: float, seq: int) -> float | None:
        """Returns when another start began, by the frame of it that was least late; None if this frame was repeated."""
        known, last = self.others.pop(epoch, (began, 0))
        began = min(began, known)
        self.others[epoch] = began, max(seq, last)  # model: cluster/ended
        while len(self.others) > MAX_OTHERS:
            del self.others[next(iter(self.others))]
        return began if seq > last else None

    def note_rival(self, epoch: int, began: float, now: float) -> float:
        """Notes a frame of another start, and returns for how long its frames have come as fast as they were sent. What
        comes out of a queue comes faster, and seems to have begun ever earlier."""
        last, since, before = self.rival
        if epoch != last or abs(began - before) > MAX_JITTER_S:
            self.rival = epoch, now, began
            return 0.0
        return now - since

    def drop(self, why: str) -> None:
        """Counts a frame that is not taken."""
        self.dropped += 1
        self.why = why

    def allows(self, size: int, max_bytes_per_s: int, burst_s: int, now: float) -> bool:
        """Whether the node's bound of bytes per second has room for a frame, which is counted."""
        # `allowance` is the moment at which all that was heard is paid for.
        self.allowance = max(self.allowance, now - burst_s)
        if self.allowance > now:
            return False
        self.allowance += (size + FRAME_COST_BYTES) / max_bytes_per_s
        self.bytes += size
        return True

    def charge(self, windows: int, max_bytes_per_s: int) -> None:
        """Counts so many windows, or lines, in that bound."""
        self.allowance += windows * WINDOW_COST_BYTES / max_bytes_per_s

    def charge_answer(self, sizes: list[int], max_bytes_per_s: int, burst_s: int, now: float) -> None:
        """Counts a snapshot of parts of these bytes there. What there is no room for delays the next request, and no
        frame: a node with many hosts is heard meanwhile."""
        cost_s = sum(size + FRAME_COST_BYTES for size in sizes) / max_bytes_per_s
        paid_at = max(self.allowance, now - burst_s) + cost_s
        self.allowance = min(paid_at, max(self.allowance, now))
        self.ask_at = max(self.ask_at, paid_at)

    def unanswered(self) -> None:
        """The last request had no answer."""
        self.ask_pause = min(self.ask_pause, MAX_UNANSWERED_S)

    def wants(self, now: float) -> bool:
        """Whether its snapshot is to be asked for now. If so, it is not for the next MIN_ASK_S."""
        if self.state not in COUNTED or now < self.ask_at or now < self.allowance:
            return False
        if not [one for one in self.replicas if not one.whole and now >= one.refused_until]:
            return False
        if now - self.ask_at > 2 * MAX_ASK_S:
            self.ask_pause = MIN_ASK_S
        self.ask_at = now + self.ask_pause  # model: cluster/ask
        self.ask_pause = min(2 * self.ask_pause, MAX_ASK_S)
        return True
