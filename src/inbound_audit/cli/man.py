"""`inbound-audit man`: manual pages (man(7)), made of what the commands say of themselves.

click-man 0.6 was tried: its pages leave out examples, signals, exit statuses and arguments, and roff takes lines that
begin with a dot, and backslashes, for its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click

from inbound_audit.cli.failure import Failure, reason

_ESCAPES = str.maketrans(
    {"\\": "\\e", "-": "\\-", '"': "\\(dq", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"}
)


@click.command(
    epilog="""\b
Examples:
  inbound-audit man replay > inbound-audit-replay.1
  inbound-audit man --directory man1
\b
Exit status: 0 done, 1 a page can't be written, 2 usage."""
)
@click.argument("command", required=False)
@click.option("--directory", metavar="DIR", help="Write the pages of all commands into this directory.")
@click.pass_context
def man(context: click.Context, command: str | None, directory: str | None) -> None:
    """Print the manual page of a command, or that of all together.

    To read one: inbound-audit man serve | man -l -
    """
    root = context.find_root()
    if directory is not None:
        if command is not None:
            raise click.UsageError("--directory writes the pages of all commands: leave out COMMAND")
        _write(root, Path(directory))
        return
    if command is None:
        click.echo(page(root))
        return
    found = _commands(root).get(command)
    if found is None:
        raise click.UsageError(f"No such command {command!r}; inbound-audit help lists all")
    click.echo(page(found))


def page(context: click.Context) -> str:
    """The manual page of the command of a context."""
    command, name = context.command, _page_name(context)
    summary, _, rest = (command.help or "").partition("\n\n")
    lines = [
        f'.TH {_text(name.upper())} 1 "" "{_text(context.find_root().info_name or "")} {version("inbound-audit")}" ""',
        ".SH NAME",
        rf"{_text(name)} \- {_text(summary.strip().rstrip('.'))}",
        ".SH SYNOPSIS",
        rf".B {_text(context.command_path)}",
        _text(" ".join(command.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        *_paragraphs(f"{summary}\n\n{rest}"),
    ]
    if commands := _commands(context):
        lines.append(".SH COMMANDS")
        for of in commands.values():
            lines += [".TP", rf".BR {_text(_page_name(of))} (1)", _text(of.command.get_short_help_str(200))]
    lines.append(".SH OPTIONS")
    for option in command.get_params(context):
        if isinstance(option, click.Option) and (record := option.get_help_record(context)):
            lines += [".TP", rf".B {_text(record[0])}", _text(" ".join(record[1].split()))]
    for title, body in _blocks(command.epilog or ""):
        lines += [f".SH {title.upper()}", *body]
    if context.parent is not None:
        lines += [".SH SEE ALSO", rf".BR {_text(_page_name(context.parent))} (1)"]
    return "\n".join(lines)


def _write(root: click.Context, directory: Path) -> None:
    """Raises Failure."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for context in (root, *_commands(root).values()):
            (directory / f"{_page_name(context)}.1").write_text(f"{page(context)}\n")
    except OSError as error:
        raise Failure(f"cannot write to {directory}: {reason(error)}") from None


def _commands(context: click.Context) -> dict[str, click.Context]:
    """By name, the commands of a group; none of a command."""
    commands = context.command.commands if isinstance(context.command, click.Group) else {}
    return {name: click.Context(each, info_name=name, parent=context) for name, each in commands.items()}


def _page_name(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _text(text: str) -> str:
    """A line of text: as it is, also to be copied into a shell (groff_char(7))."""
    return ("\\&" if text.startswith(".") else "") + text.translate(_ESCAPES)


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        yield from [".PP"] * (number > 0)
        yield _text(" ".join(paragraph.split()))


def _blocks(epilog: str) -> Iterator[tuple[str, list[str]]]:
    """The titles of an epilog, and the lines of each: `Examples:` has lines, `Exit status: 0 done` a sentence."""
    for block in filter(None, (each.strip() for each in epilog.split("\b"))):
        title, _, body = block.partition(":")
        if body.startswith("\n"):
            yield title, [".nf", *(_text(line.strip()) for line in body.strip().splitlines()), ".fi"]
        else:
            yield title, [_text(" ".join(body.split()))]
