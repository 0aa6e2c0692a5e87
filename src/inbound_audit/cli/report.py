"""The report of `serve` on standard output: where it listens, and a line per second in which something happened.

With `as_json` every line is a JSON object; its "event" says what the line is about.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from typing import NamedTuple

from inbound_audit.cli.failure import abandon_output, reason, write_line
from inbound_audit.cli.service_manager import ServiceManager

VERSION = version("inbound-audit")

logger = logging.getLogger("inbound_audit.serve")


class Figures(NamedTuple):
    """Totals since the start, except `open`, the connections that are open now. `messages` are accepted messages,
    `unlogged` the lines that the decision log left out.

    After `open` they are `_ipcount.SERVED`.
    """

    open: int
    opened: int
    accepted: int
    refused: int
    messages: int
    would_refuse: int
    uncounted: int
    failures: int
    unlogged: int

    def since(self, before: Figures) -> Figures:
        return Figures(self.open, *(now - then for now, then in zip(self[1:], before[1:], strict=True)))


NOTHING = Figures(*[0] * len(Figures._fields))


def total(figures: Iterable[Figures]) -> Figures:
    """The sum, member by member."""
    return Figures(*map(sum, zip(NOTHING, *figures, strict=True)))


class Report:
    """Writes lines to standard output. If that fails it writes no more, and the server goes on.

    A line for which there is no room, as the lines before it are not read, is left out; the next one says so.

    The service manager gets the same, and that the server is alive.
    """

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._broken = False
        self._left_out = 0
        self._manager = ServiceManager()

    @property
    def beat_s(self) -> float | None:
        """Seconds between two calls of `alive`; None without a watchdog."""
        return self._manager.beat_s

    def alive(self) -> None:
        """Called by the loop that serves: it does not hang."""
        self._manager.notify("WATCHDOG=1")

    def close(self) -> None:
        self._manager.close()

    def event(self, event: str, text: str, **details: object) -> None:
        """One line: `text` after the time of day, or `details` as JSON."""
        self._manager.notify(f"STATUS={text}")
        now = datetime.now(timezone.utc)
        if self._as_json:
            self._write(json.dumps({"time": now.isoformat(timespec="milliseconds"), "event": event, **details}))
        else:
            self._write(f"{now.astimezone():%H:%M:%S}  {text}")

    def listening(self, names: Sequence[str], workers: Sequence[int] = ()) -> None:
        """Where it listens, and the process ids of workers if there are any."""
        text = f"listening on {' '.join(names)}" + (f" with {len(workers)} workers" if workers else "")
        self._manager.notify("READY=1")
        details = {"addresses": list(names), "version": VERSION, **({"workers": list(workers)} if workers else {})}
        self.event("listening", text, **details)

    def discarding(self) -> None:
        """Messages are accepted and not kept: there is no Maildir."""
        self.event("discarding", "messages are accepted and discarded; --maildir DIR keeps them")

    def no_gate(self, why: str) -> None:
        """Connections are accepted by the event loop."""
        self.event("no_gate", f"accepts without a gate: {why}", reason=why)

    def policy(self, event: str, description: str) -> None:
        """`event` is "policy" at the start, "reloaded" afterwards."""
        self.event(event, f"{event} {description}", policy=description)

    def stopping(self, count: int, grace: float, what: str = "in a mail transaction") -> None:
        """`count` mail transactions are open; idle sessions have been closed. Without any no line is written."""
        self._manager.notify("STOPPING=1")
        if not count:
            return
        text = f"stopping: {count} {what}, {grace:g} s for them to end"
        self.event("stopping", text, open=count, grace=grace)

    def stopped(self, total: Figures, cut: int) -> None:
        """`cut` sessions were closed inside a mail transaction."""
        text = f"stopped: {total.accepted} accepted, {total.refused} refused, {total.messages} messages, {cut} cut off"
        self.event("stopped", text, cut=cut, total=total._asdict())

    def _write(self, line: str) -> None:
        if self._broken:
            return
        try:
            if not write_line(sys.stdout, line):
                self._left_out += 1
            elif self._left_out:
                left_out, self._left_out = self._left_out, 0
                self.event("left_out", f"{left_out} lines were left out, as none was read", lines=left_out)
        except OSError as error:
            self._broken = True
            abandon_output()
            logger.warning("serving goes on without a report: standard output: %s", reason(error))


Busiest = tuple[int, str] | None
"""The busiest prefix: its count, and the prefix as text."""


class PeriodicReport:
    """The line per second. `write` writes it if something has happened since the last one."""

    def __init__(self, report: Report, figures: Callable[[], Figures], busiest: Callable[[], Busiest]) -> None:
        self._report = report
        self._figures = figures
        self._busiest = busiest
        self._last = figures()

    def write(self) -> None:
        now, before = self._figures(), self._last
        if now == before:
            return
        self._last = now
        busiest = self._busiest()
        self._report.event(
            "second",
            as_text(now.since(before), busiest),
            **now.since(before)._asdict(),
            busiest=busiest and {"prefix": busiest[1], "count": busiest[0]},
            total=now._asdict(),
        )


def as_text(second: Figures, busiest: Busiest) -> str:
    """``open 12  accepted +40  refused +3  messages +38  busiest 192.0.2.0/24 9``; rare figures only if not 0."""
    parts = [f"open {second.open}", f"accepted +{second.accepted}", f"refused +{second.refused}"]
    rare = {
        "messages": second.messages,
        "would refuse": second.would_refuse,
        "uncounted": second.uncounted,
        "policy errors": second.failures,
        "unlogged": second.unlogged,
    }
    parts += [f"{name} +{number}" for name, number in rare.items() if number]
    if busiest is not None:
        parts.append(f"busiest {busiest[1]} {busiest[0]}")
    return "  ".join(parts)
