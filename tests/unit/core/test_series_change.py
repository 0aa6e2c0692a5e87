"""Records in a series."""

from __future__ import annotations

import pytest
from tests.support import inner


@pytest.fixture
def owner() -> inner.Owner:
    owner = inner.Owner()
    owner.set_time(3000)
    return owner


@pytest.fixture
def series(owner: inner.Owner) -> inner.Series:
    return inner.Series(owner, 300, 4, negative=True)


def test_a_record_counts_in_the_current_window(owner: inner.Owner, series: inner.Series) -> None:
    assert series.change("192.0.2.7", 2) == (inner.OK, 10)
    owner.set_time(3300)
    assert series.change("192.0.2.7", 3) == (inner.OK, 11)
    assert [series.window_count(number, "192.0.2.7") for number in (10, 11)] == [2, 3]


def test_what_is_subtracted_cancels_what_was_added(series: inner.Series) -> None:
    series.change("192.0.2.7", 5)
    series.change("192.0.2.7", -3)
    assert series.window_count(10, "192.0.2.7") == 2
    series.change("192.0.2.7", -4)
    assert series.window_count(10, "192.0.2.7") == -2
    series.change("192.0.2.7", 9)
    assert series.window_count(10, "192.0.2.7") == 7
    assert series.verify() == []


def test_to_subtract_more_than_there_is_needs_a_second_tree(owner: inner.Owner) -> None:
    series = inner.Series(owner, 300, 4)
    series.change("192.0.2.7", 5)
    assert series.change("192.0.2.7", -5)[0] == inner.OK
    assert series.change("192.0.2.7", -1)[0] == inner.NEED_NEGATIVE_TREE
    assert series.window_count(10, "192.0.2.7") == 0


def test_a_record_of_a_past_time(owner: inner.Owner, series: inner.Series) -> None:
    owner.set_time(3900)
    assert series.record_past("192.0.2.7", 4, 3000) == inner.OK
    assert series.window_count(10, "192.0.2.7") == 4
    assert series.record_past("192.0.2.7", 4, 2699) == inner.UNMATCHED  # out of view
    assert series.record_past("192.0.2.7", 1, 99999) == inner.OK  # ahead of the clock: the current window
    assert series.window_count(13, "192.0.2.7") == 1


def test_an_event_moves_within_its_window(owner: inner.Owner, series: inner.Series) -> None:
    _, number = series.change("192.0.2.7")
    owner.set_time(3300)
    series.change("192.0.2.7")
    series.move_event("192.0.2.7", "2001:db8::7", number)
    assert series.window_count(10, "192.0.2.7") == 0
    assert series.window_count(10, "2001:db8::7") == 1
    assert series.window_count(11, "192.0.2.7") == 1
    owner.set_time(300 * 20)
    series.advance()
    series.move_event("2001:db8::7", "192.0.2.9", number)  # out of view: nothing happens
    assert series.verify() == []


def test_a_removed_host_is_gone_from_all_windows(owner: inner.Owner, series: inner.Series) -> None:
    for number in range(10, 14):
        owner.set_time(300 * number)
        series.change("192.0.2.7", 3)
        series.change("192.0.2.8", -1)
    assert series.remove_key("192.0.2.7") == inner.OK
    assert series.range_count(0, 3, "192.0.2.7") == 0
    assert series.range_count(0, 3, "192.0.2.8") == -4
    assert series.remove_key("192.0.2.8") == inner.OK
    assert series.range_count(0, 3, "0.0.0.0/0") == 0
    assert series.verify() == []


def test_a_series_that_ended_takes_no_record(series: inner.Series) -> None:
    series.end()
    assert series.change("192.0.2.7")[0] == inner.CLOSED
    assert series.record_past("192.0.2.7", 1, 3000) == inner.CLOSED
    assert series.remove_key("192.0.2.7") == inner.CLOSED


@pytest.mark.parametrize("amount", [0, 2**32, -(2**32), 2**62])
def test_an_amount_that_is_out_of_range(owner: inner.Owner, amount: int) -> None:
    series = inner.Series(owner, 300, 2, inner.STRINGS)
    assert "whole number" in inner.reason(series.add_text(b"x", amount))


def test_a_change_without_a_key_needs_a_session(series: inner.Series) -> None:
    assert series.add_text(None) == inner.NO_KEY
