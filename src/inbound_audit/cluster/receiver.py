"""What the other nodes say: who is there, which start of it is heard, and when it is dropped whole.

A node is heard while new frames of it arrive; the time is that of this host alone. Silence for a lease, or a goodbye,
drops all of its sessions in one moment. Nothing that another node says raises an error here, or takes memory beyond the
bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from inbound_audit.cluster import frames
from inbound_audit.cluster.frames import Frame, FrameError, FrameType, OtherVersionError
from inbound_audit.cluster.node_trees import NodeTrees, all_records
from inbound_audit.cluster.replica import Replica
from inbound_audit.errors import CapacityError

LEASE_S = 1.35
"""A node that restarts within a second is not dropped, with a heartbeat and the way of a frame added."""
LONG_LEASE_S = 2.5
LONG_LEASE_NODES = 100
"""With more nodes than these the lease is the long one."""
HINT_LEASE_S = 0.3
"""What is left of a lease when the engine says that a node is gone."""
DISAGREE_S = 10.0
"""A node that is heard, but of which no snapshot can be had for so long, is not counted until there is one."""
FORGET_S = 10.0
"""So long after a node was lost, what is known of its start is forgotten: no engine delays a frame for longer."""
MAX_OTHERS = 8
"""Other starts of a node of which is kept when they began."""
SAME_AGE_S = 0.2
"""Two starts of a node are told apart by their ages if these differ by more."""
RESUME_S = 5.0
"""A duplicate speaks again when the other node of its name has been silent for so long, or up to twice as long."""

GAP_S = 0.02
"""A change that is missing may be late only: so long no snapshot is asked for."""
MIN_ASK_S = 0.1
MAX_ASK_S = 1.0
"""From one request for a snapshot to the next of the same node. It doubles while the node goes on to need them."""

FRAME_COST_BYTES = 8192
"""What a frame counts in a node's bound of bytes per second beside its own."""


class Bounds(NamedTuple):
    """What the other nodes may take of this agent, at most. Frames beyond it are dropped, and counted as dropped."""

    max_nodes: int = 4000
    max_hosts: int = 1_000_000
    """Of one node. A node that has more is listed, and not counted."""
    max_all_hosts: int = 20_000_000
    """Of all nodes: half a gigabyte for IPv4, a whole one for IPv6."""
    max_waiting_bytes: int = 1 << 20
    """Changes of one node that wait for one that is missing."""
    max_all_waiting_bytes: int = 64 << 20
    max_bytes_per_s: int = 8 << 20
    """Of one node, each frame counted with FRAME_COST_BYTES more: 1,000 small frames per second."""
    burst_s: int = 4


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
    replica: Replica
    state: State = State.LOST
    epoch: int | None = None
    """The number of its last start, as far as it was heard."""
    others: dict[int, float] = field(default_factory=dict)
    """When other starts began, as far as their frames were heard: a copy that is late seems newer than it is."""
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

    @property
    def hosts(self) -> int:
        return self.replica.tree.hosts

    @property
    def total(self) -> int:
        return self.replica.tree.total

    @property
    def gaps(self) -> int:
        """How often something of it was missing."""
        return self.replica.gaps

    @property
    def whole(self) -> bool:
        """Whether all is counted that it is known to have said."""
        return self.replica.whole

    def age(self, now: float) -> float:
        """Returns the seconds since its last word."""
        return now - self.heard_at

    def begin_of(self, epoch: int, began: float) -> float:
        """Returns when another start began, by the frame of it that was least late."""
        began = min(began, self.others.pop(epoch, began))
        self.others[epoch] = began  # model: cluster/ended
        while len(self.others) > MAX_OTHERS:
            del self.others[next(iter(self.others))]
        return began

    def drop(self, why: str) -> None:
        """Counts a frame that is not taken."""
        self.dropped += 1
        self.why = why


class Receiver:
    """What the others say, in trees that this host's processes count. It belongs to one thread.

    Parameters:
        node, epoch: this node's own; its frames come back, or those of another node of the same name do.
        trees: the trees of the other nodes.
        clock: monotonic, in seconds.
        bounds: what the others may take.
    """

    def __init__(
        self,
        node: str,
        epoch: int,
        trees: NodeTrees,
        clock: Callable[[], float],
        bounds: Bounds = Bounds(),  # noqa: B008 - it is immutable
    ) -> None:
        self.node = node
        self.epoch = epoch
        self.bounds = bounds
        self.nodes: dict[str, NodeState] = {}
        self.duplicate = False
        """Another node has this node's name and is newer: this node's `Sender` must be silent."""
        self.full = False
        """A node was not taken, while sections are held by nodes that are lost: `move` to other trees."""
        self.dropped = 0
        """Frames of nodes that are not listed."""
        self.hosts = 0
        self.waiting_bytes = 0
        self._trees = trees
        self._began = clock()
        self._rival_seq: dict[int, int] = {}
        own = NodeState(node, self._replica(node, self._began), State.THIS_HOST)
        own.replica.tree.set_word(own.state, 0)
        self.nodes[node] = own

    def heard(self, node: str, data: bytes, now: float) -> None:
        """Takes a frame of a node. Whatever is wrong with it is counted, and is no error."""
        state = self.nodes.get(node)
        if state is not None and not self._allows(state, len(data), now):
            state.drop("it sends more bytes per second than the bound")
            return
        try:
            frame = frames.unpack(data)
        except OtherVersionError as error:
            state = state or self._new(node, now)
            if state is not None:
                self._other_version(state, error, now)
        except FrameError as error:
            if state is None:
                self.dropped += 1
            else:
                state.drop(str(error))
        else:
            state = state or self._new(node, now)
            if state is self.nodes[self.node]:
                self._own(frame, now)
            elif state is not None and self._is_new(state, frame, now):
                self._take(state, frame, now)

    def answered(self, node: str, parts: Sequence[bytes] | None, now: float) -> None:
        """Takes a node's answer to `asks`: all parts of its snapshot, or None if there was no answer."""
        state = self.nodes.get(node)
        if state is None or not parts:
            return
        try:
            first, records = self._snapshot(parts)
        except FrameError as error:
            state.drop(str(error))
            return
        if first.epoch == state.epoch and state.state in COUNTED:
            self._change(state, first, now, records)

    def gone(self, node: str, now: float) -> None:
        """The engine says that a node is gone: its lease ends soon, unless it is heard again."""
        state = self.nodes.get(node)
        if state is not None:
            state.deadline = min(state.deadline, now + HINT_LEASE_S)

    def tick(self, now: float) -> None:
        """Drops those whose lease is over. To be called some 20 times per second, after what has arrived was taken."""
        for state in self.nodes.values():
            if state.state == State.LOST or state.name == self.node:
                continue
            if now > state.deadline:
                self._lose(state, now)  # model: cluster/lease
            elif now - state.replica.agreed_at > DISAGREE_S and not state.whole and state.hosts:
                self._empty(state)
            elif state.state == State.DUPLICATE and now - state.rival_at > self._lease():
                self._say(state, State.HEARD)
        if self.duplicate and now - self.nodes[self.node].rival_at > RESUME_S * (1 + self.epoch % 1024 / 1024):
            self.duplicate = False  # model: cluster/resume
            self._rival_seq.clear()
            self._say(self.nodes[self.node], State.THIS_HOST)

    def asks(self, now: float) -> list[str]:
        """Returns the nodes whose snapshot is to be asked for now. Each is named at most once per MIN_ASK_S."""
        wanting = [
            state for state in self.nodes.values() if state.state in COUNTED and not state.whole and now >= state.ask_at
        ]
        for state in wanting:
            if now - state.ask_at > 2 * MAX_ASK_S:
                state.ask_pause = MIN_ASK_S
            state.ask_at = now + state.ask_pause  # model: cluster/ask
            state.ask_pause = min(2 * state.ask_pause, MAX_ASK_S)
        return [state.name for state in wanting]

    def move(self, trees: NodeTrees) -> None:
        """Goes on in other trees, without the nodes that are lost. What the old ones hold is not changed."""
        old = self.nodes
        self._trees = trees
        self.nodes = {}
        self.full = False
        for state in old.values():
            if state.state == State.LOST:
                continue
            tree = trees.add(state.name, self.bounds.max_hosts)
            tree.replace(all_records(state.replica.tree, frames.MAX_RECORDS_BYTES))
            state.replica.tree = tree
            self.nodes[state.name] = state
            self._say(state, state.state)

    # ---- whether a frame is taken

    def _allows(self, state: NodeState, size: int, now: float) -> bool:
        """Whether a node's bound of bytes per second has room for a frame."""
        bounds = self.bounds
        cost = size + FRAME_COST_BYTES
        # `allowance` is the moment at which all that was heard is paid for.
        state.allowance = max(state.allowance, now - bounds.burst_s)
        if state.allowance > now:
            return False
        state.allowance += cost / bounds.max_bytes_per_s
        state.bytes += size
        return True

    def _new(self, node: str, now: float) -> NodeState | None:
        """Lists a node, None if there is no place for it or its name is no name."""
        if not frames.is_name(node):
            self.dropped += 1
            return None
        try:
            if len(self.nodes) >= self.bounds.max_nodes:
                raise CapacityError("there are as many nodes as the bound allows")
            replica = self._replica(node, now)
        except CapacityError:
            self.dropped += 1
            lost = sum(state.state == State.LOST for state in self.nodes.values())
            self.full = lost * 8 >= len(self.nodes)
            return None
        state = self.nodes[node] = NodeState(node, replica, lost_at=now, ask_at=now)
        return state

    def _replica(self, node: str, now: float) -> Replica:
        return Replica(self._trees.add(node, self.bounds.max_hosts), self.bounds.max_waiting_bytes, now)

    def _is_new(self, state: NodeState, frame: Frame, now: float) -> bool:
        """Whether this is the next word of the node's last start. If so it is noted as heard."""
        began = now - frame.age_ms / 1000
        lost = state.state == State.LOST
        if state.epoch is None or (lost and now - state.lost_at > FORGET_S):  # model: cluster/forget
            self._begin(state, frame, began, now)
        elif frame.epoch == state.epoch:
            if frame.seq <= state.seq:
                if frame.type == FrameType.DELTA and state.state in COUNTED:
                    # It may be what is missing, but it is no sign of life.
                    self._change(state, frame, now)  # model: cluster/late
                else:
                    state.drop("it was repeated or late")
                return False
        elif (began := state.begin_of(frame.epoch, began)) > state.began + (-SAME_AGE_S if lost else SAME_AGE_S):
            self._begin(state, frame, began, now)
        else:
            self._rival(state, now)
            return False
        state.began = min(state.began, began)
        state.seq = frame.seq
        return True

    def _begin(self, state: NodeState, frame: Frame, began: float, now: float) -> None:
        if state.epoch is not None:
            state.begin_of(state.epoch, state.began)
        state.epoch = frame.epoch  # model: cluster/begin
        state.began = began
        self._account(state, -1)
        state.replica.begin(now)
        self._account(state, 1)

    def _rival(self, state: NodeState, now: float) -> None:
        """A frame of an older start. The newer one counts."""
        state.drop("another node of this name, or an older start of it, is heard too")
        state.rival_at = now
        if state.state == State.HEARD:
            self._say(state, State.DUPLICATE)

    def _own(self, frame: Frame, now: float) -> None:
        """A frame of this node's name: its own, that of an older life, or that of another node."""
        if frame.epoch == self.epoch:
            return
        own = self.nodes[self.node]
        later = now - frame.age_ms / 1000 - self._began
        newer = later > SAME_AGE_S or (later > -SAME_AGE_S and frame.epoch > self.epoch)
        if self.duplicate or newer:
            own.rival_at = now
        last = self._rival_seq.get(frame.epoch)
        if not newer or (last is not None and frame.seq <= last):
            return
        if last is not None and not self.duplicate:
            self.duplicate = True  # model: cluster/yield
            self._say(own, State.DUPLICATE)
        self._rival_seq = {frame.epoch: frame.seq}

    # ---- what a frame does

    def _take(self, state: NodeState, frame: Frame, now: float) -> None:
        if frame.type == FrameType.GOODBYE:
            self._lose(state, now)  # model: cluster/leave
            return
        state.heard_at = now
        state.deadline = now + self._lease()  # model: cluster/hear
        state.version = frames.VERSION
        if frame.hosts > self.bounds.max_hosts:
            self._too_large(state)
            return
        self._say(state, State.DUPLICATE if state.state == State.DUPLICATE else State.HEARD)
        self._change(state, frame, now)

    def _lease(self) -> float:
        return LONG_LEASE_S if len(self.nodes) > LONG_LEASE_NODES else LEASE_S

    def _change(self, state: NodeState, frame: Frame, now: float, parts: Sequence[bytes] = ()) -> None:
        """Gives a change, a heartbeat or a whole snapshot to the copy of the node's tree, within the bounds."""
        if frame.tree != 0:
            state.drop("it is about a tree that this agent does not know")
            return
        replica = state.replica
        was_whole = replica.whole
        too_large = False
        self._account(state, -1)
        try:
            if frame.type == FrameType.DELTA:
                replica.change(frame, now)
            elif frame.type == FrameType.SNAPSHOT:
                state.snapshots += replica.swap(frame, parts, now)
            else:
                replica.compare(frame, now)
        except CapacityError:
            too_large = True
        except ValueError as error:
            state.drop(str(error))
        finally:
            self._account(state, 1)
        if was_whole and not replica.whole:
            state.ask_at = max(state.ask_at, now + GAP_S)
        if too_large or state.hosts > self.bounds.max_hosts or self.hosts > self.bounds.max_all_hosts:
            self._too_large(state)
        if self.waiting_bytes > self.bounds.max_all_waiting_bytes:
            self._account(state, -1)
            replica.drop_waiting()
            self._account(state, 1)

    def _snapshot(self, parts: Sequence[bytes]) -> tuple[Frame, list[bytes]]:
        """Returns the first part and the records of all. Raises FrameError if they are not one snapshot."""
        if len(parts) > frames.MAX_PARTS:
            raise FrameError(f"a snapshot of {len(parts)} parts")
        read = sorted((frames.unpack(part) for part in parts), key=lambda frame: frame.part)
        first = read[0]
        for at, frame in enumerate(read):
            if frame._replace(records=b"", age_ms=0) != first._replace(records=b"", age_ms=0, part=at):
                raise FrameError("the parts of a snapshot do not belong together")
        if first.type != FrameType.SNAPSHOT or len(read) != first.parts:
            raise FrameError("parts of the snapshot are missing")
        if first.hosts > self.bounds.max_hosts:
            raise FrameError(f"a snapshot of {first.hosts:,} hosts")
        return first, [frame.records for frame in read if frame.records]

    def _other_version(self, state: NodeState, error: OtherVersionError, now: float) -> None:
        """The node is listed and not counted, once nothing is heard of it that this agent knows."""
        state.drop(str(error))
        state.version = error.version
        if state.state in (State.LOST, State.OTHER_VERSION):
            state.heard_at = now
            state.deadline = now + self._lease()
            self._say(state, State.OTHER_VERSION)

    # ---- states and sums

    def _lose(self, state: NodeState, now: float) -> None:
        self._empty(state)
        state.lost_at = now
        self._say(state, State.LOST)

    def _too_large(self, state: NodeState) -> None:
        self._empty(state)
        state.why = "it has more hosts than the bound"
        self._say(state, State.TOO_LARGE)

    def _empty(self, state: NodeState) -> None:
        self._account(state, -1)
        state.replica.empty()
        self._account(state, 1)

    def _say(self, state: NodeState, now_in: State) -> None:
        state.state = now_in
        state.replica.tree.set_word(now_in, int(state.heard_at * 1e9))

    def _account(self, state: NodeState, sign: int) -> None:
        """Takes a node's hosts and waiting bytes out of the sums, or adds them."""
        self.hosts += sign * state.replica.tree.hosts
        self.waiting_bytes += sign * state.replica.waiting_bytes
