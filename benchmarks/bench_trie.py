"""The trie alone, up to ten million hosts: packed addresses, no text, no Python object for a session."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import numpy as np
import pytest

from benchmarks.measure import Batch, Race, quiet
from benchmarks.scale import TRIE_SIZES
from benchmarks.workloads import WORKLOADS, Packed, Version
from inbound_audit import PrefixCounter

ASKED = 100_000
LARGEST = ("random", "scan6")
"""The workloads that are drawn at the largest size too; the others say nothing new there."""


def cases() -> list[tuple[str, int]]:
    return [(name, size) for name in WORKLOADS for size in TRIE_SIZES if size < 10_000_000 or name in LARGEST]


def fill_times(packed: Packed, version: Version) -> tuple[PrefixCounter, list[float]]:
    """A full counter, and the nanoseconds an address of each time that one was filled."""
    counter, times = PrefixCounter(), []
    for _ in range(3 if len(packed) <= 1_000_000 else 1):
        counter.clear()
        started = perf_counter_ns()
        counter.add_many(packed, version=version)
        times.append((perf_counter_ns() - started) / len(packed))
    return counter, times


def count_batch(counter: PrefixCounter, asked: Packed, version: Version, prefixlen: int) -> Batch:
    def batch() -> float:
        started = perf_counter_ns()
        counter.count_many(asked, version=version, prefixlen=prefixlen)
        return (perf_counter_ns() - started) / len(asked)

    return batch


@pytest.mark.parametrize(("name", "size"), cases())
def test_trie(name: str, size: int, run: Callable[[Race, int], None], benchmark: Any) -> None:
    workload = WORKLOADS[name]
    packed = workload.packed(size + ASKED) if size <= 1_000_000 else workload.packed(size)
    with quiet():
        counter, filled = fill_times(packed[:size], workload.version)
    assert len(counter) == size
    assert counter.memory > 0
    rng = np.random.default_rng(7)
    present = packed[rng.integers(0, size, ASKED)]
    subjects = {f"/{n}": count_batch(counter, present, workload.version, n) for n in workload.lengths}
    if len(packed) > size:
        subjects["absent"] = count_batch(counter, packed[size:], workload.version, workload.lengths[0])
    race = Race(subjects)
    run(race, 9)
    benchmark.group = "trie"
    benchmark.extra_info.update(
        kind="trie", workload=name, size=size, add=min(filled), count=race.fastest(),
        memory=counter.memory / size,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["random", "mail", "scan6"])
def test_long_walks(name: str, once: Callable[[Callable[[], Any]], Any], benchmark: Any) -> None:
    """`top`, `tree` and iteration, which free the GIL and stop no writer: milliseconds, each the best of three."""
    workload = WORKLOADS[name]
    size = 100_000 if TRIE_SIZES[-1] <= 1_000_000 else 1_000_000
    counter = PrefixCounter()
    counter.add_many(workload.packed(size), version=workload.version)
    walks: dict[str, Callable[[], object]] = {
        "top(10), hosts": lambda: counter.top(10),
        "top(10), /24 and /64": lambda: counter.top(10, prefixlen=(24, 64)),
        "top(10), /16 and /32": lambda: counter.top(10, prefixlen=(16, 32)),
        "tree()": lambda: counter.tree(),
        "items()": lambda: sum(1 for _ in counter.items()),
    }
    with quiet():
        times = once(lambda: {walk: best_of(call, 3 if walk.startswith("top") else 1) for walk, call in walks.items()})
    benchmark.group = "walks"
    benchmark.extra_info.update(kind="walks", workload=name, size=size, milliseconds=times)


def best_of(call: Callable[[], object], times: int) -> float:
    """Milliseconds."""
    taken = []
    for _ in range(times):
        started = perf_counter_ns()
        call()
        taken.append((perf_counter_ns() - started) / 1e6)
    return min(taken)
