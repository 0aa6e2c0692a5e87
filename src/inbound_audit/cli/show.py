"""`inbound-audit show`: the tree of a shared audit, as the reference's console prints one."""

from __future__ import annotations

import json
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING

import click

from inbound_audit._ipcount import parse_prefix
from inbound_audit.cli import looking, params

if TYPE_CHECKING:
    from inbound_audit.shared import View

Row = tuple[int, str]
Network = IPv4Network | IPv6Network
Place = tuple[int, int, int]
"""Where a row stands: IPv4 first, then in address order, a prefix before what it holds."""


@click.command(
    epilog="""\b
Examples:
  inbound-audit show mail
  inbound-audit show mail 192.0.2.0/24 --from 4711
  inbound-audit show mail 2001:db8::/32 --json | jq .count
\b
Exit status: 0 done, 1 there is no such audit, process or service or it can't be seen, 2 usage."""
)
@click.argument("name")
@click.argument("cidr", required=False, type=params.network)
@looking.service_option
@click.option("--from", "pid", type=click.IntRange(min=1), metavar="PID", help="Count this process alone.")
@click.option("--json", "as_json", is_flag=True, help=looking.AS_JSON)
def show(name: str, cidr: str | None, service: str, pid: int | None, as_json: bool) -> None:
    """Print the open sessions of a shared audit as a tree.

    NAME is what the processes share under. A row is a count and a prefix: each prefix at which addresses branch, and
    each host. With CIDR, an address or a prefix, the first row is that prefix, 0 included, and the others are those
    within it.

    It only reads, and nobody waits for it: each row was true at some moment while it ran.
    """
    network = None if cidr is None else network_of(cidr)
    with looking.looking(name, pid) as view:
        count, rows = seen(view, service, network)
        looking.say_if_nobody_counts(name, view)
    if as_json:
        about: dict[str, object] = {
            "audit": name,
            "service_type": service,
            "from": pid,
            "cidr": None if network is None else str(network),
            "count": count,
        }
        sys.stdout.writelines(_as_json(about, rows))
    else:
        from rich.console import Console

        from inbound_audit.cli.rows import Rows

        sys.stdout.write(f"{heading(service, None if pid is None else str(pid))}\n")
        sys.stdout.writelines(Rows(Console()).format(rows))
    sys.stdout.flush()


def network_of(cidr: str) -> Network:
    """The prefix that a text means. Raises CidrError."""
    _, packed, length = parse_prefix(cidr)
    return ip_network((packed, length))


def within(rows: list[Row], network: Network) -> list[Row]:
    """The rows of a tree that lie inside a prefix, itself not among them. O(log rows) and a copy."""
    first: Place = (network.version, int(network.network_address), network.prefixlen)
    last: Place = (network.version, int(network.broadcast_address), network.max_prefixlen)
    return rows[bisect_right(rows, first, key=_place) : bisect_right(rows, last, key=_place)]


def _place(row: Row) -> Place:
    network = ip_network(row[1])
    return network.version, int(network.network_address), network.prefixlen


def heading(service: str, node: str | None) -> str:
    """The reference's own words, for who reads its output by program. `node`: whose view it is; None: that of all."""
    return f"lazy, snapped cidrtree '{service}', view '{'global' if node is None else node}'"


def seen(view: View, service: str, network: Network | None) -> tuple[int, Iterable[Row]]:
    """The count of the prefix (None: everything), and the rows."""
    if network is None:
        return view.total(service), view.tree(service)
    count = view.inbound_session_count(str(network), service)
    alone = count == 0 or network.prefixlen == network.max_prefixlen
    return count, [(count, str(network)), *([] if alone else within(view.tree(service), network))]


def _as_json(about: dict[str, object], rows: Iterable[Row]) -> Iterator[str]:
    """One object in pieces: a tree may have a million rows."""
    yield json.dumps(about).removesuffix("}") + ', "tree": ['
    between = ""
    for count, prefix in rows:
        yield f'{between}{{"prefix": "{prefix}", "count": {count}}}'
        between = ", "
    yield "]}\n"
