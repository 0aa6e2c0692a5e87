"""The trees of a cluster's nodes: what a count over all of them costs, and what an agent pays for a change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter_ns

import pytest

from benchmarks.bench_counts import COUNT
from benchmarks.measure import Batch, Race, timed
from benchmarks.scale import ROUNDS
from benchmarks.workloads import WORKLOADS
from inbound_audit import InboundAudit, Session
from inbound_audit._ipcount import NodeTrees

RANDOM = WORKLOADS["random"]
HOSTS = 1_000
MANY = 100_000
EVERYTHING = 1 << 26  # bytes: all records at once
COUNT_ALL = 'x.inbound_session_count("/24", "inbound_cidr")'


@contextmanager
def opened(audit: InboundAudit, addresses: list[str], name: str = "default") -> Iterator[list[Session]]:
    sessions = [audit.listener("SMTP", name).session(address) for address in addresses]
    yield sessions
    for session in sessions:
        session.close()


def records_of(addresses: list[str]) -> bytes:
    """One session from each of them, as an agent says it."""
    with InboundAudit(capacity=1 << 26) as audit, opened(audit, addresses):
        trees = NodeTrees(audit)
        return trees.difference(trees.said(), EVERYTHING)


@pytest.mark.parametrize(
    ("key", "nodes", "kept"),  # from 50 nodes on an agent keeps their sum
    [("nodes-10", 10, False), ("nodes-50", 50, False), ("nodes-100", 100, True), ("nodes-1000", 1_000, True)],
)
def test_count_over_nodes(key: str, nodes: int, kept: bool, hold: Callable[..., None]) -> None:
    addresses = RANDOM.texts(HOSTS * (nodes + 1))
    with InboundAudit(capacity=1 << 26) as audit, opened(audit, addresses[:HOSTS]) as sessions:
        trees = NodeTrees(audit)
        for at in range(nodes):
            trees.add(f"mx{at}").set_many(records_of(addresses[HOSTS * (at + 1) : HOSTS * (at + 2)]))
        trees.sum = kept
        subjects = {"this host": timed(COUNT, sessions), "all nodes": timed(COUNT_ALL, sessions)}
        hold(key, Race(subjects), "all nodes", "this host", ROUNDS)


def test_difference(note: Callable[[str, Batch, str], None]) -> None:
    """Nothing differs: a walk over this host's hosts, and over what was said of them."""
    with InboundAudit() as audit, opened(audit, RANDOM.texts(MANY)):
        trees = NodeTrees(audit)
        said = trees.said()
        said.set_many(trees.difference(said, EVERYTHING))

        def walk() -> float:
            started = perf_counter_ns()
            assert trees.difference(said) == b""
            return (perf_counter_ns() - started) / (2 * said.hosts)

        note("node-difference", walk, "ns a host and tree")


def test_changes_of_a_node(note: Callable[[str, Batch, str], None]) -> None:
    """A tree of 100,000 hosts, of which a tenth comes and goes."""
    addresses = RANDOM.texts(MANY)
    with InboundAudit() as audit:
        node = NodeTrees(audit).add("mx2")
        node.set_many(records_of(addresses))
        some = records_of(addresses[::10])
        with opened(audit, addresses[::10]):  # what is said and is no more: the same hosts, gone
            trees = NodeTrees(audit)
            said = trees.said()
            said.set_many(trees.difference(said, EVERYTHING))
        gone = trees.difference(said, EVERYTHING)

        def change(records: bytes) -> Batch:
            def batch() -> float:
                started = perf_counter_ns()
                changes = node.set_many(records)
                return (perf_counter_ns() - started) / changes

            return batch

        go, come = change(gone), change(some)
        note("node-set", lambda: (go() + come()) / 2, "ns a change")


def test_fill_of_a_node(note: Callable[[str, Batch, str], None]) -> None:
    records = records_of(RANDOM.texts(MANY))
    with InboundAudit() as audit:
        node = NodeTrees(audit).add("mx2")

        def fill() -> float:
            node.empty()
            started = perf_counter_ns()
            node.replace(records)
            return (perf_counter_ns() - started) / 1e6

        note("node-fill", fill, "ms")
