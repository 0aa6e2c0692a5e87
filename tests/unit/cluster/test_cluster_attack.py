"""What a limit over the cluster lets through: at most min(N L, L + (N-1) r (T+d)), the bound of docs/cluster.md.

The table of that page is the list of cases: what is simulated here is what it says, and never more than the bound.

N nodes are offered r sessions per second each from one host, with a limit of L over the cluster. A node lets one in if
it counts fewer than L; it knows of the others what they have said T (the pause) and d (the way of a frame) ago.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

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


class Case(NamedTuple):
    """A cell of the table: of `rate` sessions a second offered at each node, `published` are let in at most."""

    nodes: int
    limit: int
    rate: int
    pause_s: float
    published: int


PAGE = Path(__file__).parents[3] / "docs" / "cluster.md"
PAUSES_S = (1.0, 0.1, 0.05, 0.005)
"""Of the columns of the table; one more has the bound at BOUND_PAUSE_S."""
BOUND_PAUSE_S = 0.1


def number(text: str) -> int:
    return int(text.replace(",", ""))


def rows() -> list[tuple[tuple[int, int, int], list[str]]]:
    """Nodes, limit and rate of each row of the table, and its cells."""
    found = re.findall(r"^\| ([\d,]+), ([\d,]+), ([\d,]+) \|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    return [((number(one), number(two), number(three)), cells.split("|")) for one, two, three, cells in found]


def bound(nodes: int, limit: int, rate: float, pause_s: float) -> float:
    return min(nodes * limit, limit + (nodes - 1) * rate * (pause_s + WAY_S))


def cases() -> list[Case]:
    said = [
        Case(*of, pause_s, number(cell))
        for of, cells in rows()
        for pause_s, cell in zip(PAUSES_S, cells[:-1], strict=True)
        if cell.strip()
    ]
    if THOROUGH:
        return [case for case in said if case.nodes * case.pause_s < 100]  # the others take minutes
    return [case for case in said if case.nodes == 10 and case.pause_s < 1 and case.rate * case.pause_s <= 50]


def test_the_page_has_the_bound_of_each_row() -> None:
    said = rows()
    assert len(said) == 4
    for of, cells in said:
        assert number(cells[-1]) == round(bound(*of, BOUND_PAUSE_S)), of


@pytest.mark.parametrize("case", cases(), ids=str)
def test_no_more_is_let_in_than_the_bound(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns of the agents in steps of a millisecond are a part of the way."""
    nodes, limit, rate, pause_s, published = case
    let_in = max(attack(nodes, limit, rate, pause_s, monkeypatch, seed) for seed in range(3 if nodes == 10 else 1))
    assert limit <= let_in <= bound(nodes, limit, rate, pause_s)
    assert let_in == published
    if case[:4] == (10, 100, 100, 0.005):
        assert let_in <= 1.1 * limit
