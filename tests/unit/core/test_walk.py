"""Long walks over several trees."""

from __future__ import annotations

import pytest
from tests.support import inner


@pytest.fixture
def owner() -> inner.Owner:
    owner = inner.Owner()
    for _ in range(2):
        owner.add_tree()
    for tree, address, count in (
        (0, "10.0.0.1", 5),
        (1, "10.0.0.1", 2),
        (1, "10.0.0.128", 1),
        (0, "10.9.0.1", 4),
        (1, "192.0.2.1", 4),
        (0, "2001:db8::1", 3),
    ):
        owner.add(tree, address, count)
    return owner


def test_the_rows_of_the_compressed_tree(owner: inner.Owner) -> None:
    assert owner.rows() == (
        inner.OK,
        [
            (16, "0.0.0.0/0"),
            (12, "10.0.0.0/12"),
            (8, "10.0.0.0/24"),
            (7, "10.0.0.1/32"),
            (1, "10.0.0.128/32"),
            (4, "10.9.0.1/32"),
            (4, "192.0.2.1/32"),
        ],
    )
    assert owner.rows(6) == (inner.OK, [(3, "2001:db8::1/128")])


def test_the_hosts_of_one_tree(owner: inner.Owner) -> None:
    assert owner.hosts(1) == (inner.OK, [(2, "10.0.0.1/32"), (1, "10.0.0.128/32"), (4, "192.0.2.1/32")])
    assert owner.hosts(1, 6) == (inner.OK, [])


def test_the_largest_prefixes_best_first(owner: inner.Owner) -> None:
    hosts = [(7, "10.0.0.1/32"), (4, "10.9.0.1/32"), (4, "192.0.2.1/32"), (3, "2001:db8::1/128"), (1, "10.0.0.128/32")]
    for n in range(7):
        assert owner.top(n) == (inner.OK, hosts[:n])
    assert owner.top(2, 8, -1) == (inner.OK, [(12, "10.0.0.0/8"), (4, "192.0.0.0/8")])


@pytest.mark.parametrize(
    ("given", "below"),
    [
        ("0.0.0.0/0", (16, "0.0.0.0/0")),
        ("10.0.0.0/8", (12, "10.0.0.0/12")),
        ("10.0.0.0/16", (8, "10.0.0.0/24")),
        ("10.0.0.0/25", (7, "10.0.0.1/32")),
        ("11.0.0.0/8", None),
        ("2000::/3", (3, "2001:db8::1/128")),
    ],
)
def test_what_all_trees_have_below_a_prefix(owner: inner.Owner, given: str, below: tuple[int, str] | None) -> None:
    assert owner.branch(given) == below


def test_more_rows_than_the_memory_of_a_tree_can_hold(owner: inner.Owner) -> None:
    assert owner.within_budget(0, 1)
    assert owner.within_budget(0, 65536)
    assert not owner.within_budget(0, 1 << 40)
