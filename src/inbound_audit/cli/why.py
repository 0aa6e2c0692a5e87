"""`inbound-audit why`: would a client be let in now, and by what would it be refused."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import click

from inbound_audit.cli import params, view_options
from inbound_audit.cli.failure import Failure, reason
from inbound_audit.cli.logs import say
from inbound_audit.cli.output import Output, plain
from inbound_audit.errors import PolicyError, SharedStateError
from inbound_audit.services import DEFAULT_SERVICE_TYPE

if TYPE_CHECKING:
    from rich.text import Text

    from inbound_audit.policy.limits import Limits
    from inbound_audit.shared import View

LET_IN, REFUSED, UNKNOWN = 0, 1, 3
MAX_READ = 1 << 24
"""Bytes from the end of a decision log that are searched."""

Row = dict[str, Any]


class Answers(NamedTuple):
    """`listeners`: what the guards of each process would decide, each with its ``pid``; `failures`: sentences about the
    processes that have not answered; `logs`: the paths that they name, each with the user of the process."""

    listeners: list[Row]
    failures: list[str]
    logs: Mapping[tuple[str, int], None]


@params.kind("ADDRESS")
def client(text: str) -> str:
    """An address, as RFC 5952 writes it; an IPv4-mapped one is IPv4. Raises ValueError."""
    try:
        found = ipaddress.ip_address(text.removeprefix("[").removesuffix("]").partition("%")[0])
    except ValueError:
        raise ValueError(f"{text!r}: write one address, such as 192.0.2.7 or 2001:db8::7") from None
    return str(getattr(found, "ipv4_mapped", None) or found)


@click.command(
    epilog="""\b
Examples:
  inbound-audit why mail 192.0.2.7
  inbound-audit why mail 2001:db8::7 --json | jq .let_in
  inbound-audit why mail 192.0.2.7 --log /var/log/inbound-audit/decisions.log
  inbound-audit why mail 192.0.2.7 --limit /24,/56=50
\b
Exit status: 0 it would be let in, 1 it would be refused, 2 usage, 3 not known: a script decides, no process has
  answered, or the audit can't be opened."""
)
@view_options.name_argument
@click.argument("address", type=client)
@click.option("--service", metavar="TYPE", help="Ask listeners of this service type alone.")
@view_options.user_option
@params.option("--log", "FILE", "Read this decision log; - is standard input.  [default: the logs of the processes]")
@params.option("--last", params.whole_number(0, 1000), "List so many lines of the log.", default=5)
@params.option(
    "--limit",
    params.limit,
    "Ask this limit with the counts of now, and not those of the processes; repeatable, as in serve.",
    multiple=True,
)
@params.option("--network", params.named_network, "With --limit: a network with limits of its own.", multiple=True)
@params.option("--exempt", params.network, "With --limit: do not limit this network.", multiple=True)
@params.option("--policy", "FILE", "Ask this policy in Lua or Sieve.")
@click.option("--json", "as_json", is_flag=True, help=view_options.AS_JSON)
def why(
    name: str,
    address: str,
    service: str | None,
    user: str | None,
    log: str | None,
    last: int,
    as_json: bool,
    **asked: Any,
) -> int:
    """Say whether a client would be let in now, and by what it would be refused.

    NAME is what the processes share under. Each process that decides is asked: for its limits with their counts of now,
    or for the script that decides. A new connection of the client counts itself. Nothing is counted or recorded. Below
    are the last lines of the decision log about the client, and about prefixes around it.
    """
    try:
        with view_options.open_view(name, user) as view:
            answers = _answers(view, name, address, service, asked)
    except Failure as failure:
        say(failure.format_message())
        return UNKNOWN
    for sentence in answers.failures:
        say(sentence)
    logs = answers.logs if log is None else [(log, None)]
    lines = [row for path, user in logs for row in _logged(path, user, address, last)]
    let_in = _let_in(answers.listeners)
    if as_json:
        shown = {"audit": name, "address": address, "let_in": let_in, "listeners": answers.listeners, "log": lines}
        click.echo(json.dumps(shown))
    else:
        Output().write_text(_report(address, answers.listeners, let_in, lines))
    return UNKNOWN if let_in is None else LET_IN if let_in else REFUSED


def _let_in(listeners: list[Row]) -> bool | None:
    """False if any would refuse it; None if that is not known."""
    said = [row["let_in"] for row in listeners]
    return False if False in said else None if None in said or not said else True


# ---- who is asked


def _answers(view: View, name: str, address: str, service: str | None, asked: dict[str, Any]) -> Answers:
    """Raises Failure, click.UsageError."""
    policy = _policy(asked)
    if policy is not None:
        return Answers([_ask(policy, name, address, service or DEFAULT_SERVICE_TYPE, view)], [], {})
    from inbound_audit.shared.control import client

    owners = {owner.id: owner for owner in view.owners if owner.damaged is None and owner.listeners}
    said, failures = client.request_owners(view.place, owners.values(), {"do": "why", "address": address})
    rows: list[Row] = []
    logs: dict[tuple[str, int], None] = {}
    for owner_id, answer in said.items():
        found, pid = answer.get("listeners"), owners[owner_id].pid
        user = client.user_of(view.place, owner_id)
        if not isinstance(found, list) or not all(map(_is_answer, found)) or user is None:
            failures.append(f"process {pid} sent a malformed answer")
            continue
        rows += [{**row, "pid": pid} for row in found if service in (None, row["service"])]
        logs |= {(row["log"], user): None for row in found if row.get("log")}
    if not (rows or failures):
        failures = [f"no process of {name!r} decides about connections"]
    return Answers(sorted(rows, key=lambda row: (row["service"], row["listener"], row["pid"])), failures, logs)


_NONE = type(None)
_ANSWER = {"service": str, "listener": str, "policy": (str, _NONE), "dry_run": bool, "let_in": (bool, _NONE)}
_PERHAPS = {"network": str, "over": str, "script": str, "log": (str, _NONE), "limits": list, "override": dict}
_LIMIT = {"limit": str, "prefix": (str, _NONE), "count": int, "most": int, "over": bool}
_OVERRIDE = {"prefix": str, "by": str, "why": str, "node": str}


def _is_answer(row: object) -> bool:
    """Whether it is what `Guard.would_decide` returns: a process may send anything."""
    from inbound_audit.shared.control.client import has_members

    return (
        has_members(row, _ANSWER)
        and has_members(row, {name: kind for name, kind in _PERHAPS.items() if name in row})
        and all(has_members(limit, _LIMIT) for limit in row.get("limits", ()))
        and ("override" not in row or has_members(row["override"], _OVERRIDE))
    )


def _policy(asked: dict[str, Any]) -> Limits | str | None:
    """The limits of the options, or the path of a script. Raises click.UsageError."""
    from inbound_audit.policy.limits import Limits

    limits = params.grouped_limits(asked["limit"])
    if asked["policy"] is not None and (limits or asked["network"] or asked["exempt"]):
        raise click.UsageError("--policy excludes --limit, --network and --exempt: write the limits in the policy")
    if limits is None and (asked["network"] or asked["exempt"]):
        raise click.UsageError("--network and --exempt need --limit")
    if limits is None:
        path: str | None = asked["policy"]
        return path
    params.check_networks(asked["network"], limits)
    try:
        return Limits.from_options(limits, dict(asked["network"]), exempt=asked["exempt"])
    except PolicyError as error:
        raise click.UsageError(f"--limit: {error}") from None


def _ask(asked: Limits | str, name: str, address: str, service: str, view: View) -> Row:
    """Asks a policy of this process, which joins the audit meanwhile. Raises Failure."""
    from inbound_audit import InboundAudit
    from inbound_audit.listeners.inquiry import would_decide
    from inbound_audit.policy.load import load_policy

    if view.user is not None:
        raise Failure("--user excludes --limit and --policy: run the command as that user")
    try:
        monitors = () if isinstance(asked, str) else asked.monitors_for(())
        with InboundAudit(shared=name, monitors=monitors) as audit:
            policy = load_policy(asked, audit=audit) if isinstance(asked, str) else asked
            return {"pid": os.getpid(), **would_decide(audit.listener(service), policy, address, asks_scripts=True)}
    except (PolicyError, ImportError) as error:
        raise Failure(f"--policy: {error}") from None
    except SharedStateError as error:
        raise Failure(str(error)) from None


# ---- the log


def _logged(path: str, user: int | None, address: str, last: int) -> list[Row]:
    """The last lines of a log about the address; says why it can't be read. `user` as for `_opened`."""
    try:
        with _opened(path, user) as file:
            if file.seekable():
                file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_READ))
            return list(deque(_about(file, address), last))
    except (OSError, ValueError) as error:
        say(f"the log {plain(path)} can't be read: {reason(error) if isinstance(error, OSError) else error}")
        return []


def _opened(path: str, user: int | None) -> AbstractContextManager[BinaryIO]:
    """As `decision_lines.opened`. None: the command line names it. Raises OSError, ValueError."""
    from inbound_audit.feed import decision_lines

    if user is not None:
        return decision_lines.opened(path, user)
    return open(sys.stdin.fileno() if path == "-" else path, "rb", closefd=path != "-")


def _about(lines: Iterable[bytes], address: str) -> Iterator[Row]:
    """The lines about an address, or about a prefix around it. What is no line of a decision log is left out."""
    from inbound_audit.feed.decision_lines import decisions

    found = ipaddress.ip_address(address)
    for row in decisions(lines):
        with contextlib.suppress(ValueError):
            if row.get("client") == address or found in ipaddress.ip_network(str(row.get("prefix"))):
                yield row


# ---- for people


def _report(address: str, listeners: list[Row], let_in: bool | None, lines: list[Row]) -> Text:
    from rich.text import Text

    text = Text()
    word, style = {True: ("would be let in", "green"), False: ("would be refused", "red"), None: ("", "yellow")}[let_in]
    text.append(f"{address} {word}" if word else f"whether {address} would be let in is not known here", style)
    for row, pids in _grouped(listeners):
        where = f"{'process' if len(pids) == 1 else 'processes'} {', '.join(map(str, pids))}"
        text.append(f"\n{plain(row['service'])} {plain(row['listener'])}, {where}: {_sentence(row)}")
        for limit in row.get("limits", ()):
            counted = plain(limit["prefix"] or "all of it")
            words = f"\n  {plain(limit['limit']):32} {counted:24} {limit['count']} of {limit['most']}"
            text.append(words + "  over" * limit["over"], "red" if limit["over"] else "")
    for row in lines:
        text.append(f"\n{_line(row)}", "dim")
    return text


def _grouped(listeners: list[Row]) -> list[tuple[Row, list[int]]]:
    """Processes that say the same, together."""
    groups: dict[str, tuple[Row, list[int]]] = {}
    for row in listeners:
        key = json.dumps({name: value for name, value in row.items() if name != "pid"})
        groups.setdefault(key, (row, []))[1].append(row["pid"])
    return list(groups.values())


def _sentence(row: Row) -> str:
    if "override" in row:
        from inbound_audit.overrides.entry import made_by

        made = row["override"]
        words = f"{'allowed' if row['let_in'] else 'denied'}: {made['prefix']}, by {made_by(made['by'], made['node'])}"
        return plain(words + f", {made['why']}" * bool(made["why"]))
    if row["let_in"] is None and "script" in row:
        return f"the script {plain(row['script'])} decides; to ask it, give it by --policy"
    if row["let_in"] is None:
        return f"{plain(str(row['policy']))} decides, which can't be asked from here"
    by = row.get("over") or row.get("script") or row.get("by")
    network = f", network {plain(row['network'])}" if "network" in row else ""
    words = "let in" if row["let_in"] else f"refused by {plain(str(by))}"
    dry = f" by a dry run of {plain(str(by))}" if row["let_in"] and row["dry_run"] and "over" in row else ""
    return words + dry + network


def _line(row: Row) -> str:
    """One line of the log in words."""
    what = " ".join(str(row[name]) for name in ("limit", "script") if name in row) or str(row.get("by", ""))
    count = f" {row['count']} of {row['most']}" if "count" in row and "most" in row else ""
    where = f" {row['prefix']}" if "prefix" in row else ""
    return plain(f"{row.get('time', '?')}  {row.get('client', '?')} {row.get('done', '?')}: {what}{where}{count}")
