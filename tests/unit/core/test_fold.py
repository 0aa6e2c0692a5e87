"""A window that may not grow gives up detail; `test_folding` has the public side."""

from __future__ import annotations

import pytest
from tests.support import inner


@pytest.fixture
def owner() -> inner.Owner:
    owner = inner.Owner()
    owner.set_time(1 << 20)
    return owner


def test_a_window_with_room_keeps_all_detail(owner: inner.Owner) -> None:
    series = inner.Series(owner, 1 << 20, 2)
    for i in range(200):
        series.change(f"10.0.0.{i}")
    assert series.levels() == (32, 128, 0)


def test_too_many_hosts_are_folded_one_length_after_the_other(owner: inner.Owner) -> None:
    series = inner.Series(owner, 1 << 20, 2)
    series.set_max_hosts(16)
    seen = []
    for i in range(400):
        assert series.change(f"10.{i % 250}.{i % 7}.{i % 200}")[0] == inner.OK
        if not seen or seen[-1] != series.levels()[0]:
            seen.append(series.levels()[0])
        assert series.window_count(1, "10.0.0.0/8") == i + 1
    assert seen == [32, 24, 16, 8]
    assert series.levels()[2] > 0
    assert series.verify() == []


def test_the_family_with_more_hosts_is_folded_first(owner: inner.Owner) -> None:
    series = inner.Series(owner, 1 << 20, 2)
    series.set_max_hosts(20)
    series.change("10.0.0.1")
    for i in range(40):
        series.change(f"2001:db8:0:{i % 3}::{i}")
    assert series.levels()[0] == 32
    assert series.levels()[1] < 128
    assert series.window_count(1, "2001:db8::/32") == 40


def test_hashes_have_two_lengths(owner: inner.Owner) -> None:
    series = inner.Series(owner, 1 << 20, 2, inner.STRINGS)
    series.set_max_hosts(8)
    for i in range(60):
        assert series.add_text(b"text %d" % i) == inner.OK
    assert series.levels()[1] == 0
    assert series.window_count(1, "::/0") == 60


def test_a_window_never_refuses_for_want_of_bytes(owner: inner.Owner) -> None:
    series = inner.Series(owner, 1 << 20, 2, window_bytes=16 << 10)
    for i in range(3000):
        assert series.change(f"10.{i % 251}.{i % 13}.{i % 241}")[0] == inner.OK
    assert series.window_count(1, "10.0.0.0/8") == 3000
    assert series.verify() == []


def test_a_new_window_begins_with_all_detail(owner: inner.Owner) -> None:
    series = inner.Series(owner, 1 << 20, 2)
    series.set_max_hosts(4)
    for i in range(60):
        series.change(f"10.{i}.0.1")
    assert series.levels()[0] < 32
    owner.set_time(2 << 20)
    series.change("10.0.0.1")
    assert series.levels() == (32, 128, 0)


def test_an_event_moves_at_the_length_at_which_it_counts_now(owner: inner.Owner) -> None:
    series = inner.Series(owner, 1 << 20, 2)
    series.set_max_hosts(4)
    for i in range(30):
        series.change(f"10.{i}.0.1")
    series.move_event("10.7.0.1", "192.0.2.1", 1)
    assert series.window_count(1, "10.0.0.0/8") == 29
    assert series.window_count(1, "192.0.0.0/8") == 1
    assert series.verify() == []
