"""`inbound-audit watch`: a shared audit on a terminal, live."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import click

from inbound_audit._ipcount import parse_monitor
from inbound_audit.cli import params, view_options
from inbound_audit.cli.failure import Failure
from inbound_audit.errors import MonitorError, SeriesError


@click.command(
    epilog="""\b
Examples:
  inbound-audit watch mail
  inbound-audit watch mail --service ECStream --interval 5s
  inbound-audit watch mail --monitor 300,6
\b
Exit status: 0 done, 1 there is no such audit, service, listener, monitor or series, it can't be opened, or there is no
  terminal, 2 usage."""
)
@view_options.name_argument
@view_options.service_option
@params.option("--listener", "NAME", "Only the sessions of the listeners with this name.")
@params.option("--monitor", params.monitor, "What this monitor has counted, not the open sessions.")
@params.option("--series", "NAME", "This named series, not the open sessions.")
@view_options.user_option
@params.option("--interval", params.look_interval, "Between two looks: 0.1s to 60s.", default="1s")
@params.option("--rows", params.whole_number(2, 65536), "At most N prefixes.", default="1000")
def watch(
    name: str,
    service: str,
    listener: str | None,
    monitor: str | None,
    series: str | None,
    user: str | None,
    interval: float,
    rows: int,
) -> None:
    """Look at a shared audit on a terminal, live: its prefixes, limits, refusals, processes and nodes.

    NAME is what the processes share under. `?` shows what the keys do; `q` quits. The keys d, a and u deny, allow and
    lift a prefix, and ask first; everything else only reads, and no process waits for it.
    """
    if not _is_terminal():
        raise Failure(f"watch needs a terminal; write inbound-audit top {name} --json")
    view_options.check_what_is_counted(listener, monitor, series)
    from inbound_audit.feed import Feed, Source
    from inbound_audit.watch.app import WatchApp

    with view_options.failures(name), _unknown_sources(), Feed(name, user=user, interval_s=interval) as feed:
        source = Source(service, listener, _as_named(monitor), series=series)
        look = feed.look(source, 2)  # what can't be looked at is said before the screen is taken
        view_options.check_listener(look)
        kept = look.monitors if monitor else look.series if series else ()
        windows = next((row.windows for row in kept if row.name in (source.monitor, series)), 1)
        WatchApp(feed, source._replace(endv=windows - 1 if kept else None), rows=rows, interval_s=interval).run()


def _is_terminal() -> bool:
    """Textual reads standard input, and writes to standard error."""
    streams = sys.__stdin__, sys.__stdout__, sys.__stderr__
    is_one = all(stream is not None and stream.isatty() for stream in streams)
    return is_one and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


@contextlib.contextmanager
def _unknown_sources() -> Iterator[None]:
    try:
        yield
    except (MonitorError, SeriesError) as error:
        raise Failure(str(error)) from None


def _as_named(monitor: str | None) -> str | None:
    """``5m,6`` as ``300,6``."""
    return None if monitor is None else "{},{}".format(*parse_monitor(monitor))
