"""Looks without an audit: for tests of what draws them."""

from __future__ import annotations

from datetime import datetime, timezone

from inbound_audit.errors import InboundAuditError
from inbound_audit.feed import OPEN, Feed, Look, Source
from inbound_audit.feed.look import NO_HISTORY, History, LimitRow, ListenerRow, ProcessRow, RefusalRow, WindowsRow
from inbound_audit.nodes import NodeInfo
from inbound_audit.overrides import Decision
from inbound_audit.picture import Picture, PictureRow, span_of
from inbound_audit.watch.tree import holds

NOON = datetime(2026, 11, 28, 12, 0, 0).timestamp()
"""By the clock of this machine."""

Counts = dict[str, tuple[int, int | None, int]]
"""By prefix in the order of addresses: count, change, refused."""

COUNTS: Counts = {
    "0.0.0.0/0": (1042, 12, 40),
    "10.0.0.0/7": (30, 0, 0),
    "10.0.0.0/8": (20, 0, 0),
    "11.0.0.0/8": (10, 0, 0),
    "192.0.0.0/4": (1012, 12, 40),
    "198.51.100.0/24": (1000, 20, 31),
    "198.51.100.0/25": (400, 0, 0),
    "198.51.100.128/25": (600, 20, 31),
    "203.0.113.0/24": (12, -8, 9),
    "203.0.113.7/32": (11, -8, 9),
    "203.0.113.9/32": (1, None, 0),
    "2001:db8::/32": (120, 0, 0),
    "2001:db8:1::/48": (100, 0, 0),
    "2001:db8:2::/64": (20, 0, 0),
}


def picture_of(counts: Counts, taken_at: float = NOON) -> Picture:
    rows: list[tuple[int, str, int]] = []
    for prefix, (count, _, _) in counts.items():
        around = [at for at, row in enumerate(rows) if holds(span_of(row[1]), span_of(prefix))]
        rows.append((count, prefix, around[-1] if around else -1))
    return Picture(rows, taken_at)


def look_of(counts: Counts = COUNTS, source: Source = OPEN, **more: object) -> Look:
    """A look with these rows, and what else is given."""
    picture = picture_of(counts)
    assert all(isinstance(row, PictureRow) for row in picture.rows)
    values = list(counts.values())
    return Look(
        "mail", NOON, source, picture, tuple(change for _, change, _ in values), tuple(one for _, _, one in values),
        **{"processes": (ProcessRow(4711, 7384.0, 1162, None),), **more},  # type: ignore[arg-type]
    )  # fmt: skip


def refusal(client: str, seconds: int, **more: object) -> RefusalRow:
    when = datetime.fromtimestamp(NOON - seconds, timezone.utc).isoformat().replace("+00:00", "Z")
    names = {"by": "limit", "limit": "default /24", "prefix": "198.51.100.0/24", "count": 51, "most": 50} | more
    defaults = {"text": None, "service": "SMTP", "listener": "mx"}
    return RefusalRow(when, client, "refused", **{**defaults, **names})  # type: ignore[arg-type]


def full_look(source: Source = OPEN) -> Look:
    """One that has something of everything."""
    return look_of(
        source=source,
        listeners=(ListenerRow("IMAP", "default", 3), ListenerRow("SMTP", "mx", 1162)),
        monitors=(WindowsRow("60,5", 60, 5),),
        series=(WindowsRow("failures", 300, 6),),
        limits=(
            LimitRow("default /32,/64", "SMTP", "203.0.113.7/32", 11, 20, False),
            LimitRow("default /24,/56", "SMTP", "198.51.100.0/24", 1000, 1000, False),
            LimitRow("total", "IMAP", None, 3, 100, True),
        ),
        refusals=(
            refusal("198.51.100.7", 1),
            refusal("203.0.113.7", 59, by="override", limit=None, prefix="203.0.113.7/32", count=None, most=None,
                    text="too many failures"),
        ),
        processes=(ProcessRow(4711, 7384.0, 1162, None), ProcessRow(4712, 59.0, 0, "has no header")),
        nodes=(NodeInfo("mx1", "this host", 0.0, 1162, 700), NodeInfo("mx2", "heard", 0.4, 20, 9)),
        decisions=(Decision("203.0.113.7/32", "deny", NOON + 3600, "too many failures", NOON, "root@mx1", "mx1"),),
        history=History(60, (3, 1, 4, 15, 9), (0, 0, 2, 6, 5)),
        notes=("limits of processes that do not say them are not to be seen",),
    )  # fmt: skip


class FakeFeed(Feed):
    """Shows a look, or the sentence of an error; `changes` is what was asked for."""

    def __init__(self, look: Look | str) -> None:
        self.shown = look
        self.changes: list[tuple[str, str, float | None, str]] = []
        self.sources: list[Source] = []

    def look(self, source: Source = OPEN, rows: int = 1000) -> Look:
        if isinstance(self.shown, str):
            raise InboundAuditError(self.shown)
        self.sources.append(source)
        look = self.shown
        return look if look.source == source else full_look(source)

    def history(self, prefix: str) -> History:
        look = self.shown
        return NO_HISTORY if isinstance(look, str) else look.history

    def change(self, action: str, prefix: str, for_s: float | None = None, why: str = "") -> bool:
        self.changes.append((action, prefix, for_s, why))
        return True

    def close(self) -> None:
        pass
