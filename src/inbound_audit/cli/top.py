"""`inbound-audit top`: the busiest prefixes of a shared audit, once or every second."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import click

from inbound_audit.cli import looking, params
from inbound_audit.cli.failure import abandon_output

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from inbound_audit.shared import View

INTERVAL = 1.0
"""Seconds between two looks."""

ABOVE = 3
"""Lines of a terminal that are not for rows: the heading, the titles, and the one with the cursor."""


class Wanted(NamedTuple):
    """What is to be looked at."""

    name: str
    n: int
    service: str
    prefixlen: tuple[int, int]


class Look(NamedTuple):
    """What was seen at a moment. `damaged` are processes whose bytes can't be counted; `processes` are the others."""

    when: datetime
    total: int
    processes: int
    damaged: int
    rows: list[tuple[int, str]]


@click.command(
    epilog="""\b
Examples:
  inbound-audit top mail --watch
  inbound-audit top mail -n 5 --prefixlen 32,64 --service ECStream
  inbound-audit top mail --watch --json | jq -c .total
\b
Exit status: 0 done, or the watch was ended (Ctrl-C, TERM, nobody reads any more), 1 there is no such
  audit or service or it can't be seen, 2 usage."""
)
@click.argument("name")
@click.option(
    "-n", "n", type=click.IntRange(min=1), default=20, show_default=True, metavar="N", help="So many prefixes."
)
@click.option(
    "--prefixlen",
    type=params.prefix_lengths,
    default="24,56",
    metavar="V4,V6",
    show_default=True,
    help="The lengths of the prefixes.",
)
@looking.service_option
@click.option("--watch", is_flag=True, help="Look again every second, until Ctrl-C: a live table on a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead; with --watch one a second.")
def top(name: str, n: int, prefixlen: tuple[int, int], service: str, watch: bool, as_json: bool) -> None:
    """Print the prefixes with the most open sessions of a shared audit.

    NAME is what the processes share under. The heading has all open sessions of the service, and how many processes
    count. With --watch and no terminal, what is printed once is printed every second.

    It only reads, and nobody waits for it.
    """
    about = Wanted(name, n, service, prefixlen)
    if watch:
        with _until_it_is_ended(), looking.failures_told(about.name):
            _watch(about, as_json)
        return
    with looking.looking(about.name) as view:
        look = _look(view, about)
    if as_json:
        click.echo(_as_json(about, look))
    else:
        from rich.console import Console

        looking.tell(Console(), _as_text(about, look, about.n))


# ---- again and again


@contextlib.contextmanager
def _until_it_is_ended() -> Iterator[None]:
    """To end a watch is no failure. TERM ends it as Ctrl-C does, so that the terminal gets its cursor back."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        abandon_output()
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _watch(about: Wanted, as_json: bool) -> None:
    if as_json:
        for look in _looks(about):
            click.echo(_as_json(about, look))
        return
    from rich.console import Console

    console = Console()
    if sys.stdout.isatty() and console.is_interactive:
        _watch_live(console, about)
        return
    between = ""
    for look in _looks(about):
        sys.stdout.write(between)
        looking.tell(console, _as_text(about, look, about.n))
        between = "\n"


def _watch_live(console: Console, about: Wanted) -> None:
    from rich.live import Live

    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for look in _looks(about):
            live.update(_as_text(about, look, min(about.n, max(1, console.height - ABOVE))), refresh=True)


def _looks(about: Wanted) -> Iterator[Look]:
    """Looks every `INTERVAL`, without end. Raises SharedStateError and UnknownServiceType."""
    from inbound_audit.shared import View

    with View(about.name) as view:
        while True:
            yield _look(view, about)
            time.sleep(INTERVAL)
            view.refresh()


# ---- a look, and how it is told


def _look(view: View, about: Wanted) -> Look:
    owners = view.owners
    damaged = sum(owner.damaged is not None for owner in owners)
    rows = view.top(about.n, service_type=about.service, prefixlen=about.prefixlen)
    return Look(datetime.now(timezone.utc), view.total(about.service), len(owners) - damaged, damaged, rows)


def _as_text(about: Wanted, look: Look, most: int) -> Text:
    """A heading, titles, and at most so many rows: count, share of all, prefix."""
    from rich.text import Text

    words = f"{look.when.astimezone():%H:%M:%S}  {about.name}  {about.service} {look.total} open"
    words += f"  {look.processes} process{'' if look.processes == 1 else 'es'}"
    words += f"  {look.damaged} damaged (see ps)" if look.damaged else ""
    text = Text(no_wrap=True, overflow="crop")
    text.append(f"{words}\n", "bold")
    text.append("  count   share  prefix", "dim")
    for count, prefix in look.rows[:most]:
        text.append(f"\n{count:7d}", "cyan")
        # Both were true, but not at the same moment.
        text.append(f"  {100 * count / max(count, look.total):5.1f}%  {prefix}")
    return text


def _as_json(about: Wanted, look: Look) -> str:
    from inbound_audit.cli.rows import as_objects

    seen = {
        "time": look.when.isoformat(timespec="milliseconds"),
        "audit": about.name,
        "service_type": about.service,
        "total": look.total,
        "processes": look.processes,
        "damaged": look.damaged,
        "prefixlen": about.prefixlen,
        "top": as_objects(look.rows),
    }
    return json.dumps(seen)
