"""Simulated clusters with seeded faults: after quiet every view is the truth, and nobody dead is counted for long.

`make faults` runs a million steps (tests/system/test_simulated_faults.py)."""

from __future__ import annotations

import pytest
from tests.support.cluster_simulation import Simulation
from tests.support.effort import effort
from tests.support.fake_cluster import FakeCluster
from tests.support.fake_engine import CALM, Faults

from inbound_audit.cluster.leases import LEASE_S
from inbound_audit.cluster.node_state import State
from inbound_audit.cluster.own_name import RESUME_S
from inbound_audit.cluster.receiver import FORGET_S


@pytest.mark.parametrize("seed", range(effort(1, 5)))
def test_after_quiet_every_view_is_the_truth(seed: int) -> None:
    simulation = Simulation(seed)
    simulation.run(effort(4_000, 20_000))
    assert simulation.faults > 20


@pytest.mark.parametrize("seed", range(effort(3, 20)))
def test_a_node_that_restarts_within_a_second_is_never_gone(seed: int) -> None:
    """Frames are late, repeated and out of order meanwhile, and the sessions go on."""
    cluster = FakeCluster(seed, CALM._replace(repeat=0.3, late_s=3.0, max_delay_s=0.03, hint=0))
    draw = cluster.network.random
    watcher, node = cluster.start("mx1"), cluster.start("mx2")
    node.trees.open((4, 1), 3)
    cluster.run(0.5)
    for _ in range(10):
        cluster.kill(node)
        for _ in range(draw.randrange(95)):
            cluster.run(0.01)
            assert watcher.view()["mx2"].counts[4, 1] == 3
        node = cluster.start("mx2", node.trees)
        for _ in range(100):
            node.trees.open((4, draw.randrange(2, 9)))
            cluster.run(0.01)
            assert watcher.view()["mx2"].counts[4, 1] == 3
        cluster.run(0.3)
        cluster.check_views()


def test_a_node_that_is_frozen_is_gone_and_comes_back() -> None:
    cluster = FakeCluster()
    watcher, node = cluster.start("mx1"), cluster.start("mx2")
    node.trees.open((4, 1))
    cluster.run(0.5)
    node.freeze()
    cluster.run(1.0)
    assert watcher.view()["mx2"].hosts == 1
    cluster.run(0.5)
    assert watcher.view()["mx2"].hosts == 0
    node.thaw()
    cluster.run(0.5)
    cluster.check_views()


def test_a_node_that_is_killed_is_gone_within_half_a_second_where_the_engine_says_so() -> None:
    cluster = FakeCluster()
    watcher, node = cluster.start("mx1"), cluster.start("mx2")
    node.trees.open((4, 1))
    cluster.run(0.5)
    cluster.kill(node)
    cluster.run(0.5)
    cluster.check_views()
    assert watcher.receiver.nodes["mx2"].state == State.LOST


def test_a_network_cut_in_two_counts_each_side_alone() -> None:
    cluster = FakeCluster()
    nodes = [cluster.start(f"mx{at}") for at in range(4)]
    for at, node in enumerate(nodes):
        node.trees.open((4, at))
    cluster.run(0.5)
    for one, other in cluster.pairs():
        if (nodes.index(one) < 2) != (nodes.index(other) < 2):
            cluster.cut(one, other)
    cluster.run(2 * LEASE_S)
    for node in nodes:
        assert sum(tree.total for tree in node.view().values()) == 1
    cluster.heal()
    cluster.run(2)
    cluster.check_views()


def test_a_network_cut_one_way_heals() -> None:
    """The one side hears the other all the time, but gets no snapshot."""
    cluster = FakeCluster()
    deaf, node = cluster.start("mx1"), cluster.start("mx2")
    node.trees.open((4, 1))
    cluster.run(0.5)
    cluster.cut(deaf, node)
    cluster.network.faults = Faults(loss=0.3, max_delay_s=0.01)
    for _ in range(50):
        node.trees.open((4, 1))
        cluster.run(0.02)
    cluster.heal()
    cluster.run(2)
    cluster.check_views()


@pytest.mark.parametrize("apart_s", [0.0, 0.1, 0.19, 0.21, 2.0])
def test_of_two_nodes_of_one_name_one_is_counted(apart_s: float) -> None:
    """One of them is silent and says why; when the other ends, it speaks again."""
    cluster = FakeCluster(7)
    watcher, first = cluster.start("mx1"), cluster.start("twin")
    first.trees.open((4, 1))
    cluster.run(apart_s)
    second = cluster.start("twin")
    second.trees.open((4, 2))
    cluster.run(30)
    silent = [node for node in (first, second) if node.receiver.duplicate]
    assert len(silent) == 1
    speaks = second if silent == [first] else first
    assert watcher.view()["twin"].counts == speaks.trees.own
    if apart_s > 1:
        assert speaks is second
    cluster.kill(speaks)
    cluster.run(2 * RESUME_S + LEASE_S + FORGET_S + 2)
    assert not silent[0].receiver.duplicate
    cluster.check_views()
    cluster.check_states()


def test_reloads_while_counting() -> None:
    """A thousand agents of one node, one after the other: its sessions are counted once, at each moment."""
    cluster = FakeCluster(3)
    watcher, node = cluster.start("mx1"), cluster.start("mx2")
    node.trees.open((4, 1), 5)
    cluster.run(0.5)
    for _ in range(effort(50, 1000)):
        cluster.kill(node)
        node = cluster.start("mx2", node.trees)
        cluster.run(0.3, 0.02)
        assert watcher.view()["mx2"].counts == {(4, 1): 5}
