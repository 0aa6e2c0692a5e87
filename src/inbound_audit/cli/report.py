"""What `serve` tells on standard output: where it listens, a line for each second in which something happened.

With `as_json` every line is a JSON object whose "event" says what it is.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from typing import NamedTuple

from inbound_audit.cli.failure import abandon_output, reason

logger = logging.getLogger("inbound_audit.serve")


class Figures(NamedTuple):
    """Totals since the start, except `open`, the connections that are there now."""

    open: int
    opened: int
    accepted: int
    refused: int
    would_refuse: int
    uncounted: int
    failures: int

    def since(self, before: Figures) -> Figures:
        return Figures(self.open, *(now - then for now, then in zip(self[1:], before[1:], strict=True)))


NOTHING = Figures(0, 0, 0, 0, 0, 0, 0)


def total(figures: Iterable[Figures]) -> Figures:
    """The sum, member by member."""
    return Figures(*map(sum, zip(NOTHING, *figures, strict=True)))


class Report:
    """Writes lines to standard output; when nobody reads them any more it falls silent, and the server goes on."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._deaf = False

    def event(self, event: str, text: str, **details: object) -> None:
        """One line: `text` after the time of day, or `details` as JSON."""
        now = datetime.now(timezone.utc)
        if self._as_json:
            self._write(json.dumps({"time": now.isoformat(timespec="milliseconds"), "event": event, **details}))
        else:
            self._write(f"{now.astimezone():%H:%M:%S}  {text}")

    def listening(self, names: Sequence[str], workers: Sequence[int] = ()) -> None:
        """Where it listens, and the process ids of workers if there are any."""
        words = f"listening on {' '.join(names)}" + (f" with {len(workers)} workers" if workers else "")
        self.event("listening", words, addresses=list(names), **({"workers": list(workers)} if workers else {}))

    def policy(self, event: str, words: str) -> None:
        """`event` is "policy" at the start, "reloaded" afterwards."""
        self.event(event, f"{event} {words}", policy=words)

    def stopping(self, count: int, grace: float) -> None:
        self.event("stopping", f"stopping: {count} open, {grace:g} s for them to end", open=count, grace=grace)

    def stopped(self, total: Figures, cut: int) -> None:
        words = f"stopped: {total.accepted} accepted, {total.refused} refused, {cut} cut off"
        self.event("stopped", words, cut=cut, total=total._asdict())

    def _write(self, line: str) -> None:
        if self._deaf:
            return
        try:
            print(line, flush=True)
        except OSError as error:
            self._deaf = True
            abandon_output()
            logger.warning("serving goes on without a report: standard output: %s", reason(error))


Busiest = tuple[int, str] | None
"""The busiest prefix: its count, and the prefix as text."""


class Pulse:
    """The line of a second. `beat` writes it if something has happened since the last one."""

    def __init__(self, report: Report, figures: Callable[[], Figures], busiest: Callable[[], Busiest]) -> None:
        self._report = report
        self._figures = figures
        self._busiest = busiest
        self._last = figures()

    def beat(self) -> None:
        now, before = self._figures(), self._last
        if now == before:
            return
        self._last = now
        busiest = self._busiest()
        self._report.event(
            "second",
            in_words(now.since(before), busiest),
            **now.since(before)._asdict(),
            busiest=busiest and {"prefix": busiest[1], "count": busiest[0]},
            total=now._asdict(),
        )


def in_words(second: Figures, busiest: Busiest) -> str:
    """``open 12  accepted +40  refused +3  busiest 192.0.2.0/24 9``; what is rare is told when it happens."""
    words = [f"open {second.open}", f"accepted +{second.accepted}", f"refused +{second.refused}"]
    rare = {"would refuse": second.would_refuse, "uncounted": second.uncounted, "policy errors": second.failures}
    words += [f"{name} +{number}" for name, number in rare.items() if number]
    if busiest is not None:
        words.append(f"busiest {busiest[1]} {busiest[0]}")
    return "  ".join(words)
