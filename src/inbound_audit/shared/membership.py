"""A process that counts in a shared audit: its own file, and the thread that scans for other owners.

A process that makes a listener or a series waits until every owner that is there has scanned once since. So two owners
know each other before the later one counts its first session. From then on a limit needs three steps: open the session,
a full fence, read the counts of the others. Of two processes that race for the last place, at least one sees both. The
wait is bounded: a stopped process does not scan, and opens no session either.

One thread per process sleeps until a directory changes (`changes`), and then checks the files that have changed. From
time to time it checks all files.

Fork: the parent's threads are stopped and no file is made while the process forks, so the child is copied from a
process that is not scanning. The child first releases the parent's file; then it has no file and no sessions. It gets a
file when it opens its first session.

docs/model/owners.pml is a model of joining, scanning and dropping; comments "model: owners/NAME" name its steps.

Lock rule: `_lock` is one for all memberships of the process, held for a scan or a change of file, never for a wait. The
thread gives up waiting for it when it is stopped, so the caller of `stop` may hold it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import weakref
from collections.abc import Callable, Mapping
from typing import NamedTuple

from inbound_audit import _ipcount
from inbound_audit.descriptor import Descriptor, Identity
from inbound_audit.errors import InboundAuditError, SharedStateError, cause_of
from inbound_audit.process import BackgroundThread, Stage, register, shared_lock, start_missing_threads
from inbound_audit.shared import owner_file
from inbound_audit.shared.changes import Changes, inotify
from inbound_audit.shared.control import client
from inbound_audit.shared.control.server import control_server
from inbound_audit.shared.directory import MAX_TRIES, Directory, SharedDirectory
from inbound_audit.shared.scanner import OwnerScanner

logger = logging.getLogger("inbound_audit.shared")

SCAN_INTERVAL_S = 0.2
"""Seconds between two scans of all files when no change is reported. With more than `MANY_FILES` in all audits of the
process it grows with their number: else n processes would check n * n files each time."""

MANY_FILES = 16

RESCAN_DELAY_S = 0.02
"""Seconds from a scan that a change caused to the next; and between two checks of directories without a watch."""

RETOUCH_S = 0.05
"""Seconds until an owner that waits for others says again that it is there; then twice as long, and so on."""

CROWD_PAUSE_S = 50e-6
"""Seconds between a change and the scan for it, per process of the largest audit; at most `RESCAN_DELAY_S`."""

MAX_REST_S = 0.25
"""Seconds of the longest rest between two scans; less than `JOIN_TIMEOUT_S`, after which an owner waits no more."""

UNWATCHED_PER_S = 20_000
"""At most this many directories without a watch are checked per second."""

JOIN_TIMEOUT_S = 1.0
"""Seconds that a new owner waits for the next scan of any other, until all have scanned."""


Handler = Callable[[_ipcount.Audit, bytes], bytes]
"""Handles a request to an audit: a line to a line. It raises nothing."""


class Beside(NamedTuple):
    """What else lies in the directory of an audit: files of other kinds than owners'."""

    notice: Callable[[Directory, set[str], bool], object]
    """Called by each scan, under `shared_lock`, with the names that may have changed, and whether these are all. It
    raises OSError."""
    tidy: Callable[[Directory], object]
    """Called before this process leaves the directory. It raises nothing, and has no reference to the audit."""


class OsResources:
    """What a membership holds of the system: an open directory, the file and its lock, the control socket.

    It has no reference to the audit, and may outlive it.
    """

    def __init__(
        self,
        name: str,
        group: str | None,
        handle: Callable[[bytes], bytes],
        tidy: Callable[[Directory], object],
    ) -> None:
        self.tidy = tidy
        self.place = SharedDirectory(name, group)
        self.changes = Changes(self.place)
        self.handle = handle
        self.file: str | None = None
        self.identity: Identity | None = None
        self.lock: _ipcount.HeldFile | None = None
        self.socket: Descriptor | None = None
        self.socket_name = ""
        self.member: weakref.ref[Membership] | None = None
        self.files = 1  # ours and those that were open after the last scan

    def move(self, place: SharedDirectory) -> None:
        """The directory is another one."""
        self.changes.close()
        self.place, self.changes = place, Changes(place)

    def leave(self) -> None:
        """Removes our names from the directory; no thread works for us any more. The file stays locked: it may still be
        written to."""
        _thread.leave(self)
        self.close_socket()
        with contextlib.suppress(OSError):  # a file without a lock is removed by other owners
            self.remove_file(self.place)
        self.tidy(self.place)
        self.place.remove_if_empty()

    def open_socket(self) -> None:
        """Opens the control socket beside our file, unless it is open. Raises OSError, RuntimeError."""
        if self.file is None:
            return
        name, before = owner_file.socket_of(self.file), self.socket
        is_open = before is not None and before.is_ours and self.socket_name == name
        if not is_open or self.place.identity_of(name) is None:
            owner_file.remove_name(self.place, name)
            self.socket = control_server.listen(self.place, owner_file.id_of(self.file), self.handle)
            self.socket_name = name
            if before is not None:
                control_server.stop_listening(before)

    def close_socket(self) -> None:
        if self.socket is not None:
            control_server.stop_listening(self.socket)
            self.socket = None

    def touch(self, *, directory: bool = False) -> None:
        """Makes others scan: those that watch the directory, and with `directory` those that can't. Raises OSError."""
        if self.file is not None:
            os.utime(self.file, dir_fd=self.place.fd, follow_symlinks=False)
        if directory:
            os.utime(self.place.fd)

    def remove_file(self, place: SharedDirectory) -> None:
        """Removes the names of our file and socket. Raises OSError."""
        if self.file is not None:
            owner_file.remove(place, self.file)
            self.file = None

    def release_all(self) -> None:
        """Closes everything: no session is counted in the file any more."""
        if _ipcount.fork_is_pending():  # all of it is the parent's
            return
        self.leave()
        self.unlock()
        self.place.close()

    def unlock(self) -> None:
        """Others take the owner for dead from now on."""
        if self.lock is not None:
            self.lock.release()
            self.lock = self.identity = None

    def after_fork_in_child(self) -> None:
        """The file and the socket are the parent's."""
        self.file = self.socket = None
        self.unlock()


class Membership:
    """The part of one audit in a shared directory. Raises SharedStateError or CapacityError when it can't take part."""

    def __init__(self, audit: _ipcount.Audit, name: str, group: str | None, handle: Handler, beside: Beside) -> None:
        self._audit = audit
        self._notice = beside.notice
        self._own_file = _ipcount.OwnFile(audit)
        self._name = name
        self._group = group
        self._last_error = ""
        self._last_control_error = ""
        self._is_ready = False  # sessions may be opened: we have a file, and the others know it
        self._evicted = False  # our file is not where others find it: a new one is due
        with shared_lock:
            self._resources = OsResources(name, group, _handler(audit, handle), beside.tidy)
        self._resources.member = weakref.ref(self)
        self._scanner = OwnerScanner(audit, self._resources.place, remove_dead=True)
        # When the audit is collected. At exit the system closes descriptors: sessions may still be opened.
        self._finalizer = weakref.finalize(audit, self._resources.release_all)
        self._finalizer.atexit = False
        register(self, Stage.SHARED, Membership.after_fork_in_child, Membership.leave)

    @property
    def place(self) -> SharedDirectory:
        """The directory, as of the last scan."""
        return self._resources.place

    # ---- our own file

    def ensure_file(self, *, known: bool = True) -> None:
        """Makes our file, unless there is one, publishes it, waits until the others know it if it is to be `known`, and
        starts to scan.

        Raises SharedStateError or CapacityError, and everything is as it was.
        """
        with shared_lock:
            if not self._finalizer.alive:
                raise InboundAuditError("the audit is closed")
            if self._is_ready:
                return
            if self._resources.lock is None or self._evicted:
                self._join()
        if known:
            self.wait_until_scanned()
        with shared_lock:
            self._own_file.mark_ready()  # model: owners/ready
            self._is_ready = True
            self.start()

    def _join(self) -> None:
        for tries_left in reversed(range(MAX_TRIES)):
            path = self.place.path
            try:
                self._find_directory()
                self.scan()
                for name, why in self._scanner.incompatible:
                    raise SharedStateError(f"{path}/{name}: {why}")
                self._create_file()
                self._open_control()
                return
            except OSError as error:
                failure = SharedStateError(f"{path}: {cause_of(error)}")
            except SharedStateError as error:
                failure = error
            if not (tries_left and self.place.gone):  # another process has removed the directory: it was empty
                raise failure from None

    def _find_directory(self) -> None:
        """Makes the directory anew, where others look for it, if it was removed or renamed."""
        held = self._resources
        if held.place.gone:
            before = held.place
            held.move(SharedDirectory(self._name, self._group, before.path))
            with contextlib.suppress(OSError):
                held.remove_file(before)
            before.close()
            self._scanner.move(held.place)

    def _create_file(self) -> None:
        """Makes a new file with all our listeners in it. For a moment others may count it and the one before."""
        held = self._resources
        name = owner_file.new_name()
        path = os.fsencode(os.path.join(held.place.path, name))
        made = owner_file.create(held.place)
        with made.descriptor as descriptor:
            try:
                self._own_file.share(descriptor.number, path, os.getpid(), time.time_ns() // 1000)
                owner_file.publish(held.place, descriptor, name)
            except BaseException:
                self._own_file.detach()
                made.lock.release()
                raise
            held.remove_file(held.place)
            held.unlock()
            held.file, held.lock, held.identity = name, made.lock, descriptor.identity
        self._evicted = False

    def _open_control(self) -> None:
        """Opens the control socket if it is closed. A failure is logged and does not affect counting."""
        why = ""
        try:
            self._resources.open_socket()
        except (OSError, RuntimeError) as error:
            why = str(error)
            if why != self._last_control_error:
                logger.warning("%s: no process can ask this one to change counts: %s", self.place.path, why)
        self._last_control_error = why

    def wait_until_scanned(self) -> None:
        """Waits until every owner that is there has scanned once from now on; or none has for `JOIN_TIMEOUT_S`
        seconds."""
        awaited: dict[str, int] | None = None
        began = time.monotonic()
        deadline, touch_due, pause, rest = began + JOIN_TIMEOUT_S, began, 0.0005, 0.0
        while awaited is None or (awaited and time.monotonic() < deadline):
            if awaited is not None:
                time.sleep(max(pause, rest))
                pause = min(2 * pause, 0.01)
            with shared_lock:
                if self._resources.file is None:
                    return
                now: dict[str, int] = {}
                scanned = time.monotonic()
                with contextlib.suppress(OSError):  # no descriptor is left, or our file was removed
                    self.scan(all=False)  # others may be waiting for us
                    now = self._scanner.scan_counts
                    if awaited is None:
                        # An odd number is a scan that may have begun before; the one after it counts.
                        # model: owners/await
                        awaited = {name: (count + 1) // 2 * 2 + 2 for name, count in now.items()}
                        self._resources.touch()  # only now: they scan for it
                        touch_due += min(MAX_REST_S, max(RETOUCH_S, RETOUCH_S * len(awaited) / MANY_FILES))
                    elif time.monotonic() > touch_due:  # they may have seen it in a scan that had begun before
                        self._resources.touch(directory=True)
                        touch_due += 2 * (touch_due - began)
                rest = rest_s(time.monotonic() - scanned, self._resources.files)
            # model: owners/awaited
            left = {name: count for name, count in (awaited or {}).items() if now.get(name, count) < count}
            if len(left) < len(awaited or {}):
                deadline = time.monotonic() + JOIN_TIMEOUT_S
            awaited = left

    def announce(self) -> None:
        """Makes others scan, without waiting for them. Our file has a new section."""
        with shared_lock, contextlib.suppress(OSError):  # our file was removed: a new one is due
            self._resources.touch()

    # ---- scans

    def scan(self, *, all: bool = True) -> None:
        """Attaches new owners, and drops dead ones: of all files, or of those that have changed. Raises OSError: then
        it was no scan, and others wait for another."""
        with shared_lock:
            if not self._finalizer.alive:
                return
            held = self._resources
            self._own_file.mark_scan(True)  # model: owners/scan_begins
            if inotify.read():  # after the mark: others take what they changed before it for seen
                _thread.wake()  # some may be of other audits
            changed = held.changes.take(all=all)
            try:
                self._notice(held.place, self._scanner.scan(held.identity, changed), changed is None)
            except OSError:
                held.changes.lose_track()
                if self._finalizer.alive:  # else a signal handler has closed it meanwhile
                    raise
            held.files = 1 + len(self._scanner)
            self._own_file.mark_scan(False)  # model: owners/scan_ends
            start_missing_threads()

    def _repair_own_file(self) -> None:
        """Makes a new file if ours was removed, or cut short: others would count it no more."""
        held = self._resources
        if held.lock is None:
            self._find_directory()
            return
        path = held.place.path
        if not self._evicted:
            needed = self._own_file.needed  # read first: the file may grow meanwhile
            try:
                size, links = self._own_file.status
            except OSError:  # other code has closed its descriptor, or the audit is being closed
                if self._audit.closed:
                    return
                if held.file is not None and held.place.identity_of(held.file) is not None:
                    raise
                size, links = needed, 0
            if size < needed:
                logger.error("%s: our file was cut short: the sessions that were open are counted no more", path)
                self._own_file.forget()
                self._is_ready = False
                self._evicted = True
            elif links == 0 or held.place.gone:
                logger.warning("%s: our file was removed; we count in a new one", path)
                self._evicted = True
        if self._evicted:
            self._find_directory()
            self._create_file()
            self._own_file.mark_ready()
            self._is_ready = True
        self._open_control()

    def run_once(self, *, all: bool = True) -> None:
        """What the thread does each time: checks our file, and scans. Failures are logged, each once in a row."""
        try:
            with shared_lock:
                held = self._resources
                if self._finalizer.alive:
                    ours = (held.file, held.socket_name)
                    if all or held.lock is None or any(name and held.changes.mentions(name) for name in ours):
                        self._repair_own_file()
                    self.scan(all=all)
        except Exception as error:  # whatever it is: without the thread, dead processes would stay counted
            if str(error) != self._last_error:
                expected = isinstance(error, (OSError, InboundAuditError))
                logger.error("%s: %s", self.place.path, error, exc_info=not expected)
            self._last_error = str(error)
        else:
            self._last_error = ""

    def start(self) -> None:
        """Starts the thread, unless it runs. A failure is logged; the next scan tries again, whichever thread makes
        it."""
        if self._finalizer.alive:
            try:
                _thread.enter(self._resources)
            except (OSError, RuntimeError) as error:
                logger.error("%s: no thread scans for other processes: %s", self.place.path, error)

    # ---- requests to others

    def request_others(self, message: Mapping[str, object], timeout: float = client.TIMEOUT_S) -> list[str]:
        """Asks all the others to handle a request: a sentence for each that did not. Waits `timeout` seconds at
        most."""
        with shared_lock:
            owners = [owner for owner in self._scanner.owners if owner.damaged is None]
            if not owners:
                return []
            try:
                place = self.place.copy()  # the directory may be made anew meanwhile
            except OSError as error:
                return [f"no process can be asked: {error.strerror}"]
        try:
            return client.request_owners(place, owners, message, timeout)[1]
        except SharedStateError as error:
            return [str(error)]
        finally:
            place.close()

    # ---- the end, and forks

    def close(self) -> None:
        """Leaves the directory. The audit has forgotten its sessions. Idempotent."""
        with shared_lock:
            self._is_ready = False
            self._scanner.detach_all()
            self._finalizer()
            self._resources.changes.close()

    def leave(self) -> None:
        """Python exits: others count us no more, while sessions may still be open."""
        with shared_lock:
            self._resources.leave()

    def after_fork_in_child(self) -> None:
        """The audit has forgotten its sessions: it makes a file of its own when it opens the first one."""
        self._is_ready = self._evicted = False
        self._resources.after_fork_in_child()
        if self._finalizer.alive:
            self.run_once()
            self.start()


def _handler(audit: _ipcount.Audit, handle: Handler) -> Callable[[bytes], bytes]:
    """Handles requests to an audit, and holds no reference to it."""
    ref = weakref.ref(audit)

    def handle_line(line: bytes) -> bytes:
        found = ref()
        return b"" if found is None else handle(found, line)

    return handle_line


def _scan_when_needed(thread: BackgroundThread) -> None:
    """What the thread does. It holds no audit, so that one without other references is collected."""
    next_all = again = due = 0.0  # when to scan everything, once more what has changed, and what has; 0: nothing has
    rested = 0.0  # no scan before
    while (events := thread.wait(_wait_s(rested, due, again, next_all), None if due else inotify.polled)) is not None:
        began = time.monotonic()
        if events and not due:  # in a crowd changes come in crowds: one scan for several
            due = began + min(RESCAN_DELAY_S, CROWD_PAUSE_S * _processes())
        if began < max(rested, due):
            continue
        due, all, repeat = 0.0, began >= next_all, 0 < again <= began
        if not thread.acquire(shared_lock):
            return
        try:
            inotify.read()
            found = [(one, one.changes) for one in _thread.members]
            scanned = [one for one, new in found if all or new.pending or (repeat and new.repeats)]
        finally:
            shared_lock.release()
        for one in scanned:
            if not thread.acquire(shared_lock):
                return
            try:
                member = one.member() if one in _thread else None
                if member is not None:
                    member.run_once(all=all)
                del member
            finally:
                shared_lock.release()
        now = time.monotonic()
        rested = now + rest_s(now - began, _processes())
        repeats = any(one.changes.repeats for one in _thread.members)
        again = 0.0 if not repeats else again if again > began else max(rested, now + RESCAN_DELAY_S)
        if all:
            next_all = now + SCAN_INTERVAL_S * max(1.0, sum(one.files for one in _thread.members) / MANY_FILES)


def rest_s(took_s: float, processes: int) -> float:
    """Seconds until the next scan for a change, after one that took `took_s`. Each change makes all processes of an
    audit scan: so all of them together use one processor at most, however many there are, and a machine that is busy
    with other things is left to them."""
    return min(MAX_REST_S, took_s * processes)


def _processes() -> int:
    """How many processes take part in the largest of our audits."""
    return max((one.files for one in _thread.members), default=1)


def _wait_s(rested: float, due: float, again: float, next_all: float) -> float:
    """Seconds until the next scan, unless something changes. Directories without a watch are compared from time to
    time."""
    now = time.monotonic()
    until = due or min(next_all, again or next_all)
    if not due and (unwatched := sum(not one.changes.watched for one in _thread.members)):
        until = min(until, now + max(RESCAN_DELAY_S, unwatched / UNWATCHED_PER_S))
    return max(0.0, rested - now, until - now)


_thread = BackgroundThread("inbound_audit", _scan_when_needed)
