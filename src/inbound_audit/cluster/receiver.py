"""What the other nodes say: who is there, which start of it is heard, and when it is dropped whole.

A node is heard while new frames of it arrive; the time is that of this host alone. Silence for a lease, or a goodbye,
drops all of its sessions in one moment, and its windows. Nothing that another node says raises an error here, or takes
memory beyond the bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from inbound_audit.cluster import frames
from inbound_audit.cluster.bounds import Bounds, Load, WindowLoad
from inbound_audit.cluster.frames import SESSIONS, Frame, FrameError, FrameType, OtherVersionError
from inbound_audit.cluster.host_series import FOR_ALL, FOR_MANAGERS, HostSeries
from inbound_audit.cluster.leases import lease_s
from inbound_audit.cluster.node_state import COUNTED, NodeState, State
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
REFUSE_S = 30.0
"""Windows of a node that were more than the bounds are tried again after so long."""
REFUSE_SESSIONS_S = 1.0
"""Sessions for which there was no room, although the node said that it has few hosts, are tried again after so long."""

CHECK_S = 0.2
"""Seconds from one check of all nodes to the next, at most."""

GAP_S = 0.02
"""A change that is missing may be late only: so long no snapshot is asked for."""


class Receiver:
    """What the others say, in trees that this host's processes count. It belongs to one thread.

    Parameters:
        node, epoch: this node's own; its frames come back, or those of another node of the same name do.
        trees: the trees of the other nodes.
        clock: monotonic, in seconds.
        bounds: what the others may take.
        series: the series of this host; without them no windows of other nodes are counted.
    """

    def __init__(
        self,
        node: str,
        epoch: int,
        trees: NodeTrees,
        clock: Callable[[], float],
        bounds: Bounds = Bounds(),  # noqa: B008 - it is immutable
        series: HostSeries | None = None,
    ) -> None:
        self.node = node
        self.bounds = bounds
        self.nodes: dict[str, NodeState] = {}
        self.full = False
        """A node was not taken, while sections are held by nodes that are lost: `move` to other trees."""
        self.dropped = 0
        """Frames of nodes that are not listed."""
        self.sessions = Load(bounds.max_all_hosts, bounds.max_all_waiting_bytes)
        self.windows = WindowLoad(bounds.max_all_window_hosts, bounds.max_all_waiting_bytes, bounds.max_all_windows)
        self._trees = trees
        self._series = series
        self._own = OwnName(epoch, clock())
        self._listed_at = self._check_at = float("-inf")
        self._wanting: dict[str, NodeState] = {}
        """The nodes of which something may be missing."""
        own = NodeState(node, self._replica(node, clock()), state=State.THIS_HOST)
        own.replica.tree.set_word(own.state, 0)
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
            state = state or self._new(node, now)
            if state is self.nodes[self.node]:
                self._own.hear(frame, now)
                self._say_own()
            elif state is not None and self._is_new(state, frame, now):
                self._take(state, frame, now)

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
        for first, records in snapshots:
            if first.epoch == state.epoch and state.state in COUNTED:
                self._change(state, first, now, records)

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
                    self._empty(state, replica)
            if state.state == State.DUPLICATE and now - state.rival_at > self._lease():
                self._say(state, State.HEARD)

    def asks(self, now: float, asked: Collection[str] = ()) -> list[str]:
        """Returns the nodes whose snapshot is to be asked for now, without those of which one is on its way (`asked`).
        Each is named at most once per MIN_ASK_S. O(nodes of which something is missing)."""
        wanting = self._wanting.items()
        self._wanting = {name: state for name, state in wanting if state.state in COUNTED and not state.whole}
        return [name for name, state in self._wanting.items() if name not in asked and state.wants(now)]

    def move(self, trees: NodeTrees) -> None:
        """Goes on in other trees, without the nodes that are lost. What the old ones hold is not changed."""
        old = self.nodes
        self._trees = trees
        self.nodes = {}
        self._wanting.clear()
        self.full = False
        for state in old.values():
            if state.state == State.LOST:
                continue
            tree = trees.add(state.name, self.bounds.max_hosts)
            tree.replace(all_records(state.replica.tree, frames.MAX_RECORDS_BYTES))
            state.replica.tree = tree
            self.nodes[state.name] = self._wanting[state.name] = state
            self._say(state, state.state)

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
                    self._change(state, frame, now)  # model: cluster/late
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
        for replica in state.replicas:
            with self._load(state, replica).changing(replica):
                replica.begin(now)
        self._wanting[state.name] = state

    def _rival(self, state: NodeState, now: float) -> None:
        """A frame of an older start. The newer one counts."""
        state.drop("another node of this name, or an older start of it, is heard too")
        state.rival_at = now
        if state.state == State.HEARD:
            self._say(state, State.DUPLICATE)

    def _say_own(self) -> None:
        own = self.nodes[self.node]
        now_in = State.DUPLICATE if self._own.taken else State.THIS_HOST
        if own.state != now_in:
            self._say(own, now_in)

    # ---- what a frame does

    def _take(self, state: NodeState, frame: Frame, now: float) -> None:
        if frame.type == FrameType.GOODBYE:
            self._lose(state, now)  # model: cluster/leave
            return
        state.heard_at = now
        self._end_at(state, now + self._lease())  # model: cluster/hear
        state.version = frames.VERSION
        if frame.tree == SESSIONS and frame.hosts > self.bounds.max_hosts:
            self._too_large(state, f"more than {self.bounds.max_hosts:,} hosts")
            return
        if now < state.replica.refused_until:
            return
        if frame.tree != SESSIONS and state.state == State.TOO_LARGE:
            return  # until its sessions are within the bound
        self._say(state, State.DUPLICATE if state.state == State.DUPLICATE else State.HEARD)
        self._change(state, frame, now)

    def _end_at(self, state: NodeState, deadline: float) -> None:
        state.deadline = deadline
        self._check_at = min(self._check_at, deadline)

    def _lease(self) -> float:
        return lease_s(len(self.nodes))

    def _change(self, state: NodeState, frame: Frame, now: float, parts: Sequence[bytes] = ()) -> None:
        """Gives a change, a heartbeat or a whole snapshot to the copy that it is about, within the bounds."""
        replica = self._copy_for(state, frame, now)
        if replica is None or (frame.type == FrameType.HEARTBEAT and replica.confirms(frame, now)):
            return
        load = self._load(state, replica)
        handled = 0 if replica is state.replica else replica.tree.handled
        was_whole = replica.whole
        with load.changing(replica):
            excess = self._give(state, replica, frame, now, parts)
        if replica is not state.replica:
            state.charge(replica.tree.handled - handled, self.bounds.max_bytes_per_s)
        if not replica.whole:
            self._wanting[state.name] = state
        if was_whole and not replica.whole:
            state.ask_at = max(state.ask_at, now + GAP_S)
        if excess or not load.fits:
            self._refuse(state, replica, now, excess or "all nodes together have more than the bounds")
        if load.waiting_bytes > load.max_waiting_bytes:
            with load.changing(replica):
                replica.drop_waiting()

    def _give(self, state: NodeState, replica: Replica[Any], frame: Frame, now: float, parts: Sequence[bytes]) -> str:
        """Returns why the copy has no room for it, "" if it has."""
        try:
            if frame.type == FrameType.DELTA:
                replica.change(frame, now)
            elif frame.type == FrameType.SNAPSHOT:
                state.snapshots += replica.swap(frame, parts, now)
            else:
                replica.compare(frame, now)
        except CapacityError as error:
            return str(error)
        except ValueError as error:
            state.drop(str(error))
        max_hosts = self.bounds.max_hosts if frame.tree == SESSIONS else self.bounds.max_window_hosts
        return "" if replica.tree.hosts <= max_hosts else f"more than {max_hosts:,} hosts"

    def _copy_for(self, state: NodeState, frame: Frame, now: float) -> Replica[Any] | None:
        """The copy that a frame is about, None if it is not to be taken. A node without windows has no copy of them."""
        if frame.tree == SESSIONS:
            return state.replica
        if frame.tree not in (FOR_ALL, FOR_MANAGERS):
            state.drop("it is about a tree that this agent does not know")
            return None
        if self._series is None or not self._series.takes(frame.tree):
            return None
        replica = state.windows.get(frame.tree)
        if replica is None:
            if not frame.hosts and frame.type != FrameType.DELTA:
                return None
            bounds = self.bounds
            copy = self._series.copy(bounds.max_windows, bounds.max_window_hosts, bounds.max_window_events)
            replica = state.windows[frame.tree] = Replica(copy, bounds.max_waiting_bytes, now)
        if frame.hosts > self.bounds.max_window_hosts:
            self._refuse(state, replica, now, f"more than {self.bounds.max_window_hosts:,} hosts")
        if now < replica.refused_until:
            return None
        replica.refused_until = 0.0
        return replica

    def _other_version(self, state: NodeState, error: OtherVersionError, now: float) -> None:
        """The node is listed and not counted, once nothing is heard of it that this agent knows."""
        state.drop(str(error))
        state.version = error.version
        if state.state in (State.LOST, State.OTHER_VERSION):
            state.heard_at = now
            self._end_at(state, now + self._lease())
            self._say(state, State.OTHER_VERSION)

    # ---- states and sums

    def _lose(self, state: NodeState, now: float) -> None:
        self._empty(state, *state.replicas)
        state.lost_at = now
        self._say(state, State.LOST)

    def _refuse(self, state: NodeState, replica: Replica[Any], now: float, why: str) -> None:
        """There is no room for it: the node is not counted, or its windows are not."""
        if replica is state.replica:
            replica.refused_until = now + REFUSE_SESSIONS_S
            self._too_large(state, why)
            return
        self._empty(state, replica)
        replica.refused_until = now + REFUSE_S
        state.why = f"its windows: {why}"

    def _too_large(self, state: NodeState, why: str) -> None:
        self._empty(state, *state.replicas)
        state.why = why
        self._say(state, State.TOO_LARGE)

    def _empty(self, state: NodeState, *replicas: Replica[Any]) -> None:
        for replica in replicas:
            with self._load(state, replica).changing(replica):
                replica.empty()
        self._wanting[state.name] = state

    def _say(self, state: NodeState, now_in: State) -> None:
        if state.state not in COUNTED:
            self._wanting[state.name] = state
        state.state = now_in
        state.replica.tree.set_word(now_in, int(state.heard_at * 1e9))

    def _load(self, state: NodeState, replica: Replica[Any]) -> Load:
        return self.sessions if replica is state.replica else self.windows
