"""Sums over trees, also beside a writer that was stopped in mid-update."""

from __future__ import annotations

import pytest
from tests.support import inner


@pytest.fixture
def owner() -> inner.Owner:
    """Two listeners of a service, one of them also in another process, and a listener of another service."""
    owner = inner.Owner()
    other = owner.add_service(b"IMAP")
    for service, listener in ((0, 1), (0, 1), (0, 2), (other, 3)):
        owner.add_tree(service, listener)
    for tree, count in enumerate((1, 10, 100, 1000)):
        owner.add(tree, "192.0.2.7", count)
        owner.add(tree, "2001:db8::7", 2 * count)
    return owner


def test_a_sum_over_a_service(owner: inner.Owner) -> None:
    assert owner.sum_trees("192.0.2.0/24") == 111
    assert owner.sum_trees("2001:db8::/32") == 222
    assert owner.sum_trees("198.51.100.0/24") == 0
    assert owner.sum_trees("192.0.2.7", 2) == 1000


def test_totals_have_both_families(owner: inner.Owner) -> None:
    assert owner.total() == 333
    assert owner.total(2) == 3000


def test_a_listener_is_its_tree_and_in_shared_mode_its_trees_in_other_processes(owner: inner.Owner) -> None:
    assert [owner.listener_count(tree, "192.0.2.7") for tree in range(3)] == [1, 10, 100]
    owner.share(True)
    assert [owner.listener_count(tree, "192.0.2.7") for tree in range(3)] == [11, 11, 100]
    assert [owner.listener_total(tree) for tree in range(3)] == [33, 33, 300]


def test_a_writer_that_stands_in_mid_update_is_waited_for_once(owner: inner.Owner) -> None:
    owner.stop_in_update(0)
    assert owner.stalled(0) == 0
    assert owner.tree_count(0, "192.0.2.7") == 1
    assert owner.stalled(0) % 2 == 1
    assert owner.sum_trees("192.0.2.0/24") == 111
