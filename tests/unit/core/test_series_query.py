"""Counts of a series over its windows."""

from __future__ import annotations

import pytest
from tests.support import inner

from inbound_audit._ipcount import REPLICATE


@pytest.fixture
def owner() -> inner.Owner:
    owner = inner.Owner()
    owner.set_time(3000)
    return owner


@pytest.fixture
def series(owner: inner.Owner) -> inner.Series:
    return inner.Series(owner, 300, 4, negative=True)


def test_a_series_is_found_by_its_exact_name(owner: inner.Owner) -> None:
    one = inner.Series(owner, 300, 2, name=b"one")
    assert one.find(b"one")
    assert not one.find(b"on")
    assert not one.find(b"one ")


def test_the_series_of_a_monitor_has_no_name(owner: inner.Owner) -> None:
    assert not inner.Series(owner, 300, 2, inner.CONNECTIONS, b"x").find(b"x")


def test_a_range_of_windows(owner: inner.Owner, series: inner.Series) -> None:
    series.change("192.0.2.7", 2)
    owner.set_time(3300)
    series.change("192.0.2.8", 5)
    assert series.query_key(b"192.0.2.0/24") == 5
    assert series.query_key(b"192.0.2.0/24", 1, 1) == 2
    assert series.query_key(b"192.0.2.0/24", 0, 3) == 7


@pytest.mark.parametrize(("first", "last"), [(-1, 0), (2, 1), (0, 4), (4, 4)])
def test_a_range_that_is_out_of_view(series: inner.Series, first: int, last: int) -> None:
    assert series.query_key(b"192.0.2.7", first, last) == (inner.BAD_WINDOW, None)


def test_a_query_without_a_key_needs_a_session(series: inner.Series) -> None:
    assert series.query_key(None) == (inner.NO_KEY, None)


def test_the_keys_of_a_series_of_strings_are_texts(owner: inner.Owner) -> None:
    series = inner.Series(owner, 300, 2, inner.STRINGS)
    assert series.add_text(b"192.0.2.0/24", 3) == inner.OK
    assert series.query_key(b"192.0.2.0/24") == 3
    assert series.query_key(b"192.0.2.0") == 0
    assert series.query_key(b"x" * (inner.MAX_KEY + 1)) == (inner.LONG_KEY, None)
    assert series.query_key(None) == (inner.NO_KEY, None)


def test_the_sliding_average_takes_the_share_of_the_window_before(owner: inner.Owner, series: inner.Series) -> None:
    series.change("192.0.2.7", 100)
    owner.set_time(3300 + 75)  # a quarter of the next window
    series.change("192.0.2.7", 8)
    assert series.sliding_average("192.0.2.7") == 8 + 75
    owner.set_time(3600)
    assert series.sliding_average("192.0.2.7") == 8


# ---- what the other nodes of a cluster recorded

NONE, CLUSTER, MANAGER = (REPLICATE[name] for name in ("none", "cluster", "manager"))


@pytest.mark.parametrize(("replicate", "counted"), [(NONE, 2), (CLUSTER, 7), (MANAGER, 7)])
def test_a_named_series_counts_the_other_nodes_if_it_is_replicated(
    owner: inner.Owner, series: inner.Series, replicate: int, counted: int
) -> None:
    remote = inner.Series(owner, 300, 4)
    series.set_remote(remote, replicate)
    series.change("192.0.2.7", 2)
    remote.change("192.0.2.9", 5)
    assert series.query_key(b"192.0.2.0/24") == counted
    assert series.query_key(b"192.0.2.9") == counted - 2
    assert series.query_cluster(b"192.0.2.0/24") == 7


def test_a_replicated_series_of_which_no_other_node_has_said_anything(series: inner.Series) -> None:
    series.set_replicate(CLUSTER)
    series.change("192.0.2.7", 2)
    assert series.query_key(b"192.0.2.0/24") == series.query_cluster(b"192.0.2.0/24") == 2


def test_windows_and_removed_counts_of_the_other_nodes(owner: inner.Owner, series: inner.Series) -> None:
    remote = inner.Series(owner, 300, 4, negative=True)
    series.set_remote(remote, CLUSTER)
    remote.change("2001:db8::1", 3)
    series.change("2001:db8::1", 1)
    owner.set_time(3300)
    remote.change("2001:db8::2", -5)
    assert series.query_key(b"2001:db8::/64") == -5
    assert series.query_key(b"2001:db8::/64", 1, 1) == 4
    assert series.query_key(b"2001:db8::/64", 0, 3) == -1
    assert series.query_key(b"2001:db8::/64", 4, 4) == (inner.BAD_WINDOW, None)


def test_texts_of_the_other_nodes(owner: inner.Owner) -> None:
    series, remote = (inner.Series(owner, 300, 2, inner.STRINGS) for _ in range(2))
    series.set_remote(remote, CLUSTER)
    series.add_text(b"mx.example", 1)
    remote.add_text(b"mx.example", 2)
    assert series.query_key(b"mx.example") == 3
