"""A cluster in memory: nodes with gold trees on the fake engine, in simulated time, and what must be true of it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

from tests.support.fake_engine import CALM, FakeEngine, FakeNetwork, Faults
from tests.support.gold_nodes import GoldTree, GoldTrees, digest
from tests.support.gold_series import Events, GoldSeriesTrees

from inbound_audit.cluster.bounds import Bounds
from inbound_audit.cluster.frames import FrameType, unpack
from inbound_audit.cluster.host_overrides import HostOverrides
from inbound_audit.cluster.host_series import FOR_ALL, FOR_MANAGERS, HostSeries
from inbound_audit.cluster.node_state import COUNTED, State
from inbound_audit.cluster.receiver import Receiver
from inbound_audit.cluster.sender import WINDOWS_PACE, Sender
from inbound_audit.cluster.window_records import SeriesKey, Window
from inbound_audit.overrides.audit import MAX_BYTES_FROM_NODES, MAX_FROM_NODES, changes_for, wish_of
from inbound_audit.overrides.entry import Entry, Key, exact_prefix
from inbound_audit.overrides.table import Table

TICK_S = 0.05
ANSWER_S = 0.02
"""How long a snapshot is under way."""
MAX_INBOX = 10_000
EPOCH_S = 1_800_000_000
"""What the clocks of hosts say at the start."""
FIND_S = 1.0
CLOCK_LATE_S = 0.2
"""How long a word of a clock may be on its way then."""
LATE_S = FIND_S + WINDOWS_PACE.min_pause_s + 0.5
"""How late a window may be known elsewhere while nothing fails."""


class FakeNode:
    """A host: its sessions and windows, its agent, and what the agent has heard. `skew_s`: what its clock is ahead."""

    def __init__(self, cluster: FakeCluster, name: str, own: Any, events: Events, skew_s: float, table: Table) -> None:
        self.cluster = cluster
        self.name = name
        self.trees = own
        self.epoch = cluster.network.random.getrandbits(64)
        self.began = cluster.now
        self.frozen = False
        self.events, self.skew_s = events, skew_s
        self.history: dict[tuple[int, int], int] = dict.fromkeys([(0, 0), (1, 0), (2, 0)], 0)
        """The digest of a tree after each change that was said."""
        self.inbox: deque[tuple[str, bytes, float]] = deque(maxlen=MAX_INBOX)
        self.asked: set[str] = set()
        self.tick_at = 0.0
        self.find_at = 0.0
        clock = lambda: EPOCH_S + cluster.now + self.skew_s  # noqa: E731
        trees = own.series_trees(clock) if hasattr(own, "series_trees") else GoldSeriesTrees(events, clock)
        self.series = HostSeries(trees, cluster.monitors, name in cluster.managers, lambda: cluster.now)
        self.table, self.utc = table, clock
        self.overrides = HostOverrides(lambda: Table(self.table), self._take, lambda: cluster.now, clock)
        said = self.series.said.values()
        self.sender = Sender(self.epoch, own, lambda: cluster.now, said, utc=clock, overrides=self.overrides)
        self.receiver = Receiver(
            name, self.epoch, own, lambda: cluster.now, cluster.bounds, self.series, clock, self.overrides
        )
        self.engine = FakeEngine(cluster.network, name)
        self.engine.open(
            lambda node, data: self.inbox.append((node, data, cluster.now)),
            self.sender.snapshot,
            lambda up: None,
            lambda node: self.frozen or self.receiver.gone(node, cluster.now),
        )

    def _take(self, entries: Iterable[tuple[Key, Entry]]) -> None:
        self.table.forget(self.utc())
        self.table.later(entries, MAX_FROM_NODES, MAX_BYTES_FROM_NODES)

    def change(self, action: str, prefix: str, for_s: float | None = None) -> None:
        """As a user of the host does; nothing if there is nothing to lift."""
        now = self.utc()
        before = self.table.get(exact_prefix(prefix))
        for key, entry in changes_for([wish_of(action, prefix, for_s)], f"me@{self.name}", now, self.table):
            changed = max(int(now * 1e9), 0 if before is None else before.changed + 1)
            self.table[key] = entry._replace(changed=changed, node=self.name)

    def turn(self) -> None:
        """What the agent's loop does when it wakes."""
        if self.frozen:
            return
        now = self.cluster.now
        while self.inbox:
            self.receiver.heard(*self.inbox.popleft())
        if now >= self.find_at:
            self.series.find()
            self.find_at = now + FIND_S
        if now >= self.tick_at:
            self.receiver.tick(now)
            self.series.turn()
            self.overrides.carry_out()
            self.tick_at = now + TICK_S
        for node in self.receiver.asks(now):
            if node not in self.asked:
                self.asked.add(node)
                self.cluster.network.later(ANSWER_S, lambda node=node: self._ask(node))
        self.sender.nodes = len(self.receiver.nodes)
        self.sender.silent = self.receiver.duplicate
        if self.sender.due(now) == 0:
            for frame in self.sender.frames(now):
                self.say(frame)

    def say(self, frame: bytes) -> None:
        read = unpack(frame)
        if read.type != FrameType.OVERRIDES:
            self.history[read.tree, read.content] = read.digest
        self.engine.publish(frame)

    def _ask(self, node: str) -> None:
        parts = self.engine.ask(node, 1.0)

        def arrive() -> None:
            self.asked.discard(node)
            if not self.frozen:
                self.receiver.answered(node, parts, self.cluster.now)

        self.cluster.network.later(ANSWER_S if parts is not None else 0.2, arrive)

    def freeze(self) -> None:
        self.frozen = self.engine.frozen = True

    def thaw(self) -> None:
        self.frozen = self.engine.frozen = False

    def view(self) -> dict[str, GoldTree]:
        """The trees of the other nodes, as the workers of this host count them."""
        return {name: tree for name, tree in self.trees.trees.items() if name != self.name}


class FakeCluster:
    """Nodes, and the time. What a host's processes have outlives its agent: `start` may begin with that of a node
    before. `monitors` are counted by all nodes, `managers` names those that are one."""

    def __init__(self, seed: int = 0, faults: Faults = CALM, bounds: Bounds = Bounds(), trees: Any = GoldTrees) -> None:  # noqa: B008
        self.monitors: tuple[str, ...] = ()
        self.managers: tuple[str, ...] = ()
        self.make_trees = trees
        self.network = FakeNetwork(seed, faults)
        self.bounds = bounds
        self.nodes: list[FakeNode] = []
        self.lives: dict[int, FakeNode] = {}  # of all nodes that ever were, by epoch

    @property
    def now(self) -> float:
        return self.network.now

    def start(
        self,
        name: str,
        own: GoldTrees | None = None,
        events: Events | None = None,
        skew_s: float = 0.0,
        table: Table | None = None,
    ) -> FakeNode:
        trees = self.make_trees(self.bounds.max_nodes)
        if own is not None:
            trees.own, trees._moved = own.own, True
        node = FakeNode(self, name, trees, events or Events(), skew_s, Table() if table is None else table)
        self.nodes.append(node)
        self.lives[node.epoch] = node
        return node

    def kill(self, node: FakeNode) -> None:
        self.nodes.remove(node)
        node.engine.close()

    def stop(self, node: FakeNode) -> None:
        """Ends a node in order."""
        node.say(node.sender.goodbye())
        self.kill(node)

    def cut(self, one: FakeNode, other: FakeNode) -> None:
        """From now on nothing comes from the one to the other."""
        self.network.cut.add((one.engine, other.engine))

    def heal(self, faults: Faults = CALM) -> None:
        """No fault is left, and no node stands still."""
        self.network.cut.clear()
        self.network.faults = faults
        for node in self.nodes:
            node.thaw()

    def run(self, seconds: float, step_s: float = 0.01) -> None:
        """Each node has a turn per step."""
        until = self.now + seconds
        while self.now < until:
            self.network.run(self.now + step_s)
            for node in list(self.nodes):
                node.turn()

    def pairs(self) -> Iterator[tuple[FakeNode, FakeNode]]:
        yield from ((one, other) for one in self.nodes for other in self.nodes if one is not other)

    def check_always(self, node: FakeNode) -> None:
        """What a copy is known to have is what its node has said at that moment, and the sums of bounds are right."""
        loads = {node.receiver.copies.sessions: [0, 0], node.receiver.copies.windows: [0, 0]}
        for name, state in node.receiver.nodes.items():
            for tree, replica in [(0, state.replica), *state.windows.items()]:
                load = loads[node.receiver.copies.windows if tree else node.receiver.copies.sessions]
                load[0] += replica.tree.hosts
                load[1] += replica.waiting_bytes
                assert state.state in COUNTED or not replica.tree.hosts, (node.name, name)
                is_counted = state.state in COUNTED and name != node.name and state.epoch is not None
                if is_counted and replica.has is not None:
                    assert replica.tree.digest == self.lives[state.epoch].history[tree, replica.has], (node.name, name)
        assert all([load.hosts, load.waiting_bytes] == sums for load, sums in loads.items())

    def check_views(self) -> None:
        """Every view is the truth: those that live have their sessions, the others none."""
        for node in self.nodes:
            view = {name: tree.counts for name, tree in node.view().items() if tree.counts}
            truth = {other.name: other.trees.own for other in self.nodes if other is not node and other.trees.own}
            assert view == truth, (self.now, node.name, node.receiver.nodes)
            for tree in node.view().values():
                assert tree.digest == digest(tree.counts)
            for other in self.nodes:
                if other is not node and other.trees.own:
                    assert node.view()[other.name].digest == other.sender.digest

    def check_sums(self, node: FakeNode) -> None:
        """What is counted of other nodes in a window is the sum of the copies of it."""
        for key, series in node.series.series.items():
            for place in product(range(series.number - key.slots + 1, series.number + 1), (0, 1)):
                copies = [copy for state in node.receiver.nodes.values() for copy in state.windows.values()]
                held = [copy.tree.windows.get(Window(key, *place)) for copy in copies]
                parts = [Counter(one.tree.counts) for one in held if one is not None]
                assert series.sums.get(place, Counter()) == sum(parts, Counter()), (node.name, key, place)

    def check_windows(self) -> None:
        """Every view of windows is the truth, but for windows that begin or end just now."""
        for node in self.nodes:
            for key, series in node.series.series.items():
                for number, sign in product(stable_windows(node, key), (0, 1)):
                    window = Window(key, number, sign)
                    parts = [
                        other.events.windows.get(window, {}) for other in self.nodes if self.says(other, node, key)
                    ]
                    truth = sum(map(Counter, parts), Counter())
                    assert series.sums.get((number, sign), Counter()) == truth, (self.now, node.name, window)

    def check_overrides(self) -> None:
        """All nodes have the same overrides, of each prefix the one that was changed last."""
        latest = Table()
        for node in self.nodes:
            latest.merge(node.table.items())
        for node in self.nodes:
            now = node.utc() + 1.5  # what ends just now has ended on some
            assert node.table.holding(now) == latest.holding(now), (self.now, node.name)

    def says(self, other: FakeNode, node: FakeNode, key: SeriesKey) -> bool:
        """Whether a node says a series to another one that counts it."""
        tree = FOR_ALL if key.name in self.monitors else other.events.replicate.get(key, 0)
        return other is not node and (tree == FOR_ALL or (tree == FOR_MANAGERS and node.name in self.managers))

    def check_clocks(self) -> None:
        """Each node knows by how much the clocks of those that say windows differ from its own."""
        for node in self.nodes:
            for other in self.nodes:
                ahead_s = node.receiver.nodes[other.name].clock.ahead_s if node is not other else None
                if ahead_s is not None:
                    assert -CLOCK_LATE_S <= ahead_s - (other.skew_s - node.skew_s) <= 0.01, (node.name, other.name)

    def check_states(self) -> None:
        """Each node lists the others as they are."""
        for node in self.nodes:
            for name in node.view():
                heard = any(other.name == name for other in self.nodes)
                assert node.receiver.nodes[name].state == (State.HEARD if heard else State.LOST)


def stable_windows(node: FakeNode, key: SeriesKey) -> range:
    """The windows that have been in the view of every node of the cluster for LATE_S, and still are."""
    times = [EPOCH_S + node.cluster.now + other.skew_s for other in node.cluster.nodes]
    newest = int(max(times) // key.interval)
    return range(newest - key.slots + 1, int((min(times) - LATE_S) // key.interval) + 1)
