"""Each peer against ours: opening and closing, and counting, from text.

A peer and ours are filled with the same hosts and take turns, so each table cell is a ratio within one run as well as
a time. A peer whose filling would take too long at a size is left out there, as is everything above it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from time import perf_counter
from typing import Any

import pytest

from benchmarks.measure import Race, timed
from benchmarks.peers import PEERS, Ours, Peer
from benchmarks.scale import BUILD_MOST, PEER_ROUNDS, PEER_SIZES
from benchmarks.workloads import WORKLOADS

WORKLOAD_NAMES = ("random", "mail", "scan6", "grades")
COUNTED = {4: 24, 6: 64}
FRESH, ASKED = 1_000, 2_000

# Seconds that a host took to be added at the size below, by workload and peer.
pace: dict[tuple[str, str], float] = {}


@lru_cache(maxsize=1)
def hosts_of(workload: str, size: int) -> tuple[list[str], list[str], Ours]:
    """Hosts to fill with, hosts that are not among them, and ours filled with them."""
    texts = WORKLOADS[workload].texts(size + FRESH)
    ours = Ours(WORKLOADS[workload].version)
    fill(ours, texts[:size])
    return texts[:size], texts[size:], ours


def fill(peer: Peer, texts: list[str]) -> float:
    """Seconds an address."""
    started = perf_counter()
    add = peer.add
    for text in texts:
        add(text)
    return (perf_counter() - started) / len(texts)


def subjects_of(name: str, peer: Peer, fresh: list[str], asked: list[str]) -> dict[str, Any]:
    return {
        f"{name}: open and close": timed("add(x); remove(x)", fresh, add=peer.add, remove=peer.remove),
        f"{name}: count": timed("count(x)", asked, count=peer.count),
    }


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
@pytest.mark.parametrize("size", PEER_SIZES)
@pytest.mark.parametrize("workload", WORKLOAD_NAMES)
def test_peer(workload: str, size: int, peer: type[Peer], run: Callable[[Race, int], None], benchmark: Any) -> None:
    benchmark.group = "peers"
    benchmark.extra_info.update(kind="peer", workload=workload, size=size, peer=peer.name)
    expected = pace.get((workload, peer.name), 0.0) * size
    if expected > BUILD_MOST:
        benchmark.extra_info["left_out"] = f"{expected:.0f} s to fill"
        benchmark.pedantic(lambda: None, rounds=1)
        return
    version = WORKLOADS[workload].version
    try:
        other = peer(version)
    except ImportError:
        pytest.skip(f"{peer.name} is not installed")
    hosts, fresh, ours = hosts_of(workload, size)
    pace[workload, peer.name] = fill(other, hosts)
    asked = [f"{host}/{COUNTED[version]}" for host in random.Random(8).choices(hosts, k=ASKED)]
    assert [other.count(cidr) for cidr in asked[:50]] == [ours.count(cidr) for cidr in asked[:50]]
    race = Race(subjects_of("ours", ours, fresh, asked) | subjects_of("peer", other, fresh, asked))
    run(race, PEER_ROUNDS)
    benchmark.extra_info.update(
        ns=race.medians(),
        ratio={what: race.ratio(f"peer: {what}", f"ours: {what}").value for what in ("open and close", "count")},
    )
