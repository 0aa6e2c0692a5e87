"""`inbound-audit console`: the reference's console, for a shared audit.

values      the values in commands: a word in, a checked value out
grammar     the syntax of commands, for lark; what is wrong with a line, and what can follow its words
result      the result of a command, as text or JSON
context     what a command works on: the audit from outside, and its processes
queries     the commands that only read
mutations   the commands that change counts
replay      the command that reads a change log
commands    the table of all commands
completion  what can come next in a line that is typed
session     lines that are typed, piped or given as arguments
"""

from __future__ import annotations

import sys

import click

from inbound_audit.cli import view_options
from inbound_audit.cli.failure import Failure


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="""\b
Examples:
  inbound-audit console mail
  inbound-audit console mail inbound_audit show ip 192.0.2.7
  inbound-audit console mail show count for 192.0.2.0/24 in failures since yesterday limit 5
  inbound-audit console mail --json cluster shared list | jq -c '.rows[]'
  printf 'add failures 300,6 192.0.2.%d 1\\n' 7 8 9 | inbound-audit console mail
\b
Exit status: 0 done, 1 there is no such audit or it can't be opened, or a command failed (of several from
  standard input: any), 2 usage, or the command is malformed.""",
)
@view_options.name_argument
@click.argument("command", nargs=-1)
@view_options.user_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per command instead.")
def console(name: str, command: tuple[str, ...], user: str | None, as_json: bool) -> int:
    """Ask about the windows and series of a shared audit, and change them.

    NAME is what the processes share under. COMMAND is one command. Without it, commands are read from standard input,
    one per line, at a prompt with history and completion if that is a terminal. `help` lists them.

    A command that only reads waits for no process. One that changes counts asks the processes, each on a socket that
    only its user can open.
    """
    from inbound_audit.cli.console import session
    from inbound_audit.cli.console.context import ConsoleContext
    from inbound_audit.cli.console.result import ResultWriter
    from inbound_audit.cli.logs import say
    from inbound_audit.cli.output import Output

    with view_options.open_view(name, user) as view:
        context = ConsoleContext(name, view, say)
        writer = ResultWriter(Output(), as_json=as_json)
        if command:
            session.run_once(context, writer, command)
            return 0
        if sys.stdin is None:
            raise Failure("standard input is closed: there is nothing to read commands from")
        typed = sys.stdin.isatty() and sys.stdout.isatty() and not as_json
        return session.run_typed(context, writer) if typed else session.run_lines(context, writer)
