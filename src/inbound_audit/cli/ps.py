"""`inbound-audit ps`: the processes that count in a shared audit."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from inbound_audit.cli import view_options
from inbound_audit.cli.output import Output, plain, plural
from inbound_audit.text import age

if TYPE_CHECKING:
    from rich.text import Text

    from inbound_audit.shared import OwnerInfo
    from inbound_audit.shedding import ShedNetwork

    Shed = Mapping[str, Sequence[ShedNetwork]]

MAX_SHED = 5
"""Networks that a process drops which are listed; the JSON object has all."""


@click.command(
    epilog="""\b
Examples:
  inbound-audit ps mail
  inbound-audit ps mail --json | jq '.owners[] | {pid, sessions}'
\b
Exit status: 0 done (also without processes, or with damaged ones), 1 there is no such audit or it
  can't be opened, 2 usage."""
)
@view_options.name_argument
@view_options.user_option
@click.option("--json", "as_json", is_flag=True, help=view_options.AS_JSON)
def ps(name: str, user: str | None, as_json: bool) -> None:
    """List the processes that count in a shared audit, each with its listeners and open sessions.

    NAME is what they share under. Process id and start are what each process reports of itself. A process whose file
    is damaged is listed with the reason.

    Below a process are the networks that its gates drop before accept, if it says so within 0.3 s.

    It changes nothing, and no process waits for it.
    """
    with view_options.no_warning_of_damage(), view_options.open_view(name, user) as view:
        shed = view_options.shed_networks(view)
        owners = sorted(view.owners, key=lambda owner: (owner.damaged is not None, owner.started, owner.pid))
    if as_json:
        click.echo(json.dumps(_summary(name, owners, shed)))
    elif not owners:
        click.echo(view_options.no_process(name))
    else:
        Output().write_text(_table(owners, shed, time.time()))


def _summary(name: str, owners: Iterable[OwnerInfo], shed: Shed) -> dict[str, object]:
    rows = [_as_object(owner, shed.get(owner.id, ())) for owner in owners]
    return {"audit": name, "total": sum(owner.sessions for owner in owners), "owners": rows}


def _as_object(owner: OwnerInfo, shed: Iterable[ShedNetwork]) -> dict[str, object]:
    """For JSON. What a damaged file would say is null."""
    listeners = [{"service_type": kind, "name": name, "sessions": total} for kind, name, total in owner.listeners]
    says = {"pid": owner.pid, "started": owner.started, "sessions": owner.sessions}
    known = says if owner.damaged is None else dict.fromkeys(says)
    dropped = [one._asdict() for one in shed]
    return {"id": owner.id, **known, "listeners": listeners, "shed": dropped, "damaged": owner.damaged}


def _table(owners: list[OwnerInfo], shed: Shed, now: float) -> Text:
    from rich.text import Text

    text = Text()
    text.append(_line("pid", "since", "age", "sessions", "listeners"), "dim")
    services: Counter[str] = Counter()
    for owner in owners:
        text.append("\n")
        if owner.damaged is not None:
            text.append(_line("?", "?", "?", "?", ""))
            text.append(f"{owner.id}.owner: {owner.damaged}", "red")
            continue
        for listener in owner.listeners:
            services[listener.service_type] += listener.total
        listeners = ", ".join(f"{each.service_type} {plain(each.name)} {each.total}" for each in owner.listeners)
        text.append(
            _line(str(owner.pid), _date(owner.started), age(now - owner.started), str(owner.sessions), listeners)
        )
        for one in shed.get(owner.id, ())[:MAX_SHED]:
            text.append(f"\n{'':52}drops {plain(one.network)} for {one.seconds_left:.0f} s more", "yellow")
        if len(more := shed.get(owner.id, ())) > MAX_SHED:
            text.append(f"\n{'':52}and {len(more) - MAX_SHED} networks more", "yellow")
    damaged = sum(owner.damaged is not None for owner in owners)
    text.append("\n")
    sums = ", ".join(f"{service_type} {total}" for service_type, total in services.items())
    text.append(_line("total", plural(len(owners), "process"), "", str(services.total()), sums), "bold")
    if damaged:
        text.append(f"  {damaged} damaged", "red")
    return text


def _line(pid: str, since: str, age: str, sessions: str, listeners: str) -> str:
    return f"{pid:>10}  {since:19}  {age:>6}  {sessions:>10}  {listeners}"


def _date(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):  # the process wrote it: it may be any number
        return "?"
