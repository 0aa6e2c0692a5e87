"""Looks at an audit from outside, and changes its overrides."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

from inbound_audit._ipcount import MONITOR_KINDS, SeriesStore
from inbound_audit.errors import SharedStateError
from inbound_audit.feed.limits import LimitsInUse
from inbound_audit.feed.look import (
    NO_HISTORY,
    OPEN,
    History,
    ListenerRow,
    Look,
    ProcessRow,
    Source,
    WindowsRow,
)
from inbound_audit.feed.refusals import Refusals
from inbound_audit.feed.rules import GuardRule, Rules
from inbound_audit.feed.what_if import WouldRefuse, would_refuse
from inbound_audit.overrides import files
from inbound_audit.overrides.audit import changes_for, this_user, wish_of
from inbound_audit.overrides.entry import Decision
from inbound_audit.picture import ROWS, Picture
from inbound_audit.process import ProcessLock
from inbound_audit.shared import View
from inbound_audit.shared.scanner import OwnerInfo

CONNECTIONS, REJECTIONS = MONITOR_KINDS[0], MONITOR_KINDS[2]
EVERYTHING = ("0.0.0.0/0", "::/0")
MAX_VIEWS = 8
"""Views of single processes and nodes that are kept open."""
MAX_NOTES = 32
MAX_PICTURES = 16
"""Pictures that are kept, to say what has changed in the next one of the same source with as many rows."""
MAX_CHANGE_S, MAX_CHANGE_INTERVALS = 10.0, 3
"""Whichever is longer: an older look says nothing about what changes now, as after a pause in which no one looked."""
MAX_REFUSED_WINDOWS = 120
"""The newest ones of a monitor in which the rejections of each row are counted."""

_Windows = tuple[str, str, int, int]
"""Of `SeriesStore.known`, without the type."""


class Feed:
    """Looks at the shared audit `name`, of `user` if it is not this user's, as `View` has it.

    It writes nothing but what `deny`, `allow` and `lift` are asked for. Any thread may use it. Raises SharedStateError
    if there is no such audit; a look raises it as soon as there is no process any more, and finds the audit again when
    one comes back. `interval_s`: how often looks are wanted. `clock`: seconds of any beginning.

    Lock rule: `_lock` is held for a look and for the end. No process of the audit waits for it.
    """

    def __init__(
        self,
        name: str,
        *,
        user: str | None = None,
        interval_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.user = name, user
        self._clock = clock
        self._max_change_s = max(MAX_CHANGE_S, MAX_CHANGE_INTERVALS * interval_s)
        self._lock = ProcessLock()
        self._views: OrderedDict[tuple[int | None, str | None], View] = OrderedDict()
        self._before: OrderedDict[tuple[Source, int], tuple[float, Picture]] = OrderedDict()
        self._rules, self._limits, self._refusals = Rules(clock), LimitsInUse(), Refusals()
        with self._lock:
            self._view_of(OPEN)

    def look(self, source: Source = OPEN, rows: int = ROWS) -> Look:
        """What there is now; its picture has at most so many rows. Raises SharedStateError, and what `picture` raises.

        O(rows x trees x bytes of the address + limits + processes).
        """
        with self._lock:
            whole = self._view_of(OPEN)
            view = self._view_of(source)
            picture = _picture_of(view, source, rows)
            changes = self._changes(source, rows, picture)
            if self._rules.refresh(whole):
                self._limits.refresh(self._rules.guards)
            guards = self._rules.guards
            owners = whole.owners
            listeners = _listeners(owners)
            unread = self._refusals.refresh((guard.log, guard.user) for guard in guards if guard.log)
            known = [
                (scope, name, interval, windows)
                for scope, name, kind, interval, windows in SeriesStore(whole).known
                if kind != "string"  # texts have no prefixes
            ]
            notes = [*self._rules.failures, *self._limits.notes, *_log_notes(guards), *unread]
            return Look(
                audit=self.name,
                time=picture.time,
                source=source,
                picture=picture,
                changes=tuple(changes),
                refused=_refused(view, picture),
                listeners=listeners,
                monitors=tuple(WindowsRow(*entry[1:]) for entry in known if entry[0] == CONNECTIONS),
                series=tuple(WindowsRow(*entry[1:]) for entry in known if entry[0] not in MONITOR_KINDS),
                processes=_processes(owners, picture.time),
                nodes=whole.nodes,
                decisions=tuple(files.read_all(whole.place, picture.time).decisions(picture.time)),
                history=_history(whole, EVERYTHING),
                limits=self._limits.rows(whole, listeners, self._refusals.rows),
                refusals=self._refusals.rows,
                notes=tuple(dict.fromkeys(notes))[:MAX_NOTES],
            )

    def would_refuse(self, limits: Sequence[str], source: Source = OPEN) -> tuple[WouldRefuse, ...]:
        """Whom limits would refuse now, each for itself, of the service of a source: texts such as ``/24,/56=50`` or
        ``/32=300/5m``, at most 16. Raises PolicyError, UnknownServiceType, SharedStateError.

        It may take seconds where very much is over a limit, and holds up no look.
        """
        # A view of its own: those of looks are closed, and take other processes, when it is time.
        with View(self.name, pid=source.pid, user=self.user, node=source.node) as view:
            return would_refuse(view, source.service, limits)

    def history(self, prefix: str) -> History:
        """Of one prefix. Raises CidrError, SharedStateError. O(windows)."""
        with self._lock:
            return _history(self._view_of(OPEN), (prefix,))

    def decisions(self) -> list[Decision]:
        """The overrides that hold now. Raises SharedStateError, OSError."""
        now = time.time()
        with self._lock:
            return files.read_all(self._view_of(OPEN).place, now).decisions(now)

    def change(self, action: str, prefix: str, for_s: float | None = None, why: str = "") -> bool:
        """`action` is "deny", "allow" or "lift", as `InboundAudit.deny` and the others do it, by this user. Returns
        whether anything has changed. Raises CidrError, PolicyError, CapacityError, SharedStateError, OSError."""
        wish = wish_of(action, prefix, for_s, why)
        now = time.time()
        with self._lock:
            return files.change(self._view_of(OPEN).place, partial(changes_for, [wish], this_user(), now), now)

    def close(self) -> None:
        """Idempotent; the next look opens what it needs again."""
        with self._lock:
            while self._views:
                self._views.popitem()[1].close()

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _changes(self, source: Source, rows: int, picture: Picture) -> list[int | None]:
        """Since the look before."""
        now = self._clock()
        at, before = self._before.get((source, rows), (now, None))
        self._before[source, rows] = now, picture
        self._before.move_to_end((source, rows))
        if len(self._before) > MAX_PICTURES:
            self._before.popitem(last=False)
        if before is None or now - at > self._max_change_s:
            return [None] * len(picture.rows)
        return picture.changes(before)

    def _view_of(self, source: Source) -> View:
        """The view that a source needs, refreshed. Raises SharedStateError."""
        key = source.pid, source.node
        pid, node = key
        view = self._views.get(key)
        try:
            if view is not None:
                view.refresh()
                if (pid is not None and not view.owners) or (node is not None and not _has_listeners(view)):
                    self._views.pop(key).close()
                    view = None  # what it was of has gone: a new view says so
            if view is None:
                view = self._views[key] = View(self.name, pid=pid, user=self.user, node=node)
            if view.place.gone:
                raise SharedStateError(f"{self.name!r}: no process is attached to it any more")
        except (SharedStateError, OSError):
            with contextlib.suppress(KeyError):
                self._views.pop(key).close()
            raise
        self._views.move_to_end(key)
        while len(self._views) > MAX_VIEWS:
            self._views.popitem(last=False)[1].close()
        return view


def _has_listeners(view: View) -> bool:
    return any(owner.listeners for owner in view.owners)


def _picture_of(view: View, source: Source, rows: int) -> Picture:
    return view.picture(
        rows,
        within=source.within,
        service_type=source.service,
        listener=source.listener,
        monitor=source.monitor,
        kind=source.kind,
        series=source.series,
        startv=source.startv,
        endv=source.endv,
    )


def _furthest(view: View, kind: str) -> _Windows | None:
    """The monitor that reaches back the furthest; of equals the one with the most windows."""
    known = [(scope, name, interval, n) for scope, name, _, interval, n in SeriesStore(view).known if scope == kind]
    return max(known, key=lambda entry: (entry[2] * entry[3], entry[3]), default=None)


def _refused(view: View, picture: Picture) -> tuple[int, ...]:
    """The rejections of each row. O(rows x windows x trees), without the GIL; a tree without any in a row costs nothing
    for the rows inside it."""
    monitor = _furthest(view, REJECTIONS)
    if monitor is None:
        return (0,) * len(picture.rows)
    newest = min(monitor[3], MAX_REFUSED_WINDOWS)
    prefixes, parents = [row.prefix for row in picture.rows], [row.parent for row in picture.rows]
    return tuple(SeriesStore(view).count_rows(*monitor, 0, newest - 1, prefixes, parents))


def _history(view: View, prefixes: tuple[str, ...]) -> History:
    monitor = _furthest(view, CONNECTIONS)
    if monitor is None:
        return NO_HISTORY
    store, (_, name, interval, windows) = SeriesStore(view), monitor
    kinds = {scope for scope, *same in store.known if (same[0], *same[2:]) == (name, interval, windows)}
    numbers = (
        tuple(
            sum(store.count(kind, name, interval, windows, prefix, v, v) for prefix in prefixes if kind in kinds)
            for v in reversed(range(windows))
        )
        for kind in (CONNECTIONS, REJECTIONS)
    )
    return History(interval, *numbers)


def _log_notes(guards: Sequence[GuardRule]) -> list[str]:
    """Why there are no refusals to see."""
    if any(guard.log for guard in guards):
        return []
    where = "goes to no file" if any(guard.logs for guard in guards) else "is written by no process"
    return [f"the decision log {where}, so refusals are not seen: start the server with --decision-log FILE"]


def _listeners(owners: Sequence[OwnerInfo]) -> tuple[ListenerRow, ...]:
    sessions: Counter[tuple[str, str]] = Counter()
    for owner in owners:
        for service, listener, total in owner.listeners:
            sessions[service, listener] += total
    return tuple(ListenerRow(*names, total) for names, total in sorted(sessions.items()))


def _processes(owners: Sequence[OwnerInfo], now: float) -> tuple[ProcessRow, ...]:
    found = (
        ProcessRow(owner.pid, max(0.0, now - owner.started), owner.sessions, owner.damaged)
        for owner in owners
        if owner.listeners or owner.damaged is not None
    )
    return tuple(sorted(found, key=lambda row: row[:3]))  # what is damaged is a text or None
