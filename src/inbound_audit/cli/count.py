"""`inbound-audit count`: addresses in, counts by prefix out."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import click

from inbound_audit import PrefixCounter
from inbound_audit.cli import params
from inbound_audit.cli.address_input import Find, InputStats, UnpackedStream, field, pattern
from inbound_audit.cli.failure import Failure, reason
from inbound_audit.cli.logs import say
from inbound_audit.cli.output import Output, as_objects, progress
from inbound_audit.cli.prefixes import Row
from inbound_audit.errors import CapacityError

DEFAULT_TOP = 10


@dataclass(frozen=True)
class CountOptions:
    """What is to be printed, and how."""

    cidr: tuple[str, ...]
    top: int | None
    prefixlen: tuple[int, int]
    tree: bool
    reference: bool
    json: bool

    @property
    def only_summary(self) -> bool:
        return not (self.cidr or self.tree or self.top is not None)


@click.command(
    epilog="""\b
Examples:
  inbound-audit count access.log
  inbound-audit count access.log.gz --top 20 --prefixlen 24,56
  journalctl -u postfix | inbound-audit count --regex 'connect from .*\\[(.*)\\]'
  printf '192.0.2.7\\n192.0.2.9\\n-192.0.2.7\\n' | inbound-audit count --cidr 192.0.2.0/24 --tree
\b
Exit status: 0 done, 1 a line could not be read (the others are counted) or the input could not be read, 2 usage."""
)
@click.argument("file", default="-")
@params.option("--cidr", params.network, "Print the count of this address or prefix; repeatable.", multiple=True)
@params.option("--top", params.whole_number(1), "Print the N largest prefixes.")
@params.option("--prefixlen", params.prefix_lengths, "The lengths of the prefixes that --top ranks.", default="32,128")
@click.option("--tree", is_flag=True, help="Print the compressed prefix tree, one row per node.")
@click.option("--reference", is_flag=True, help="With --tree, print the rows of the reference's console.")
@click.option("--field", "number", type=params.whole_number(1), help="The address is the field N, between blanks.")
@params.option(
    "--regex",
    params.regex,
    "The address is the first group of this regular expression, or all that it matches. Other lines are left out.",
)
@click.option("--json", is_flag=True, help="Print one JSON object instead.")
@click.option("--skip-bad", is_flag=True, help="A line that can't be read is not a failure.")
@params.option("--capacity", params.size, "Address space to reserve; memory is used as hosts come.", default="1G")
def count(
    file: str, number: int | None, regex: re.Pattern[str] | None, skip_bad: bool, capacity: int, **options: Any
) -> int:
    """Count addresses by prefix.

    FILE (standard input if it is missing or "-") has one IPv4 or IPv6 address per line: at its beginning, or after a
    time stamp. A port is taken off, and what follows is not read, so that most logs can be counted as they are. Files
    of gzip, bzip2, xz and zstd are unpacked. A "-" before an address closes one that was open; "#" begins a comment.
    Without options a summary and the largest hosts are printed.
    """
    if number is not None and regex is not None:
        raise click.UsageError("--field and --regex: write one of them")
    try:
        stats = InputStats(PrefixCounter(capacity=capacity), _find(number, regex))
    except CapacityError as error:
        raise Failure(f"--capacity {error}; write a size such as 64M") from None
    _read(file, stats)
    _print(stats, CountOptions(**options))
    _report_bad_lines(stats)
    return 1 if stats.bad and not skip_bad else 0


def _find(number: int | None, regex: re.Pattern[str] | None) -> Find | None:
    if regex is not None:
        return pattern(regex)
    return None if number is None else field(number)


def _read(file: str, stats: InputStats) -> None:
    try:
        with _opened(file) as stream, progress("reading", total=_size_left(stream), shown=not stream.isatty()) as step:
            stats.read(UnpackedStream(stream), lambda lines: step(completed=_position(stream), lines=lines))
    except OSError as error:
        raise Failure(f"cannot read {click.format_filename(file)}: {reason(error)}") from None


@contextmanager
def _opened(file: str) -> Iterator[io.BufferedReader]:
    if file != "-":
        with open(file, "rb") as stream:
            yield stream
        return
    if sys.stdin is None:
        raise Failure("standard input is closed: there is nothing to read addresses from")
    if sys.stdin.isatty():
        click.echo("reading addresses from the terminal, one per line; Ctrl-D ends", err=True)
    yield cast("io.BufferedReader", sys.stdin.buffer)


def _size_left(stream: io.BufferedReader) -> int | None:
    """Bytes to come, None where that cannot be known (a pipe, a device)."""
    status = os.fstat(stream.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _position(stream: io.BufferedReader) -> int:
    return stream.tell() if stream.seekable() else 0


def _print(stats: InputStats, options: CountOptions) -> None:
    output, counter = Output(), stats.counter
    sections = _sections(counter, options)
    if options.json:
        summary = {"sessions": counter.total, "hosts": len(counter), "lines": stats.lines, "bad": stats.bad}
        counts = {"counts": {cidr: count for count, cidr in sections.pop("counts")}} if options.cidr else {}
        objects = {name: list(as_objects(rows)) for name, rows in sections.items()}
        output.write([json.dumps({**summary, **counts, **objects}) + "\n"])
        return
    if options.only_summary:
        sections = {"summary": [(counter.total, "sessions"), (len(counter), "hosts")], **sections}
    for at, (name, rows) in enumerate(sections.items()):
        output.write("\n" if at else "")
        output.write((output.tree_rows if name == "tree" and not options.reference else output.reference_rows)(rows))


def _sections(counter: PrefixCounter, options: CountOptions) -> dict[str, list[Row]]:
    """The rows that are asked for, by their names in JSON."""
    sections = {}
    if options.cidr:
        sections["counts"] = [(counter.count(cidr), cidr) for cidr in options.cidr]
    if options.top is not None or options.only_summary:
        sections["top"] = counter.top(options.top or DEFAULT_TOP, prefixlen=options.prefixlen)
    if options.tree:
        sections["tree"] = counter.tree()
    return sections


def _report_bad_lines(stats: InputStats) -> None:
    for complaint in stats.complaints:
        say(complaint)
    if stats.bad > len(stats.complaints):
        say(f"and {stats.bad - len(stats.complaints)} more lines that can't be read")
