"""What the other nodes say: who is there, which start of it is heard, and when it is dropped whole.

A node is heard while new frames of it arrive; the time is that of this host alone. Silence for a lease, or a goodbye,
drops all of its sessions in one moment, and its windows. Nothing that another node says raises an error here, or takes
memory beyond the bounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from inbound_audit.cluster import frames
from inbound_audit.cluster.bounds import Bounds
from inbound_audit.cluster.clock_difference import ClockDifference
from inbound_audit.cluster.copies import Copies
from inbound_audit.cluster.frames import OVERRIDES, SESSIONS, Frame, FrameError, FrameType, OtherVersionError
from inbound_audit.cluster.host_overrides import HostOverrides
from inbound_audit.cluster.host_series import HostSeries
from inbound_audit.cluster.leases import lease_s
from inbound_audit.cluster.node_state import COUNTED, WINDOW_COST_BYTES, NodeState, State
from inbound_audit.cluster.node_trees import NodeTree, NodeTrees, all_records
from inbound_audit.cluster.own_name import SAME_AGE_S, OwnName
from inbound_audit.cluster.replica import Replica
from inbound_audit.cluster.snapshots import read_snapshots
from inbound_audit.errors import CapacityError

HINT_LEASE_S = 0.3
"""What is left of a lease when the engine says that a node is gone."""
DISAGREE_S = 10.0
"""What is heard of a node, but of which no snapshot can be had for so long, is not counted until there is one."""
FORGET_S = 10.0
"""So long after a node was lost, what is known of its start is forgotten: no engine delays a frame for longer."""
ALIVE_S = 1.0
"""Another start of a node that was lost is taken if its frames have come for so long as fast as they were sent. It
seemed older, because what the lost one had said was delayed: while this host stood still, or was cut off."""
CHECK_S = 0.2
"""Seconds from one check of all nodes to the next, at most."""


class Receiver:
    """What the others say, in trees that this host's processes count. It belongs to one thread.

    Parameters:
        node, epoch: this node's own; its frames come back, or those of another node of the same name do.
        trees: the trees of the other nodes.
        clock: monotonic, in seconds.
        bounds: what the others may take.
        series: the series of this host; without them no windows of other nodes are counted.
        utc: the clock that numbers this host's windows, in seconds since 1970.
        overrides: those of this host; without them none of other nodes are taken.
    """

    def __init__(
        self,
        node: str,
        epoch: int,
        trees: NodeTrees,
        clock: Callable[[], float],
        bounds: Bounds = Bounds(),  # noqa: B008 - it is immutable
        series: HostSeries | None = None,
        utc: Callable[[], float] = time.time,
        overrides: HostOverrides | None = None,
    ) -> None:
        self.node = node
        self.bounds = bounds
        self.nodes: dict[str, NodeState] = {}
        self.full = False
        """A node was not taken, while sections are held by nodes that are lost: `move` to other trees."""
        self.dropped = 0
        """Frames of nodes that are not listed."""
        self.copies = Copies(bounds, series)
        self._overrides = overrides
        self._trees = trees
        self._utc_at: Callable[[float], float] = lambda at: utc() - clock() + at
        self._own = OwnName(epoch, clock())
        self._listed_at = self._check_at = float("-inf")
        own = NodeState(node, self._replica(node, clock()), state=State.THIS_HOST)
        own.say(State.THIS_HOST)
        self.nodes[node] = own

    @property
    def duplicate(self) -> bool:
        """Another node has this node's name and is newer: this node's `Sender` must be silent."""
        return self._own.taken

    def heard(self, node: str, data: bytes, now: float) -> None:
        """Takes a frame of a node. Whatever is wrong with it is counted, and is no error."""
        state = self.nodes.get(node)
        bounds = self.bounds
        if state is not None and not state.allows(len(data), bounds.max_bytes_per_s, bounds.burst_s, now):
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
            if frame.type == FrameType.CLOCK:
                self._note_clock(state, frame, now)
                return
            if frame.type == FrameType.OVERRIDES:
                self._note_overrides(state, frame, now)
                return
            state = state or self._new(node, now)
            if state is self.nodes[self.node]:
                self._own.hear(frame, now)
                self._say_own()
            elif state is not None and self._is_new(state, frame, now):
                self._take(state, frame, now)

    def _note_clock(self, state: NodeState | None, frame: Frame, now: float) -> None:
        """It is no sign of life. One that a later frame has overtaken is not taken: that clock may be another now."""
        if state is not None and _is_counted(state, frame) and frame.seq >= state.seq:
            state.clock.note(frame.clock_ms / 1000 - self._utc_at(now), now)

    def _note_overrides(self, state: NodeState | None, frame: Frame, now: float) -> None:
        """It is no sign of life. What it says stays true, whatever has overtaken it."""
        if self._overrides is not None and state is not None and _is_counted(state, frame):
            state.charge(frame.records.count(b"\n"), self.bounds.max_bytes_per_s)
            self._overrides.heard(state, frame, now)

    def answered(self, node: str, parts: Sequence[bytes] | None, now: float) -> None:
        """Takes a node's answer to `asks`: all parts of its snapshot, or None if there was no answer."""
        state = self.nodes.get(node)
        if state is None:
            return
        if not parts:
            state.unanswered()
            return
        bounds = self.bounds
        state.charge_answer([len(part) for part in parts], bounds.max_bytes_per_s, bounds.burst_s, now)
        try:
            snapshots = read_snapshots(parts, bounds.max_hosts)
        except FrameError as error:
            state.drop(str(error))
            return
        said = [part for first, records in snapshots if first.tree == OVERRIDES for part in records]
        costs = [part.count(b"\n") * WINDOW_COST_BYTES for part in said]
        state.charge_answer(costs, bounds.max_bytes_per_s, bounds.burst_s, now)
        for first, records in snapshots:
            if not _is_counted(state, first):
                continue
            if first.tree == OVERRIDES and self._overrides is not None:
                for lines in records:
                    self._overrides.put(node, lines)
            else:
                self.copies.change(state, first, now, records)

    def gone(self, node: str, now: float) -> None:
        """The engine says that a node is gone: its lease ends soon, unless it is heard again."""
        state = self.nodes.get(node)
        if state is not None:
            self._end_at(state, min(state.deadline, now + HINT_LEASE_S))

    def woke(self, now: float) -> None:
        """This host stood still: the others were not silent, but not heard. Each has HINT_LEASE_S from now at least, in
        which what it sent meanwhile comes in."""
        for state in self.nodes.values():
            state.deadline = max(state.deadline, now + HINT_LEASE_S)  # model: cluster/hear

    def tick(self, now: float) -> None:
        """Drops those whose lease is over. To be called some 20 times per second, after what has arrived was taken.
        O(nodes) per CHECK_S and lease that ends, else O(1)."""
        self._own.tick(now)
        self._say_own()
        if now >= self._check_at:
            self._check(now)

    def _check(self, now: float) -> None:
        self._check_at = now + CHECK_S
        for state in self.nodes.values():
            if state.state == State.LOST or state.name == self.node:
                continue
            if now > state.deadline:
                self._lose(state, now)  # model: cluster/lease
                continue
            self._check_at = min(self._check_at, state.deadline)
            for replica in state.replicas:
                if now - replica.agreed_at > DISAGREE_S and not replica.whole and replica.tree.hosts:
                    self.copies.empty(state, replica)
            if state.state == State.DUPLICATE and now - state.rival_at > self._lease():
                state.say(State.HEARD)

    def asks(self, now: float, asked: Collection[str] = ()) -> list[str]:
        """Returns the nodes whose snapshot is to be asked for now, without those of which one is on its way (`asked`).
        Each is named at most once per MIN_ASK_S. O(nodes of which something is missing)."""
        found = [state.name for state in self.copies.incomplete() if state.name not in asked and state.wants(now)]
        if self._overrides is not None:
            found += self._overrides.asks({*asked, *found})
        return found

    def move(self, trees: NodeTrees) -> None:
        """Goes on in other trees, without the nodes that are lost. What the old ones hold is not changed."""
        old = self.nodes
        self._trees = trees
        self.nodes = {}
        self.copies.unsure.clear()
        self.full = False
        for state in old.values():
            if state.state == State.LOST:
                continue
            tree = trees.add(state.name, self.bounds.max_hosts)
            tree.replace(all_records(state.replica.tree, frames.MAX_RECORDS_BYTES))
            state.replica.tree = tree
            self.nodes[state.name] = state
            self.copies.doubt(state)
            state.say(state.state)

    # ---- whether a frame is taken

    def _new(self, node: str, now: float) -> NodeState | None:
        """Lists a node, None if there is no place for it or its name is no name."""
        # `_listed_at` is the moment at which all names that were listed are paid for.
        self._listed_at = max(self._listed_at, now - self.bounds.new_nodes_burst_s)
        if not frames.is_name(node) or self._listed_at > now:
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
        self._listed_at += 1 / self.bounds.max_new_nodes_per_s
        state = self.nodes[node] = NodeState(node, replica, lost_at=now, ask_at=now)
        return state

    def _replica(self, node: str, now: float) -> Replica[NodeTree]:
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
                    self.copies.change(state, frame, now)  # model: cluster/late
                else:
                    state.drop("it was repeated or late")
                return False
        else:
            other = state.begin_of(frame.epoch, began, frame.seq)
            # model: cluster/lives
            lives = other is not None and state.note_rival(frame.epoch, began, now) >= ALIVE_S and lost
            if other is None or (other <= state.began + (-SAME_AGE_S if lost else SAME_AGE_S) and not lives):
                self._rival(state, now)
                return False
            self._begin(state, frame, other, now)
            began = other
        state.began = min(state.began, began)
        state.seq = frame.seq
        return True

    def _begin(self, state: NodeState, frame: Frame, began: float, now: float) -> None:
        if state.epoch is not None:
            state.begin_of(state.epoch, state.began, state.seq)
        state.epoch = frame.epoch  # model: cluster/begin
        state.began = began
        state.clock = ClockDifference()
        self.copies.begin(state, now)

    def _rival(self, state: NodeState, now: float) -> None:
        """A frame of an older start. The newer one counts."""
        state.drop("another node of this name, or an older start of it, is heard too")
        state.rival_at = now
        if state.state == State.HEARD:
            state.say(State.DUPLICATE)

    def _say_own(self) -> None:
        own = self.nodes[self.node]
        now_in = State.DUPLICATE if self._own.taken else State.THIS_HOST
        if own.state != now_in:
            own.say(now_in)

    # ---- what a frame does

    def _take(self, state: NodeState, frame: Frame, now: float) -> None:
        if frame.type == FrameType.GOODBYE:
            self._lose(state, now)  # model: cluster/leave
            return
        state.heard_at = now
        self._end_at(state, now + self._lease())  # model: cluster/hear
        state.version = frames.VERSION
        if frame.tree == SESSIONS and frame.hosts > self.bounds.max_hosts:
            self.copies.refuse_node(state, f"more than {self.bounds.max_hosts:,} hosts")
            return
        if now < state.replica.refused_until:
            return
        if frame.tree != SESSIONS and state.state == State.TOO_LARGE:
            return  # until its sessions are within the bound
        if state.state not in COUNTED:
            self.copies.doubt(state)
        state.say(State.DUPLICATE if state.state == State.DUPLICATE else State.HEARD)
        self.copies.change(state, frame, now)

    def _end_at(self, state: NodeState, deadline: float) -> None:
        state.deadline = deadline
        self._check_at = min(self._check_at, deadline)

    def _lease(self) -> float:
        return lease_s(len(self.nodes))

    def _other_version(self, state: NodeState, error: OtherVersionError, now: float) -> None:
        """The node is listed and not counted, once nothing is heard of it that this agent knows."""
        state.drop(str(error))
        state.version = error.version
        if state.state in (State.LOST, State.OTHER_VERSION):
            state.heard_at = now
            self._end_at(state, now + self._lease())
            state.say(State.OTHER_VERSION)

    # ---- states

    def _lose(self, state: NodeState, now: float) -> None:
        self.copies.empty(state, *state.replicas)
        state.clock = ClockDifference()
        state.lost_at = now
        state.say(State.LOST)


def _is_counted(state: NodeState, frame: Frame) -> bool:
    """Whether the node is counted, and the frame is of its last start."""
    return state.state in COUNTED and state.epoch == frame.epoch
