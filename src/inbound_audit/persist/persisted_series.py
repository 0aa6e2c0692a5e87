"""One persisted series: what is written of it, and what was adopted."""

from __future__ import annotations

from typing import TypeAlias

from inbound_audit._ipcount import Audit, SeriesStore
from inbound_audit.errors import CapacityError, SeriesError
from inbound_audit.persist import claims, format, names, snapshots
from inbound_audit.persist.format import Series, Snapshot, Window, kind_of
from inbound_audit.persist.locks import Locks
from inbound_audit.persist.marks import Marks

_MAX_TRIES = 4

Rows: TypeAlias = tuple[int, int, int, int, bytes, bytes]
"""A window, as the core tells it."""


class PersistedSeries:
    """A series of ours. `log_id`: the number under which we write its log; None when it has none.

    Lock rule: the store's lock, for everything.
    """

    def __init__(self, series: Series, marks: Marks) -> None:
        self.series = series
        self.marks = marks
        self.log_id: int | None = None
        self.absorbed: set[str] = set()
        """Ids whose counts are ours, and whose files are there still, or may be."""
        self._refused: set[str] = set()  # ids whose files are of another definition
        self._written: bytes | None = None  # the digest of our file

    @property
    def has_file(self) -> bool:
        return self._written is not None

    def begin_anew(self, *, instead_of: str | None = None) -> None:
        """We have no file any more. `instead_of`: what stands in the one with this id goes into the next."""
        self._written = None
        if instead_of is None:
            self.absorbed.clear()
        else:
            self.absorbed.add(instead_of)

    # ---- writing

    def save(self, audit: Audit, locks: Locks) -> None:
        """Writes what has changed, and removes what that makes superfluous. Raises OSError. O(hosts)."""
        newest, windows, marks = self._dump(audit)
        if windows or marks or self.absorbed:
            locks.hold()
            series = self.series._replace(type=kind_of(self.series.type))
            absorbed = tuple(sorted(self.absorbed))
            self._write(locks, Snapshot(series, locks.id, newest, absorbed, marks, windows))
        elif self._written is not None:
            locks.place.remove(names.snapshot(self.series.name, locks.id))
            self._written = None
        self._remove_absorbed(locks)

    def _dump(self, audit: Audit) -> tuple[int, list[Window], tuple[format.Mark, ...]]:
        """Windows, and the marks of the lines that are in them.

        Beside threads that add, lines come while windows are read. Then the mark is that of the last one: a line that
        is not in the file may count as known and not be loaded again, but none is ever counted twice.
        """
        if self.log_id is None:
            newest, windows = SeriesStore(audit).dump(self.series.name)
        else:
            newest, windows, line = self._dump_logged(audit)
            if line:
                self.marks.note({self.log_id: line})
        return newest, [Window(*window) for window in windows], self.marks.at(newest, self.series.num_windows)

    def _dump_logged(self, audit: Audit) -> tuple[int, list[Rows], int]:
        for _ in range(_MAX_TRIES):
            newest, windows, before, after = SeriesStore(audit).dump_logged(self.series.name)
            if before == after:
                break
        return newest, windows, after

    def _write(self, locks: Locks, snapshot: Snapshot) -> None:
        file = names.snapshot(self.series.name, locks.id)
        pieces, digest = format.encode(snapshot)
        if digest != self._written or locks.place.identity_of(file) is None:
            snapshots.write(locks.place, file, pieces)
            self._written = digest

    def _remove_absorbed(self, locks: Locks) -> None:
        """Our file has their counts: theirs go, and then their ids."""
        gone = set()
        for id in self.absorbed:
            file = names.snapshot(self.series.name, id)
            if locks.place.identity_of(file) is not None:
                if not locks.take(id):  # another process reads it, and finds that it counts nothing
                    continue
                locks.place.remove(file)  # model: adoption/remove
            gone.add(id)
        if gone:
            locks.place.sync()
            self.absorbed -= gone

    # ---- adopting

    def adopt(self, audit: Audit, locks: Locks) -> None:
        """Makes the counts of processes that have ended ours. Raises OSError, SharedStateError, CapacityError."""
        name, place = self.series.name, locks.place
        # model: adoption/list_ids
        found = [id for id in claims.ids_of(place, name) if id not in self._refused and id not in self.absorbed]
        found = [id for id in found if locks.take(id)]  # before the lists are read
        if not found:
            return
        superfluous = claims.absorbed(place, name) | self.absorbed
        audit._ensure_file()
        audit._drop_dead_owners()  # so that the dead are not counted once more while they are inherited
        failed: OSError | None = None
        for id in found:
            try:
                if id in superfluous:
                    place.remove(names.snapshot(name, id))  # model: adoption/remove_superfluous
                else:
                    self._absorb(audit, locks, id)
            except OSError as error:  # the others are adopted all the same
                failed = error
        if self.absorbed:
            self.save(audit, locks)
        if failed is not None:
            raise failed

    def _absorb(self, audit: Audit, locks: Locks, id: str) -> None:
        name, place = self.series.name, locks.place
        snapshot = claims.load(place, self.series, id)
        if snapshot is None:
            self._refused.add(id)
            return
        file = names.snapshot(name, id)
        try:
            SeriesStore(audit).restore(name, snapshot.newest, snapshot.windows)  # model: adoption/restore
        except SeriesError as error:
            claims.set_aside_and_log(place, file, f"{error}; nothing of it is counted")
            return
        except CapacityError as error:  # what it had absorbed may be in the part that is: it counts no more by itself
            claims.set_aside_and_log(place, file, f"{error}; only a part of it is counted")
        self.absorbed.add(id)
        self.absorbed.update(x for x in snapshot.absorbed if place.identity_of(names.snapshot(name, x)) is not None)
        self.marks.adopt(snapshot.marks)
