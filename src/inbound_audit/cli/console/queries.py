"""The commands that only read: windows, counts, rows, and the tree of the open sessions."""

from __future__ import annotations

import contextlib
import csv
import io
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone

from inbound_audit._ipcount import MONITOR_KINDS
from inbound_audit.cli.cluster import FROM_AGENT, cluster_status, row_text, rows
from inbound_audit.cli.console.context import ConsoleContext, SeriesInfo
from inbound_audit.cli.console.grammar import Names
from inbound_audit.cli.console.result import Paint, Result, ResultRow
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.output import GAP, WIDTH, listing, plain, plural
from inbound_audit.cli.prefixes import Network, network_of
from inbound_audit.cli.show import heading
from inbound_audit.cli.view_options import view_of_node
from inbound_audit.errors import SharedStateError
from inbound_audit.nodes import counted_of
from inbound_audit.services import DEFAULT_SERVICE_TYPE
from inbound_audit.shared import View

SHARED = "inbound_cidr"

Time = tuple[datetime, datetime | None]
"""A begin and an end; None for now."""


# ---- windows


def show_ip(context: ConsoleContext, cidr: str) -> Result:
    monitors = [one for one in context.all_series if one.scope in MONITOR_KINDS]
    if not monitors:
        context.note(f"{context.name!r} has no monitors")
    rows = (
        (one.scope, one.interval, one.num_windows, window, context.count(one, cidr, window, window))
        for one in monitors
        for window in range(one.num_windows)
    )
    columns = ("kind", "interval", "num_windows", "window", "count")
    return Result({"command": "show ip", "cidr": cidr}, columns, rows, _window_text)


def _window_text(row: ResultRow, paint: Paint) -> str:
    """``Connections 1800/0: 30``: the reference's own row, for programs that read its output."""
    kind, interval, _, window, count = row
    return f"{kind.capitalize()} {interval}/{window}: {paint(str(count))}"


def show_all(context: ConsoleContext) -> Result:
    columns = ("kind", "series", "interval", "num_windows", "window", "address", "count")
    return Result({"command": "show all"}, columns, _all_rows(context), _as_csv, ",".join(columns))


def _all_rows(context: ConsoleContext) -> Iterator[ResultRow]:
    """Reads one window after the other, so that only one is held. The keys of series of strings are not stored."""
    for one in context.all_series:
        for window in range(one.num_windows if one.type != "string" else 0):
            name = one.name if one.scope == "series" else ""
            for count, address in context.hosts(one, window, window):
                yield one.scope, name, one.interval, one.num_windows, window, address, count


def _as_csv(row: ResultRow, paint: Paint) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([plain(field) if isinstance(field, str) else field for field in row])
    return line.getvalue()


def count_cidr(
    context: ConsoleContext, cidr: str, series: str, parameters: tuple[int, int], start: int, end: int
) -> Result:
    one = context.find(series, parameters)
    about: dict[str, object] = {"command": "count_cidr", "cidr": cidr, **one.described, "start": start, "end": end}
    rows = [(context.count(one, cidr, start, end),)]
    return Result(about, ("count",), rows, lambda row, paint: paint(str(row[0])))


def show_available(context: ConsoleContext) -> Result:
    """The time that the windows of each series cover."""
    rows = []
    for one in context.all_series:
        end = (int(time.time()) // one.interval + 1) * one.interval
        times = [datetime.fromtimestamp(max(at, 0), timezone.utc) for at in (end - one.interval * one.num_windows, end)]
        rows.append((one.label, *one[2:], *(at.isoformat() for at in times)))
    columns = ("series", "type", "interval", "num_windows", "from", "to")
    return Result({"command": "show available"}, columns, rows, _available_text)


def _available_text(row: ResultRow, paint: Paint) -> str:
    """``spam 900,96 : 20080423T123000 => 20080424T123000``, in local time, as the reference has it."""
    name, _, interval, num_windows, *times = row
    begin, end = (f"{datetime.fromisoformat(at).astimezone():%Y%m%dT%H%M%S}" for at in times)
    return f"{plain(name)} {interval},{num_windows} : {begin} => {end}"


def cache_details(context: ConsoleContext) -> Result:
    """The reference keeps what its query shell has read from files. Here there is nothing of that kind."""
    raise Failure("cache details: not part of inbound_audit: counts are read from memory, and there is no cache")


# ---- the query


def show_count(
    context: ConsoleContext,
    cidr: str,
    names: Names,
    parameters: tuple[int, int] | None = None,
    *,
    time: Time | None = None,
    order: str = "count",
    cidrsize: tuple[int, int] | None = None,
    threshold: int | None = None,
    limit: int | None = None,
    daily: bool = False,
) -> Result:
    """Counts within a prefix, a row per prefix of the length `cidrsize` (or of each from the first to the second)."""
    network = network_of(cidr)
    lengths = _lengths(network, cidrsize)
    found = [context.find(name, parameters) for name in names.names]
    if names.union:  # a series that is named twice is counted once
        found = list(dict.fromkeys(found))
    spans = [_windows_of(context, one, time) for one in found]
    counts: dict[tuple[str, int, int], list[int]] = {}
    for at, (one, span) in enumerate(zip(found, spans, strict=True)):
        for key, count in _grouped(context, one, span, network, lengths, daily).items():
            row = counts.setdefault(key, [0] * (1 if names.union else len(found)))
            row[0 if names.union else at] += count
    rows = [(key, row) for key, row in counts.items() if any(row) and (threshold is None or max(row) >= threshold)]
    rows.sort(key=lambda one: (one[0][0], *([-one[1][0]] if order == "count" else []), *one[0][1:]))
    about: dict[str, object] = {"command": "show count", "cidr": str(network)}
    if len(found) == 1:
        about |= {**found[0].described, "start": spans[0][0], "end": spans[0][1]}
    else:
        series = [{**one.described, "start": s, "end": e} for one, (s, e) in zip(found, spans, strict=True)]
        about |= {"series": series, "union": names.union}
    columns = (*(["day"] if daily else []), "prefix", "count" if names.union or len(found) == 1 else "counts")
    found_rows = (
        (*([day] if daily else []), str(type(network)((address, length))), row if columns[-1] == "counts" else row[0])
        for (day, address, length), row in rows[:limit]
    )
    return Result(about, columns, found_rows, _query_text)


def _lengths(network: Network, cidrsize: tuple[int, int] | None) -> range:
    first, last = cidrsize or (network.max_prefixlen, network.max_prefixlen)
    if not network.prefixlen <= first <= last <= network.max_prefixlen:
        words = f"{first}" if first == last else f"{first} to {last}"
        raise Failure(f"cidrsize {words}: {network} has prefixes of {network.prefixlen} to {network.max_prefixlen}")
    return range(first, last + 1)


def _windows_of(context: ConsoleContext, one: SeriesInfo, span: Time | None) -> tuple[int, int]:
    """The first and the last window of that time; 0 is the current one, and without a time all are meant."""
    if span is None:
        return 0, one.num_windows - 1
    now, begin = time.time(), span[0].timestamp()
    if begin > now:
        raise Failure(f"{span[0].astimezone():%Y-%m-%d %H:%M:%S} is in the future")
    current, first = int(now // one.interval), int(begin // one.interval)
    last = current
    if span[1] is not None:
        end = span[1].timestamp()
        # A window that begins at the very end is not part of the time, unless the time is a moment.
        last = min(max(first, int(-(-end // one.interval)) - 1), current)
    if current - last >= one.num_windows:
        raise Failure(f"{one.title} goes back {plural(one.num_windows, 'window')} of {one.interval} s, and no further")
    if current - first >= one.num_windows:
        context.note(f"{one.title} goes back {plural(one.num_windows, 'window')} of {one.interval} s, and no further")
    return current - last, min(current - first, one.num_windows - 1)


def _grouped(
    context: ConsoleContext, one: SeriesInfo, span: tuple[int, int], network: Network, lengths: range, daily: bool
) -> Mapping[tuple[str, int, int], int]:
    """Counts by day (empty, unless `daily`), prefix (a number) and length. O(hosts x lengths), by window if `daily`."""
    counts: Counter[tuple[str, int, int]] = Counter()
    for start, end in [(at, at) for at in range(span[0], span[1] + 1)] if daily else [span]:
        day = _day_of(one, start) if daily else ""
        for address, count in _addresses(context.hosts(one, start, end), network):
            for length in lengths:
                rest = network.max_prefixlen - length
                counts[day, address >> rest << rest, length] += count
    return counts


def _day_of(one: SeriesInfo, window: int) -> str:
    """The local day on which a window began."""
    begin = (int(time.time()) // one.interval - window) * one.interval
    return f"{datetime.fromtimestamp(max(begin, 0)):%Y-%m-%d}"


def _addresses(hosts: Iterable[tuple[int, str]], network: Network) -> Iterator[tuple[int, int]]:
    """The hosts in the network as numbers, with their counts."""
    family, colon = (socket.AF_INET, False) if network.version == 4 else (socket.AF_INET6, True)
    first, last = int(network.network_address), int(network.broadcast_address)
    for count, text in hosts:
        if (":" in text) == colon:
            address = int.from_bytes(socket.inet_pton(family, text), "big")
            if first <= address <= last:
                yield address, count


def _query_text(row: ResultRow, paint: Paint) -> str:
    """``     31                         10.0.0.0/8``; with several series ``31,4``. A day comes first."""
    *day, prefix, count = row
    text = ",".join(map(str, count)) if isinstance(count, list) else str(count)
    return f"{''.join(f'{one}  ' for one in day)}{paint(text.rjust(WIDTH))}{GAP}{prefix}"


# ---- the open sessions


def shared_list(context: ConsoleContext) -> Result:
    nodes = context.view.nodes
    of = counted_of(nodes) if nodes else (None, None)
    rows: list[ResultRow] = [("cidrtree", SHARED, None, None, len(context.owners), *of)]
    rows += [
        (
            one.scope,
            one.name,
            one.interval,
            one.num_windows,
            None,
            *(of if context.is_of_cluster(one) else (None, None)),
        )
        for one in context.all_series
    ]
    columns = ("kind", "name", "interval", "num_windows", "processes", "nodes_counted", "nodes_known")
    return Result({"command": "cluster shared list"}, columns, rows, _shared_text)


def _shared_text(row: ResultRow, paint: Paint) -> str:
    kind, name, interval, windows, processes, counted, known = row
    view = "" if known is None else f", view of {paint(str(counted))} of {plural(known, 'node')}"
    if interval is None:
        words = plural(processes, "process").partition(" ")[2]
        return f"lazy, snapped cidrtree '{name}', {paint(str(processes))} {words}{view}"
    title = f"series '{plain(name)}'" if kind == "series" else f"monitor '{kind}'"
    return f"{title} {interval},{windows}{view}"


def shared_show(context: ConsoleContext, node: str | None = None) -> Result:
    with contextlib.nullcontext(context.view) if node is None else _view_of(context, node) as view:
        rows = [(prefix, count) for count, prefix in view.tree(SHARED if node is None else DEFAULT_SERVICE_TYPE)]
    about = {"command": "cluster shared show", "tree": SHARED, "from": node}
    return Result(about, ("prefix", "count"), rows, _query_text, heading(SHARED, node))


def _view_of(context: ConsoleContext, node: str) -> View:
    """The view of a node of the cluster, or of one process, by its id or by its owner's id. Raises Failure."""
    try:
        if any(one.name == node for one in context.view.nodes):
            return view_of_node(context.name, node, context.view.user)
        if any(owner.id == node for owner in context.view.owners):
            return View(context.name, owner=node, user=context.view.user)
        if node.isascii() and node.isdigit() and 0 < int(node) < 1 << 32:
            return View(context.name, pid=int(node), user=context.view.user)
    except SharedStateError as error:
        raise Failure(str(error)) from None
    known = listing([*(one.name for one in context.view.nodes), *(str(owner.pid) for owner in context.owners)])
    raise Failure(f"from {node!r}: no such node or process (there is: {known or 'no process'})")


# ---- the cluster


def membership(context: ConsoleContext) -> Result:
    status = cluster_status(context.view)
    columns = ("node", "state", "age_s", "sessions", "hosts", *FROM_AGENT)
    found = [tuple(row[column] for column in columns) for row in rows(status)]
    about = {"command": "cluster membership", "agent": status.agent, "sessions": status.sessions}

    def text(row: ResultRow, paint: Paint) -> str:
        return row_text(dict(zip(columns, row, strict=True)))

    return Result(about, columns, found, text, status.why_silent or None)
