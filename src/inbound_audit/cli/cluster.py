"""`inbound-audit cluster`: the nodes of a cluster as this host has them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from inbound_audit.cli import view_options
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.output import Output, listing, plain, plural
from inbound_audit.cluster.clock_difference import in_words
from inbound_audit.errors import SharedStateError
from inbound_audit.nodes import THIS_HOST, NodeInfo

if TYPE_CHECKING:
    from inbound_audit.shared import View


WINDOWS = ("windows", "window_hosts", "folded_windows")
CLOCK = ("clock_ahead_s", "clock_differs")
FROM_AGENT = ("epoch", "digest", "gaps", "snapshots", "dropped", "bytes", "version", "why", *CLOCK, *WINDOWS)
"""What the agent alone knows of a node."""


class ClusterStatus(NamedTuple):
    """The nodes, this host first, and what the agent says, or why it says nothing."""

    nodes: Sequence[NodeInfo]
    agent: Mapping[str, Any] | None
    why_silent: str = ""

    @property
    def sessions(self) -> int:
        """Of all nodes that are counted."""
        return sum(node.sessions for node in self.nodes if node.counted)

    @property
    def counted(self) -> int:
        """How many nodes are counted, this host among them."""
        return sum(node.counted for node in self.nodes)


@click.command(
    epilog="""\b
Examples:
  inbound-audit cluster mail
  inbound-audit cluster mail --json | jq '.nodes[] | select(.state != "heard") | .node'
\b
Exit status: 0 done, 1 there is no such audit or it can't be opened, or its agent does not run or answer, 2 usage."""
)
@view_options.name_argument
@view_options.user_option
@click.option("--json", "as_json", is_flag=True, help=view_options.AS_JSON)
def cluster(name: str, user: str | None, as_json: bool) -> None:
    """List the nodes of the cluster: sessions, hosts, and when each was heard last.

    NAME is what the processes of this host share under. A node that is lost, duplicate or of another version is listed
    and not counted. Gaps are how often something of a node's word was missing; each is mended by a snapshot.
    """
    with view_options.open_view(name, user) as view:
        status = cluster_status(view)
    if not status.nodes:
        raise Failure(f"{name!r}: {status.why_silent} (inbound-audit agent {name} --cluster CLUSTER --node NODE)")
    if as_json:
        about = {"audit": name, "sessions": status.sessions, "counted": status.counted, "agent": status.agent}
        click.echo(json.dumps({**about, "nodes": list(rows(status))}))
    else:
        Output().write(f"{line}\n" for line in (heading(status), *map(row_text, rows(status)), summary(status)))
    if status.agent is None:
        raise Failure(f"{name!r}: {status.why_silent}")


def cluster_status(view: View) -> ClusterStatus:
    """Asks the agent of the audit; it has no listener. An agent that is stopped has trees, and no answer."""
    from inbound_audit.shared.control import client

    pids = {owner.id: owner.pid for owner in view.owners if owner.damaged is None and not owner.listeners}
    answers = client.request_all(view.place, pids, {"do": "cluster"})
    for answer in answers.values():
        if not isinstance(answer, SharedStateError) and answer["ok"]:
            return ClusterStatus(view.nodes, answer)
    if not view.nodes:
        return ClusterStatus((), None, "no agent runs here")
    silent = [
        f"process {pids[one]} {answer}" for one, answer in answers.items() if isinstance(answer, SharedStateError)
    ]
    why = f"the agent does not answer ({listing(silent)}): the other nodes stay counted as it heard them last"
    return ClusterStatus(view.nodes, None, why)


def heading(status: ClusterStatus) -> str:
    """``cluster eu, node mx1, connected``."""
    if status.agent is None:
        return status.why_silent
    link = "connected" if status.agent.get("linked") else "not connected: no other node is heard"
    return f"cluster {plain(str(status.agent.get('cluster')))}, node {plain(str(status.agent.get('node')))}, {link}"


def summary(status: ClusterStatus) -> str:
    """``2 of 3 nodes are counted, 20143 sessions``."""
    words = f"{status.counted} of {plural(len(status.nodes), 'node')} are counted, {plural(status.sessions, 'session')}"
    if (status.agent or {}).get("duplicate"):
        words += "\nanother node has the name of this one, so this one is silent: give each node a name of its own"
    return words


def rows(status: ClusterStatus) -> Iterator[dict[str, Any]]:
    """What is known of each node, by column."""
    said = {one["node"]: one for one in (status.agent or {}).get("nodes", ())}
    for node in status.nodes:
        yield {
            "node": node.name,
            "state": node.state,
            "age_s": round(node.age_s, 3),
            "sessions": node.sessions if node.counted else None,
            "hosts": node.hosts if node.counted else None,
            **{column: said.get(node.name, {}).get(column) for column in FROM_AGENT},
        }


def row_text(row: Mapping[str, Any]) -> str:
    """``mx2        8112 sessions      6502 hosts  heard 4 ms ago, 0 gaps, 1 snapshot``."""
    counts = "not counted"
    if row["sessions"] is not None:
        counts = f"{row['sessions']:>11} sessions {row['hosts']:>9} hosts"
    words = row["state"]
    if row["state"] != THIS_HOST:
        words += f" {_ago(row['age_s'])}"
        if row["gaps"] is not None:
            words += f", {plural(row['gaps'], 'gap')}, {plural(row['snapshots'], 'snapshot')}"
        if row["state"] == "too large" and row["why"]:
            words += f": {plain(row['why'])}"
        if row["clock_differs"]:
            words += f", {in_words(row['clock_ahead_s'])}"
        if row["windows"]:
            words += f", {plural(row['windows'], 'window')} of {plural(row['window_hosts'], 'host')}"
    return f"  {plain(row['node']):15} {counts:36}  {words}"


def _ago(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms ago" if seconds < 1 else f"{seconds:.0f} s ago"
