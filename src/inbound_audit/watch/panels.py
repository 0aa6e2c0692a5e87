"""Beside the table: the last minutes, limits, refusals, processes and nodes; each is drawn anew when it changes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from inbound_audit.errors import plain
from inbound_audit.feed import Look
from inbound_audit.feed.look import History, LimitRow, ProcessRow, RefusalRow
from inbound_audit.nodes import NodeInfo
from inbound_audit.services import DEFAULT_SERVICE_TYPE
from inbound_audit.text import age

NUMBER_WIDTH = 15
"""Of the words before a curve."""
BAR_WIDTH = 8
MAX_LINES = 20
"""Lines of one panel, below its heading. A limit and a refusal have two each."""


class Panel(Static):
    """A heading, and lines below it."""

    def __init__(self, name: str, heading: str) -> None:
        super().__init__(id=name, markup=False)
        self._heading = heading
        self._lines: list[str] | None = None

    def show(self, lines: Sequence[str]) -> None:
        """Hidden without lines."""
        if (new := list(lines[:MAX_LINES])) != self._lines:
            is_as_high = self._lines is not None and len(new) == len(self._lines)
            self._lines = new
            self.display = bool(new)
            self.update(of_lines(self._heading, new), layout=not is_as_high)


def of_lines(heading: str, lines: Sequence[str]) -> Text:
    """Text that is cut off where the screen ends."""
    text = Text(no_wrap=True, overflow="ellipsis", end="")
    text.append(heading, "bold")
    for line in lines:
        text.append(f"\n{line}")
    return text


class Minutes(Static):
    """The last minutes, of all or of one prefix: from a monitor, or the totals that were seen here.

    Textual's `Sparkline` begins at the least of its numbers, so an even load looks like none; and it blends colours,
    which a terminal of 16 has not.
    """

    def __init__(self, name: str) -> None:
        super().__init__(id=name, markup=False)
        self._numbers: dict[str, tuple[int, ...]] = {}
        self._title = ""

    def show(self, title: str, history: History, seen: tuple[int, ...] = ()) -> None:
        found = {"opened": history.connections, "refused": history.rejections}
        numbers = found if history.connections else {"open": seen} if seen else {}
        if (title, numbers) != (self._title, self._numbers):
            self._title, self._numbers = title, numbers
            self.display = bool(numbers)
            self.on_resize()

    def on_resize(self) -> None:
        width = max(1, self.size.width - NUMBER_WIDTH)
        lines = [f"{name:7}{of[-1]:>7,} {curve_of(of, width)}" for name, of in self._numbers.items()]
        self.update(of_lines(self._title, lines), layout=len(lines) + 1 != self.size.height)


BARS = "▁▂▃▄▅▆▇█"


def curve_of(numbers: Sequence[int], width: int) -> str:
    """As so many bars, from 0 to the largest; of several numbers in one bar it is the largest."""
    most, n = max(1, *numbers), len(numbers)
    parts = [numbers[at * n // width : max(at * n // width + 1, (at + 1) * n // width)] for at in range(width)]
    return "".join(BARS[max(part) * (len(BARS) - 1) // most] for part in parts)


class Side(VerticalScroll, can_focus=False):
    """All panels, one below the other. `of_all` and `of_one`: the last minutes."""

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self.of_all, self.of_one = Minutes("of-all"), Minutes("of-one")
        self._limits = Panel("limits", "Limits, fullest prefix")
        self._refusals = Panel("refusals", "Latest refusals")
        self._processes = Panel("processes", "Processes")
        self._others = Panel("nodes", "Nodes")
        self._notes = Panel("notes", "Not to be seen")

    def compose(self) -> ComposeResult:
        yield from (self.of_all, self.of_one)
        yield from (self._limits, self._refusals, self._processes, self._others, self._notes)

    def show(self, look: Look) -> None:
        limits = sorted(look.limits, key=lambda row: row.share, reverse=True)
        self._limits.show([line for row in limits for line in lines_of_limit(row)])
        self._refusals.show([line for row in look.refusals for line in lines_of_refusal(row)])
        self._processes.show([line_of_process(row) for row in look.processes])
        self._others.show([line_of_node(row) for row in look.nodes])
        self._notes.show([plain(note) for note in look.notes])


def line_of_process(row: ProcessRow) -> str:
    if row.damaged is not None:
        return f"{row.pid:>8} damaged: {plain(row.damaged)}"
    return f"{row.pid:>8} {minutes(row.age_s):>7} {row.sessions:>8,}"


def line_of_node(row: NodeInfo) -> str:
    return f"{plain(row.name)} {row.state} {minutes(row.age_s)} {row.sessions:,}"


def minutes(seconds: float) -> str:
    """An age that changes once a minute: what changes each second is drawn each second."""
    return age(seconds - seconds % 60 if seconds >= 60 else seconds)


def lines_of_limit(row: LimitRow) -> tuple[str, str]:
    """How full, of what, and where; ≥: at least so full, since not all prefixes were looked into."""
    filled = int(min(1.0, row.share) * BAR_WIDTH)
    bar = "█" * filled + "░" * (BAR_WIDTH - filled)
    service = "" if row.service == DEFAULT_SERVICE_TYPE else f"{row.service} "
    where = row.prefix or plain(row.listener or "")
    share = f"{'' if row.exact else '≥'}{row.share:.0%}"
    return (
        f"{bar} {share:>4} {plain(service + row.limit.removeprefix('default '))}",
        f" {where}{' ' * bool(where)}{row.count}/{row.most}{' dry run' * row.dry_run}",
    )


def lines_of_refusal(row: RefusalRow) -> tuple[str, str]:
    """When and who; by what, and why."""
    over = "" if row.count is None or row.most is None else f": {row.count}/{row.most}"
    why = (row.limit or row.text or row.by or "").removeprefix("default ") + over
    where = "" if row.prefix is None or row.prefix.partition("/")[0] == row.client else f" {row.prefix}"
    done = "" if row.done == "refused" else f"{row.done}, "
    return f"{time_of_day(row.time)} {plain(row.client or '?')}", f" {plain(f'{done}{why}{where}')}"


def time_of_day(text: str) -> str:
    """Of a time in RFC 3339, by the zone of this machine; another text is what it is."""
    try:
        return f"{datetime.fromisoformat(text.replace('Z', '+00:00')).astimezone():%H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return plain(text[:8])
