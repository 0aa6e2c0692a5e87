"""The ring of a series and its timeline; `test_windows` has the public side."""

from __future__ import annotations

import pytest
from tests.support import inner

INTERVAL, SLOTS = 300, 4


@pytest.fixture
def owner() -> inner.Owner:
    owner = inner.Owner()
    owner.set_time(INTERVAL * 100)
    return owner


@pytest.fixture
def series(owner: inner.Owner) -> inner.Series:
    return inner.Series(owner, INTERVAL, SLOTS)


def test_the_first_window_is_that_of_the_clock(series: inner.Series) -> None:
    assert (series.newest, series.base) == (100, 0)


@pytest.mark.parametrize("number", range(-9, 10))
def test_a_window_lies_in_the_slot_of_its_number(series: inner.Series, number: int) -> None:
    assert series.slot_of(number) == number % SLOTS


def test_a_ring_advances_with_the_clock(owner: inner.Owner, series: inner.Series) -> None:
    for number in (101, 102, 110):
        owner.set_time(INTERVAL * number + 299)
        assert series.advance() == number
        assert [n for n in range(number - 6, number + 3) if series.in_view(n)] == list(range(number - 3, number + 1))


def test_a_clock_that_is_set_back_goes_on_from_the_newest_window(owner: inner.Owner, series: inner.Series) -> None:
    owner.set_time(INTERVAL * 40)
    assert series.advance() == 100
    assert series.base == 60
    owner.set_time(INTERVAL * 41)
    assert series.advance() == 101


def test_a_clock_that_is_set_back_by_less_than_a_window_waits(owner: inner.Owner, series: inner.Series) -> None:
    owner.set_time(INTERVAL * 100 - 1)
    assert series.advance() == 100
    assert series.base == 0


def test_a_window_counts_only_while_its_slot_holds_it(owner: inner.Owner, series: inner.Series) -> None:
    series.change("192.0.2.7", 3)
    assert series.window_count(100, "192.0.2.0/24") == 3
    assert series.window_count(96, "192.0.2.0/24") == 0  # the same slot
    owner.set_time(INTERVAL * 104)
    series.change("192.0.2.8")
    assert series.window_count(100, "192.0.2.0/24") == 0
    assert series.window_count(104, "192.0.2.0/24") == 1
    assert series.verify() == []


def test_a_range_of_windows_is_their_sum(owner: inner.Owner, series: inner.Series) -> None:
    for number in range(100, 104):
        owner.set_time(INTERVAL * number)
        series.change("192.0.2.7", 10 ** (number - 100))
    assert series.range_count(0, 3, "192.0.2.7") == 1111
    assert series.range_count(1, 2, "192.0.2.7") == 110
    assert series.range_count(0, 0, "192.0.2.0/24") == 1000
    owner.set_time(INTERVAL * 105)
    assert series.range_count(2, 3, "192.0.2.7") == 1100
