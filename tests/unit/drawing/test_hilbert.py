"""IPv4 prefixes on the map."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbound_audit.drawing.hilbert import BITS, SIDE, Box, box_of

addresses = st.integers(0, 2**BITS - 1)
lengths = st.integers(0, BITS)


def within(inner: Box, outer: Box) -> bool:
    return (
        outer.x <= inner.x
        and outer.y <= inner.y
        and inner.x + inner.width <= outer.x + outer.width
        and inner.y + inner.height <= outer.y + outer.height
    )


@pytest.mark.parametrize(
    ("length", "rows"),
    [
        (2, [[0, 3], [1, 2]]),
        (4, [[0, 1, 14, 15], [3, 2, 13, 12], [4, 7, 8, 11], [5, 6, 9, 10]]),
    ],
)
def test_the_curve_is_the_one_that_is_drawn_in_the_documentation(length: int, rows: list[list[int]]) -> None:
    side = SIDE // len(rows)
    for y, row in enumerate(rows):
        for x, number in enumerate(row):
            assert box_of(number << (BITS - length), length) == (x * side, y * side, side, side)


def test_a_prefix_of_odd_length_is_two_squares_side_by_side() -> None:
    half = SIDE // 2
    assert box_of(0, 1) == (0, 0, half, SIDE)
    assert box_of(128 << 24, 1) == (half, 0, half, SIDE)
    assert box_of(0, 0) == (0, 0, SIDE, SIDE)
    assert box_of(0, 3) == (0, 0, half, half // 2)


@given(addresses, st.integers(0, BITS // 2).map(lambda half: 2 * half))
def test_neighbours_of_the_same_length_touch(address: int, length: int) -> None:
    step = 1 << (BITS - length)
    here = box_of(address, length)
    if address + step < 2**BITS:
        there = box_of(address + step, length)
        assert abs(here.x - there.x) + abs(here.y - there.y) == here.width


@given(addresses, lengths)
def test_a_prefix_has_its_share_of_the_map_and_is_at_most_twice_as_long_as_wide(address: int, length: int) -> None:
    _, _, width, height = box_of(address, length)
    assert width * height == 2 ** (BITS - length)
    assert max(width, height) <= 2 * min(width, height)


@given(addresses, st.integers(0, BITS - 1))
def test_a_prefix_consists_of_its_two_halves(address: int, length: int) -> None:
    whole = box_of(address, length)
    one, other = (box_of(each, length + 1) for each in (address, address ^ (1 << (BITS - length - 1))))
    assert within(one, whole)
    assert within(other, whole)
    assert (one.x, one.y) != (other.x, other.y)
