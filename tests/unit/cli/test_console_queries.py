"""The console's queries on counts that are made up: which windows a time means, and how rows are ranked."""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime, timezone
from typing import Any

import pytest

from inbound_audit.cli.console import queries
from inbound_audit.cli.console.context import ConsoleContext, SeriesInfo
from inbound_audit.cli.console.grammar import Names
from inbound_audit.cli.failure import Failure

NOW = 1_000_000_000


class MadeUpContext(ConsoleContext):
    """A context whose hosts per window are given. Its notes are kept."""

    def __init__(self, **series: list[dict[str, int]]) -> None:
        self.notes: list[str] = []
        super().__init__("mail", None, self.notes.append)  # type: ignore[arg-type]
        self._series = series

    @property
    def all_series(self) -> list[SeriesInfo]:
        return [SeriesInfo("series", name, "ip", 300, len(windows)) for name, windows in self._series.items()]

    def hosts(self, one: SeriesInfo, start: int, end: int) -> list[tuple[int, str]]:
        found: Counter[str] = Counter()
        for window in self._series[one.name][start : end + 1]:
            found.update(window)
        return [(count, host) for host, count in found.items()]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: float(NOW))


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(NOW + seconds, timezone.utc)


SIX = SeriesInfo("series", "x", "ip", 300, 6)
BEGIN = -(NOW % 300)  # of the current window, from now


@pytest.mark.parametrize(
    ("begin", "end", "windows"),
    [
        (0, None, (0, 0)),
        (BEGIN, None, (0, 0)),
        (BEGIN - 1, None, (0, 1)),
        (BEGIN - 300, None, (0, 1)),
        (BEGIN - 301, None, (0, 2)),
        (-NOW, None, (0, 5)),
        (BEGIN - 600, BEGIN, (1, 2)),  # two windows, to the end of the second
        (BEGIN - 600, BEGIN + 1, (0, 2)),
        (BEGIN - 600, BEGIN - 600, (2, 2)),  # a moment
        (BEGIN - 450, BEGIN - 450, (2, 2)),
        (BEGIN - 600, 86400, (0, 2)),
        (BEGIN - 86400, BEGIN - 900, (4, 5)),
    ],
)
def test_the_windows_of_a_time(begin: float, end: float | None, windows: tuple[int, int]) -> None:
    context = MadeUpContext()
    assert queries._windows_of(context, SIX, (at(begin), None if end is None else at(end))) == windows
    assert bool(context.notes) == (begin < BEGIN - 5 * 300)


@pytest.mark.parametrize(
    ("begin", "end", "said"),
    [
        (1, None, "in the future"),
        (BEGIN - 86400, BEGIN - 2000, "goes back 6 windows of 300 s"),
    ],
)
def test_a_time_without_windows(begin: float, end: float | None, said: str) -> None:
    with pytest.raises(Failure, match=said):
        queries._windows_of(MadeUpContext(), SIX, (at(begin), None if end is None else at(end)))


def rows(context: ConsoleContext, names: str, cidr: str = "0.0.0.0/0", **parts: Any) -> list[Any]:
    *union, series = names.split(" ")
    return list(queries.show_count(context, cidr, Names(tuple(series.split(",")), bool(union)), **parts).rows)


def test_ties_are_by_address_and_what_is_nothing_is_left_out() -> None:
    context = MadeUpContext(a=[{"192.0.2.9": 2, "10.0.0.1": 2, "192.0.2.7": 3, "192.0.2.8": 0, "::1": 9}])
    assert rows(context, "a") == [("192.0.2.7/32", 3), ("10.0.0.1/32", 2), ("192.0.2.9/32", 2)]
    assert rows(context, "a", order="cidr") == [("10.0.0.1/32", 2), ("192.0.2.7/32", 3), ("192.0.2.9/32", 2)]
    assert rows(context, "a", cidr="::/0") == [("::1/128", 9)]


def test_several_series_and_their_union() -> None:
    context = MadeUpContext(a=[{"192.0.2.7": 3, "192.0.2.8": 1}], b=[{"192.0.2.8": 4, "192.0.2.9": 2}])
    assert rows(context, "a,b") == [("192.0.2.7/32", [3, 0]), ("192.0.2.8/32", [1, 4]), ("192.0.2.9/32", [0, 2])]
    assert rows(context, "union a,b") == [("192.0.2.8/32", 5), ("192.0.2.7/32", 3), ("192.0.2.9/32", 2)]
    assert rows(context, "union a,b,a") == rows(context, "union a,b")
    assert rows(context, "union a,b", threshold=3, limit=1) == [("192.0.2.8/32", 5)]
    assert rows(context, "a,b", threshold=3) == [("192.0.2.7/32", [3, 0]), ("192.0.2.8/32", [1, 4])]
    lines = [queries._query_text(row, lambda count: count) for row in rows(context, "a,b", limit=2)]
    assert lines == [f"    3,0{' ' * 25}192.0.2.7/32", f"    1,4{' ' * 25}192.0.2.8/32"]


def test_each_length_has_its_rows() -> None:
    context = MadeUpContext(a=[{"192.0.2.7": 3, "192.0.2.130": 1}])
    assert rows(context, "a", cidr="192.0.2.0/24", cidrsize=(24, 25)) == [
        ("192.0.2.0/24", 4), ("192.0.2.0/25", 3), ("192.0.2.128/25", 1),
    ]  # fmt: skip
    for lengths in ((23, 24), (24, 33), (25, 24)):
        with pytest.raises(Failure, match="has prefixes of 24 to 32"):
            rows(context, "a", cidr="192.0.2.0/24", cidrsize=lengths)


def test_each_day_has_its_rows() -> None:
    context = MadeUpContext(a=[{"192.0.2.7": 1}] * 600)
    found = rows(context, "a", daily=True)
    days = sorted({f"{datetime.fromtimestamp(NOW - 300 * back):%Y-%m-%d}" for back in range(600)})
    assert [row[0] for row in found] == days
    assert sum(row[2] for row in found) == 600
    assert all(row[2] <= 300 for row in found)
