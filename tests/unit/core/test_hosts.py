"""All hosts of a tree in address order, in pieces, beside a writer."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Iterator

import pytest
from tests.support import gold_records, inner
from tests.support.effort import effort
from tests.support.gold import Address

from inbound_audit import InboundAudit
from inbound_audit._ipcount import NodeTree, NodeTrees

SHAPES = {
    "one node of each size": [
        (slots << 24) + (at << 16) for slots in (1, 3, 5, 8, 16, 32, 64, 255) for at in range(slots)
    ],
    "dense": range(3000),
    "spread": [at * 0x9E3779B1 % 2**32 for at in range(3000)],
    "chains": [at << 8 for at in range(700)],
}


@pytest.fixture(scope="module")
def trees() -> Iterator[NodeTrees]:
    with InboundAudit(capacity=1 << 24) as audit:
        yield NodeTrees(audit)


def held(node: NodeTree) -> dict[Address, int]:
    return gold_records.decode(node.records()[0])


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_every_host_comes_once_and_in_order(shape: list[int], version: int, trees: NodeTrees) -> None:
    """The model refuses records that are out of order."""
    kind = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    hosts = {kind(number << (0 if version == 4 else 72)): 1 + at for at, number in enumerate(shape)}
    node = trees.said()
    node.set_many(gold_records.encode(hosts))
    assert held(node) == hosts
    for start in list(hosts)[:: max(1, len(hosts) // 20)]:
        records, _ = node.records(start.packed)
        assert gold_records.decode(records).keys() == {host for host in hosts if host > start}


@pytest.mark.parametrize("number", [0, 1, 255, 256, 257, 512, 513])
def test_pieces_that_end_with_the_tree(number: int, trees: NodeTrees) -> None:
    hosts = {ipaddress.IPv4Address(7 * at): 1 for at in range(number)}
    node = trees.said()
    node.set_many(gold_records.encode(hosts))
    assert held(node) == hosts


def test_a_host_that_stays_is_found_once_beside_a_writer() -> None:
    stay = {ipaddress.IPv4Address(at * 0x30001): 7 for at in range(2000)}
    come = {ipaddress.IPv4Address(at * 0x30001 + 1 + at % 3): 1 for at in range(2000)}
    both, gone = (gold_records.encode(come | dict.fromkeys(stay, 7)), gold_records.encode(dict.fromkeys(come, 0)))
    with InboundAudit(capacity=1 << 24) as audit:
        node = NodeTrees(audit).add("mx2")
        node.set_many(both)
        ended = threading.Event()

        def write() -> None:
            while not ended.is_set():
                node.set_many(gone)
                node.set_many(both)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(effort(50, 1000)):
                found = held(node)
                assert stay.keys() <= found.keys() <= stay.keys() | come.keys()
                # Beside a writer that is stopped in mid-update, one count may be off by that update.
                assert {found[host] for host in stay} <= {7, 8}
        finally:
            ended.set()
            writer.join()


@pytest.fixture
def owner() -> inner.Owner:
    """An owner with a tree of 600 hosts."""
    owner = inner.Owner()
    owner.add_tree()
    for at in range(600):
        owner.add(0, str(ipaddress.IPv4Address(3 * at)), 1 + at)
    return owner


def test_a_run_reads_pieces_of_a_bounded_size(owner: inner.Owner) -> None:
    found, pieces = owner.run(0, "0.0.0.0")
    assert found == [(str(ipaddress.IPv4Address(3 * at)), 1 + at) for at in range(600)]
    assert pieces == 3  # of 256
    assert owner.run(0, "::") == ([], 0)


def test_a_run_beside_a_stopped_writer_ends_with_all_hosts(owner: inner.Owner) -> None:
    owner.stop_in_update(0)
    found, pieces = owner.run(0, "0.0.0.1")
    assert found == [(str(ipaddress.IPv4Address(3 * at)), 1 + at) for at in range(1, 600)]
    assert pieces > 3  # the first try of each was too long
