"""What the audit has counted: open sessions (``audit_service``), and what was recorded over time (``audit_series``,
``ec_ip_connections`` and their twins). And the override of the connecting IP (``audit_decision``).

Functions of open sessions return a list of one number, as the reference's do. Those whose names end in ``_cluster``
include what the other nodes of the cluster have recorded; a host without a cluster is a cluster of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

from inbound_audit._ipcount import MONITOR_KINDS, parse_monitor, parse_pair, parse_prefix
from inbound_audit.errors import PolicyError
from inbound_audit.nodes import counted_of
from inbound_audit.sieve.functions import AsText, Reader, function, functions
from inbound_audit.sieve.run import Run
from inbound_audit.sieve.values import Value, number, text, whole

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


def check_cidr(cidr: str) -> None:
    """Raises CidrError for a text that is a `cidr` of no session, be it IPv4 or IPv6."""
    (parse_pair if cidr.startswith("/") else parse_prefix)(cidr)


Cidr = Annotated[str, Reader(text, "address/mask", check_cidr)]
OfMonitor = Annotated[Monitor, Reader(monitor, "interval,number")]
Mask = Annotated[str, Reader(prefix)]
Start = Annotated[int, Reader(whole, "start window")]
End = Annotated["int | None", Reader(whole, "end window")]
Index = Annotated[int, Reader(whole, "time series index")]
Replicate = Annotated[str, Reader(replication)]
Flag = Annotated[bool, Reader(lambda value: number(value) != 0)]

# ---- open sessions


def audit_service(run: Run, service: AsText, cidr: Cidr) -> Value:
    return [run.ac.inbound_session_count(cidr, service)]


def audit_connections_on_service(run: Run, cidr: Cidr) -> Value:
    return [run.ac.inbound_session_count(cidr)]


def audit_connections_on_listener(run: Run, cidr: Cidr) -> Value:
    return [run.ac.listener.inbound_session_count(cidr, run.ac)]


def audit_nodes(run: Run) -> Value:
    """How many nodes of the cluster are counted, and how many are known; without an agent 1 and 1."""
    return list(counted_of(_audit(run).nodes))


def audit_decision(run: Run) -> Value:
    """What an override says of the connecting IP, ``"deny"`` or ``"allow"``, and why; an empty list without one."""
    decision = run.ac.decision
    return [] if decision is None else [decision.action, decision.why]


# ---- connections, receptions, rejections


def _audit(run: Run) -> InboundAudit:
    return cast("InboundAudit", run.ac.listener.audit)


def ip_average(kind: str, cluster: bool, run: Run, index: Index, mask: Mask = _EXACTLY) -> Value:
    """The current window and the previous one as far as a sliding window covers it, without the fraction."""
    return int(_audit(run).sliding_average(kind, index, mask, ac=run.ac, cluster=cluster))


def ip_sum(
    kind: str,
    cluster: bool,
    run: Run,
    monitor: OfMonitor | None = None,
    period_start: Start = 0,
    period_end: End = None,
    mask: Mask = _EXACTLY,
) -> Value:
    """A sum over windows of one monitor, the first if none is named."""
    named = str(monitor) if monitor else 0
    end = period_start if period_end is None else period_end
    return int(getattr(_audit(run), kind)(named, mask, period_start, end, ac=run.ac, cluster=cluster))


# ---- named series


def _windows(monitor: Monitor, start: int, end: int | None) -> tuple[int, int]:
    """The first and the last window of a range. Raises PolicyError for one that the monitor does not have."""
    last = start if end is None else end
    if not start <= last < monitor.windows:
        raise PolicyError(f"windows {start} to {last}: {monitor} has 0 to {monitor.windows - 1}")
    return start, last


def _check_constants(known: Mapping[str, Any]) -> None:
    if "monitor" in known:
        _windows(known["monitor"], known.get("period_start", 0), known.get("period_end"))


def audit_series(
    run: Run,
    series: AsText,
    monitor: OfMonitor,
    mask: Mask | None = None,
    period_start: Start = 0,
    period_end: End = None,
    *,
    ip: AsText | None = None,
) -> Value:
    """A sum over windows of a series. One that nothing was ever added to has counted nothing.

    It is defined here then: in a shared audit another process may be the only one that adds.
    """
    windows = _windows(monitor, period_start, period_end)
    known = _audit(run).series
    _define(known, series, monitor)
    key = mask or _EXACTLY if ip is None else ip + (mask or "")
    return known.count(series, key, *windows, ac=run.ac)


def audit_series_add(
    run: Run,
    series: AsText,
    monitor: OfMonitor,
    count: Annotated[int, Reader(number, "amount")] = 1,
    *,
    ip: AsText | None = None,
    replicate: Replicate = "none",
    serialize: Flag = False,
) -> None:
    """Adds to the current window; the first time the series is defined."""
    known = _audit(run).series
    _define(known, series, monitor, serialize, replicate)
    known.add(series, ip, count, ac=run.ac)


def _define(series: SeriesSet, name: str, of: Monitor, serialize: bool = False, replicate: str = "none") -> None:
    """Defines the series if it is unknown, and sets `serialize` and `replicate` if it lacks them."""
    type = "ip"
    if name in series.names:
        known = series.defined(name)
        type = known.type
        if (known.interval, known.num_windows) != of:
            raise PolicyError(f"series {name!r} is {known.interval},{known.num_windows} and not {of}")
        if (known.serialize or not serialize) and replicate in ("none", known.replicate):
            return
    series.define(name, type, of.interval, of.windows, serialize=serialize, replicate=replicate)


_SERIES, _SERIES_ADD = function(audit_series, check=_check_constants), function(audit_series_add)

COUNTS = {
    **functions(
        audit_service, audit_connections_on_service, audit_connections_on_listener, audit_nodes, audit_decision
    ),
    "audit_series": replace(_SERIES, by_hash=_SERIES),
    "audit_series_add": replace(_SERIES_ADD, by_hash=_SERIES_ADD),
    **{
        f"ec_ip_{kind}{suffix}": function(
            partial(ip_average, kind, cluster),
            by_hash=function(partial(ip_sum, kind, cluster), check=_check_constants),
        )
        for kind in MONITOR_KINDS
        for suffix, cluster in (("", False), ("_cluster", True))
    },
}
