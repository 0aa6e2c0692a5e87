"""Which rows of a look are shown: nested, opened, sorted and filtered. Nothing here knows a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from inbound_audit.errors import CidrError
from inbound_audit.feed import Look
from inbound_audit.picture import Span, span_of

ORDERS = ("count", "share", "change", "refused", "prefix")
"""By what rows can be sorted: the largest first, prefixes by their address."""

USUAL = {4: frozenset((0, 8, 16, 24, 32)), 6: frozenset((0, 16, 32, 48, 56, 64, 128))}
"""The lengths that are shown at first. A picture halves a prefix at each step: to open twenty takes long."""

OPEN_SHARE = 0.1
"""At first a row is open that has so much of all."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a look. `share`: of the whole picture, 0 to 1."""

    prefix: str
    count: int
    share: float
    change: int | None
    refused: int


class Line(NamedTuple):
    """A row where it is shown. `is_open`: None, if no row is inside it."""

    row: Row
    depth: int
    is_open: bool | None


def holds(outer: Span, inner: Span) -> bool:
    return outer[0] == inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2]


class RowTree:
    """The rows of the last look, and what the person at the keys wants to see of them.

    `order`: one of `ORDERS`. `words`: a filter, a prefix (what is inside) or a part of a prefix's text; "": all rows.
    `every_length`: whether rows of unusual lengths are shown that have rows inside them.
    """

    def __init__(self) -> None:
        self.order = ORDERS[0]
        self.words = ""
        self.every_length = False
        self._taken: list[tuple[str, int, int | None, int]] = []
        self._rows: list[Row] = []
        self._parents: list[int] = []
        self._open: set[str] = set()
        self._begun = False

    def begin(self) -> None:
        """Another source: its first look says what is open."""
        self._begun = False

    def take(self, look: Look) -> bool:
        """The rows of a look from now on. Returns whether any differs from those before. O(rows)."""
        if self._begun and look.rows == self._taken:
            return False
        self._taken = look.rows
        total = max(1, look.picture.total)
        rows = [Row(prefix, count, count / total, change, refused) for prefix, count, change, refused in self._taken]
        self._rows = rows
        self._parents = [row.parent for row in look.picture.rows]
        if not self._begun:
            self._begun = True
            roots = {row.prefix for row, parent in zip(rows, self._parents, strict=True) if parent < 0}
            self._open = roots | {row.prefix for row in rows if row.share >= OPEN_SHARE}
        return True

    # ---- what is shown

    def lines(self) -> list[Line]:
        """From the top to the bottom. O(rows x log rows)."""
        inside: dict[int, list[int]] = {}
        for at, around in self._shown():
            inside.setdefault(around, []).append(at)
        lines: list[Line] = []
        left = [(at, 0) for at in self._sorted(inside.get(-1, []))]
        while left:
            at, depth = left.pop()
            row, children = self._rows[at], inside.get(at)
            is_open = row.prefix in self._open if children else None
            lines.append(Line(row, depth, is_open))
            if children and is_open:
                left += [(child, depth + 1) for child in self._sorted(children)]
        return lines

    def _sorted(self, positions: list[int]) -> list[int]:
        """The last one is shown first."""
        rows = self._rows
        if self.order == "change":
            positions.sort(key=lambda at: (rows[at].change or 0, rows[at].count, -at))
        elif self.order == "refused":
            positions.sort(key=lambda at: (rows[at].refused, rows[at].count, -at))
        elif self.order == "prefix":
            positions.sort(reverse=True)
        else:  # a share is of all, so it says the same as a count
            positions.sort(key=lambda at: (rows[at].count, -at))
        return positions

    def _shown(self) -> Iterator[tuple[int, int]]:
        """The positions of rows that are shown where all is open, each with the one around it (-1: none)."""
        shown: list[int] = []  # of each row: itself, or the innermost one around it that is shown
        halved = set(self._parents)
        matches = self._matcher()
        for at, (row, parent) in enumerate(zip(self._rows, self._parents, strict=True)):
            outer = shown[parent] if parent >= 0 else -1
            if (self.every_length or at not in halved or _is_usual(row.prefix)) and matches(row.prefix):
                shown.append(at)
                yield at, outer
            else:
                shown.append(outer)

    def matching(self) -> list[Row]:
        """All rows that the filter lets through, in the order of their addresses."""
        matches = self._matcher()
        return [row for row in self._rows if matches(row.prefix)]

    def _matcher(self) -> Callable[[str], bool]:
        words = self.words.strip().lower()
        if not words:
            return lambda prefix: True
        if "/" in words:
            with contextlib.suppress(CidrError):
                outer = span_of(words)
                return lambda prefix: holds(outer, span_of(prefix))
        return lambda prefix: words in prefix

    # ---- what is opened

    def open(self, prefix: str) -> None:
        self._open.add(prefix)

    def close(self, prefix: str) -> None:
        self._open.discard(prefix)

    def open_inside(self, prefix: str) -> None:
        """It, and all rows inside it."""
        self._open |= self._inside(prefix)

    def close_inside(self, prefix: str) -> None:
        self._open -= self._inside(prefix)

    def _inside(self, prefix: str) -> set[str]:
        outer = span_of(prefix)
        return {row.prefix for row in self._rows if holds(outer, span_of(row.prefix))}

    def reveal(self, text: str) -> str | None:
        """Opens what is around the prefix in that text. Returns the row that is shown now, its own or the innermost one
        around it; None: no row holds it. Raises CidrError."""
        wanted = span_of(text)
        around = [at for at, row in enumerate(self._rows) if holds(span_of(row.prefix), wanted)]
        if not around:
            return None
        innermost = self._rows[around[-1]].prefix
        if not self._matcher()(innermost):
            self.words = ""
        path = self._path(around)
        if not path or (path[-1] != innermost and span_of(innermost) == wanted):
            self.every_length = True
            path = self._path(around)
        self._open.update(path[:-1])
        return path[-1]

    def _path(self, positions: list[int]) -> list[str]:
        """Those of the rows that are shown."""
        shown = {at for at, _ in self._shown()}
        return [self._rows[at].prefix for at in positions if at in shown]


def _is_usual(prefix: str) -> bool:
    return int(prefix.partition("/")[2]) in USUAL[6 if ":" in prefix else 4]
