"""The definition of a named series, and of a monitor: what is checked once, before the core makes the windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from inbound_audit import _ipcount
from inbound_audit.errors import MonitorError, SeriesError, did_you_mean

FAMILIES = {"ip": 0, "cidr": 4, "cidr_ipv6": 6}
"""The types whose keys are addresses, and the IP version that each counts; 0: both."""

TYPES = (*FAMILIES, "string")
REPLICATE = tuple(_ipcount.REPLICATE)

DEFAULT_BYTES = 256 << 20
"""For all windows of a series, and for all windows of all monitors, together."""

MAX_BYTES = 1 << 43
MAX_HOSTS = _ipcount.LIMITS["count"]
MIN_WINDOW_BYTES = 16 << 10
"""Room for the largest node and for the path to it."""


class Definition(NamedTuple):
    """A series as it was defined. `interval` is in seconds, `max_bytes` is for all windows, `max_hosts` per window."""

    name: str
    type: str
    interval: int
    num_windows: int
    serialize: bool
    replicate: str
    persist: bool
    max_hosts: int | None
    max_bytes: int

    @property
    def window_bytes(self) -> int:
        """The share of one window."""
        return self.max_bytes // self.num_windows


def check(definition: Definition) -> None:
    """Raises SeriesError for a value of the wrong kind or out of bounds."""
    name, limits = definition.name, _ipcount.LIMITS
    longest = limits["series_name_bytes"]
    if not isinstance(name, str) or not 0 < len(name.encode("utf-8", "replace")) <= longest or not name.isprintable():
        raise SeriesError(f"{name!r}: the name of a series is 1 to {longest} bytes of printable text")
    _check_choice(name, "type", definition.type, TYPES)
    _check_choice(name, "replicate", definition.replicate, REPLICATE)
    for flag in ("serialize", "persist"):
        if not isinstance(getattr(definition, flag), bool):
            raise SeriesError(f"{name!r}: {flag} {getattr(definition, flag)!r}: expected True or False")
    _check_number(name, "interval", definition.interval, limits["seconds"])
    _check_number(name, "num_windows", definition.num_windows, limits["windows"])
    if definition.max_hosts is not None:
        _check_number(name, "max_hosts", definition.max_hosts, MAX_HOSTS)
    _check_number(name, "max_bytes", definition.max_bytes, MAX_BYTES)
    if definition.window_bytes < MIN_WINDOW_BYTES:
        windows = f"{definition.max_bytes} bytes for {definition.num_windows} windows"
        raise SeriesError(f"{name!r}: {windows}; each needs at least {MIN_WINDOW_BYTES}")


def _check_choice(name: str, what: str, value: object, known: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in known:
        hint = did_you_mean(value, known)
        raise SeriesError(f"{name!r}: unknown {what} {value!r}{hint} (known: {', '.join(known)})")


def _is_number(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most


def _check_number(name: str, what: str, value: object, most: int) -> None:
    if not _is_number(value, most):
        raise SeriesError(f"{name!r}: {what} {value!r}: expected a whole number from 1 to {most}")


def contradiction(known: Definition, wanted: Definition) -> str | None:
    """Why two definitions can't be of one series; None if they can."""
    for what in ("interval", "num_windows", "type"):
        if getattr(known, what) != getattr(wanted, what):
            return f"its {what} is {getattr(known, what)}, not {getattr(wanted, what)}"
    if "none" not in (known.replicate, wanted.replicate) and known.replicate != wanted.replicate:
        return f"its replicate is {known.replicate}, not {wanted.replicate}"
    return None


class Monitor(NamedTuple):
    """A monitor and the bounds of each of its windows."""

    interval: int
    num_windows: int
    window_bytes: int
    max_hosts: int


def read_monitors(texts: Iterable[str], hosts: int | None, bytes: int, present: Iterable[str] = ()) -> list[Monitor]:
    """The monitors of an audit, first those that are `present`. `bytes` is for all windows of all of them, `hosts` per
    window.

    Raises MonitorError for a malformed text, one monitor twice, too many monitors, or too little memory.
    """
    if isinstance(texts, str):
        raise MonitorError(f"{texts!r}: is a text, not a list of monitors such as '300,6'")
    known = [_ipcount.parse_monitor(text) for text in present]
    pairs = known + [pair for pair in map(_ipcount.parse_monitor, texts) if pair not in known]
    most = _ipcount.LIMITS["monitors"]
    if len(pairs) > most or len(set(pairs)) < len(pairs):
        raise MonitorError(f"{len(pairs)} monitors: at most {most} are possible, each once")
    if not pairs:
        return []
    if hosts is not None and not _is_number(hosts, MAX_HOSTS):
        raise MonitorError(f"monitor_hosts {hosts!r}: expected a whole number from 1 to {MAX_HOSTS}")
    kinds = len(_ipcount.MONITOR_KINDS)
    share = bytes // (kinds * sum(windows for _, windows in pairs)) if isinstance(bytes, int) else 0
    if share < MIN_WINDOW_BYTES:
        raise MonitorError(f"monitor_bytes {bytes!r}: {share} bytes per window; each needs {MIN_WINDOW_BYTES}")
    return [Monitor(interval, windows, share, hosts or 0) for interval, windows in pairs]
