"""Which rows of a look are shown: nested, opened, sorted, filtered."""

from __future__ import annotations

import pytest
from tests.support.looks import COUNTS, Counts, look_of

from inbound_audit.errors import CidrError
from inbound_audit.watch.tree import RowTree


@pytest.fixture
def rows() -> RowTree:
    made = RowTree()
    made.take(look_of())
    return made


def shown(rows: RowTree) -> list[str]:
    return ["  " * line.depth + line.row.prefix for line in rows.lines()]


def test_at_first_the_usual_lengths_are_shown_and_the_large_ones_open(rows: RowTree) -> None:
    assert shown(rows) == [
        "0.0.0.0/0",
        "  198.51.100.0/24",
        "    198.51.100.128/25",
        "    198.51.100.0/25",
        "  10.0.0.0/8",
        "  203.0.113.0/24",
        "  11.0.0.0/8",
        "2001:db8::/32",
        "  2001:db8:1::/48",
        "  2001:db8:2::/64",
    ]
    assert [line.is_open for line in rows.lines()][:5] == [True, True, None, None, None]


def test_every_length_is_shown_on_demand(rows: RowTree) -> None:
    rows.every_length = True
    rows.open_inside("0.0.0.0/0")
    assert shown(rows)[:4] == ["0.0.0.0/0", "  192.0.0.0/4", "    198.51.100.0/24", "      198.51.100.128/25"]
    assert len(shown(rows)) == len(COUNTS)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("count", ["198.51.100.0/24", "10.0.0.0/8", "203.0.113.0/24", "11.0.0.0/8"]),
        ("share", ["198.51.100.0/24", "10.0.0.0/8", "203.0.113.0/24", "11.0.0.0/8"]),
        ("change", ["198.51.100.0/24", "10.0.0.0/8", "11.0.0.0/8", "203.0.113.0/24"]),
        ("refused", ["198.51.100.0/24", "203.0.113.0/24", "10.0.0.0/8", "11.0.0.0/8"]),
        ("prefix", ["10.0.0.0/8", "11.0.0.0/8", "198.51.100.0/24", "203.0.113.0/24"]),
    ],
)
def test_rows_are_sorted_among_those_beside_them(rows: RowTree, order: str, expected: list[str]) -> None:
    rows.order = order
    assert [line.row.prefix for line in rows.lines() if line.depth == 1 and ":" not in line.row.prefix] == expected


def test_the_row_with_the_most_refusals_may_not_be_the_largest() -> None:
    rows = RowTree()
    rows.take(look_of({"10.0.0.0/8": (5, 1, 9), "11.0.0.0/8": (9, 0, 1)}))
    assert shown(rows) == ["11.0.0.0/8", "10.0.0.0/8"]
    for order in ("refused", "change", "prefix"):
        rows.order = order
        assert shown(rows) == ["10.0.0.0/8", "11.0.0.0/8"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("203.0.113", ["203.0.113.0/24"]),
        ("DB8:1", ["2001:db8:1::/48"]),
        ("198.51.100.0/24", ["198.51.100.0/24", "  198.51.100.128/25", "  198.51.100.0/25"]),
        ("198.51.100.9/24", ["198.51.100.0/24", "  198.51.100.128/25", "  198.51.100.0/25"]),
        ("203.0.0.0/16", ["203.0.113.0/24"]),
        ("2001::/16", ["2001:db8::/32", "  2001:db8:1::/48", "  2001:db8:2::/64"]),
        ("/24", ["198.51.100.0/24", "203.0.113.0/24"]),
        ("9.9.9.9/32", []),
        ("[bold]", []),
    ],
)
def test_a_filter_is_a_part_of_a_prefix_or_what_is_inside_one(rows: RowTree, words: str, expected: list[str]) -> None:
    rows.words = words
    assert shown(rows) == expected


def test_the_filter_says_what_is_exported_whether_open_or_not(rows: RowTree) -> None:
    rows.words = "203.0.113.0/24"
    assert [row.prefix for row in rows.matching()] == ["203.0.113.0/24", "203.0.113.7/32", "203.0.113.9/32"]


def test_what_is_open_stays_open_over_the_next_looks(rows: RowTree) -> None:
    rows.open("203.0.113.0/24")
    rows.close("198.51.100.0/24")
    before = shown(rows)
    assert "    203.0.113.7/32" in before
    assert "    198.51.100.0/25" not in before
    assert rows.take(look_of({"9.0.0.0/8": (1, 1, 0), "10.0.0.0/8": (4, 1, 0)}))
    assert rows.take(look_of())
    assert shown(rows) == before


def test_another_source_begins_anew(rows: RowTree) -> None:
    before = shown(rows)
    rows.close_inside("0.0.0.0/0")
    assert len(shown(rows)) < len(before)
    rows.begin()
    rows.take(look_of())
    assert shown(rows) == before


def test_a_look_without_a_difference_is_none(rows: RowTree) -> None:
    assert not rows.take(look_of())
    changed: Counts = {**COUNTS, "203.0.113.7/32": (11, 0, 9)}
    assert rows.take(look_of(changed))


# ---- going to a prefix


def test_a_row_is_revealed_below_what_was_closed(rows: RowTree) -> None:
    rows.close_inside("0.0.0.0/0")
    assert rows.reveal("203.0.113.7") == "203.0.113.7/32"
    assert "    203.0.113.7/32" in shown(rows)


def test_a_prefix_without_a_row_is_in_the_innermost_one_around_it(rows: RowTree) -> None:
    assert rows.reveal("203.0.113.8") == "203.0.113.0/24"
    assert rows.reveal("203.0.113.0/26") == "203.0.113.0/24"
    assert rows.reveal("192.0.2.0/24") == "0.0.0.0/0"
    assert not rows.every_length


def test_a_row_of_an_unusual_length_is_shown_if_it_is_wanted(rows: RowTree) -> None:
    assert rows.reveal("192.0.0.0/4") == "192.0.0.0/4"
    assert rows.every_length


def test_a_filter_that_hides_the_row_is_dropped(rows: RowTree) -> None:
    rows.words = "2001:"
    assert rows.reveal("2001:db8:1::/48") == "2001:db8:1::/48"
    assert rows.words == "2001:"
    assert rows.reveal("203.0.113.7") == "203.0.113.7/32"
    assert rows.words == ""


def test_no_row_holds_it(rows: RowTree) -> None:
    assert rows.reveal("3fff::1") is None
    with pytest.raises(CidrError):
        rows.reveal("300.1.1.1")
