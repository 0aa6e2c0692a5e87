"""`inbound-audit ls`: the shared audits of this machine."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

import click

from inbound_audit.cli import view_options
from inbound_audit.cli.logs import say
from inbound_audit.cli.output import Output, plain
from inbound_audit.errors import SharedStateError, cause_of


class AuditInfo(NamedTuple):
    """A shared audit. Without a right to read it, `why` is the reason, and what its files would say is None."""

    name: str
    user: str
    processes: int | None
    sessions: int | None
    why: str | None


@click.command(
    epilog="""\b
Examples:
  inbound-audit ls
  inbound-audit ls --json | jq -r '.[].name'
\b
Exit status: 0 done (also without any, or with some that can't be read), 1 their directory can't be read, 2 usage."""
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead.")
def ls(as_json: bool) -> None:
    """List the shared audits of this machine: under which name, and whose processes count, and their open sessions.

    Sessions are those of all services. An audit that this user can't read is listed with the reason. It changes
    nothing, and no process waits for it.
    """
    from inbound_audit.shared.places import known_audits

    with view_options.no_warning_of_damage():
        rows = [row for name in known_audits(unreadable=True) if (row := _read(name)) is not None]
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows]))
    elif not rows:
        say("no shared audit is here: no process counts under a name (serve --shared NAME)")
    else:
        Output().write(f"{line}\n" for line in (_line("name", "user", "processes", "sessions"), *map(_text, rows)))


def _read(name: str) -> AuditInfo | None:
    """None if no process is attached."""
    from inbound_audit.shared import View, find_directory
    from inbound_audit.shared.places import name_of_user

    user = "?"
    try:
        uid = os.lstat(find_directory(name)).st_uid
        user = name_of_user(uid)
        with View(name, user=str(uid)) as view:
            if not view.owners:  # all processes have ended
                return None
            owners = [owner for owner in view.owners if owner.listeners]
        return AuditInfo(name, user, len(owners), sum(owner.sessions for owner in owners), None)
    except FileNotFoundError:
        return None
    except (SharedStateError, OSError) as error:
        return AuditInfo(name, user, None, None, str(error) if isinstance(error, SharedStateError) else cause_of(error))


def _text(row: AuditInfo) -> str:
    if row.why is not None:
        return f"{_line(row.name, row.user, '?', '?')}  {plain(row.why)}"
    return _line(row.name, row.user, str(row.processes), str(row.sessions))


def _line(name: str, user: str, processes: str, sessions: str) -> str:
    return f"{plain(name):20}  {plain(user):12}  {processes:>9}  {sessions:>10}"
