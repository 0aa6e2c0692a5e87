"""`inbound-audit map`: a picture of a shared audit, as a file."""

from __future__ import annotations

import re
import sys
from datetime import datetime, timezone
from pathlib import PurePath
from typing import TYPE_CHECKING

import click

from inbound_audit import output_file
from inbound_audit._ipcount import MONITOR_KINDS
from inbound_audit.cli import params, view_options
from inbound_audit.cli.failure import Failure, reason
from inbound_audit.cli.logs import say
from inbound_audit.cli.output import plural
from inbound_audit.drawing.colours import SCALES
from inbound_audit.drawing.figure import MAX_WIDTH, MIN_WIDTH, WIDTH, figure
from inbound_audit.errors import CidrError, MonitorError, SeriesError, plain

if TYPE_CHECKING:
    from inbound_audit.drawing.shapes import Drawing
    from inbound_audit.feed import Feed, Look, Source

ROWS, MAX_ROWS = 2000, 65536
FORMATS = ("svg", "png")
STANDARD_OUTPUT = "-"


@params.kind("N-M")
def windows(text: str) -> tuple[int, int]:
    """``0`` or ``0-4``: the first and the last window. Raises ValueError."""
    found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", text, re.ASCII)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if first > last:
        raise ValueError(f"{text!r}: write a window, or the first and the last one, such as 0-4; 0 is the current one")
    return first, last


@click.command(
    name="map",
    epilog="""\b
Examples:
  inbound-audit map mail -o map.svg
  inbound-audit map mail -o map.png --width 1600
  inbound-audit map mail --prefix 198.51.100.0/24 -o network.svg
  inbound-audit map mail --colour refusals > refusals.svg
  inbound-audit map mail --monitor 300,6 --kind rejections --window 0-5 -o rejections.svg
\b
Exit status: 0 done, 1 there is no such audit, process, node, service, listener, monitor or series, it can't be opened,
  or the file can't be written, 2 usage.""",
)
@view_options.name_argument
@click.option(
    "-o", "--output", metavar="FILE", default=STANDARD_OUTPUT, help="The file to write; - is standard output."
)
@params.option(
    "--format", click.Choice(FORMATS), "What to write.  [default: by the suffix of FILE, else svg]", parameter="form"
)
@view_options.service_option
@params.option("--listener", "NAME", "Sessions of the listeners of that name alone.")
@params.option("--monitor", params.monitor, "Draw what this monitor has counted.")
@params.option("--kind", click.Choice(MONITOR_KINDS), "What of it.  [default: connections]")
@params.option("--series", "NAME", "Draw this named series.")
@params.option("--window", windows, "Of a monitor or a series: a window, or the first and the last one.  [default: 0]")
@click.option("--from", "pid", type=params.whole_number(1), metavar="PID", help="Draw this process alone.")
@view_options.node_option
@view_options.user_option
@params.option("--prefix", params.network, "Draw what is inside this prefix, as large as the drawing.")
@params.option("--rows", params.whole_number(2, MAX_ROWS), "Tell at most N prefixes apart.", default=str(ROWS))
@params.option("--colour", click.Choice(SCALES), "What the colours mean.", default=SCALES[0])
@params.option(
    "--width", params.whole_number(MIN_WIDTH, MAX_WIDTH), "The width of the drawing in pixels.", default=str(WIDTH)
)
def map_(
    name: str,
    output: str,
    form: str | None,
    service: str,
    listener: str | None,
    monitor: str | None,
    kind: str | None,
    series: str | None,
    window: tuple[int, int] | None,
    pid: int | None,
    node: str | None,
    user: str | None,
    prefix: str | None,
    rows: int,
    colour: str,
    width: int,
) -> None:
    """Draw who is connected: IPv4 as a map, IPv6 as an icicle.

    NAME is what the processes share under. On the map each IPv4 prefix is a square, or two, on a Hilbert curve that
    begins with 0.0.0.0 at the top left; neighbours in number are neighbours there. An IPv6 prefix is a box as wide as
    its count, and what is inside it hangs below it. An SVG says the prefix, its count and its refusals where one points
    at it.

    It only reads, and no process waits for it. A file that exists is replaced.
    """
    from inbound_audit.feed import Source

    wanted = _format(output, form)
    view_options.check_what_is_counted(listener, monitor, series)
    if pid is not None and node is not None:
        raise click.UsageError("--from excludes --node: a process is one of this host, so write one of them")
    first, last = _windows(monitor, kind, series, window)
    source = Source(
        service, listener, monitor, kind or MONITOR_KINDS[0], series, startv=first, endv=last, pid=pid, node=node,
        within=prefix,
    )  # fmt: skip
    if user is not None:
        say(f"{name!r}: the audit of {user}")
    with view_options.failures(name):
        look = _look(name, user, source, rows)
    _write(output, wanted, _drawing(look, colour, width))


def _format(output: str, form: str | None) -> str:
    """Raises click.UsageError."""
    suffix = PurePath(output).suffix.lower().removeprefix(".")
    found = form or (suffix if suffix in FORMATS else "svg" if output == STANDARD_OUTPUT else None)
    if found is None:
        raise click.UsageError(f"-o {output}: write a file that ends with .svg or .png, or --format too")
    if found == "png" and output == STANDARD_OUTPUT and sys.stdout is not None and sys.stdout.isatty():
        raise click.UsageError("a terminal can't show PNG: write a file, such as -o map.png")
    return found


def _windows(
    monitor: str | None, kind: str | None, series: str | None, window: tuple[int, int] | None
) -> tuple[int, int]:
    """Raises click.UsageError."""
    if kind is not None and monitor is None:
        raise click.UsageError("--kind: write the monitor, too, such as --monitor 300,6")
    if window is not None and monitor is None and series is None:
        raise click.UsageError("--window: write a monitor or a series, too, such as --monitor 300,6")
    return window or (0, 0)


def _look(name: str, user: str | None, source: Source, rows: int) -> Look:
    """Raises Failure, SharedStateError, UnknownServiceType, click.UsageError."""
    from inbound_audit.feed import Feed

    with Feed(name, user=user) as feed:
        if source.node is not None:
            source = source._replace(node=_node(feed, source))
        try:
            look = feed.look(source, rows)
        except (MonitorError, SeriesError, CidrError) as error:
            raise Failure(str(error)) from None
    view_options.check_listener(look)
    return look


def _node(feed: Feed, source: Source) -> str | None:
    """As a source has it. Raises Failure, SharedStateError, click.UsageError."""
    assert source.node is not None
    found = view_options.known_node(feed.look(rows=2).nodes, source.node)
    others = {
        "--service": source.service not in view_options.OF_NODES, "--listener": source.listener,
        "--monitor": source.monitor, "--series": source.series,
    }  # fmt: skip
    excluded = next((option for option, given in others.items() if given), None)
    if found is not None and excluded:
        raise click.UsageError(
            f"--node {found}: of another node this host has the open SMTP sessions alone, so leave out {excluded}"
        )
    return found


def _drawing(look: Look, colour: str, width: int) -> Drawing:
    heading = plain(f"{look.audit}: {_what(look.source)}")
    return figure(
        look.picture,
        heading,
        _about(look),
        within=look.source.within,
        refused=look.refused,
        scale=colour,
        what=_noun(look.source),
        width=width,
    )


def _noun(source: Source) -> str:
    return source.kind if source.monitor else "" if source.series else "sessions"


def _what(source: Source) -> str:
    """What is counted, in words."""
    last = source.startv if source.endv is None else source.endv
    windows = f"window {last}" if source.startv == last else f"windows {source.startv} to {last}"
    if source.monitor is not None:
        words = f"{source.kind} in {windows} of the monitor {source.monitor}"
    elif source.series is not None:
        words = f"{windows} of the series {source.series}"
    else:
        words = f"open {source.service} sessions" + (f" of the listener {source.listener}" if source.listener else "")
    words += f" in {source.within}" if source.within else ""
    words += f", process {source.pid}" if source.pid else ""
    return words + (f", node {source.node}" if source.node else "")


def _about(look: Look) -> str:
    when = datetime.fromtimestamp(look.time, timezone.utc)
    words = [f"{when:%Y-%m-%d %H:%M:%S} UTC", f"{look.picture.total:,} in all"]
    roots = [at for at, row in enumerate(look.picture.rows) if row.parent < 0]
    refused = sum(look.refused[at] for at in roots)
    words += [f"{refused:,} refused"] * bool(refused)
    words += [plural(len(look.processes), "process")] * (look.source.pid is None and look.source.node is None)
    return ", ".join(words)


def _write(output: str, form: str, drawing: Drawing) -> None:
    """Raises Failure, OSError."""
    from inbound_audit.drawing.png import png
    from inbound_audit.drawing.svg import svg

    written = svg(drawing).encode() if form == "svg" else png(drawing)
    if output == STANDARD_OUTPUT:
        click.echo(written, nl=False)
        return
    try:
        output_file.write(output, written)
    except OSError as error:
        raise Failure(f"cannot write {click.format_filename(output)}: {reason(error)}") from None
