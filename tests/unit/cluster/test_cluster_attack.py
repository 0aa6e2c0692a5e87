"""What a limit over the cluster lets through: at most L + (N-1) r (T+d), the bound that docs/cluster.md publishes.

N nodes are offered r sessions per second each from one host, with a limit of L over the cluster. A node lets one in if
it counts fewer than L; it knows of the others what they have said T (the pause) and d (the way of a frame) ago.
"""

from __future__ import annotations

import pytest
from tests.support.effort import THOROUGH
from tests.support.fake_cluster import FakeCluster, FakeNode
from tests.support.fake_engine import Faults

from inbound_audit.cluster import sender

HOST = (4, 0xC0000201)
STEP_S = 0.001
WAY_S = 0.003


def attack(nodes: int, limit: int, rate: float, pause_s: float, monkeypatch: pytest.MonkeyPatch, seed: int) -> int:
    """Returns how many sessions are let in, all of which stay."""
    monkeypatch.setattr(sender, "SESSIONS_PACE", sender.SESSIONS_PACE._replace(min_pause_s=pause_s))
    cluster = FakeCluster(seed, Faults(min_delay_s=WAY_S, max_delay_s=WAY_S))
    members = [cluster.start(f"mx{at}") for at in range(nodes)]
    cluster.run(3 * STEP_S, STEP_S)
    next_at = {node: cluster.now + cluster.network.random.uniform(0, 1 / rate) for node in members}
    until = cluster.now + limit / (nodes * rate) + 2 * pause_s + 10 * STEP_S + 1 / rate
    while cluster.now < until:
        for node in members:
            while next_at[node] <= cluster.now:
                next_at[node] += 1 / rate
                if counted(node) < limit:
                    node.trees.open(HOST)
        cluster.run(STEP_S, STEP_S)
    return sum(node.trees.own.get(HOST, 0) for node in members)


def counted(node: FakeNode) -> int:
    return node.trees.own.get(HOST, 0) + sum(tree.counts.get(HOST, 0) for tree in node.view().values())


CASES = [
    (10, 100, 10, 0.1),
    (10, 100, 100, 0.1),
    (10, 100, 100, 0.05),
    (10, 100, 100, 0.005),
    (10, 100, 1000, 0.05),
    (10, 100, 1000, 0.005),
    *([(10, 100, 10, 1.0), (10, 100, 100, 1.0), (10, 100, 1000, 0.1), (100, 1000, 100, 0.1)] if THOROUGH else []),
]


@pytest.mark.parametrize(("nodes", "limit", "rate", "pause_s"), CASES)
def test_no_more_is_let_in_than_the_bound(
    nodes: int, limit: int, rate: float, pause_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turns of the agents in steps of a millisecond are a part of the way."""
    for seed in range(3 if nodes == 10 else 1):
        let_in = attack(nodes, limit, rate, pause_s, monkeypatch, seed)
        assert limit <= let_in <= min(nodes * limit, limit + (nodes - 1) * (rate * (pause_s + WAY_S + 2 * STEP_S) + 1))
        if (nodes, rate, pause_s) == (10, 100, 0.005):
            assert let_in <= 1.1 * limit
