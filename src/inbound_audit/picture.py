"""A picture of an audit: its heaviest prefixes of any length, as a number of rows; and what changed between two."""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from inbound_audit._ipcount import MONITOR_KINDS, Audit, PrefixCounter, SeriesStore, parse_monitor, parse_prefix
from inbound_audit.errors import MonitorError, SeriesError, did_you_mean, named_keywords
from inbound_audit.services import DEFAULT_SERVICE_TYPE

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

CONNECTIONS = MONITOR_KINDS[0]
ROWS = 1000

Span = tuple[int, int, int]
"""The version of a prefix, its first and its last address."""

_Entry = tuple[str, str, int, int]
"""Of `SeriesStore.known`: scope, name, seconds of a window, windows."""


def span_of(prefix: str) -> Span:
    """Raises CidrError."""
    version, packed, length = parse_prefix(prefix)
    first = int.from_bytes(packed, "big")
    return version, first, first | ((1 << (8 * len(packed) - length)) - 1)


@dataclass(frozen=True, slots=True)
class PictureRow:
    """A prefix and what was counted in it. `rest` is what lies in none of the rows inside it, never below zero.

    `parent` is the position of the row that it is in, -1 if it is in none.
    """

    prefix: str
    count: int
    rest: int
    parent: int

    @property
    def network(self) -> IPv4Network | IPv6Network:
        from ipaddress import ip_network  # only here: every program that counts imports this file

        return ip_network(self.prefix)


class Picture:
    """Rows in the order of their addresses, IPv4 first, each before the rows inside it; at most two are in no other.

    Rows add up: the counts of the rows inside a row, and its `rest`, are its count. `time` is in seconds since 1970. A
    picture does not change.
    """

    def __init__(self, rows: list[tuple[int, str, int]], taken_at: float) -> None:
        rest = [count for count, _, _ in rows]
        for count, _, parent in rows:
            if parent >= 0:
                rest[parent] -= count
        self.rows = tuple(PictureRow(prefix, count, rest[i], parent) for i, (count, prefix, parent) in enumerate(rows))
        self.time = taken_at

    @cached_property
    def total(self) -> int:
        return sum(row.count for row in self.rows if row.parent < 0)

    def changes(self, earlier: Picture) -> list[int | None]:
        """How much each row has grown since an earlier picture of the same, in the order of `rows`.

        None: it is not known, since the prefix lay in a row of the earlier picture that was not split.
        O(rows x prefix length).
        """
        if [row.prefix for row in self.rows] == [row.prefix for row in earlier.rows]:  # it is so where little happens
            return [row.count - before.count for row, before in zip(self.rows, earlier.rows, strict=True)]
        return [
            None if (before := earlier._count_of(span)) is None else row.count - before
            for row, span in zip(self.rows, self._spans, strict=True)
        ]

    def _count_of(self, span: Span) -> int | None:
        """The count of a prefix, as this picture tells it."""
        version, _, last = span
        position = at = bisect_left(self._keys, _key(span))
        inside = 0
        while at < len(self.rows) and self._spans[at][0] == version and self._spans[at][2] <= last:
            inside += self.rows[at].count
            at = self._after[at]
        if at > position and self._spans[position] == span:
            return inside
        around = position - 1
        while around >= 0 and not (self._spans[around][0] == version and last <= self._spans[around][2]):
            around = self.rows[around].parent
        # What is in the row around it, and in none of the rows inside that, may be in this prefix.
        return inside if around < 0 or not self.rows[around].rest else None

    @cached_property
    def _spans(self) -> list[Span]:
        return [span_of(row.prefix) for row in self.rows]

    @cached_property
    def _keys(self) -> list[Span]:
        """By which the rows are in order."""
        return [_key(span) for span in self._spans]

    @cached_property
    def _after(self) -> list[int]:
        """Of each row: the position after it and all rows inside it."""
        after = list(range(1, len(self.rows) + 1))
        for i in range(len(self.rows) - 1, -1, -1):
            parent = self.rows[i].parent
            if parent >= 0:
                after[parent] = max(after[parent], after[i])
        return after


def _key(span: Span) -> Span:
    version, first, last = span
    return version, first, -last


@named_keywords
def picture(
    audit: Audit,
    rows: int = ROWS,
    *,
    within: str | None = None,
    service_type: str = DEFAULT_SERVICE_TYPE,
    listener: str | None = None,
    monitor: str | None = None,
    kind: str = CONNECTIONS,
    series: str | None = None,
    startv: int = 0,
    endv: int | None = None,
) -> Picture:
    """The heaviest prefixes of any length, as at most `rows` rows (2 to 65,536); `within`: those in that prefix alone.

    They are of the open sessions of a service, or of its listeners with the name `listener`. With `monitor`
    (``"60,5"``) they are of what it counted; `kind` is ``"connections"``, ``"receptions"`` or ``"rejections"``. With
    `series` they are of that named series. Both have windows: `startv` to `endv` (as `startv` if it is None; 0 is the
    current one).

    It costs the rows, not the sessions, and stops no writer: O(rows x trees x bytes of the address), without the GIL.
    Each count was true at some moment of the walk, and rows add up: where more was taken from a prefix of a series than
    was added, it has no row, and takes nothing from the row around it once that is split. Raises ValueError, CidrError,
    UnknownServiceType, MonitorError, SeriesError.
    """
    now = time.time()
    if monitor is None and series is None:
        return Picture(audit._picture(rows, within, service_type, listener), now)
    store = SeriesStore(audit)
    entry = _monitor(store, kind, monitor) if monitor is not None else _series(store, series)
    return Picture(store.picture(*entry, startv, startv if endv is None else endv, rows, within), now)


def picture_of_counter(counter: PrefixCounter, rows: int = ROWS, *, within: str | None = None) -> Picture:
    """The same of a counter. O(rows x bytes of the address). Raises ValueError, CidrError."""
    return Picture(counter._picture(rows, within), time.time())


def _monitor(store: SeriesStore, kind: str, monitor: str) -> _Entry:
    if kind not in MONITOR_KINDS:
        raise MonitorError(f"{kind!r}: a monitor counts {', '.join(MONITOR_KINDS)}{did_you_mean(kind, MONITOR_KINDS)}")
    wanted = parse_monitor(monitor)
    known = [entry for entry in _entries(store) if entry[0] == kind]
    found = next((entry for entry in known if entry[2:] == wanted), None)
    if found is None:
        raise MonitorError(f"{monitor!r}: no such monitor{_names_of(known)}")
    return found


def _series(store: SeriesStore, series: str | None) -> _Entry:
    known = [entry for entry in _entries(store) if entry[0] not in MONITOR_KINDS]
    found = next((entry for entry in known if entry[1] == series), None)
    if found is None:
        raise SeriesError(f"{series!r}: no such series{_names_of(known)}")
    return found


def _entries(store: SeriesStore) -> list[_Entry]:
    return [(scope, name, interval, windows) for scope, name, _, interval, windows in store.known]


def _names_of(known: list[_Entry]) -> str:
    return f" (known: {', '.join(name for _, name, _, _ in known) or 'none'})"
