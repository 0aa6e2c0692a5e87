"""`inbound-audit check`: a configuration file, and what a start with it would read, without a start."""

from __future__ import annotations

import contextlib
import grp
import json
import pwd
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from inbound_audit.cli.agent import engine_settings
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.guard import settings_of_guard
from inbound_audit.cli.milter import settings_for
from inbound_audit.cli.policies import Policies
from inbound_audit.cli.serve import settings_of
from inbound_audit.cli.settings import Settings
from inbound_audit.errors import ClusterError, MonitorError, PolicyError
from inbound_audit.series.definition import read_monitors

if TYPE_CHECKING:
    from inbound_audit.cli.config.document import Problem

SCRIPTS = (".lua", ".sieve", ".siv")


@click.command(
    epilog="""\b
Examples:
  inbound-audit check inbound-audit.toml
  inbound-audit check inbound-audit.toml --json | jq '.problems[].line'
  inbound-audit check stock.lua
  inbound-audit check --schema > inbound-audit.schema.json
\b
Exit status: 0 nothing is wrong, 1 something is or the file can't be read, 2 usage."""
)
@click.argument("file", required=False, metavar="FILE")
@click.option("--schema", "as_schema", is_flag=True, help="Print the JSON Schema of configuration files, for editors.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def check(file: str | None, as_schema: bool, as_json: bool) -> int:
    """Tell what is wrong with a configuration file, or with a policy in Lua or Sieve.

    Every problem is a line: file, line, key, and what to write. Each command that has a table in the file is checked as
    far as a start goes without listening: policies are loaded, certificates read, the windows' memory is added up.
    """
    from inbound_audit.cli.config.document import ConfigError, schema

    if (file is None) != as_schema:
        raise click.UsageError("write a FILE to check, or --schema")
    if file is None:
        click.echo(json.dumps(schema(), indent=2))
        return 0
    about, problems = _script(file) if file.lower().endswith(SCRIPTS) else _document(file)
    if as_json:
        found = [{"line": one.line, "key": one.key, "why": one.why} for one in problems]
        click.echo(json.dumps({"file": file, "checked": about, "problems": found}))
    elif problems:
        click.echo("\n".join(ConfigError(file, problems).lines))
    else:
        click.echo("\n".join(f"{name}: {what}" for name, what in about.items()))
    return 1 if problems else 0


def _script(file: str) -> tuple[dict[str, str], list[Problem]]:
    """What was checked, and what is wrong."""
    from inbound_audit.cli.config.document import Problem
    from inbound_audit.policy.load import load_policy

    try:
        with contextlib.closing(load_policy(file)) as policy:
            return {file: f"a policy ({policy.implementation})"}, []
    except (ImportError, PolicyError) as error:
        return {}, [Problem(1, (), str(error))]


def _document(file: str) -> tuple[dict[str, str], list[Problem]]:
    """What was checked, and what is wrong."""
    from inbound_audit.cli.config.document import ConfigError, Document

    try:
        document = Document(file)
    except ConfigError as error:
        return {}, error.problems
    about: dict[str, str] = {}
    problems: list[Problem] = []
    for name in document.commands or ["serve"]:
        command = click.get_current_context().find_root().command
        assert isinstance(command, click.Group)
        try:
            options = command.commands[name].make_context(name, [], default_map=document.options(name)).params
            about[name] = STARTS[name](options)
        except (click.UsageError, Failure) as error:
            problems.append(document.problem(name, error.format_message()))
    return about, problems


def _start_of(make: Callable[[dict[str, Any]], Settings]) -> Callable[[dict[str, Any]], str]:
    """Checks what a server of connections starts with. Returns what it would serve by."""

    def check_start(options: dict[str, Any]) -> str:
        settings = make(options)
        _check_names(settings)
        if settings.chroot is not None:
            return f"its files lie in {settings.chroot}, and were not read"
        if settings.tls_cert is not None:
            from inbound_audit.cli.tls import Certificate

            Certificate(settings.tls_cert, settings.tls_key).load()
        with contextlib.closing(Policies(settings)) as policies:
            monitors = policies.monitors()
            policies.make()
            try:
                read_monitors(monitors, None, settings.monitor_bytes)
            except MonitorError as error:
                raise Failure(f"--policy and --monitor: {error}") from None
            counted = f", with the monitors {' '.join(monitors)}" if monitors else ""
            return policies.describe() + counted

    return check_start


def _check_names(settings: Settings) -> None:
    """Raises Failure for a user or a group that this machine does not have."""
    try:
        if settings.user is not None:
            pwd.getpwnam(settings.user)
        if settings.group is not None:
            grp.getgrnam(settings.group)
    except KeyError as error:
        raise Failure(f"--user and --group: {error.args[0]}") from None


def _node(options: dict[str, Any]) -> str:
    from inbound_audit.cluster.engine import open_engine

    try:
        open_engine(options["engine"], engine_settings(options))
    except ClusterError as error:
        raise Failure(str(error)) from None
    return f"the node {options['node']} of the cluster {options['cluster']}"


def _replay(options: dict[str, Any]) -> str:
    from inbound_audit.cli.replay import asked_by

    asked = asked_by(options)
    with asked.replay((), 0.0):
        return asked.describe() or "without limits"


STARTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "serve": _start_of(settings_of),
    "milter": _start_of(settings_for),
    "policyd": _start_of(settings_for),
    "guard": _start_of(settings_of_guard),
    "agent": _node,
    "replay": _replay,
    "metrics": lambda options: f"the audits {' '.join(options['names'])}",
    "web": lambda options: f"the audit {options['name']}",
}
"""What checks the start of each command that has a table: options in, a line about it out. Raises Failure or
click.UsageError."""
