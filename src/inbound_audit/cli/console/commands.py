"""The commands of a console: the function of each rule of the grammar, and its help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from inbound_audit.cli.console import grammar, mutations, queries, replay
from inbound_audit.cli.console.context import ConsoleContext
from inbound_audit.cli.console.grammar import USAGE, WrongSyntax
from inbound_audit.cli.console.result import Result
from inbound_audit.cli.failure import Failure

USAGE_WIDTH = 63


class Quit(Exception):
    """The console is left."""


class _Entry(NamedTuple):
    """`summary` stands after the form in the list of all commands; `details` follow it where one is asked for."""

    run: Callable[..., Result]
    summary: str
    details: str = ""


def _quit(context: ConsoleContext) -> Result:
    raise Quit


def help_on(context: ConsoleContext, *words: str) -> Result:
    """All commands, a line each; or those that begin with these words, with all that is known. Raises WrongSyntax."""
    rules = grammar.rules_for(words)
    if not rules:
        grammar.parse(words)  # raises with what there is
        raise WrongSyntax(f"{' '.join(words)!r} is not a command; help lists all")
    rows = [(USAGE[rule], " ".join(filter(None, COMMANDS[rule][1:]))) for rule in rules]
    if words:
        return Result({"command": "help"}, ("usage", "help"), rows, lambda row, paint: f"{row[0]}\n    {row[1]}")
    rows = [(USAGE[rule], COMMANDS[rule].summary) for rule in rules]
    return Result({"command": "help"}, ("usage", "help"), rows, lambda row, paint: f"{row[0]:{USAGE_WIDTH}}  {row[1]}")


COMMANDS: dict[str, _Entry] = {
    "show_ip": _Entry(
        queries.show_ip,
        "Connections, receptions and rejections per window of each monitor.",
        "Window 0 is the current one.",
    ),
    "show_all": _Entry(
        queries.show_all,
        "All hosts in all windows of all monitors and series, as CSV.",
        "Window 0 is the current one.",
    ),
    "count_cidr": _Entry(
        queries.count_cidr,
        "The count of a prefix in windows START to END.",
        "SERIES is the name of a series; or connections, receptions or rejections with the PARAMETERS of a monitor.",
    ),
    "add": _Entry(
        mutations.add,
        "Adds to the current window of a series.",
        "Defines the series if it does not exist. Prints the new count of the window.",
    ),
    "subtract": _Entry(
        mutations.subtract,
        "Subtracts from the current window of a series.",
        "Prints the new count of the window.",
    ),
    "delete_ip": _Entry(mutations.delete_ip, "Removes an address from all windows of a series, in all processes."),
    "load": _Entry(
        replay.load,
        "Counts the change log of a series again.",
        "FILE is the one in the state directory by default. Lines that are counted already are left out.",
    ),
    "membership": _Entry(
        queries.membership,
        "The nodes of the cluster: sessions, hosts, and when each was heard last.",
        "A node that is lost, of another version or too large is listed and not counted.",
    ),
    "shared_list": _Entry(queries.shared_list, "The tree of open sessions, the series and the monitors."),
    "shared_show": _Entry(
        queries.shared_show,
        "The tree of the open SMTP sessions.",
        "Of the whole cluster, or of NODE: a node, a process id, or an owner's id.",
    ),
    "show_available": _Entry(
        queries.show_available,
        "The time that the windows of each series and monitor cover.",
    ),
    "cache_details": _Entry(
        queries.cache_details, "Not part of inbound_audit, which counts in memory without a cache."
    ),
    "show_count": _Entry(
        queries.show_count,
        "Counts within a prefix, the largest first.",
        "A row per host, or per prefix of the length after cidrsize (of each length, with two). Several series have a "
        "count each, those of a union one for all. SERIES may be connections, receptions or rejections. DATE is such "
        "as 2026-03-01, '2026-03-01 09:30', 20260301T093000, yesterday or 10 minutes ago. "
        "threshold leaves out rows with a smaller count; aggregate daily counts each day for itself.",
    ),
    "help": _Entry(help_on, "The commands, or all about one; so does ? at the end of a line."),
    "quit": _Entry(_quit, "Leaves the console."),
    "exit": _Entry(_quit, "Leaves the console."),
}


def run(context: ConsoleContext, words: Sequence[str]) -> Result:
    """Does what a line says. Raises WrongSyntax, Failure, Quit, and what the package raises."""
    if words and words[-1] == "?":
        return help_on(context, *words[:-1])
    command = grammar.parse(words)
    if command.instance:
        _check_instance(context, command.instance)
    return COMMANDS[command.rule].run(context, *command.values, **command.parts)


def _check_instance(context: ConsoleContext, name: str) -> None:
    """``inbound_audit:NAME`` may have any NAME, as at the reference, but not that of another audit. Raises Failure."""
    from inbound_audit.shared.places import known_audits

    if name != context.name and name in known_audits(unreadable=True):
        raise Failure(f"inbound_audit:{name}: this console is that of {context.name!r}; start one for {name!r}")
