"""Sliding sums: two windows, of the second the share that the last seconds cover."""

from __future__ import annotations

import pytest
from tests.support import inner


@pytest.fixture
def owner() -> inner.Owner:
    made = inner.Owner()
    made.set_time(3000)
    return made


@pytest.fixture
def series(owner: inner.Owner) -> inner.Series:
    return inner.Series(owner, 300, 2)


def test_the_share_of_the_window_before_is_rounded_down(owner: inner.Owner, series: inner.Series) -> None:
    series.change("192.0.2.7", 10)
    assert series.sliding_sum("192.0.2.7") == (10, 0, 10)
    owner.set_time(3300 + 75)  # a quarter of the next window
    series.change("192.0.2.7", 2)
    assert series.sliding_sum("192.0.2.0/24") == (2, 10, 9)
    owner.set_time(3300 + 299)
    assert series.sliding_sum("192.0.2.7") == (2, 10, 2)
    owner.set_time(3600)  # nothing is recorded in this window
    assert series.sliding_sum("192.0.2.7") == (0, 2, 2)
    owner.set_time(3900)
    assert series.sliding_sum("192.0.2.7") == (0, 0, 0)


def test_other_prefixes_are_left_out_of_both_windows(owner: inner.Owner, series: inner.Series) -> None:
    for host in ("192.0.2.7", "192.0.2.200", "192.0.3.7"):
        series.change(host, 4)
    owner.set_time(3300 + 150)
    series.change("192.0.2.200")
    assert series.sliding_sum("192.0.2.0/23") == (1, 12, 7)
    assert series.sliding_sum("192.0.2.0/23", ["192.0.2.128/25"]) == (0, 8, 4)
    assert series.sliding_sum("192.0.2.0/23", ["192.0.2.0/25", "192.0.3.0/24"]) == (1, 4, 3)


def test_a_clock_that_is_set_back_counts_the_window_before_whole(owner: inner.Owner, series: inner.Series) -> None:
    series.change("192.0.2.7", 3)
    owner.set_time(3300)
    series.change("192.0.2.7", 5)
    for back in (3200, 1000, 0):
        owner.set_time(back)
        assert series.sliding_sum("192.0.2.7") == (8, 0, 8)


def test_one_window_has_none_before(owner: inner.Owner) -> None:
    series = inner.Series(owner, 300, 1)
    series.change("192.0.2.7", 3)
    assert series.sliding_sum("192.0.2.7") == (3, 0, 3)
    owner.set_time(3300)
    assert series.sliding_sum("192.0.2.7") == (0, 0, 0)


def test_any_number_of_windows(owner: inner.Owner) -> None:
    """Of more windows than two, the others do not count; also where their number is no power of two."""
    series = inner.Series(owner, 300, 3)
    for window in range(5):
        owner.set_time(3000 + 300 * window)
        series.change("192.0.2.7", 10**window)
    assert series.sliding_sum("192.0.2.7") == (10000, 1000, 11000)
    assert [series.slot_of(number) for number in (-4, -3, -1, 0, 5)] == [2, 0, 2, 0, 2]
    assert [inner.Series(owner, 300, 4, name=b"other").slot_of(n) for n in (-5, -4, -1, 0, 7)] == [3, 0, 3, 0, 3]


def test_a_bound_is_enough_if_it_is_within_the_maximum(owner: inner.Owner, series: inner.Series) -> None:
    """What is left is never more than there is; the window before counts whole."""
    for host, count in (("192.0.2.7", 3), ("192.0.2.200", 5), ("192.0.3.7", 7), ("192.7.7.7", 11), ("10.1.1.1", 13)):
        series.change(host, count)
    owner.set_time(3300 + 150)
    series.change("192.0.2.7", 2)
    for cidr, count, now in (
        ("192.0.2.7", 5, 2),
        ("192.0.2.0/24", 10, 2),
        ("192.0.2.0/23", 17, 2),
        ("198.51.100.7", 0, 0),
    ):
        for maximum in range(50):
            left, more = series.left_at_least(cidr, maximum)
            assert left < 0 or left <= maximum - count
            assert more == (now > maximum)
        assert series.left_at_least(cidr, 2**62)[0] >= 0
    owner.set_time(3900)
    assert series.left_at_least("192.0.2.0/24", 0) == (0, False)
