"""A look at an audit: plain values that do not change, and their form as JSON."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NamedTuple

from inbound_audit.nodes import NodeInfo
from inbound_audit.overrides.entry import Decision
from inbound_audit.picture import CONNECTIONS, Picture
from inbound_audit.services import DEFAULT_SERVICE_TYPE


class Source(NamedTuple):
    """What is counted in a picture, as the arguments of `picture` say it: the open sessions of a service or of a
    listener, what a monitor has counted, or a series. `pid`: of that process alone; `node`: of that node of the
    cluster; `within`: what lies in that prefix alone."""

    service: str = DEFAULT_SERVICE_TYPE
    listener: str | None = None
    monitor: str | None = None
    kind: str = CONNECTIONS
    series: str | None = None
    startv: int = 0
    endv: int | None = None
    pid: int | None = None
    node: str | None = None
    within: str | None = None


OPEN = Source()
"""The open sessions of SMTP."""


class ListenerRow(NamedTuple):
    """A listener, and its open sessions in all processes."""

    service: str
    listener: str
    sessions: int


class WindowsRow(NamedTuple):
    """A monitor or a series: `windows` windows of `interval` seconds. A monitor's name is its text (``"60,5"``)."""

    name: str
    interval: int
    windows: int


@dataclass(frozen=True)
class LimitRow:
    """A limit, the fullest prefix that it has, and how full that is. `most` is 0 or more; a dry run refuses no one.

    `limit` is its name, as in a `RefusalRow`. `prefix` is None for a limit of a whole network or listener, and while
    nothing is counted. `listener`: of a limit of all sessions of one listener, which one. `exact` is False where so
    many prefixes are alike that not all were looked into: another one may be fuller.
    """

    limit: str
    service: str
    prefix: str | None
    count: int
    most: int
    dry_run: bool
    listener: str | None = None
    exact: bool = True

    @property
    def share(self) -> float:
        """1.0: the next connection from there is over the limit."""
        return self.count / self.most if self.most else 1.0


@dataclass(frozen=True)
class RefusalRow:
    """A line of a decision log. `time` as it is written there (RFC 3339); what a line lacks is None.

    `done` is "refused", "dry run" or "tarpit"; `text` is the reason that was given for an override, or the reply.
    """

    time: str
    client: str | None
    done: str
    by: str | None
    limit: str | None
    prefix: str | None
    count: int | None
    most: int | None
    service: str | None
    listener: str | None
    text: str | None


class ProcessRow(NamedTuple):
    """A process that counts. `age_s`: seconds since it began; `damaged`: why it can't be counted."""

    pid: int
    age_s: float
    sessions: int
    damaged: str | None


class History(NamedTuple):
    """Numbers of windows of `interval` seconds, the oldest first; the last one is not over yet. Without a monitor both
    are empty."""

    interval: int
    connections: tuple[int, ...]
    rejections: tuple[int, ...]


NO_HISTORY = History(0, (), ())


@dataclass(frozen=True)
class Look:
    """What one audit was at `time` (seconds since 1970).

    `changes` and `refused` are of the rows of the picture, in their order: how much each has grown since the look
    before at the same source with as many rows (None: not known; after a pause no change is), and how many rejections
    it has had in the windows of the monitor that reaches back the furthest, in the 120 newest at most (0 without a
    monitor).
    """

    audit: str
    time: float
    source: Source
    picture: Picture
    changes: tuple[int | None, ...]
    refused: tuple[int, ...]
    listeners: tuple[ListenerRow, ...] = ()
    monitors: tuple[WindowsRow, ...] = ()
    series: tuple[WindowsRow, ...] = ()
    limits: tuple[LimitRow, ...] = ()
    refusals: tuple[RefusalRow, ...] = ()
    processes: tuple[ProcessRow, ...] = ()
    nodes: tuple[NodeInfo, ...] = ()
    decisions: tuple[Decision, ...] = ()
    history: History = NO_HISTORY
    notes: tuple[str, ...] = ()
    """Sentences about what is not to be seen, and how it would be."""

    @property
    def rows(self) -> list[tuple[str, int, int | None, int]]:
        """Prefix, count, change, refused: in the order of the picture."""
        rows = zip(self.picture.rows, self.changes, self.refused, strict=True)
        return [(row.prefix, row.count, change, refused) for row, change, refused in rows]

    def as_json(self) -> dict[str, Any]:
        """As the page gets it and an export has it: each field under its name, of the picture its rows and total.
        Which row is inside which follows from the prefixes and their order."""
        names = ("listeners", "monitors", "series", "limits", "refusals", "processes", "nodes", "decisions")
        tables = {name: [_members(row) for row in getattr(self, name)] for name in names}
        return {
            "audit": self.audit,
            "time": self.time,
            "source": self.source._asdict(),
            "total": self.picture.total,
            "rows": self.rows,
            "history": self.history._asdict(),
            "notes": self.notes,
            **tables,
        }


def _members(row: Any) -> dict[str, Any]:
    return {each.name: getattr(row, each.name) for each in fields(row)} if is_dataclass(row) else row._asdict()
