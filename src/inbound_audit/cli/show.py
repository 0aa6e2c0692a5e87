"""`inbound-audit show`: the tree of a shared audit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from inbound_audit.cli import params, view_options
from inbound_audit.cli.output import Output, as_objects, json_pieces, plain, plural
from inbound_audit.cli.prefixes import Network, Row, network_of, within

if TYPE_CHECKING:
    from inbound_audit.shared import View


@click.command(
    epilog="""\b
Examples:
  inbound-audit show mail
  inbound-audit show mail 192.0.2.0/24 --from 4711
  inbound-audit show mail --node mx2
  inbound-audit show mail --reference
  inbound-audit show mail 2001:db8::/32 --json | jq .count
\b
Exit status: 0 done, 1 there is no such audit, process, node or service or it can't be opened, 2 usage."""
)
@view_options.name_argument
@click.argument("cidr", required=False, type=params.network)
@view_options.service_option
@view_options.user_option
@view_options.node_option
@click.option("--from", "pid", type=params.whole_number(1), metavar="PID", help="Count this process alone.")
@click.option("--reference", is_flag=True, help="Print rows as the reference's console does.")
@click.option("--json", "as_json", is_flag=True, help=view_options.AS_JSON)
def show(
    name: str,
    cidr: str | None,
    service: str,
    user: str | None,
    node: str | None,
    pid: int | None,
    reference: bool,
    as_json: bool,
) -> None:
    """Print the open sessions of a shared audit as a tree.

    NAME is what the processes share under. A row is a count and a prefix: each prefix at which addresses branch, and
    each host, below the prefix that holds it. With CIDR, an address or a prefix, the first row is that prefix, 0
    included, and the others are those within it.

    It only reads, and no process waits for it: each row was true at some moment while it ran.
    """
    network = None if cidr is None else network_of(cidr)
    with view_options.open_view(name, user, pid, node) as view:
        count, rows = rows_of(view, service, network)
        total, processes = view.total(service), sum(owner.damaged is None for owner in view.owners)
        view_options.say_if_no_process(name, view)
    output = Output()
    if as_json:
        about: dict[str, object] = {"audit": name, "service_type": service, "from": pid, "node": node}
        about |= {"cidr": None if network is None else str(network), "count": count}
        output.write(json_pieces(about, "tree", as_objects(rows)))
    elif reference:
        output.write([f"{heading(service, node or (None if pid is None else str(pid)))}\n"])
        output.write(output.reference_rows(rows))
    else:
        where = f"process {pid}" if pid is not None else plural(processes, "process")
        where = where if node is None else f"node {node}"
        output.write([f"{plain(name)}: {plural(total, f'open {plain(service)} session')} in {where}\n"])
        output.write(output.tree_rows(rows))


def heading(service: str, node: str | None) -> str:
    """The reference's own words, for programs that read its output. `node` is the process; None means all."""
    return f"lazy, snapped cidrtree '{service}', view '{'global' if node is None else node}'"


def rows_of(view: View, service: str, network: Network | None) -> tuple[int, Iterable[Row]]:
    """The count of the prefix (None: of everything), and its rows."""
    if network is None:
        return view.total(service), view.tree(service)
    count = view.inbound_session_count(str(network), service)
    alone = count == 0 or network.prefixlen == network.max_prefixlen
    return count, [(count, str(network)), *([] if alone else within(view.tree(service), network))]
