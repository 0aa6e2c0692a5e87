"""Counts of one address at several prefix lengths, in one walk: which limit they are over."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.support import inner
from tests.support.gold import unmapped
from tests.support.strategies import addresses, length_for

MANY = 40  # more lengths than one walk answers


def truly_over(owner: inner.Owner, remote: object, asked: list[tuple[int, int, int]], after: int) -> int | None:
    """By one count for each length."""
    return min(
        (number for length, number, most in asked if number > after and owner.sum_trees(f"{remote}/{length}") > most),
        default=None,
    )


@given(
    st.integers(1, 3),
    st.lists(st.tuples(addresses, st.integers(0, 2), st.sampled_from([1, 1, 2, 50])), max_size=40),
    st.lists(addresses, min_size=1, max_size=4),
    st.data(),
)
@example(1, [], [ipaddress.ip_address("192.0.2.1")], None)
def test_no_limit_that_is_passed_is_left_out(trees, opened, others, data):
    owner = inner.Owner()
    for tree in range(trees):
        owner.add_tree(0, tree)
    for remote, tree, sessions in opened:
        owner.add(tree % trees, str(remote), sessions)
    for remote in map(unmapped, (*others, *(remote for remote, _, _ in opened[:5]))):
        asked, after = drawn(data, remote) if data else ([(0, 0, 0), (32, 1, 0)], -1)
        over = truly_over(owner, remote, asked, after)
        found, sure = owner.first_over(str(remote), asked, after)
        assert sure == (trees == 1 or not asked)
        if sure:
            assert found == over
        elif found != over:  # the bounds of several trees may leave a limit in doubt, and never miss one
            assert found is not None
            assert over is None or found < over
            exact = {number: owner.sum_trees(f"{remote}/{length}") - most for length, number, most in asked}
            assert exact[found] <= 0


def drawn(data: st.DataObject, remote: ipaddress.IPv4Address | ipaddress.IPv6Address):
    lengths = sorted(data.draw(st.lists(length_for(remote), max_size=MANY)))
    numbers = data.draw(st.permutations(range(len(lengths))))
    most = data.draw(st.lists(st.sampled_from([0, 1, 2, 5, 60]), min_size=len(lengths), max_size=len(lengths)))
    return list(zip(lengths, numbers, most, strict=True)), data.draw(st.integers(-1, len(lengths)))


@pytest.mark.parametrize("remote", ["192.0.2.1", "2001:db8::1"])
def test_every_length_of_a_family_is_asked(remote: str) -> None:
    """Each alone passed, in whatever group of the walk it is."""
    owner, width = inner.Owner(), ipaddress.ip_address(remote).max_prefixlen
    owner.add_tree()
    owner.add(0, remote)
    lengths = sorted({*range(0, width + 1, 3 if width > 64 else 1), width})
    for length in lengths:
        asked = [(each, number, int(each != length)) for number, each in enumerate(lengths)]
        assert owner.first_over(remote, asked) == (lengths.index(length), True)


def test_several_trees_leave_a_limit_in_doubt_that_is_not_passed() -> None:
    """The bound of the first tree is a neighbour's session: the limit is named, and has to be counted."""
    owner = inner.Owner()
    for tree, remote in enumerate(["192.0.2.1", "192.0.2.2"]):
        owner.add_tree(0, tree)
        owner.add(tree, remote)
    assert owner.first_over("192.0.2.1", [(32, 7, 1)]) == (7, False)
    assert owner.sum_trees("192.0.2.1/32") == 1


def test_beside_a_writer_that_was_stopped_the_next_limit_is_in_doubt_until_one_was_counted() -> None:
    owner = inner.Owner()
    owner.add_tree()
    owner.add(0, "192.0.2.1")
    asked = [(24, 1, 0), (32, 3, 0)]
    owner.stop_in_update(0)
    assert owner.first_over("192.0.2.1", asked) == (0, False)
    assert owner.first_over("192.0.2.1", asked, 1) == (2, False)
    assert owner.sum_trees("192.0.2.1/24") == 1  # it waits for the writer, once
    assert owner.first_over("192.0.2.1", asked) == (1, True)
    assert owner.first_over("192.0.2.1", asked, 1) == (3, True)
    assert owner.first_over("192.0.2.1", asked, 3) == (None, True)


def test_of_an_owner_without_trees_no_limit_is_passed() -> None:
    assert inner.Owner().first_over("192.0.2.1", [(0, 0, 0)]) == (None, True)
