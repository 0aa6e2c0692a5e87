"""`inbound-audit count`: addresses in, counts by prefix out."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from inbound_audit import PrefixCounter
from inbound_audit.cli import params
from inbound_audit.cli.failure import Failure, reason
from inbound_audit.cli.reading import Tally
from inbound_audit.errors import CapacityError

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

DEFAULT_TOP = 10


@dataclass(frozen=True)
class Wanted:
    """What is to be printed, and how."""

    cidr: tuple[str, ...]
    top: int | None
    prefixlen: tuple[int, int]
    tree: bool
    json: bool

    @property
    def nothing_special(self) -> bool:
        return not (self.cidr or self.tree or self.top is not None)


@click.command(
    epilog="""\b
Examples:
  inbound-audit count addresses.txt
  cut -d' ' -f1 access.log | inbound-audit count --top 20 --prefixlen 24,56
  printf '192.0.2.7\\n192.0.2.9\\n-192.0.2.7\\n' | inbound-audit count --cidr 192.0.2.0/24 --tree
\b
Exit status: 0 done, 1 a line made no sense (the others are counted) or the input could not be read, 2 usage."""
)
@click.argument("file", default="-")
@click.option(
    "--cidr", type=params.network, multiple=True, help="Print the count of this address or prefix; repeatable."
)
@click.option("--top", type=click.IntRange(min=1), metavar="N", help="Print the N largest prefixes.")
@click.option(
    "--prefixlen",
    type=params.prefix_lengths,
    default="32,128",
    metavar="V4,V6",
    show_default=True,
    help="The lengths of the prefixes that --top ranks.",
)
@click.option("--tree", is_flag=True, help="Print the compressed prefix tree, a node a row.")
@click.option("--json", is_flag=True, help="Print one JSON object instead.")
@click.option("--skip-bad", is_flag=True, help="Lines that make no sense are no failure.")
@click.option(
    "--capacity",
    type=params.size,
    default="1G",
    show_default=True,
    metavar="SIZE",
    help="Address space to reserve; memory is used as hosts come.",
)
def count(file: str, skip_bad: bool, capacity: int, **wanted: Any) -> int:
    """Count addresses by prefix.

    FILE (standard input if it is missing or "-") has an IPv4 or IPv6 address a line. A "-" before an address closes
    one that was open; "#" begins a comment. Without options a summary and the largest hosts are printed.
    """
    try:
        tally = Tally(PrefixCounter(capacity=capacity))
    except CapacityError as error:
        raise Failure(f"{error}; choose another --capacity") from None
    _read(file, tally)
    _print(tally, Wanted(**wanted))
    _tell_bad_lines(tally)
    return 1 if tally.bad and not skip_bad else 0


def _read(file: str, tally: Tally) -> None:
    try:
        with _opened(file) as stream, _progress(stream) as progress:
            tally.read(stream, progress)
    except OSError as error:
        raise Failure(f"cannot read {click.format_filename(file)}: {reason(error)}") from None


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file != "-":
        with open(file, "rb") as stream:
            yield stream
        return
    if sys.stdin.isatty():
        click.echo("reading addresses from the terminal, one a line; Ctrl-D ends", err=True)
    yield sys.stdin.buffer


@contextmanager
def _progress(stream: BinaryIO) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error if that is a terminal and the input is none; else nobody is told."""
    if not sys.stderr.isatty() or stream.isatty():
        yield lambda advance, lines: None
        return
    from rich.console import Console
    from rich.progress import Progress

    size = _size_left(stream)
    with Progress(*_columns(size), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=size, lines=0)
        yield lambda advance, lines: bar.update(task, advance=advance, lines=lines)


def _columns(size: int | None) -> list[ProgressColumn]:
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[lines]:,} lines")]
    return [*columns, DownloadColumn(), TimeRemainingColumn()] if size else [*columns, TransferSpeedColumn()]


def _size_left(stream: BinaryIO) -> int | None:
    """Bytes to come, None where that cannot be known (a pipe, a device)."""
    status = os.fstat(stream.fileno())
    return status.st_size - stream.tell() if stat.S_ISREG(status.st_mode) else None


def _print(tally: Tally, wanted: Wanted) -> None:
    if wanted.json:
        click.echo(json.dumps(_summary(tally, wanted)))
        return
    from rich.console import Console

    from inbound_audit.cli.rows import Rows

    rows = Rows(Console())
    for at, section in enumerate(_sections(tally, wanted)):
        sys.stdout.write("\n" if at else "")
        sys.stdout.writelines(rows.format(section))
    sys.stdout.flush()


def _sections(tally: Tally, wanted: Wanted) -> Iterator[list[tuple[int, str]]]:
    counter = tally.counter
    if wanted.nothing_special:
        yield [(counter.total, "sessions"), (len(counter), "hosts")]
        yield counter.top(DEFAULT_TOP, prefixlen=wanted.prefixlen)
    if wanted.cidr:
        yield [(counter.count(cidr), cidr) for cidr in wanted.cidr]
    if wanted.top is not None:
        yield counter.top(wanted.top, prefixlen=wanted.prefixlen)
    if wanted.tree:
        yield counter.tree()


def _summary(tally: Tally, wanted: Wanted) -> dict[str, object]:
    from inbound_audit.cli.rows import as_objects

    counter = tally.counter
    summary: dict[str, object] = {
        "sessions": counter.total,
        "hosts": len(counter),
        "lines": tally.lines,
        "bad": tally.bad,
    }
    if wanted.cidr:
        summary["counts"] = {cidr: counter.count(cidr) for cidr in wanted.cidr}
    if wanted.top is not None or wanted.nothing_special:
        summary["top"] = as_objects(counter.top(wanted.top or DEFAULT_TOP, prefixlen=wanted.prefixlen))
    if wanted.tree:
        summary["tree"] = as_objects(counter.tree())
    return summary


def _tell_bad_lines(tally: Tally) -> None:
    for complaint in tally.complaints:
        click.echo(complaint, err=True)
    if tally.bad > len(tally.complaints):
        click.echo(f"and {tally.bad - len(tally.complaints)} more lines that make no sense", err=True)
