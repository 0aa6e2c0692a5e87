"""The tables of `inbound-audit replay`."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from inbound_audit.cli.output import Output, plain, plural
from inbound_audit.replay.results import PrefixRow, Result

if TYPE_CHECKING:
    from rich.table import Table

MAX_HOURS_SHOWN = 24
"""Hours of a table: those with the most refusals, or connections if none was refused."""


def tables(result: Result, output: Output) -> Iterator[str]:
    """The text, table by table."""
    yield from (f"{line}\n" for line in _summary(result))
    for table in _tables(result):
        with output.console.capture() as captured:
            output.console.print()
            output.console.print(table)
        yield captured.get()
    for line in notes(result):
        yield f"\n{line}\n"


def share_of(number: int, total: int) -> str:
    """``0.1%``: three digits, and never 0% for some or 100% for not all."""
    if not total:
        return "0%"
    return f"{100 * number / total:.3g}%" if number else "0%"


def _summary(result: Result) -> Iterator[str]:
    for each in result.files:
        yield f"{each['file']}: {each['format']}, {_some(int(str(each['lines'])), 'line')}"
    yield _some(result.connections, "connection") + (f" from {result.first} to {result.last}" if result.first else "")
    if result.receptions or result.rejections:
        yield f"{_some(result.receptions, 'message')} received, {_some(result.rejections, 'rejection')}"
    networks = " ".join(f"{number:,} {length}" for length, number in result.networks.items())
    yield f"{_some(result.hosts, 'client')}, in these networks: {networks}"
    if result.policy is not None:
        share = share_of(result.refused, result.connections)
        yield f"{result.refused:,} would have been refused ({share}) by {plain(result.policy)}"


def _tables(result: Result) -> Iterator[Table]:
    if result.limits:
        rows = []
        for each in result.limits:
            cells = [plain(each.limit), f"{each.refused:,}", share_of(each.refused, result.connections)]
            for prefix in each.prefixes or [PrefixRow("", 0)]:
                rows.append([*cells, prefix.prefix, f"{prefix.count:,}"])
                cells = ["", "", ""]
        yield _table("Refused", ["limit", "refused", "share", "most from", "refused"], rows)
    else:
        prefixes = [[each.prefix, f"{each.count:,}"] for each in result.prefixes]
        yield _table("Most connections from", ["prefix", "connections"], prefixes)
    busiest = sorted(result.hours, key=lambda each: (-each.refused, -each.connections))[:MAX_HOURS_SHOWN]
    busiest.sort(key=lambda each: each.hour)
    hours = [[each.hour, f"{each.connections:,}", f"{each.refused:,}"] for each in busiest]
    title = "By the hour" if len(hours) == len(result.hours) else f"The {len(hours)} hours with the most"
    yield _table(title, ["hour", "connections", "refused"], hours)
    names = list(result.lengths[0].quantiles) if result.lengths else []
    counts = [
        [each.length, *(f"{each.quantiles.get(name, 0):,}" for name in names), f"{each.largest:,}"]
        for each in result.lengths
    ]
    yield _table("Open sessions that a connection found, itself included", ["prefix", *names, "largest"], counts)
    if result.suggestions is not None:
        rows = [
            [each.limit, f"{each.would_refuse:,}", share_of(each.would_refuse, result.connections)]
            for each in result.suggestions
        ]
        title = f"Limits that refuse at most {100 * (result.suggest or 0):g}%"
        yield _table(title, ["limit", "would refuse", "share"], rows)


def notes(result: Result) -> Iterator[str]:
    """Sentences about the suggestion and about what the log lacks."""
    if result.suggestions is not None:
        yield "Each limit alone, as if no refusal changed what is counted later: --limit " + " --limit ".join(
            shlex.quote(each.limit) for each in result.suggestions
        )
        if result.check is None:
            yield "They were not replayed: a pipe can't be read twice."
        else:
            share = share_of(result.check.refused, result.connections)
            yield f"Replayed with all of them: {result.check.refused:,} refused ({share})."
    for number, what in (
        (result.unfinished, "open at the end of the log"),
        (result.overdue, "without a disconnect in time, closed by --duration"),
        (result.replaced, "ended by the next connect of the same process"),
        (result.cut, "closed early, as too many were open"),
        (result.late, "began too long before their line came to be put in order"),
    ):
        if number:
            yield f"{_some(number, 'session')} {what}."
    if result.hosts_left_out:
        yield f"There are more clients: {_some(result.hosts_left_out, 'connection')} found no room to count them."
    if result.unmatched:
        yield f"{_some(result.unmatched, 'line')} of a session whose connect is not in the log."
    if result.back:
        yield f"The time went back {_some(result.back, 'time')}."
    if result.policy_errors:
        yield f"The policy failed {_some(result.policy_errors, 'time')}."


def _some(number: int, noun: str) -> str:
    """``1 line``, ``2,000 lines``."""
    return f"{number:,}{plural(number, noun)[len(str(number)) :]}"


def _table(title: str, columns: list[str], rows: Iterable[list[str]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        numeric = number > 0 and name not in ("most from", "prefix")
        table.add_column(name, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
