"""Records: hosts with absolute counts as bytes, and the digest of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.support import gold_records
from tests.support.gold import Address, unmapped
from tests.support.strategies import addresses

from inbound_audit import InboundAudit
from inbound_audit._ipcount import NodeTree, NodeTrees

counts = st.one_of(st.integers(1, 3), st.integers(1, 100_000))
hosts = st.dictionaries(addresses.map(unmapped), counts, max_size=40)
some_records = hosts.map(gold_records.encode)

ONE = {ipaddress.IPv4Address("192.0.2.7"): 3}
MAPPED = 0xFFFF << 32
MALFORMED = {
    "no number of IPv6 records": b"\x00",
    "a count is missing": b"\x01\x07",
    "a record is missing": b"\x02\x07\x01",
    "a number has no end": b"\x01\x87",
    "more follows": b"\x00\x00\x00",
    "a number is not in its shortest form": b"\x01\x87\x00\x01\x00",
    "the number of records is not in its shortest form": b"\x80\x00\x00",
    "a step of 0": b"\x02\x07\x01\x00\x01\x00",
    "an address beyond IPv4": b"\x02" + gold_records.varint(2**32 - 1) + b"\x01\x01\x01\x00",
    "a step of 33 bits": b"\x01" + gold_records.varint(2**32) + b"\x01\x00",
    "an address beyond IPv6": b"\x00\x02" + gold_records.varint(2**128 - 1) + b"\x01\x01\x01",
    "a step that comes around": b"\x00\x02" + 2 * (gold_records.varint(2**127) + b"\x01"),
    "a step of 129 bits": b"\x00\x01" + gold_records.varint(2**128) + b"\x01",
    "a count of 33 bits": b"\x01\x07" + gold_records.varint(2**32) + b"\x00",
    "a number of records of 33 bits": gold_records.varint(2**32) + b"\x00",
    "a mapped address": b"\x00\x01" + gold_records.varint(MAPPED + 7) + b"\x01",
}


@pytest.fixture(scope="module")
def trees() -> Iterator[NodeTrees]:
    with InboundAudit(capacity=1 << 24) as audit:
        yield NodeTrees(audit)


LAST = {ipaddress.ip_address(text): 2**32 - 1 for text in ("255.255.255.255", f"{'ffff:' * 7}ffff")}
FIRST = {ipaddress.ip_address(text): 2**32 - 1 for text in ("0.0.0.0", "::")}


@given(hosts=hosts)
@example(hosts={})
@example(hosts=FIRST)
@example(hosts=LAST)
def test_records_are_those_of_the_model(hosts: dict[Address, int], trees: NodeTrees) -> None:
    node = trees.said()
    data = gold_records.encode(hosts)
    assert gold_records.decode(data) == hosts
    assert node.set_many(data) == len(hosts)
    assert node.records() == (data if hosts else b"", b"")
    assert (node.hosts, node.total) == (len(hosts), sum(hosts.values()))
    assert node.digest == gold_records.digest(hosts)
    node._check()


@given(data=some_records, draw=st.data())
def test_bytes_are_records_exactly_if_they_are_to_the_model(data: bytes, draw: st.DataObject, trees: NodeTrees) -> None:
    changed = bytearray(data)
    for _ in range(draw.draw(st.integers(0, 3))):
        at = draw.draw(st.integers(0, len(changed)))
        if draw.draw(st.booleans()):
            changed[at:at] = draw.draw(st.binary(min_size=1, max_size=2))
        else:
            del changed[at : at + draw.draw(st.integers(1, 2))]
    check_bytes(trees, bytes(changed))


@given(data=st.binary(max_size=12))
def test_any_bytes_are_records_exactly_if_they_are_to_the_model(data: bytes, trees: NodeTrees) -> None:
    check_bytes(trees, data)


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_records_change_nothing(data: bytes, trees: NodeTrees) -> None:
    with pytest.raises(ValueError, match=r"a number|an address|these are not|an IPv4-mapped"):
        gold_records.decode(data)
    check_bytes(trees, data)


def check_bytes(trees: NodeTrees, data: bytes) -> None:
    """A tree takes the bytes as the model does; what is not records changes nothing."""
    for node, change in ((node, change) for change in ("set_many", "replace") for node in [trees.said()]):
        node.set_many(gold_records.encode(ONE))
        try:
            said = gold_records.decode(data)
        except ValueError:
            with pytest.raises(ValueError, match="are not records"):
                getattr(node, change)(data)
            said, change = {}, "set_many"
        else:
            if max(sum(n for host, n in said.items() if host.version == version) for version in (4, 6)) + 3 >= 2**32:
                return  # more than a family can count
            getattr(node, change)(data)
        expected = {**(ONE if change == "set_many" else {}), **said}
        expected = {host: count for host, count in expected.items() if count}
        assert held(node) == expected
        assert node.digest == gold_records.digest(expected)


def held(node: NodeTree) -> dict[Address, int]:
    return gold_records.decode(node.records()[0])


def test_no_bytes_are_no_records(trees: NodeTrees) -> None:
    node = trees.said()
    node.set_many(gold_records.encode(ONE))
    assert node.set_many(b"") == 0
    assert held(node) == ONE
    assert node.replace(b"") == 1
    assert (node.hosts, node.digest, node.records()) == (0, 0, (b"", b""))


def test_a_digest_stays_what_it_was(trees: NodeTrees) -> None:
    """Hosts of other versions of this package compute it, too."""
    node = trees.said()
    node.set_many(gold_records.encode({**ONE, ipaddress.IPv6Address("2001:db8::1"): 1}))
    assert node.digest == 10469881792103010021
