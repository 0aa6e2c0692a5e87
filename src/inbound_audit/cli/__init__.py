"""The command line: one command per file, each a thin layer over the functions that a program would call.

    params    values of options: text in, checked value or a usage error out
    failure   what ends a command with exit status 1
    output    rows, JSON and progress bars; prefixes: prefixes and trees; logs: lines on standard error
    count     `inbound-audit count`; address_input: its input
    replay    `inbound-audit replay`; log_files: its input; replay_tables: its output
    serve     `inbound-audit serve`; server: what it runs; settings, sockets, policies, decision_log, tls, maildir,
              report: its parts; workers, worker: several of them, and one of these
    guard     `inbound-audit guard`: in front of any TCP server; guard_server: what it runs
    milter, policyd
              `inbound-audit milter`, `policyd`; service: what they have in common with `serve`
    check     `inbound-audit check`; config, a package: the configuration file
    console   `inbound-audit console`, a package: the reference's console
    show, top, ps, why
              `inbound-audit show`, `top`, `ps`, `why`: a shared audit from outside;
              view_options: what they have in common
    map       `inbound-audit map`: a picture of a shared audit as a file
    watch     `inbound-audit watch`: a shared audit on a terminal, live
    agent, cluster
              `inbound-audit agent`: this host as a node of a cluster; `inbound-audit cluster`: the nodes
    ls        `inbound-audit ls`: the shared audits of this machine
    overrides `inbound-audit deny`, `allow`, `lift`, `decisions`: what a shared audit refuses and lets in anyway
    completion, man
              `inbound-audit completion`: for shells; `inbound-audit man`: manual pages
    metrics   `inbound-audit metrics`: the figures of shared audits, for Prometheus
    web       `inbound-audit web`: a page on a shared audit

A command's own libraries (aiosmtpd, lupa, rich, prompt_toolkit, textual) are imported when that command runs.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version

import click

from inbound_audit.cli.agent import agent
from inbound_audit.cli.check import check
from inbound_audit.cli.cluster import cluster
from inbound_audit.cli.completion import completion
from inbound_audit.cli.console import console
from inbound_audit.cli.count import count
from inbound_audit.cli.failure import abandon_output, reason
from inbound_audit.cli.guard import guard
from inbound_audit.cli.logs import are_json, say, to_standard_error
from inbound_audit.cli.ls import ls
from inbound_audit.cli.man import man
from inbound_audit.cli.map import map_
from inbound_audit.cli.metrics import metrics
from inbound_audit.cli.milter import milter
from inbound_audit.cli.overrides import allow, decisions, deny, lift
from inbound_audit.cli.policyd import policyd
from inbound_audit.cli.ps import ps
from inbound_audit.cli.replay import replay
from inbound_audit.cli.serve import serve
from inbound_audit.cli.show import show
from inbound_audit.cli.top import top
from inbound_audit.cli.watch import watch
from inbound_audit.cli.web import web
from inbound_audit.cli.why import why

NAME = "inbound-audit"

_SERVING = (["serve"], ["guard"], ["milter"], ["policyd"])


@click.group(
    name=NAME,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
    epilog="""\b
Examples:
  inbound-audit serve --listen :2525 --limit /32,/64=10 --limit /24,/48=100
  inbound-audit serve --policy stock.lua --maildir ./mail
  inbound-audit serve --listen :25 --workers 4 --shared mail
  inbound-audit guard --listen :25 --to 127.0.0.1:2525 --limit /32,/64=10
  inbound-audit milter --listen unix:/run/inbound-audit/milter --shared mail
  inbound-audit check inbound-audit.toml
  inbound-audit count access.log --cidr 192.0.2.0/24 --top 20 --prefixlen 24,56
  inbound-audit replay mail.log --suggest 0.1%
  inbound-audit top mail --watch
  inbound-audit map mail -o map.svg
  inbound-audit watch mail
  inbound-audit deny mail 192.0.2.0/24 --for 1h --why "a flood of rejections"
  inbound-audit console mail
  inbound-audit agent mail --cluster eu --node mx1 --listen tcp/127.0.0.1:7447
  inbound-audit metrics mail --listen 127.0.0.1:9746
  inbound-audit web mail
\b
Exit status: 0 done, 1 failed while running, 2 usage.""",
)
@click.version_option(version(NAME), prog_name=NAME)
def main() -> None:
    """How many sessions are open right now from this address, or from any prefix around it?"""


COMMANDS = (
    serve, guard, milter, policyd, check, count, replay, show, top, ps, why, ls, map_, watch, deny, allow, lift,
    decisions, console, agent, cluster, metrics, web, completion, man,
)  # fmt: skip

for command in COMMANDS:
    main.add_command(command)


@main.command("help", context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1)
@click.pass_context
def help_(context: click.Context, command: tuple[str, ...]) -> None:
    """Print the help of a command, or of all."""
    found: click.Command = main
    for name in command:
        inner = main.get_command(context, name) if found is main else None
        if inner is None:
            raise click.UsageError(f"No such command {name!r}; inbound-audit help lists all")
        found = inner
    parent = context.parent if command else None
    with click.Context(found, info_name=" ".join(command) or NAME, parent=parent, max_content_width=100) as about:
        click.echo(found.get_help(about))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status. A mistake of the user is one line on standard error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[1:] == ["--version"]:  # of a command it is the same
        arguments = ["--version"]
    with to_standard_error(as_json="--json" in arguments):
        status, complaint = _run(arguments or ["--help"])
        if complaint and arguments[:1] in _SERVING and are_json():  # a log of JSON lines to its end
            say(complaint, logging.ERROR)
        elif complaint:
            print(complaint, file=sys.stderr)
        return status


def _run(arguments: list[str]) -> tuple[int, str]:
    """The exit status, and what went wrong."""
    try:
        status = main.main(arguments, prog_name=NAME, standalone_mode=False)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else NAME
        return error.exit_code, f"{command}: {_one_line(error)} (see {command} --help)"
    except click.ClickException as error:
        return error.exit_code, f"{NAME}: {_one_line(error)}"
    except OSError as error:
        abandon_output()
        return 1, f"{NAME}: {reason(error)}{f': {error.filename}' if error.filename else ''}"
    except (click.Abort, KeyboardInterrupt):
        return 1, f"{NAME}: interrupted"
    return status if isinstance(status, int) else 0, ""


def _one_line(error: click.ClickException) -> str:
    text = " ".join(error.format_message().split()).rstrip(".")
    if isinstance(error, click.NoSuchOption) and error.ctx and error.ctx.info_name == "serve":
        text += "; write --listen :2525" * (error.option_name in ("-p", "--port"))
    return text
