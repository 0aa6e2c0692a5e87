"""The commands of a console: the form of each, what carries it out, and what `help` says of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from inbound_audit.cli.console import asking, changing, grammar, loading
from inbound_audit.cli.console.desk import Desk
from inbound_audit.cli.console.grammar import Syntax, WrongSyntax
from inbound_audit.cli.console.output import Answer


class Quit(Exception):
    """The console is left."""


class Command(NamedTuple):
    """`carry_out` gets the values by the names in `values`, which say how the syntax calls them."""

    syntax: Syntax
    carry_out: Callable[..., Answer]
    values: dict[str, str]
    help: str


def _command(usage: str, carry_out: Callable[..., Answer], values: str, help: str) -> Command:
    pairs = dict(pair.split("=") for pair in values.split())
    return Command(grammar.syntax(usage), carry_out, {name: own for own, name in pairs.items()}, help)


def _quit(desk: Desk) -> Answer:
    raise Quit


def help_on(desk: Desk, words: str = "") -> Answer:
    """The forms of all commands; or of those that begin with these words, with what they do. Raises WrongSyntax."""
    wanted = COMMANDS
    if words:
        given = [word.lower() for word in grammar.bare(words.split())]
        wanted = tuple(one for one in COMMANDS if list(grammar.bare(one.syntax.words))[: len(given)] == given)
        if given and not wanted:
            grammar.choose(given, SYNTAXES)  # says what there is
            raise WrongSyntax(f"{words!r} is no command; help lists all")
    rows = [(one.syntax.usage, one.help) for one in wanted]
    if not words:
        return Answer({"command": "help"}, ("usage", "help"), rows, lambda row, paint: str(row[0]))
    return Answer({"command": "help"}, ("usage", "help"), rows, lambda row, paint: f"{row[0]}\n    {row[1]}")


COMMANDS: tuple[Command, ...] = (
    _command(
        "inbound_audit show ip ADDRESS[/MASK]",
        asking.show_ip,
        "cidr=ADDRESS[/MASK]",
        "What the monitors have counted of it: a row for each window of each monitor, and each of the three kinds.",
    ),
    _command(
        "inbound_audit show all",
        asking.show_all,
        "",
        "All hosts in all windows of all monitors and series, as CSV with a heading. Window 0 is the current one.",
    ),
    _command(
        "inbound_audit count_cidr CIDR SERIES PARAMETERS START END",
        asking.count_cidr,
        "cidr=CIDR series=SERIES parameters=PARAMETERS start=START end=END",
        "The count of a prefix in windows START to END of a series, or of connections, receptions or rejections.",
    ),
    _command(
        "inbound_audit add SERIES PARAMETERS IP INCREMENT",
        changing.add,
        "series=SERIES parameters=PARAMETERS ip=IP increment=INCREMENT",
        "Adds to the current window of a series, which is defined if it is not there. Says what the window has now.",
    ),
    _command(
        "inbound_audit subtract SERIES PARAMETERS IP INCREMENT",
        changing.subtract,
        "series=SERIES parameters=PARAMETERS ip=IP increment=INCREMENT",
        "Takes away from the current window of a series. Says what the window has now.",
    ),
    _command(
        "inbound_audit delete_ip IP SERIES PARAMETERS",
        changing.delete_ip,
        "ip=IP series=SERIES parameters=PARAMETERS",
        "Forgets an address in all windows of a series, in all processes.",
    ),
    _command(
        "inbound_audit load SERIES [FILE]",
        loading.load,
        "series=SERIES file=FILE",
        "Counts what a log says (default: the one in the state directory). What is counted already is left out.",
    ),
    _command(
        "cluster shared list",
        asking.shared_list,
        "",
        "What the processes share: the tree of open sessions, the series and the monitors.",
    ),
    _command(
        "cluster shared show inbound_cidr [from NODE]",
        asking.shared_show,
        "node=NODE",
        "The tree of the open SMTP sessions, of all processes or of one (its process id, or owner's id).",
    ),
    _command(
        "show count for CIDR in SERIES [PARAMETERS] [since DATE] [order by ORDER] [cidrsize LENGTH] [limit ROWS]",
        asking.query,
        "cidr=CIDR series=SERIES parameters=PARAMETERS since=DATE order=ORDER length=LENGTH limit=ROWS",
        "Counts within a prefix, by host or by prefixes of a length, the largest first. SERIES may be connections, "
        "receptions or rejections, then with the PARAMETERS of a monitor. DATE is a date, with or without a time, or "
        "such as 10 minutes ago; ORDER is count or cidr.",
    ),
    _command("help [COMMAND]", help_on, "words=COMMAND", "The commands, or what one of them does."),
    _command("quit", _quit, "", "Leaves the console."),
    _command("exit", _quit, "", "Leaves the console."),
)

SYNTAXES = tuple(one.syntax for one in COMMANDS)


def carry_out(desk: Desk, words: Sequence[str]) -> Answer:
    """Does what a line says. Raises WrongSyntax, Failure, Quit, and what the package raises."""
    syntax, values = grammar.parse(words, SYNTAXES)
    command = COMMANDS[SYNTAXES.index(syntax)]
    arguments: dict[str, Any] = {command.values[name]: value for name, value in values.items()}
    return command.carry_out(desk, **arguments)
