"""The overrides of one audit: changes go to the files of a shared audit, and what holds to the native map.

A process of a shared audit notices a change by the scan that finds other processes, at once where the system reports
changes of the directory. A scan writes nothing: what is to be written for it (the copy in a state directory, and what
was lost from the shared one) is written by a thread, which makes overrides of what limits want denied, too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from inbound_audit import _ipcount
from inbound_audit.descriptor import Identity
from inbound_audit.errors import CapacityError, InboundAuditError, SharedStateError, cause_of
from inbound_audit.log_limiter import LogLimiter
from inbound_audit.overrides import files
from inbound_audit.overrides.entry import BY_LIMIT, LIFTED_S, Decision, Entry, Key, entry_of, exact_prefix
from inbound_audit.overrides.table import Table
from inbound_audit.persist.state_directory import VARIABLE, StateDirectory, default_directory
from inbound_audit.process import BackgroundThread, ProcessLock, Stage, register, shared_lock
from inbound_audit.shared.directory import Directory
from inbound_audit.shared.places import first_of, name_of_user

logger = logging.getLogger("inbound_audit.overrides")
_failures = LogLimiter(logger)

DENIAL_INTERVAL_S = 0.2
"""Seconds between two looks at what limits want denied."""

NO_END_US = (1 << 63) - 1

MAX_FROM_NODES, MAX_BYTES_FROM_NODES = _ipcount.MAX_OVERRIDES * 4 // 5, files.MAX_BYTES * 3 // 4
"""Of other nodes none is taken that would be one more than these, or bytes of lines beyond these: the rest of the room
is this host's own."""

Wish = tuple[Key, str, float | None, str]
"""A prefix, "deny", "allow" or "lift", for how many seconds, and why."""


def changes_for(wishes: Iterable[Wish], by: str, now: float, table: Table) -> list[tuple[Key, Entry]]:
    """What wishes change in a table: nothing where a prefix without an override is lifted, or where a limit wants to
    deny what a user has decided. Raises CapacityError."""
    found: list[tuple[Key, Entry]] = []
    for key, action, for_s, why in wishes:
        before = table.get(key)
        holds = before is not None and before.holds(now)
        if (action == "lift" and not holds) or (by == BY_LIMIT and before is not None and holds and before.by != by):
            continue
        if before is None:
            try:
                table.make_room(now)
            except CapacityError:
                if not found:
                    raise
                break  # those before it hold
        table[key] = entry_of(action, key, for_s, why, by, os.uname().nodename, now=now, before=before)
        found.append((key, table[key]))
    return found


def wish_of(action: str, prefix: str, for_s: float | None = None, why: str = "") -> Wish:
    """Raises CidrError for a prefix with host bits, too."""
    return exact_prefix(prefix), action, LIFTED_S if action == "lift" else for_s, why


def this_user() -> str:
    """As `Decision.by` has it."""
    return f"{name_of_user(os.geteuid())}@{os.uname().nodename}"


class AuditOverrides:
    """The overrides of an audit. `place_of`: its directory, for a `with` block; None: it has none. `name`: of a shared
    audit; `state`: where a copy of them is kept over a reboot (None:
    only in a service that has such a directory).

    Lock rule: `shared_lock` for the tables and to publish. No thread waits for the lock of a directory or a disk under
    it. `_writing` is held for a write of what is due, and taken before it.
    """

    def __init__(
        self,
        audit: _ipcount.Audit,
        place_of: Callable[[], AbstractContextManager[Directory | None]],
        clock: Callable[[], float],
        name: str | None = None,
        state: str | os.PathLike[str] | None = None,
    ) -> None:
        self._audit = audit
        self._place_of = place_of
        self._now = clock
        self._files = files.Files()
        self._place: Identity | None = None
        self._table = Table()
        self._published: list[tuple[str, str, int]] = []
        self._ends = NO_END_US  # when the first of those that were published expires, in microseconds
        self._copy = None if name is None or not _keeps_state(state) else _Copy(name, state)
        self._writing = ProcessLock()
        self._lost = self._uncopied = False  # what is due to be written: into the directory, and to the copy
        self._denies = False
        self._ref = weakref.ref(self)
        register(self, Stage.SHARED, AuditOverrides._after_fork_in_child, AuditOverrides.write_due)

    # ---- what is asked

    def decisions(self) -> list[Decision]:
        with shared_lock:
            return self._table.decisions(self._now())

    @property
    def table(self) -> Table:
        """The last change of each prefix, those that say nothing any more too. Not to be changed: a change makes
        another."""
        return self._table

    def decision_for(self, address: str) -> Decision | None:
        # Without the lock: a connection that is denied is asked about, and a change may wait for a disk.
        return self._table.decision_for(_ipcount.parse_prefix(address), self._now())

    # ---- changes

    def change(self, wishes: Iterable[Wish], by: str) -> bool:
        """Carries out wishes: in the directory of a shared audit, or here alone. Returns whether anything changed.
        Raises CapacityError, PolicyError, SharedStateError: then nothing has.

        A change that stands in the directory is made, even if this process can't read it there now (then it does at its
        next scan), or can't write its copy: both are logged.
        """
        now = self._now()
        return self._carry_out(partial(changes_for, list(wishes), by, now), now)

    def take(self, entries: Iterable[tuple[Key, Entry]]) -> bool:
        """Takes over what other nodes have said, as far as it is later. Returns and raises as `change`."""
        found = list(entries)
        bounds = MAX_FROM_NODES, MAX_BYTES_FROM_NODES, files.MAX_BYTES
        return self._carry_out(lambda table: table.later(found, *bounds), self._now())

    def _carry_out(self, edit: files.Edit, now: float) -> bool:
        with self._place_of() as place:
            if place is None:
                with shared_lock:
                    table = Table(self._table)
                    table.forget(now)
                    changed = bool(edit(table))
                    self._table = table
                    self._publish()
            else:
                changed = files.change(place, edit, now)
                self._follow(place)
        return changed

    def _follow(self, place: Directory) -> None:
        """What the directory says now is obeyed, and copied. A failure is logged, and the next scan tries again."""
        try:
            with shared_lock:
                self.notice(place, set(place.names()), True)
        except OSError as error:
            text = "%s: overrides are obeyed from the next scan on, they can't be read now: %s"
            _failures.report(logging.WARNING, text, place.path, cause_of(error), kind="follow")
        self.write_due()

    def notice(self, place: Directory, names: set[str], all: bool) -> None:
        """The directory has these names (`all`), or only these may have changed. Under `shared_lock`. Raises OSError:
        then all is as it was.

        What was lost with a file or the directory is due to be written anew: to remove a file lifts nothing, and
        forgets nothing that was lifted.
        """
        identity, now = _identity_of(place), self._now()
        if self._place != identity:
            names, all = set(place.names()), True
            self._place, self._files = identity, files.Files()
            self._files.changed = bool(self._table)
        self._files.refresh(place, names, all=all)
        if self._files.changed:
            found, before = self._files.table(now), self._table
            lost = [item for item in before.items() if item[0] not in found and item[1].is_kept(now)]
            self._lost = found.merge(lost) or self._lost
            self._table = found
            self._uncopied = self._copy is not None
            self._publish()
            if self._lost or self._uncopied:
                self._use_thread("writes overrides")
        elif self._ends <= now * 1e6:
            self._publish()

    def restore(self) -> None:
        """A process begins: what its state directory has and the shared directory lacks holds again."""
        if self._copy is None:
            return
        with self._place_of() as place:
            assert place is not None  # a private audit has no copy
            self._restore(place, self._copy.read(self._now()))
            self._follow(place)

    def _restore(self, place: Directory, kept: Table) -> bool:
        """Writes what the directory lacks of a table. Returns whether it has it now; a failure is logged."""
        if kept:
            try:
                files.change(place, lambda table: table.later(kept.items()), self._now())
            except InboundAuditError as error:
                _failures.report(logging.WARNING, "overrides are not restored: %s", error, kind="restore")
                return False
        return True

    def write_due(self) -> None:
        """Writes what scans have found to be due. The caller does not hold `shared_lock`, so that no connection waits
        for a disk. A failure is logged; the thread tries again."""
        with self._writing:
            with shared_lock:
                lost, uncopied, table = self._lost, self._uncopied, self._table
                self._lost = self._uncopied = False
            if lost:
                lost = not self._restore_lost(table)
            if uncopied and self._copy is not None:
                uncopied = not self._copy.keep(table, self._now())
            with shared_lock:
                self._lost, self._uncopied = self._lost or lost, self._uncopied or uncopied

    def _restore_lost(self, table: Table) -> bool:
        try:
            with self._place_of() as place:
                return place is None or self._restore(place, table)
        except SharedStateError as error:
            _failures.report(logging.WARNING, "overrides are not restored: %s", error, kind="restore")
            return False

    def _publish(self) -> None:
        rows = [
            (entry.prefix, _native_action(entry), NO_END_US if entry.until is None else int(entry.until * 1e6))
            for _, entry in self._table.holding(self._now())
        ]
        if rows != self._published:
            _ipcount.publish_overrides(self._audit, rows)
            self._published = rows
        self._ends = min((until for _, _, until in rows), default=NO_END_US)

    # ---- what limits want denied

    def begin_denials(self) -> None:
        """From now on a thread makes overrides of what limits want denied. Idempotent."""
        if not self._denies:
            self._denies = True
            self._denies = self._use_thread("denies what limits want denied")

    def _use_thread(self, why: str) -> bool:
        """Wakes the thread, and starts it unless it runs. Returns whether it runs; a failure is logged."""
        try:
            _thread.enter(self._ref)
        except (OSError, RuntimeError) as error:
            _failures.report(logging.ERROR, "no thread %s: %s", why, error)
            return False
        return True

    def carry_out_denials(self) -> None:
        """Makes overrides of what limits want denied now. A failure is logged: the peer comes again."""
        wanted = _ipcount.take_denials(self._audit)
        if not wanted:
            return
        wishes = [wish_of("deny", prefix, seconds, why) for prefix, seconds, why in wanted]
        try:
            self.change(wishes, BY_LIMIT)
        except InboundAuditError as error:
            _failures.report(logging.WARNING, "%d prefixes are not denied: %s", len(wishes), error)

    def end(self) -> None:
        """The audit is about to be closed."""
        _thread.leave(self._ref)
        self.write_due()

    @property
    def pause_s(self) -> float | None:
        """Seconds until the thread looks after it again without a wake. None: it has time."""
        return DENIAL_INTERVAL_S if self._denies else None

    def _after_fork_in_child(self) -> None:
        """What is due is the parent's, which goes on."""
        self._denies = self._lost = self._uncopied = False


class _Copy:
    """The copy of a shared audit's overrides in a state directory, for a start after the machine's. Its failures are
    logged."""

    def __init__(self, name: str, state: str | os.PathLike[str] | None) -> None:
        self._path = default_directory() if state is None else os.path.abspath(state)
        self._name = f"{name}.overrides"
        self._pattern = re.compile(re.escape(self._name))
        self._failure = ""  # the last one, which is logged once

    def read(self, now: float) -> Table:
        if not os.path.lexists(os.path.join(self._path, self._name)):
            return Table()
        try:
            with contextlib.closing(StateDirectory(self._path)) as place:
                return files.read_all(place, now, self._pattern)
        except (OSError, SharedStateError) as error:
            self._report(error)
            return Table()

    def keep(self, table: Table, now: float) -> bool:
        """Adds to the copy what it lacks. Returns whether it has it now. Where there is nothing to keep no directory is
        made."""
        if not Table(self.read(now)).merge(table.items()):
            return True
        try:
            with contextlib.closing(StateDirectory(self._path)) as place, files.locked(place):
                merged = files.read_all(place, now, self._pattern)
                merged.merge(table.items())
                files.write(place, self._name, merged, os.fstat(place.fd))
                place.sync()
        except (OSError, SharedStateError, CapacityError) as error:
            self._report(error)
            return False
        self._failure = ""
        return True

    def _report(self, error: Exception) -> None:
        why = cause_of(error) if isinstance(error, OSError) else str(error)
        if why != self._failure:
            self._failure = why
            logger.warning("no copy of the overrides in %s: %s", self._path, why)


def _keeps_state(state: Any) -> bool:
    return state is not None or bool(os.environ.get(VARIABLE) or first_of("STATE_DIRECTORY"))


def _native_action(entry: Entry) -> str:
    """What a limit has denied holds for the limit's network alone."""
    return "deny network" if entry.by == BY_LIMIT and entry.action == "deny" else entry.action


def _identity_of(place: Directory) -> Identity:
    there = os.fstat(place.fd)
    return there.st_dev, there.st_ino, 0


def _carry_out(thread: BackgroundThread) -> None:
    """What the thread does. It holds no audit, so that one without other references is collected."""
    while thread.wait(_pause_s(thread)) is not None:
        for member in thread.members:
            with thread.busy() as may:
                found = member() if may else None
                if found is not None:
                    found.carry_out_denials()
                    found.write_due()
                elif may:
                    thread.leave(member)
                del found


def _pause_s(thread: BackgroundThread) -> float | None:
    found = [member() for member in thread.members]
    return min((one.pause_s for one in found if one is not None and one.pause_s is not None), default=None)


_thread = BackgroundThread("inbound_audit-overrides", _carry_out)
