"""Runs commands that are typed, piped or given as arguments, one after the other; one that fails does not end the rest.

Exit status: 0; 2 for a command in the arguments that is malformed; 1 for any other failure. A prompt always ends
with 0.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from inbound_audit.cli.console import grammar
from inbound_audit.cli.console.commands import Quit, run
from inbound_audit.cli.console.context import ConsoleContext
from inbound_audit.cli.console.grammar import WrongSyntax
from inbound_audit.cli.console.result import ResultWriter
from inbound_audit.cli.failure import Failure, reason
from inbound_audit.cli.logs import say
from inbound_audit.cli.output import plural
from inbound_audit.descriptor import make_directories, open_regular
from inbound_audit.errors import InboundAuditError
from inbound_audit.persist.state_directory import user_state_directory

if TYPE_CHECKING:
    from prompt_toolkit import Application, PromptSession
    from prompt_toolkit.history import History


def run_once(context: ConsoleContext, writer: ResultWriter, arguments: Sequence[str]) -> None:
    """One command, in several arguments or in one. Raises Failure, or a usage error of click."""
    try:
        writer.write(run(context, grammar.split(arguments[0]) if len(arguments) == 1 else arguments))
    except WrongSyntax as error:
        raise click.UsageError(str(error)) from None
    except InboundAuditError as error:
        raise Failure(str(error)) from None
    except Quit:
        pass


def run_lines(context: ConsoleContext, writer: ResultWriter) -> int:
    """One command per line of standard input, without empty lines and those that begin with #."""
    status = 0
    try:
        for number, line in enumerate(sys.stdin, 1):
            line = line.removeprefix("\ufeff") if number == 1 else line
            if line.strip() and not line.lstrip().startswith("#"):
                why = _try(context, writer, line)
                if why is not None:
                    say(f"line {number}: {why}")
                    writer.write_error(line.strip(), why)
                    status = 1
    except UnicodeDecodeError:
        raise Failure("standard input is not text") from None
    except Quit:
        pass
    return status


def _try(context: ConsoleContext, writer: ResultWriter, line: str) -> str | None:
    """Runs a line. Returns why it failed, or None. Raises Quit, and OSError if the output can't be written."""
    try:
        words = grammar.split(line)
        try:
            context.view.refresh()
            result = run(context, words)
        except OSError as error:  # such as no descriptor left
            return reason(error)
        writer.write(result)  # rows are read while they are written
    except (WrongSyntax, InboundAuditError, Failure) as error:
        return str(error)
    return None


# ---- at a prompt


def run_typed(context: ConsoleContext, writer: ResultWriter) -> int:
    """A prompt until `quit`, `exit` or Ctrl-D. Ctrl-C drops the line, or stops the command that runs."""
    prompt = _Prompt(_session(context), f"{context.name}> ")
    processes = plural(len(context.owners), "process")
    click.echo(f"{context.name}: {processes}; help lists the commands, quit leaves", err=True)
    before = signal.signal(signal.SIGTERM, prompt.leave)
    try:
        while True:
            try:
                line = prompt.read_line()
                why = _try(context, writer, line) if line.strip() else None
            except KeyboardInterrupt:
                continue
            if why is not None:
                click.secho(why, fg="red", err=True)
    except (EOFError, Quit):
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


class _Prompt:
    """Reads lines; a signal ends it with SystemExit, 128 and the number of the signal.

    While a line is typed the signal ends the prompt from within, as a key does: an exception in the middle of the
    toolkit's own code can leave the terminal raw, or be lost. At other times it is raised, and stops the command that
    runs.
    """

    def __init__(self, session: PromptSession[str], text: str) -> None:
        self._session = session
        self._text = text
        self._status: int | None = None  # the exit status, after a signal

    def read_line(self) -> str:
        try:
            return self._session.prompt(self._text)
        finally:
            if self._status is not None:  # however the prompt ended
                raise SystemExit(self._status)

    def leave(self, number: int, frame: object) -> None:
        from prompt_toolkit.application import get_app_or_none

        self._status = 128 + number
        app = get_app_or_none()
        if app is None or app.loop is None:  # without both it does not hold the terminal
            raise SystemExit(self._status)
        app.loop.call_soon_threadsafe(self._end, app)

    def _end(self, app: Application[str]) -> None:
        if app.future is not None and not app.future.done():
            app.exit(exception=EOFError)


def _session(context: ConsoleContext) -> PromptSession[str]:
    from prompt_toolkit import PromptSession

    from inbound_audit.cli.console.completion import Completions

    return PromptSession(
        history=_history(context),
        completer=Completions(context),
        complete_while_typing=False,
        enable_history_search=True,
    )


def history_path() -> str:
    return os.path.join(user_state_directory(), "console_history")


def _history(context: ConsoleContext) -> History:
    """A history in a file that belongs to the user; without such a file, in memory."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    path = history_path()
    try:
        make_directories(os.path.dirname(path))
        _make_private(path)
    except OSError as error:
        context.note(f"{path}: the history is not kept: {reason(error)}")
        return InMemoryHistory()
    return FileHistory(path)


def _make_private(path: str) -> None:
    """Makes a file that only this user can read. Raises OSError, also for a file of another user."""
    with open_regular(path, os.O_RDWR | os.O_CREAT | os.O_APPEND) as history:
        if os.fstat(history.number).st_uid != os.geteuid():
            raise PermissionError("it belongs to another user")
