"""The gold trees of nodes do what cluster/node_trees.py says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.gold_nodes import GoldTree, Host, digest, encode

hosts = st.one_of(
    st.tuples(st.just(4), st.integers(0, 2**32 - 1)),
    st.tuples(st.just(6), st.integers(0, 2**128 - 1).filter(lambda address: address >> 32 != 0xFFFF)),
)
counts = st.dictionaries(hosts, st.integers(1, 2**32 - 1), max_size=30)


@given(counts, counts, st.integers(60, 400))
def test_a_snapshot_in_parts_replaces_what_was_there(
    before: dict[Host, int], after: dict[Host, int], size: int
) -> None:
    origin, copy = GoldTree(), GoldTree()
    copy.set_many(encode(before))
    origin.set_many(encode(after))
    parts, cursor = [], b""
    while not parts or cursor:
        part, cursor = origin.records(cursor, size)
        assert len(part) <= size
        parts.append(part)
    copy.replace(parts)
    assert copy.counts == after
    assert (copy.total, copy.digest) == (sum(after.values()), digest(after))
    assert digest(copy.counts) == origin.digest


def test_parts_that_do_not_continue_are_refused() -> None:
    one, two = encode({(4, 1): 1}), encode({(4, 2): 1})
    tree = GoldTree()
    for parts in ([two, one], [one, one]):
        with pytest.raises(ValueError, match="continue"):
            tree.replace(parts)
