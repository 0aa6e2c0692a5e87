"""The protocol over the native trees: what `inbound_cidr` counts on each node is what all nodes have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.effort import effort
from tests.support.fake_cluster import EPOCH_S, LATE_S, FakeCluster, FakeNode
from tests.support.fake_engine import CALM, Faults
from tests.support.gold_nodes import Host, address_of, decode

from inbound_audit import InboundAudit
from inbound_audit._ipcount import NODE_STATES, NodeTrees
from inbound_audit.cluster.bounds import Bounds
from inbound_audit.cluster.node_state import State

FOUR = tuple((4, 0xC0000200 + at * 37) for at in range(24))
SIX = tuple((6, at << 70) for at in range(16))
HOSTS: tuple[Host, ...] = FOUR + SIX
MONITOR = "5,4"
WINDOWS = range(4)


class NativeTrees:
    """The trees of an agent over an audit of this process, in which the test opens and closes sessions."""

    def __init__(self, max_nodes: int) -> None:
        self.clock: Callable[[], float] = lambda: EPOCH_S
        self.audit = InboundAudit(capacity=1 << 24, clock=lambda: self.clock(), monitors=[MONITOR])
        for name in ("cluster", "manager", "none"):
            self.audit.series.define(name, "ip", interval=5, num_windows=4, replicate=name)
        self.native = NodeTrees(self.audit)
        self.trees: dict[str, Any] = {}
        self.own: Counter[Host] = Counter()
        self._listener = self.audit.listener("SMTP")
        self._sessions: dict[Host, list[Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.native, name)

    def add(self, name: str, max_hosts: int) -> Any:
        self.trees[name] = self.native.add(name, max_hosts)
        return self.trees[name]

    def series_trees(self, clock: Callable[[], float]) -> Any:
        self.clock = clock
        return self.native

    def record(self, host: Host, by: int) -> None:
        """In the monitor, and in each series."""
        address = address_of(host)
        with self._listener.session(address.packed) as session:
            session.record_reception()
        for name in ("cluster", "manager", "none"):
            self.audit.series.add(name, address, by)

    def counts(self, host: Host, window: int, cluster: bool) -> tuple[int, ...]:
        """In each window: of the monitor, and of the series. Of this host alone without `cluster`."""
        address = str(address_of(host))
        series = [self.audit.series.count(name, address, window) for name in ("cluster", "manager", "none")]
        return self.audit.receptions(MONITOR, address, window, cluster=cluster), *series

    def open(self, host: Host, sessions: int = 1) -> None:
        open_here = self._sessions.setdefault(host, [])
        while len(open_here) < self.own[host] + sessions:
            open_here.append(self._listener.session(address_of(host).packed))
        while len(open_here) > self.own[host] + sessions:
            open_here.pop().close()
        self.own[host] += sessions

    def close(self) -> None:
        for host in list(self.own):
            self.open(host, -self.own[host])
        self.audit.close()


@pytest.fixture
def nodes() -> Iterator[list[FakeNode]]:
    cluster = FakeCluster(5, CALM, trees=NativeTrees)
    nodes = [cluster.start(f"mx{at}") for at in range(3)]
    yield nodes
    for node in nodes:
        node.trees.close()


def check(nodes: list[FakeNode]) -> None:
    everything: Counter[Host] = Counter()
    for node in nodes:
        everything += node.trees.own
    for node in nodes:
        node.trees.native._check()
        for other in nodes:
            if other is not node:
                tree = node.trees.trees[other.name]
                assert dict(decode(tree.records()[0])) == +other.trees.own
                assert tree.digest == other.sender._sessions.said.digest
        audit = node.trees.audit
        assert audit.total("inbound_cidr") == everything.total()
        assert audit.total() == node.trees.own.total()
        for host in HOSTS[::5]:
            assert audit.inbound_session_count(str(address_of(host)), service_type="inbound_cidr") == everything[host]


def test_faults_and_then_quiet(nodes: list[FakeNode]) -> None:
    cluster = nodes[0].cluster
    draw = cluster.network.random
    for _ in range(effort(3, 30)):
        cluster.network.faults = Faults(0.2, 0.2, 0.1, 0.1, 0.001, 0.1, 1.0)
        for _ in range(60):
            for node in nodes:
                host = draw.choice(HOSTS)
                node.trees.open(host, draw.randint(-node.trees.own[host], 3))
            cluster.run(0.02)
        frozen = draw.choice([None, *nodes])
        if frozen:
            frozen.freeze()
            cluster.run(2, 0.05)
        cluster.heal()
        cluster.run(2, 0.05)
        check(nodes)
    assert sum(state.snapshots for node in nodes for state in node.receiver.nodes.values()) > 0


def check_windows(nodes: list[FakeNode], recorded: dict[tuple[int, int, Host], list[int]]) -> None:
    """`recorded`: by node, window and host, how often, and the sum."""
    newest = int((EPOCH_S + nodes[0].cluster.now) // 5)
    for at, node in enumerate(nodes):
        for window in WINDOWS:
            for host in HOSTS[::7]:
                each = [recorded.get((one, newest - window, host), [0, 0]) for one in range(len(nodes))]
                times, total = (sum(column) for column in zip(*each, strict=True))
                own = each[at][1]
                counted = node.trees.counts(host, window, cluster=True)
                assert counted == (times, total, total if at == 0 else own, own), (node.name, window, host)


def test_windows_after_faults_and_then_quiet() -> None:
    """The first node is a manager."""
    cluster = FakeCluster(6, CALM, trees=NativeTrees)
    cluster.monitors, cluster.managers = (MONITOR,), ("mx0",)
    nodes = [cluster.start(f"mx{at}") for at in range(3)]
    draw = cluster.network.random
    recorded: dict[tuple[int, int, Host], list[int]] = {}
    for _ in range(effort(4, 40)):
        cluster.network.faults = Faults(0.3, 0.3, 0.1, 0.1, 0.001, 0.3, 2.0)
        for _ in range(60):
            for at, node in enumerate(nodes):
                host, by = draw.choice(HOSTS), draw.choice((1, 1, 2, -1))
                row = recorded.setdefault((at, int((EPOCH_S + cluster.now) // 5), host), [0, 0])
                row[0], row[1] = row[0] + 1, row[1] + by
                node.trees.record(host, by)
            cluster.run(draw.choice((0.01, 0.1)))
        frozen = draw.choice([None, *nodes])
        if frozen:
            frozen.freeze()
            cluster.run(2, 0.05)
        cluster.heal()
        cluster.run(LATE_S + 2, 0.05)
        check_windows(nodes, recorded)
    for node in nodes:
        node.trees.close()


def test_a_node_that_is_killed_is_counted_no_more(nodes: list[FakeNode]) -> None:
    cluster = nodes[0].cluster
    for node in nodes:
        node.trees.open(HOSTS[0], 2)
    cluster.run(0.5)
    check(nodes)
    cluster.kill(nodes[2])
    cluster.run(1)
    assert [node.trees.audit.total("inbound_cidr") for node in nodes[:2]] == [4, 4]
    states = {row[0]: row[1] for row in nodes[0].trees.audit._nodes()}
    assert states == {"mx0": State.THIS_HOST, "mx1": State.HEARD, "mx2": State.LOST}


def test_a_snapshot_of_nothing_empties(nodes: list[FakeNode]) -> None:
    cluster = nodes[0].cluster
    nodes[1].trees.open(HOSTS[0])
    cluster.run(0.5)
    cluster.cut(nodes[1], nodes[0])
    nodes[1].trees.open(HOSTS[0], -1)
    cluster.run(0.3)
    cluster.heal()
    cluster.run(1)
    check(nodes)


def test_a_node_with_too_many_hosts_is_listed_and_not_counted() -> None:
    cluster = FakeCluster(5, CALM, Bounds(max_hosts=10), trees=NativeTrees)
    large, watcher = cluster.start("mx0"), cluster.start("mx1")
    for host in HOSTS[:10]:
        large.trees.open(host)
    cluster.run(0.5)
    check([large, watcher])
    large.trees.open(HOSTS[10])
    cluster.run(0.5)
    assert [row[:2] for row in watcher.trees.audit._nodes()] == [("mx0", State.TOO_LARGE), ("mx1", State.THIS_HOST)]
    assert watcher.trees.audit.total("inbound_cidr") == 0
    large.trees.open(HOSTS[3], -1)
    cluster.run(2)
    check([large, watcher])
    for node in (large, watcher):
        node.trees.close()


def test_the_states_are_those_of_the_core() -> None:
    assert {state.name.lower().replace("_", " "): int(state) for state in State} == dict(NODE_STATES)
