"""The commands that only look: windows, counts, rows, and the tree of the sessions that are open."""

from __future__ import annotations

import csv
import io
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime

from inbound_audit.cli.console.desk import KINDS, Desk, Windows
from inbound_audit.cli.console.output import Answer, Row, plain
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.rows import GAP, WIDTH
from inbound_audit.cli.show import Network, heading, network_of, seen
from inbound_audit.errors import SharedStateError
from inbound_audit.shared import View

SHARED = "inbound_cidr"


# ---- windows


def show_ip(desk: Desk, cidr: str) -> Answer:
    monitors = [one for kind in KINDS for one in desk.windows if one.scope == kind]
    if not monitors:
        desk.note(f"{desk.name!r} has no monitors")
    rows = (
        (one.scope, one.interval, one.num_windows, window, desk.count(one, cidr, window, window))
        for one in monitors
        for window in range(one.num_windows)
    )
    about: dict[str, object] = {"command": "show ip", "cidr": cidr}
    return Answer(about, ("kind", "interval", "num_windows", "window", "count"), rows, _window_text)


def _window_text(row: Row, paint: Callable[[str], str]) -> str:
    """``Connections 1800/0: 30``: the reference's own row, for who reads its output by program."""
    kind, interval, _, window, count = row
    return f"{kind.capitalize()} {interval}/{window}: {paint(str(count))}"


def show_all(desk: Desk) -> Answer:
    columns = ("kind", "series", "interval", "num_windows", "window", "address", "count")
    return Answer({"command": "show all"}, columns, _all_rows(desk), _as_csv, ",".join(columns))


def _all_rows(desk: Desk) -> Iterator[Row]:
    """Windows one after the other, so that no more than one is held. The keys of series of texts are kept nowhere."""
    order = (*KINDS, "series")
    for one in sorted(desk.windows, key=lambda one: order.index(one.scope)):
        for window in range(one.num_windows if one.type != "string" else 0):
            name = one.name if one.scope == "series" else ""
            for count, address in _hosts(desk, one, window, window):
                yield one.scope, name, one.interval, one.num_windows, window, address, count


def _hosts(desk: Desk, one: Windows, start: int, end: int) -> list[tuple[int, str]]:
    if one.type == "string":
        raise Failure(f"{one.title}: its keys are texts, not addresses, and can't be listed")
    return desk.view._window_rows(one.scope, one.name, one.interval, one.num_windows, start, end)


def _as_csv(row: Row, paint: Callable[[str], str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([plain(field) if isinstance(field, str) else field for field in row])
    return line.getvalue()


def count_cidr(desk: Desk, cidr: str, series: str, parameters: tuple[int, int], start: int, end: int) -> Answer:
    one = desk.find(series, parameters)
    about: dict[str, object] = {"command": "count_cidr", "cidr": cidr, **described(one), "start": start, "end": end}
    rows = [(desk.count(one, cidr, start, end),)]
    return Answer(about, ("count",), rows, lambda row, paint: paint(str(row[0])))


def described(one: Windows) -> dict[str, object]:
    """For JSON."""
    series = one.name if one.scope == "series" else one.scope
    return {"series": series, "interval": one.interval, "num_windows": one.num_windows}


# ---- the query


def query(
    desk: Desk,
    cidr: str,
    series: str,
    parameters: tuple[int, int] | None = None,
    since: datetime | None = None,
    order: str = "count",
    length: int | None = None,
    limit: int | None = None,
) -> Answer:
    """Counts within a prefix, by prefixes of a length."""
    one, network = desk.find(series, parameters), network_of(cidr)
    length = network.max_prefixlen if length is None else length
    if not network.prefixlen <= length <= network.max_prefixlen:
        raise Failure(f"cidrsize {length}: {network} has prefixes of {network.prefixlen} to {network.max_prefixlen}")
    end = one.num_windows - 1 if since is None else _windows_since(desk, one, since)
    counts = _grouped(_hosts(desk, one, 0, end), network, length)
    found = sorted(counts.items(), key=(lambda row: (-row[1], row[0])) if order == "count" else None)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    size = network.max_prefixlen // 8
    rows = (
        (f"{socket.inet_ntop(family, prefix.to_bytes(size, 'big'))}/{length}", count) for prefix, count in found[:limit]
    )
    about = {"command": "show count", "cidr": str(network), **described(one), "start": 0, "end": end}
    return Answer(about, ("prefix", "count"), rows, _row_text)


def _row_text(row: Row, paint: Callable[[str], str]) -> str:
    return f"{paint(f'{row[1]:{WIDTH}d}')}{GAP}{row[0]}"


def _windows_since(desk: Desk, one: Windows, since: datetime) -> int:
    """The last window that reaches back to that time."""
    now = time.time()
    if since.timestamp() > now:
        raise Failure(f"since {since:%Y-%m-%d %H:%M:%S}: that is still to come")
    back = int(now // one.interval - since.timestamp() // one.interval)
    if back >= one.num_windows:
        desk.note(f"{one.title} goes back {one.num_windows} windows of {one.interval} s, and no further")
    return min(back, one.num_windows - 1)


def _grouped(hosts: list[tuple[int, str]], network: Network, length: int) -> dict[int, int]:
    """Counts by prefixes of that length, which are numbers, of the hosts in the network. O(hosts)."""
    family, colon = (socket.AF_INET, False) if network.version == 4 else (socket.AF_INET6, True)
    first, last = int(network.network_address), int(network.broadcast_address)
    mask = ((1 << length) - 1) << (network.max_prefixlen - length)
    counts: Counter[int] = Counter()
    for count, text in hosts:
        if (":" in text) == colon:
            address = int.from_bytes(socket.inet_pton(family, text), "big")
            if first <= address <= last:
                counts[address & mask] += count
    return {prefix: count for prefix, count in counts.items() if count}


# ---- what is open now


def shared_list(desk: Desk) -> Answer:
    rows: list[Row] = [("cidrtree", SHARED, None, None, len(desk.owners))]
    rows += [(one.scope, one.name, one.interval, one.num_windows, None) for one in desk.windows]
    about: dict[str, object] = {"command": "cluster shared list"}
    return Answer(about, ("kind", "name", "interval", "num_windows", "processes"), rows, _shared_text)


def _shared_text(row: Row, paint: Callable[[str], str]) -> str:
    kind, name, interval, windows, processes = row
    if interval is None:
        number = f"{paint(str(processes))} process{'' if processes == 1 else 'es'}"
        return f"lazy, snapped cidrtree '{name}', {number}"
    return (
        f"series '{plain(name)}' {interval},{windows}" if kind == "series" else f"monitor '{kind}' {interval},{windows}"
    )


def shared_show(desk: Desk, node: str | None = None) -> Answer:
    about: dict[str, object] = {"command": "cluster shared show", "tree": SHARED, "from": node}
    if node is None:
        rows = list(seen(desk.view, SHARED, None)[1])
    else:
        with _view_of(desk, node) as view:
            rows = list(seen(view, SHARED, None)[1])
    turned = ((prefix, count) for count, prefix in rows)
    return Answer(about, ("prefix", "count"), turned, _row_text, heading(SHARED, node))


def _view_of(desk: Desk, node: str) -> View:
    """The view of one process, by its id or by its owner's id. Raises Failure."""
    try:
        if any(owner.id == node for owner in desk.view.owners):
            return View(desk.name, owner=node)
        if node.isascii() and node.isdigit() and 0 < int(node) < 1 << 32:
            return View(desk.name, pid=int(node))
    except SharedStateError as error:
        raise Failure(str(error)) from None
    known = ", ".join(str(owner.pid) for owner in desk.owners[:10])
    raise Failure(f"from {node!r}: no such process (there is: {known or 'none'})")
