"""Named series and monitors: their definitions. Counting is native; here is what happens once a series.

A series is a ring of windows (docs/windows.md). A monitor is three of them that sessions count in by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from inbound_audit import _ipcount
from inbound_audit.errors import MonitorError, SeriesError

TYPES = ("cidr", "cidr_ipv6", "string")
"""`cidr_ipv6` is `cidr`: one series counts both families."""

DEFAULT_BYTES = 256 << 20
"""Of all windows of a series, and of all windows of all monitors, together."""

INTERVAL_MOST, WINDOWS_MOST, HOSTS_MOST = 1 << 30, 1024, (1 << 32) - 1
MONITORS_MOST = 16
NAME_MOST = 64  # bytes
WINDOW_LEAST = 16 << 10  # bytes: room for the largest node, and for what leads there

_ADDRESSES, _STRINGS = 3, 4  # positions in `_ipcount.SCOPES`
_MONITOR = re.compile(r" *([0-9]{1,10}) *, *([0-9]{1,10}) *")


class Definition(NamedTuple):
    """What a series was defined as. `interval` is in seconds."""

    name: str
    type: str
    interval: int
    num_windows: int
    serialize: bool
    replicate: bool
    persist: bool
    max_hosts: int | None
    max_bytes: int


class Folded(NamedTuple):
    """A window (0 is the current one) in which `hosts` hosts were folded to prefixes of these lengths, or shorter ones
    before: 32 and 128 mean that none was."""

    window: int
    ipv4: int
    ipv6: int
    hosts: int


class Owner(Protocol):
    """What `SeriesSet` asks of its audit."""

    _definitions: dict[str, Definition]

    def _define_series(self, wanted: Definition) -> Definition: ...
    def _remove_elsewhere(self, name: str, key: object) -> None: ...
    def _series_folded(self, name: str) -> list[tuple[int, int, int, int]]: ...
    def _series_hosts(self, name: str) -> int: ...
    def _series_memory(self, name: str) -> int: ...
    def _save(self) -> None: ...


class SeriesSet(_ipcount.SeriesTable):
    """The named series of an audit: `audit.series`.

    >>> from inbound_audit import InboundAudit
    >>> audit = InboundAudit()
    >>> _ = audit.series.define("failures", "cidr", 300, 6)
    >>> audit.series.add("failures", "192.0.2.7", 2)
    >>> audit.series.count("failures", "192.0.2.0/24", 0, 5)
    2
    """

    _audit: Owner

    def define(
        self,
        name: str,
        type: str = "cidr",
        interval: int = 300,
        num_windows: int = 6,
        *,
        serialize: bool = False,
        replicate: bool = False,
        persist: bool = False,
        max_hosts: int | None = None,
        max_bytes: int = DEFAULT_BYTES,
    ) -> Definition:
        """Begins to count in a series of `num_windows` windows of `interval` seconds. Again it does nothing.

        `type` is ``"cidr"`` (both families; ``"cidr_ipv6"`` is the same) or ``"string"``. `max_bytes` is for all
        windows together, each has its part; `max_hosts` for each window. Beyond either, a window gives up its finest
        detail, and nothing is lost (`folded`). `persist`: kept over a restart. `serialize`: each change is a line in a
        log. Both are files in the audit's `state` directory. `replicate` is remembered: a host without a cluster is a
        cluster of one.

        Raises SeriesError for what makes no sense or contradicts an earlier definition, CapacityError; and
        SharedStateError where that directory can't be had, and the series counts all the same.
        """
        if isinstance(name, str):
            name = str.__str__(name)  # the core takes plain texts alone, and that of an enumeration is none
        definition = Definition(
            name, type, interval, num_windows, bool(serialize), bool(replicate), bool(persist), max_hosts, max_bytes
        )
        check(definition)
        return self._audit._define_series(definition)

    @property
    def names(self) -> tuple[str, ...]:
        """The series that are defined here, in the order in which they were."""
        return tuple(self._audit._definitions)

    def defined(self, name: str) -> Definition:
        """Raises SeriesError for a name that was not defined."""
        definition = self._audit._definitions.get(name)
        if definition is None:
            raise _ipcount.window_error(_ipcount.NO_SUCH_SERIES, None, name, self._audit)  # type: ignore[arg-type]
        return definition

    def remove_item(self, name: str, key: object = None, *, ac: _ipcount.Session | None = None) -> None:
        """Forgets a key in all windows, in all processes of a shared audit. Raises as `add` does.

        What was folded with others is no host any more, and stays. O(windows x bytes of the address).
        """
        self._remove_here(name, key, ac=ac)
        self._audit._remove_elsewhere(name, key if ac is None or key is not None else ac)

    def folded(self, name: str) -> list[Folded]:
        """The windows of this process in which detail was given up, the current one first. Raises SeriesError."""
        return [Folded(*row) for row in self._audit._series_folded(name)]

    def hosts(self, name: str) -> int:
        """Distinct hosts of each window of this process, added up. Raises SeriesError."""
        return self._audit._series_hosts(name)

    def memory(self, name: str) -> int:
        """Bytes that the windows of this process have in use. Raises SeriesError."""
        return self._audit._series_memory(name)

    def save(self) -> None:
        """Writes every persisted series now. Raises OSError or SharedStateError when it can't."""
        self._audit._save()


def check(definition: Definition) -> None:
    """Raises SeriesError for what can't be meant."""
    name = definition.name
    if not isinstance(name, str) or not 0 < len(_encoded(name)) <= NAME_MOST or not name.isprintable():
        raise SeriesError(f"{name!r}: is no name for a series: 1 to {NAME_MOST} bytes of printable text")
    if definition.type not in TYPES:
        raise SeriesError(f"{name!r}: type {definition.type!r} is none of {', '.join(TYPES)}")
    _check_number(name, "interval", definition.interval, INTERVAL_MOST)
    _check_number(name, "num_windows", definition.num_windows, WINDOWS_MOST)
    if definition.max_hosts is not None:
        _check_number(name, "max_hosts", definition.max_hosts, HOSTS_MOST)
    _check_number(name, "max_bytes", definition.max_bytes, 1 << 43)
    bytes_of_window(name, definition.max_bytes, definition.num_windows)


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "replace")


def _check_number(name: str, what: str, value: object, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
        raise SeriesError(f"{name!r}: {what} {value!r} is no whole number from 1 to {most}")


def bytes_of_window(name: str, max_bytes: int, windows: int) -> int:
    """The part of one window. Raises SeriesError when that is too little to count in."""
    if max_bytes // windows < WINDOW_LEAST:
        raise SeriesError(f"{name!r}: {max_bytes} bytes for {windows} windows; each needs {WINDOW_LEAST} at least")
    return max_bytes // windows


def begin(audit: _ipcount.Audit, definition: Definition) -> None:
    """Makes the windows of a new series. Raises CapacityError."""
    scope = _STRINGS if definition.type == "string" else _ADDRESSES
    audit._define(
        scope,
        definition.name,
        definition.interval,
        definition.num_windows,
        bytes_of_window(definition.name, definition.max_bytes, definition.num_windows),
        definition.max_hosts or 0,
    )


def contradiction(known: Definition, wanted: Definition) -> str | None:
    """What keeps two definitions from being of one series."""
    for what in ("interval", "num_windows"):
        if getattr(known, what) != getattr(wanted, what):
            return f"{what} is {getattr(known, what)}, not {getattr(wanted, what)}"
    if (known.type == "string") != (wanted.type == "string"):
        return f"its type is {known.type}, not {wanted.type}"
    return None


def begin_monitors(audit: _ipcount.Audit, monitors: Iterable[str], hosts: int | None, bytes: int) -> None:
    """Makes the windows of all monitors. Raises MonitorError for a text that is none, CapacityError."""
    if isinstance(monitors, str):
        raise MonitorError(f"{monitors!r}: is a text, not a list of monitors such as '300,6'")
    pairs = [_monitor(text) for text in monitors]
    if len(pairs) > MONITORS_MOST or len(set(pairs)) < len(pairs):
        raise MonitorError(f"{len(pairs)} monitors: at most {MONITORS_MOST} are possible, each once")
    if not pairs:
        return
    if hosts is not None and (isinstance(hosts, bool) or not isinstance(hosts, int) or not 0 < hosts <= HOSTS_MOST):
        raise MonitorError(f"monitor_hosts {hosts!r}: is no whole number from 1 to {HOSTS_MOST}")
    share = bytes // (3 * sum(windows for _, windows in pairs)) if isinstance(bytes, int) else 0
    if share < WINDOW_LEAST:
        raise MonitorError(f"monitor_bytes {bytes!r}: each window would have {share} bytes, and needs {WINDOW_LEAST}")
    for interval, windows in pairs:
        audit._monitor(f"{interval},{windows}", interval, windows, share, hosts or 0)


def _monitor(text: object) -> tuple[int, int]:
    found = _MONITOR.fullmatch(text) if isinstance(text, str) else None
    if not found or not (0 < int(found[1]) <= INTERVAL_MOST and 0 < int(found[2]) <= WINDOWS_MOST):
        raise MonitorError(f"{text!r}: is no monitor such as '300,6': seconds, and at most {WINDOWS_MOST} windows")
    return int(found[1]), int(found[2])
