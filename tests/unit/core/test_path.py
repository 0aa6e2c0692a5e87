"""The path to a host: how far it goes, and where it ends."""

from __future__ import annotations

import ipaddress

import pytest
from tests.support import inner


@pytest.fixture
def arena() -> inner.Arena:
    return inner.Arena()


def test_the_path_in_an_empty_tree_is_the_root(arena: inner.Arena) -> None:
    assert arena.descend("10.0.0.1") == (1, False, False, False)


def test_a_lone_host_hangs_at_the_root(arena: inner.Arena) -> None:
    arena.add("10.0.0.1")
    assert arena.descend("10.0.0.1") == (1, True, False, False)
    assert arena.descend("10.0.0.2") == (1, False, False, False)
    assert arena.root_tag(False) == inner.TAG_LEAF


def test_the_path_to_a_host_has_one_entry_per_node(arena: inner.Arena) -> None:
    for address in ("10.0.0.1", "10.0.0.2", "10.0.9.1", "10.9.0.1"):
        arena.add(address)
    assert arena.root_tag(False) == inner.TAG_SMALL
    assert arena.descend("10.9.0.1") == (2, True, False, False)
    assert arena.descend("10.0.9.1") == (3, True, False, False)
    assert arena.descend("10.0.0.2") == (4, True, False, False)
    assert arena.descend("10.0.0.3") == (3, False, False, False)


def test_an_address_that_is_not_on_the_path_of_a_node(arena: inner.Arena) -> None:
    arena.add("10.0.0.1")
    arena.add("10.0.0.2")
    assert arena.descend("11.0.0.1") == (1, False, True, False)


@pytest.mark.parametrize("v6", [False, True])
def test_a_host_is_found_at_each_depth(arena: inner.Arena, v6: bool) -> None:
    base = 0x20010DB8 << 96 if v6 else 10 << 24
    width = 128 if v6 else 32
    hosts = [base] + [base ^ (1 << bit) for bit in range(0, width - 8, 7)]
    texts = [str((ipaddress.IPv6Address if v6 else ipaddress.IPv4Address)(host)) for host in hosts]
    for text in texts:
        assert arena.add(text) == inner.OK
    assert all(arena.descend(text)[1] for text in texts)
    assert arena.verify() is None


def test_a_node_with_a_wrong_depth_is_damaged(arena: inner.Arena) -> None:
    arena.add("10.0.0.1")
    arena.add("10.0.0.2")
    arena.damage(arena.root_unit(False), 0, 0xFF00)  # depth 255, grade 0
    assert arena.descend("10.0.0.1")[3]
    assert arena.add("10.0.0.1") == inner.DAMAGED
