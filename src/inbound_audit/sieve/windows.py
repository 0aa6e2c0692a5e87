"""What was recorded over time: ``audit_series``, ``ec_ip_connections`` and their twins.

A host without a cluster is a cluster of one, so the functions for the cluster are the same.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from inbound_audit._ipcount import MONITOR_KINDS, parse_monitor, parse_pair
from inbound_audit.errors import PolicyError
from inbound_audit.sieve.functions import Function, Parameter, options
from inbound_audit.sieve.run import Run
from inbound_audit.sieve.values import Hash, Value, number, text, whole

if TYPE_CHECKING:
    from inbound_audit.audit import InboundAudit
    from inbound_audit.series import SeriesSet

_EXACTLY = "/32"

REPLICATE = {0: "none", 1: "cluster", -1: "manager"}
"""The numbers of the option `replicate`, and what they are called elsewhere."""


class Monitor(NamedTuple):
    """``"300,6"``: the seconds of a window, and the number of windows."""

    interval: int
    windows: int

    def __str__(self) -> str:
        return f"{self.interval},{self.windows}"


def monitor(value: Value) -> Monitor:
    """Reads ``"interval,number"``. Raises MonitorError."""
    return Monitor(*parse_monitor(text(value)))


def prefix(value: Value) -> str:
    """Reads a mask as a `cidr`: ``"/24"`` for 24, ``"/24,/56"`` for ``"24,56"``. Raises CidrError."""
    mask = text(value)
    parse_pair(mask, bare=True)
    return ",".join("/" + length.removeprefix("/") for length in mask.split(","))


def replication(value: Value) -> str:
    """Reads the option `replicate`. Raises PolicyError."""
    try:
        return REPLICATE[number(value)]
    except (PolicyError, KeyError):
        raise PolicyError(f"{text(value)!r}: expected 0 (none), 1 (cluster) or -1 (manager)") from None


def _audit(run: Run) -> InboundAudit:
    return cast("InboundAudit", run.ac.listener.audit)


# ---- connections, receptions, rejections


def ip_average(run: Run, index: int, mask: str = _EXACTLY, *, kind: str) -> Value:
    """The current window and the previous one as far as a sliding window covers it, without the fraction."""
    return int(_audit(run).sliding_average(kind, index, mask, ac=run.ac))


def ip_sum(run: Run, given: Hash, *, kind: str) -> Value:
    """A sum over windows of one monitor, the first if none is named."""
    chosen = options(given, {"monitor": monitor, "period_start": whole, "period_end": whole, "mask": prefix})
    start = chosen.get("period_start", 0)
    named = str(chosen["monitor"]) if "monitor" in chosen else 0
    count = getattr(_audit(run), kind)
    end = chosen.get("period_end", start)
    return int(count(named, chosen.get("mask", _EXACTLY), start, end, ac=run.ac))


# ---- named series


def audit_series(
    run: Run,
    name: str,
    of: Monitor,
    mask: str | None = None,
    start: int = 0,
    end: int | None = None,
    *,
    ip: str | None = None,
) -> Value:
    """A sum over windows of a series. One that nothing was ever added to has counted nothing.

    It is defined here then: in a shared audit another process may be the only one that adds.
    """
    end = start if end is None else end
    if not start <= end < of.windows:
        raise PolicyError(f"windows {start} to {end}: {of} has 0 to {of.windows - 1}")
    series = _audit(run).series
    _define(series, name, of)
    key = mask or _EXACTLY if ip is None else ip + (mask or "")
    return series.count(name, key, start, end, ac=run.ac)


def audit_series_add(
    run: Run,
    name: str,
    of: Monitor,
    count: int = 1,
    *,
    ip: str | None = None,
    replicate: str = "none",
    serialize: bool = False,
) -> None:
    """Adds to the current window; the first time the series is defined."""
    series = _audit(run).series
    _define(series, name, of, serialize, replicate)
    series.add(name, ip, count, ac=run.ac)


def _define(series: SeriesSet, name: str, of: Monitor, serialize: bool = False, replicate: str = "none") -> None:
    """Defines the series if it is unknown, and begins its change log if `serialize` asks for one."""
    type = "ip"
    if name in series.names:
        known = series.defined(name)
        type = known.type
        if (known.interval, known.num_windows) != of:
            raise PolicyError(f"series {name!r} is {known.interval},{known.num_windows} and not {of}")
        if known.serialize or not serialize:
            return
    series.define(name, type, of.interval, of.windows, serialize=serialize, replicate=replicate)


def series_by_hash(run: Run, given: Hash) -> Value:
    chosen = options(
        given,
        {"series": text, "monitor": monitor, "period_start": whole, "period_end": whole, "mask": prefix, "ip": text},
    )
    return audit_series(
        run,
        *_named(chosen),
        chosen.get("mask"),
        chosen.get("period_start", 0),
        chosen.get("period_end"),
        ip=chosen.get("ip"),
    )


def series_add_by_hash(run: Run, given: Hash) -> None:
    known = {
        "series": text,
        "monitor": monitor,
        "count": number,
        "ip": text,
        "replicate": replication,
        "serialize": lambda value: number(value) != 0,
    }
    chosen = options(given, known)
    audit_series_add(run, *_named(chosen), **chosen)


def _named(chosen: dict[str, Any]) -> tuple[str, Monitor]:
    for name in ("series", "monitor"):
        if name not in chosen:
            raise PolicyError(f"option {name!r} is missing; a series requires it")
    return chosen.pop("series"), chosen.pop("monitor")


_SERIES = (Parameter("series", text), Parameter("interval,number", monitor))

WINDOWS = {
    "audit_series": Function(
        audit_series,
        (*_SERIES, Parameter("mask", prefix), Parameter("start window", whole), Parameter("end window", whole)),
        (2, 3, 4, 5),
        has_value=True,
        by_hash=series_by_hash,
    ),
    "audit_series_add": Function(
        audit_series_add, (*_SERIES, Parameter("amount", number)), (2, 3), by_hash=series_add_by_hash
    ),
}
for _kind in MONITOR_KINDS:
    for _name in (f"ec_ip_{_kind}", f"ec_ip_{_kind}_cluster"):
        WINDOWS[_name] = Function(
            partial(ip_average, kind=_kind),
            (Parameter("time series index", whole), Parameter("mask", prefix)),
            (1, 2),
            has_value=True,
            by_hash=partial(ip_sum, kind=_kind),
        )
