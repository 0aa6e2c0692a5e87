"""All series of an audit that are persisted or have a change log.

Every `SAVE_INTERVAL_S` seconds the thread writes what has changed, and adopts the snapshots of processes that have
ended. A failure is logged, and the step is tried again the next time; counting continues. Neither the store nor its
thread holds a reference to the audit.

A forked child has none of its parent's counts, so it has none of its files: it gets an id of its own, and a file when
it has counted something.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping

from inbound_audit._ipcount import Audit, SeriesStore, fork_is_pending
from inbound_audit.errors import InboundAuditError, SharedStateError, cause_of
from inbound_audit.log_limiter import LogLimiter
from inbound_audit.persist import claims
from inbound_audit.persist.change_log import ChangeLog
from inbound_audit.persist.format import Series
from inbound_audit.persist.locks import Locks
from inbound_audit.persist.marks import EVERY, Marks
from inbound_audit.persist.persisted_series import PersistedSeries
from inbound_audit.persist.state_directory import StateDirectory
from inbound_audit.process import BackgroundThread, Stage, persist_lock, register, start_missing_threads

logger = logging.getLogger("inbound_audit.persist")

SAVE_INTERVAL_S = 5.0
"""Seconds between saves; a killed process loses at most this much."""

SHARE = 20
"""After a slow save the thread waits SHARE times its duration: saving uses at most 1/(SHARE + 1) of the time."""


class StateStore:
    """Persists and logs series of an audit in a state directory (None: the default one), which is made for the first
    one.

    All methods may be called from any thread. A failure to write is logged, and tried again every `SAVE_INTERVAL_S`.
    """

    def __init__(self, audit: Audit, directory: str | os.PathLike[str] | None = None) -> None:
        self._audit = weakref.ref(audit)
        self._directory = directory
        self._locks: Locks | None = None
        self._logs: dict[str, ChangeLog] = {}  # of the series that are logged
        self._finalizer: weakref.finalize[[], Audit] | None = None
        self._kept: dict[str, PersistedSeries] = {}
        self._marks: dict[str, Marks] = {}
        self._log_id = _new_log_id()
        self._sleeps = False  # a fork's child that has not counted yet
        self._closed = False
        self.due = 0.0  # when the thread saves next, by the monotonic clock
        self._unexpected = ""  # the last error of a kind that was not expected
        self._complaints = LogLimiter(logger, interval=60.0)
        register(self, Stage.PERSISTED, StateStore.after_fork_in_child, StateStore.leave)

    # ---- which series

    def keep(self, name: str, type: str, interval: int, num_windows: int) -> None:
        """From now on the series is saved, and what was saved of it by processes that have ended is counted again.

        Raises SharedStateError when the state directory can't be had. Again with the same name: nothing happens.
        """
        with persist_lock:
            if name not in self._kept and not self._closed:
                self._acquire()
                series = Series(name, type, interval, num_windows)
                kept = self._kept[name] = PersistedSeries(series, self._marks_of(name))
                self._sleeps = False
                self._name_logs()
                self._log_failures(self._run([kept], adopt=True))
                self.start()

    def log(self, name: str) -> None:
        """From now on each change of the series is a line in its log, too.

        Raises SharedStateError when the state directory can't be had. Again with the same name: nothing happens.
        """
        with persist_lock:
            if name not in self._logs and not self._closed:
                self._acquire()
                self._logs[name] = ChangeLog(name)
                self._name_logs()
                self._log_failures(self._run([], adopt=False))
                self.start()

    def _acquire(self) -> None:
        audit = self._audit()
        if audit is None:
            raise InboundAuditError("the audit is gone")
        if self._locks is None:
            self._locks = Locks(StateDirectory(self._directory))
            # At exit the system closes descriptors: threads that still count may write to a log.
            self._finalizer = weakref.finalize(audit, self._release_all)
            self._finalizer.atexit = False

    def _marks_of(self, name: str) -> Marks:
        return self._marks.setdefault(name, Marks())

    def _name_logs(self) -> None:
        for name, kept in self._kept.items():
            kept.log_id = self._log_id if name in self._logs else None

    # ---- what was loaded from logs

    def known(self, name: str) -> dict[int, int]:
        """Up to which number the lines of each log id are in our counts of a series; `EVERY` for our own lines.

        Adopts first: a snapshot that were adopted after its lines are loaded would count them twice. Raises
        SharedStateError and CapacityError when a snapshot can't be adopted.
        """
        with persist_lock:
            kept, audit, locks = self._kept.get(name), self._audit(), self._locks
            if kept is not None and audit is not None and locks is not None and not (self._closed or self._sleeps):
                try:
                    kept.adopt(audit, locks)
                except OSError as error:
                    raise SharedStateError(f"what was saved can't be adopted: {cause_of(error)}") from error
            own = {self._log_id: EVERY} if name in self._logs else {}
            return {**(self._marks[name].sequences if name in self._marks else {}), **own}

    def note_loaded(self, name: str, marks: Mapping[int, int]) -> None:
        """The lines of these log ids, up to these numbers, were added to our counts, or were out of view."""
        with persist_lock:
            others = {log: sequence for log, sequence in marks.items() if log != self._log_id}
            self._marks_of(name).note(others)

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """What is added here and the `note_loaded` that belongs to it go into the same snapshot: nothing is saved
        meanwhile, and no other thread loads."""
        with persist_lock:
            yield

    # ---- saving and adopting

    def save(self) -> None:
        """Writes every series that has changed now. Raises OSError, SharedStateError."""
        with persist_lock:
            for error in self._run(self._kept.values(), adopt=False):
                raise error

    def run_once(self) -> None:
        """What the thread does each time."""
        with persist_lock:
            self._log_failures(self._run(self._kept.values(), adopt=True))

    def _run(self, series: Iterable[PersistedSeries], *, adopt: bool) -> list[Exception]:
        """One round; each step is tried, whatever became of those before. What went wrong."""
        start_missing_threads()
        audit, locks, wrong = self._audit(), self._locks, _Failures()
        if audit is None or locks is None or self._closed or audit.closed:
            return wrong
        with wrong:
            self._repair_directory(locks)
        for kept in series:
            if adopt and not self._sleeps:
                with wrong:
                    kept.adopt(audit, locks)
            with wrong:
                kept.save(audit, locks)
        for log in self._logs.values():
            with wrong:
                self._follow(log, audit, locks.place)
        self._sleeps = self._sleeps and not locks.held
        if adopt and not self._sleeps:
            with wrong:
                claims.release_unused(locks, set().union(*(kept.absorbed for kept in self._kept.values())))
        return wrong

    def _repair_directory(self, locks: Locks) -> None:
        """Makes the directory, or our lock file in it, anew if it was removed. Raises OSError, SharedStateError."""
        if locks.place.gone:
            before, place = locks.place, StateDirectory(locks.place.path)
            logger.warning("%s: the directory was removed or replaced; all is written anew", place.path)
            locks.move(place)
            before.close()
            for kept in self._kept.values():
                kept.begin_anew()
        elif locks.lost:
            before_id = locks.id
            logger.warning("%s: our lock file was removed; others may count what we had saved", locks.place.path)
            locks.renew()
            for kept in self._kept.values():
                kept.begin_anew(instead_of=before_id)

    def _follow(self, log: ChangeLog, audit: Audit, place: StateDirectory, sequence: int | None = None) -> None:
        """Opens a change log, or follows it where it was renamed. Raises SharedStateError for lines that were lost."""
        store, name = SeriesStore(audit), log.series
        log.follow(place, lambda fd, path: store.log(name, fd, path, self._log_id, sequence))
        failures = store.logged(name)[1]
        lost, log.reported_failures = failures - log.reported_failures, failures
        if lost:
            why = cause_of(store.log_error(name))
            raise SharedStateError(f"{lost} lines of the log of {name!r} could not be written: {why}")

    def _log_failures(self, wrong: list[Exception]) -> None:
        place = self._locks.place.path if self._locks is not None else ""
        for error in wrong:
            if not isinstance(error, (OSError, InboundAuditError)) and repr(error) != self._unexpected:
                self._unexpected = repr(error)
                logger.error("%s: %s", place, error, exc_info=error)
                continue
            words = str(error)
            if isinstance(error, OSError):
                words = cause_of(error) + (f": {error.filename}" if error.filename else "")
            kind = type(error), getattr(error, "errno", None) or words
            self._complaints.report(logging.ERROR, "%s: %s; it is tried again", place, words, kind=kind)

    # ---- the thread

    def start(self) -> None:
        """Starts the thread, unless it runs, if there is anything to do. A failure to start is logged; `save` tries
        again, and so do other threads of this package."""
        if self._locks is not None and not self._closed:
            try:
                if self not in _thread:
                    self.due = time.monotonic() + SAVE_INTERVAL_S
                _thread.enter(self)
            except (OSError, RuntimeError) as error:
                self._log_failures([SharedStateError(f"no thread saves: {error}")])

    # ---- the end, and forks

    def forget(self) -> None:
        """Closes everything as it was saved last. Idempotent."""
        with persist_lock:
            audit = self._audit()
            if audit is not None and not self._closed:
                for name in self._logs:
                    SeriesStore(audit).log(name, -1)
            self._closed = True
            if self._finalizer is not None:
                self._finalizer()

    def _release_all(self) -> None:
        """Closes everything. A process that persists the same series next finds what was saved."""
        if self._locks is not None and not fork_is_pending():  # else all of it is the parent's
            _thread.leave(self)
            self._locks.release_all()
            self._locks.place.close()

    def leave(self) -> None:
        """Python exits, or the audit is about to be closed: saves for the last time. The locks are still held."""
        with persist_lock:
            if self._locks is not None and not self._closed:
                _thread.leave(self)
                self._log_failures(self._run(self._kept.values(), adopt=False))
                if not any(kept.has_file for kept in self._kept.values()):
                    self._locks.release_all(remove=True)

    def after_fork_in_child(self) -> None:
        """The audit has forgotten its counts, and nothing that was saved is ours."""
        locks, audit = self._locks, self._audit()
        if locks is None or audit is None or self._closed:
            return
        locks.release_all()  # they are the parent's; the child writes to the same change logs
        self._sleeps = True
        self._log_id = _new_log_id()
        self._marks = {}
        for name, kept in self._kept.items():
            kept.begin_anew()
            kept.marks = self._marks_of(name)
        self._name_logs()
        failures = _Failures()
        self._logs = {name: ChangeLog(name) for name in self._logs}
        for log in self._logs.values():
            with failures:
                self._follow(log, audit, locks.place, 0)
        self._log_failures(failures)
        self.start()


class _Failures(list[Exception]):
    """What went wrong in the blocks that it was the context of."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Exception):
            self.append(error)
        return isinstance(error, Exception)


def _new_log_id() -> int:
    return secrets.randbits(63) + 1


def _save_every_interval(thread: BackgroundThread) -> None:
    while True:
        next_due = min((store.due for store in _thread.members), default=math.inf)
        if thread.wait(min(SAVE_INTERVAL_S, max(0.0, next_due - time.monotonic()))) is None:
            return
        began = time.monotonic()
        due = [store for store in _thread.members if store.due <= began]
        for store in due:
            if not thread.acquire(persist_lock):
                return
            try:
                if store in _thread:
                    store.run_once()
            finally:
                persist_lock.release()
        ended = time.monotonic()
        for store in due:
            store.due = ended + max(SAVE_INTERVAL_S, SHARE * (ended - began))


_thread = BackgroundThread("inbound_audit state", _save_every_interval)
