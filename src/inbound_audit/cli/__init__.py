"""The command line: one command a file, each a thin layer over what a program would call itself.

    params    values of options: text in, checked value or a usage error out
    failure   what ends a command with exit status 1
    count     `inbound-audit count`; reading, rows: its input and its output
    serve     `inbound-audit serve`; server: what runs behind it; settings, sockets, policies, tls, maildir,
              report, logs: what that is made of; workers, worker: several of them, and one of these
    console   `inbound-audit console`, a package: the reference's console
    show, top, ps
              `inbound-audit show`, `top`, `ps`: looks at a shared audit from outside; looking: what they have in common

A command's own libraries (aiosmtpd, lupa, rich, prompt_toolkit) are imported when that command runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version

import click

from inbound_audit.cli.console import console
from inbound_audit.cli.count import count
from inbound_audit.cli.failure import abandon_output, reason
from inbound_audit.cli.ps import ps
from inbound_audit.cli.serve import serve
from inbound_audit.cli.show import show
from inbound_audit.cli.top import top

NAME = "inbound-audit"


@click.group(
    name=NAME,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  inbound-audit serve --listen :2525 --limit /32,/64=10 --limit /24,/48=100
  inbound-audit serve --policy stock.lua --maildir ./mail
  inbound-audit serve --listen :25 --workers 4 --shared mail
  inbound-audit count access.log --cidr 192.0.2.0/24 --top 20 --prefixlen 24,56
  inbound-audit top mail --watch
  inbound-audit console mail
\b
Exit status: 0 done, 1 failed while running, 2 the command line makes no sense.""",
)
@click.version_option(version(NAME), prog_name=NAME)
def main() -> None:
    """How many sessions are open right now from this address, or from any prefix around it?"""


main.add_command(serve)
main.add_command(count)
main.add_command(show)
main.add_command(top)
main.add_command(ps)
main.add_command(console)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status. What a user did wrong is one line on standard error."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        status = main.main(list(arguments) or ["--help"], prog_name=NAME, standalone_mode=False)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else NAME
        return _complain(f"{command}: {_one_line(error)} (see {command} --help)", error.exit_code)
    except click.ClickException as error:
        return _complain(f"{NAME}: {_one_line(error)}", error.exit_code)
    except OSError as error:
        abandon_output()
        return _complain(f"{NAME}: {reason(error)}{f': {error.filename}' if error.filename else ''}", 1)
    except (click.Abort, KeyboardInterrupt):
        return _complain(f"{NAME}: interrupted", 1)
    return status if isinstance(status, int) else 0


def _one_line(error: click.ClickException) -> str:
    return " ".join(error.format_message().split()).rstrip(".")


def _complain(text: str, status: int) -> int:
    print(text, file=sys.stderr)
    return status
