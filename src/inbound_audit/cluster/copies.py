"""The copies of what other nodes have said: what a frame does to one, and the bounds that all of them have together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from inbound_audit.cluster.bounds import Bounds, Load, WindowLoad
from inbound_audit.cluster.frames import SESSIONS, Frame, FrameType
from inbound_audit.cluster.host_series import FOR_ALL, FOR_MANAGERS, HostSeries
from inbound_audit.cluster.node_state import COUNTED, NodeState, State
from inbound_audit.cluster.replica import Replica
from inbound_audit.errors import CapacityError

REFUSE_S = 30.0
"""Windows of a node that were more than the bounds are tried again after so long."""
REFUSE_SESSIONS_S = 1.0
"""Sessions for which there was no room, although the node said that it has few hosts, are tried again after so long."""

GAP_S = 0.02
"""A change that is missing may be late only: so long no snapshot is asked for."""


class Copies:
    """Changes the copies of all nodes. Without `series` no windows of other nodes are counted."""

    def __init__(self, bounds: Bounds, series: HostSeries | None) -> None:
        self.bounds = bounds
        self.sessions = Load(bounds.max_all_hosts, bounds.max_all_waiting_bytes)
        self.windows = WindowLoad(bounds.max_all_window_hosts, bounds.max_all_waiting_bytes, bounds.max_all_windows)
        self.unsure: dict[str, NodeState] = {}
        """The nodes of which something may be missing."""
        self._series = series

    def incomplete(self) -> Collection[NodeState]:
        """Returns the nodes that are counted, and of which something is missing. O(those of which something may be)."""
        states = self.unsure.items()
        self.unsure = {name: state for name, state in states if state.state in COUNTED and not state.whole}
        return self.unsure.values()

    def doubt(self, state: NodeState) -> None:
        """Something of the node may be missing."""
        self.unsure[state.name] = state

    def begin(self, state: NodeState, now: float) -> None:
        """Another start of a node begins."""
        for replica in state.replicas:
            with self._load(state, replica).changing(replica):
                replica.begin(now)
        self.doubt(state)

    def change(self, state: NodeState, frame: Frame, now: float, parts: Sequence[bytes] = ()) -> None:
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
            self.doubt(state)
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

    def _refuse(self, state: NodeState, replica: Replica[Any], now: float, why: str) -> None:
        """There is no room for it: the node is not counted, or its windows are not."""
        if replica is state.replica:
            replica.refused_until = now + REFUSE_SESSIONS_S
            self.refuse_node(state, why)
            return
        self.empty(state, replica)
        replica.refused_until = now + REFUSE_S
        state.why = f"its windows: {why}"

    def refuse_node(self, state: NodeState, why: str) -> None:
        """The node is not counted."""
        self.empty(state, *state.replicas)
        state.why = why
        state.say(State.TOO_LARGE)

    def empty(self, state: NodeState, *replicas: Replica[Any]) -> None:
        """Drops all that these copies of a node have."""
        for replica in replicas:
            with self._load(state, replica).changing(replica):
                replica.empty()
        self.doubt(state)

    def _load(self, state: NodeState, replica: Replica[Any]) -> Load:
        return self.sessions if replica is state.replica else self.windows
