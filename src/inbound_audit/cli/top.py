"""`inbound-audit top`: the busiest prefixes of a shared audit, once or every second."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import click

from inbound_audit.cli import params, view_options
from inbound_audit.cli.failure import abandon_output
from inbound_audit.cli.output import Output, as_objects, plain, plural
from inbound_audit.shedding import merged

if TYPE_CHECKING:
    from rich.text import Text

    from inbound_audit.shared import View
    from inbound_audit.shedding import ShedNetwork

INTERVAL_S = 1.0

LINES_ABOVE = 3
"""Lines of a terminal that are not for rows: the heading, the titles, and the one with the cursor."""


class TopOptions(NamedTuple):
    """What is to be shown."""

    name: str
    n: int
    service: str
    prefixlen: tuple[int, int]
    user: str | None
    node: str | None


class TopCounts(NamedTuple):
    """The counts of a moment. `damaged` processes have a file that can't be read; `processes` are the others."""

    when: datetime
    total: int
    processes: int
    damaged: int
    rows: list[tuple[int, str]]
    shed: list[ShedNetwork]


@click.command(
    epilog="""\b
Examples:
  inbound-audit top mail --watch
  inbound-audit top mail -n 5 --prefixlen 32,64 --service ECStream
  inbound-audit top mail --watch --json | jq -c .total
  inbound-audit top mail --service inbound_cidr
  inbound-audit top mail --node mx2
\b
Exit status: 0 done, or the watch was ended (q, Escape, Ctrl-C, TERM, the reader of the output left),
  1 there is no such audit, node or service or it can't be opened, 2 usage."""
)
@view_options.name_argument
@click.option("-n", "n", type=params.whole_number(1), default="20", help="At most N prefixes.")
@params.option("--prefixlen", params.prefix_lengths, "The lengths of the prefixes.", default="24,56")
@view_options.service_option
@view_options.user_option
@view_options.node_option
@click.option("--watch", is_flag=True, help="Count again every second, until q or Ctrl-C: a live table on a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead; with --watch one per second.")
def top(
    name: str,
    n: int,
    prefixlen: tuple[int, int],
    service: str,
    user: str | None,
    node: str | None,
    watch: bool,
    as_json: bool,
) -> None:
    """Print the prefixes with the most open sessions of a shared audit.

    NAME is what the processes share under. The heading has all open sessions of the service, and how many processes
    count. With --watch and no terminal, what is printed once is printed every second.

    It only reads, and no process waits for it.
    """
    options = TopOptions(name, n, service, prefixlen, user, node)
    if watch:
        with _until_it_is_ended(), view_options.failures(name):
            _watch(options, as_json)
        return
    with view_options.open_view(name, user, node=node) as view:
        counts = _count(view, options)
    if as_json:
        click.echo(_as_json(options, counts))
    else:
        Output().write_text(_as_text(options, counts, n))


# ---- every second


@contextlib.contextmanager
def _until_it_is_ended() -> Iterator[None]:
    """The end of a watch is not a failure. TERM ends it as Ctrl-C does, so that the terminal gets its cursor back."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        abandon_output()
    finally:
        signal.signal(signal.SIGTERM, before)


def _watch(options: TopOptions, as_json: bool) -> None:
    output = Output()
    if not as_json and sys.stdout.isatty() and output.console.is_interactive:
        _watch_live(output, options)
        return
    between = ""
    for counts in _every_second(options, lambda: time.sleep(INTERVAL_S)):
        if as_json:
            click.echo(_as_json(options, counts))
        else:
            output.write([between])
            output.write_text(_as_text(options, counts, options.n))
            between = "\n"


def _watch_live(output: Output, options: TopOptions) -> None:
    from rich.live import Live

    live = Live(console=output.console, auto_refresh=False, vertical_overflow="crop")
    with _keys() as wait, live:
        for counts in _every_second(options, wait):
            rows = min(options.n, max(1, output.console.height - LINES_ABOVE))
            live.update(_as_text(options, counts, rows), refresh=True)


def _every_second(options: TopOptions, wait: Callable[[], None]) -> Iterator[TopCounts]:
    """Counts again and again, without end. Raises SharedStateError and UnknownServiceType."""

    with view_options.open_view(options.name, options.user, node=options.node) as view:
        while True:
            yield _count(view, options)
            wait()
            view.refresh()


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[], None]]:
    """A function that waits for the next second, and raises KeyboardInterrupt when q or Escape is pressed."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield lambda: time.sleep(INTERVAL_S)
        return
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd, termios.TCSANOW)
    try:
        yield lambda: _wait(fd)
    finally:
        termios.tcsetattr(fd, termios.TCSANOW, before)


def _wait(fd: int) -> None:
    end = time.monotonic() + INTERVAL_S
    while (left := end - time.monotonic()) > 0:
        if select.select([fd], [], [], left)[0]:
            keys = os.read(fd, 1024)
            # Escape is a byte of its own; an arrow key begins with it. No bytes: the terminal has gone.
            if keys in (b"", b"\x1b") or b"q" in keys.lower():
                raise KeyboardInterrupt


# ---- counts, and how they are printed


def _count(view: View, options: TopOptions) -> TopCounts:
    owners = view.owners
    damaged = sum(owner.damaged is not None for owner in owners)
    rows = view.top(options.n, service_type=options.service, prefixlen=options.prefixlen)
    shed = merged(chain.from_iterable(view_options.shed_networks(view).values()))
    return TopCounts(
        datetime.now(timezone.utc), view.total(options.service), len(owners) - damaged, damaged, rows, shed
    )


def _as_text(options: TopOptions, counts: TopCounts, most: int) -> Text:
    """A heading, titles, and at most `most` rows: count, share of all, prefix."""
    from rich.text import Text

    words = f"{counts.when.astimezone():%H:%M:%S}  {options.name}  {options.service} {counts.total} open"
    words += f"  node {plain(options.node)}" if options.node else f"  {plural(counts.processes, 'process')}"
    words += f"  {counts.damaged} damaged (see ps)" if counts.damaged else ""
    words += f"  {len(counts.shed)} dropped before accept (see ps)" if counts.shed else ""
    text = Text(no_wrap=True, overflow="crop")
    text.append(f"{words}\n", "bold")
    text.append("  count   share  prefix", "dim")
    shown = most if len(counts.rows) <= most else max(1, most - 1)
    for count, prefix in counts.rows[:shown]:
        text.append(f"\n{count:7d}", "cyan")
        # The two numbers were read one after the other.
        text.append(f"  {100 * count / max(count, counts.total):5.1f}%  {prefix}")
    if len(counts.rows) > shown:
        text.append(f"\n... and {len(counts.rows) - shown} more", "dim")
    return text


def _as_json(options: TopOptions, counts: TopCounts) -> str:
    about = {
        "time": counts.when.isoformat(timespec="milliseconds"),
        "audit": options.name,
        "service_type": options.service,
        "total": counts.total,
        "processes": counts.processes,
        "damaged": counts.damaged,
        "prefixlen": options.prefixlen,
        "top": list(as_objects(counts.rows)),
        "shed": [one._asdict() for one in counts.shed],
    }
    return json.dumps(about)
