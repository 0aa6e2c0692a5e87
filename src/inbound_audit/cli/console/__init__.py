"""`inbound-audit console`: the reference's console, for a shared audit.

values      the values in commands: words in, a checked value out
grammar     the syntax of commands, read from their usage lines; what is wrong with a line, and what could follow
output      an answer as text or JSON
desk        what a command works at: the audit from outside, and its processes
asking      the commands that only look
changing    those that change counts
loading     the one that reads a log
commands    the table of all of them
completion  what can come next in a line that is typed
session     lines that are typed, piped or given as arguments
"""

from __future__ import annotations

import sys

import click

from inbound_audit.cli import looking
from inbound_audit.cli.failure import Failure


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="""\b
Examples:
  inbound-audit console mail
  inbound-audit console mail inbound_audit show ip 192.0.2.7
  inbound-audit console mail show count for 192.0.2.0/24 in failures since 10 minutes ago limit 5
  inbound-audit console mail --json cluster shared list | jq -c '.rows[]'
  printf 'add failures 300,6 192.0.2.%d 1\\\\n' 7 8 9 | inbound-audit console mail
\b
Exit status: 0 done, 1 there is no such audit or it can't be seen, or a command failed (of several from
  standard input: any), 2 usage, or the command makes no sense.""",
)
@click.argument("name")
@click.argument("command", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a command instead.")
def console(name: str, command: tuple[str, ...], as_json: bool) -> int:
    """Ask about the windows and series of a shared audit, and change them.

    NAME is what the processes share under. COMMAND is one command; without it they are read from standard input, one a
    line, at a prompt with history and completion if that is a terminal. `help` lists them.

    What only looks waits for nobody. What changes counts asks the processes, each on a socket that is its user's alone.
    """
    from rich.console import Console

    from inbound_audit.cli.console import session
    from inbound_audit.cli.console.desk import Desk
    from inbound_audit.cli.console.grammar import WrongSyntax
    from inbound_audit.cli.console.output import Writer

    with looking.looking(name) as view:
        desk = Desk(name, view, lambda text: click.echo(text, err=True))
        writer = Writer(Console(), as_json=as_json)
        if command:
            try:
                session.run_once(desk, writer, session.words_of(command))
            except WrongSyntax as error:
                raise click.UsageError(str(error)) from None
            return 0
        if sys.stdin is None:
            raise Failure("there is no standard input to read commands from")
        typed = sys.stdin.isatty() and sys.stdout.isatty() and not as_json
        return session.run_typed(desk, writer) if typed else session.run_lines(desk, writer)
