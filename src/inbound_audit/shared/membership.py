"""A process that counts in a shared audit: its own file, and the thread that scans for other owners.

A process that joins or makes a listener waits until every owner that is there has scanned once since. So two owners
know each other before the later one counts its first session. From then on a limit needs three steps: open the session,
a full fence, read the counts of the others. Of two processes that race for the last place, at least one sees both. The
wait is bounded: a stopped process does not scan, and opens no session either.

The thread sleeps until the directory changes (inotify), scans then, and every `SCAN_INTERVAL_S` in any case.

Fork: the parent's threads are stopped and no file is made while the process forks, so the child is copied from a
process that is not scanning. The child first releases the parent's file; then it has no file and no sessions. It gets a
file when it opens its first session.

Lock rule: `_lock` is one for all memberships of the process, held for a scan or a change of file, never for a wait. The
thread gives up waiting for it when it is stopped, so the caller of `stop` may hold it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import time
import weakref
from collections.abc import Callable, Mapping

from inbound_audit import _ipcount
from inbound_audit.descriptor import Descriptor, Identity
from inbound_audit.errors import InboundAuditError, SharedStateError
from inbound_audit.process import BackgroundThread, Stage, register, shared_lock
from inbound_audit.shared import owner_file
from inbound_audit.shared.control import client
from inbound_audit.shared.control.server import ControlServer
from inbound_audit.shared.directory import MAX_TRIES, SharedDirectory
from inbound_audit.shared.scanner import OwnerScanner

logger = logging.getLogger("inbound_audit.shared")

SCAN_INTERVAL_S = 0.2
"""Seconds between two scans when no event arrives: a dead process is counted for at most this long."""

RESCAN_DELAY_S = 0.02
"""Seconds from a scan that an event caused to the next: a file is closed just before its lock is released."""

JOIN_TIMEOUT_S = 1.0
"""Seconds that a new owner waits until the others have scanned."""


Handler = Callable[[_ipcount.Audit, bytes], bytes]
"""Handles a request to an audit: a line to a line. It raises nothing."""


class OsResources:
    """What a membership holds of the system: an open directory, the file and its lock, threads.

    It has no reference to the audit, and may outlive it.
    """

    def __init__(self, name: str, group: str | None, handle: Callable[[bytes], bytes]) -> None:
        self.place = SharedDirectory(name, group)
        self.control_server = ControlServer(name, handle)
        self.file: str | None = None
        self.identity: Identity | None = None
        self.lock: _ipcount.HeldFile | None = None
        self.thread: BackgroundThread | None = None

    def stop(self) -> None:
        """Ends the threads, and waits for that."""
        self.control_server.stop()
        if self.thread is not None:
            self.thread.stop()

    def leave(self) -> None:
        """Removes our names from the directory and ends the threads. The file stays locked: it may still be written
        to."""
        self.control_server.close()
        self.stop()
        self.remove_file(self.place)
        self.place.remove_if_empty()

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
        self.control_server.after_fork_in_child()
        self.file = None
        self.unlock()


class Membership:
    """The part of one audit in a shared directory. Raises SharedStateError or CapacityError when it can't take part."""

    def __init__(self, audit: _ipcount.Audit, name: str, group: str | None, handle: Handler) -> None:
        self._audit = audit
        self._own_file = _ipcount.OwnFile(audit)
        self._name = name
        self._group = group
        self._last_error = ""
        self._last_control_error = ""
        self._is_ready = False  # sessions may be opened: we have a file, and the others know it
        self._evicted = False  # our file is not where others find it: a new one is due
        self._resources = OsResources(name, group, _handler(audit, handle))
        self._resources.thread = BackgroundThread(f"inbound_audit {name}", _job(weakref.ref(self), self.place.path))
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

    def ensure_file(self) -> None:
        """Makes our file, unless there is one, publishes it, waits until the others know it, and starts to scan.

        Raises SharedStateError or CapacityError, and everything is as it was.
        """
        with shared_lock:
            if not self._finalizer.alive:
                raise InboundAuditError("the audit is closed")
            if self._is_ready:
                return
            if self._resources.lock is None or self._evicted:
                self._join()
        self.wait_until_scanned()
        with shared_lock:
            self._own_file.mark_ready()
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
                failure = SharedStateError(f"{path}: {error.strerror}")
            except SharedStateError as error:
                failure = error
            if not (tries_left and self.place.gone):  # another process has removed the directory: it was empty
                raise failure from None

    def _find_directory(self) -> None:
        """Makes the directory anew, where others look for it, if it was removed or renamed."""
        held = self._resources
        if held.place.gone:
            before, held.place = held.place, SharedDirectory(self._name, self._group, held.place.path)
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
            held.control_server.stop_listening()  # it has the name of the file before
            held.unlock()
            held.file, held.lock, held.identity = name, made.lock, descriptor.identity
        self._evicted = False

    def _open_control(self) -> None:
        """Opens the control socket if it is closed. A failure is logged and does not affect counting."""
        held, why = self._resources, ""
        if held.file is not None:
            socket = owner_file.socket_of(held.file)
            try:
                if held.control_server.listens and held.place.identity_of(socket) is not None:
                    return
                owner_file.remove_name(held.place, socket)
                held.control_server.listen(held.place, owner_file.id_of(held.file))
                held.control_server.start()
            except (OSError, RuntimeError) as error:
                why = str(error)
                if why != self._last_control_error:
                    logger.warning("%s: no process can ask this one to change counts: %s", held.place.path, why)
        self._last_control_error = why

    def wait_until_scanned(self) -> None:
        """Waits until every owner that is there has scanned once from now on, at most `JOIN_TIMEOUT_S` seconds."""
        deadline = time.monotonic() + JOIN_TIMEOUT_S
        pause = 0.0005
        awaited: dict[str, int] | None = None
        while True:
            try:
                with shared_lock:
                    held = self._resources
                    if held.file is None:
                        return
                    if awaited is None:  # an event for those that watch the directory
                        os.utime(held.file, dir_fd=held.place.fd, follow_symlinks=False)
                    self.scan()  # others may be waiting for us
                    now = self._scanner.scan_counts
            except OSError:  # no descriptor is left, or our file was removed; the thread makes a new one
                now = {}
            if awaited is None and now:
                # An odd number is a scan that may have begun before; the one after it counts.
                awaited = {name: (count + 1) // 2 * 2 + 2 for name, count in now.items()}
            awaited = {name: count for name, count in (awaited or {}).items() if now.get(name, count) < count}
            if not awaited or time.monotonic() > deadline:
                return
            time.sleep(pause)
            pause = min(2 * pause, 0.01)

    # ---- scans

    def scan(self) -> None:
        """Attaches new owners, and drops dead ones. Raises OSError: then it was no scan, and others wait for
        another."""
        with shared_lock:
            if not self._finalizer.alive:
                return
            self._own_file.mark_scan(True)
            try:
                self._scanner.scan(self._resources.identity)
            except OSError:
                if self._finalizer.alive:  # else a signal handler has closed it meanwhile
                    raise
            self._own_file.mark_scan(False)

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

    def run_once(self) -> None:
        """What the thread does each time: checks our file, and scans. Failures are logged, each once in a row."""
        try:
            with shared_lock:
                if self._finalizer.alive:
                    self._repair_own_file()
                    self.scan()
        except Exception as error:  # whatever it is: without the thread, dead processes would stay counted
            if str(error) != self._last_error:
                expected = isinstance(error, (OSError, InboundAuditError))
                logger.error("%s: %s", self.place.path, error, exc_info=not expected)
            self._last_error = str(error)
        else:
            self._last_error = ""

    def start(self) -> None:
        """Starts the threads, unless they run. A failure is logged; a later call tries again."""
        held = self._resources
        if not self._finalizer.alive or held.thread is None:
            return
        try:
            if held.control_server.listens:
                held.control_server.start()
            held.thread.start()
        except (OSError, RuntimeError) as error:
            logger.error("%s: no thread scans for other processes: %s", held.place.path, error)

    # ---- requests to others

    def request_others(self, message: Mapping[str, object], timeout: float = client.TIMEOUT_S) -> list[str]:
        """Asks all the others to handle a request: a sentence for each that did not. Waits `timeout` seconds at
        most."""
        with shared_lock:
            owners = {owner.id: owner for owner in self._scanner.owners if owner.damaged is None}
            if not owners:
                return []
            try:
                place = self.place.copy()  # the directory may be made anew meanwhile
            except OSError as error:
                return [f"no process can be asked: {error.strerror}"]
        try:
            answers = client.request_all(place, owners, message, timeout)
        except SharedStateError as error:
            return [str(error)]
        finally:
            place.close()
        return [
            f"process {owners[owner_id].pid} {why}"
            for owner_id, answer in answers.items()
            if (why := client.why_not(answer)) is not None
        ]

    # ---- the end, and forks

    def close(self) -> None:
        """Leaves the directory. The audit has forgotten its sessions. Idempotent."""
        with shared_lock:
            self._is_ready = False
            self._resources.stop()
            self._scanner.detach_all()
            self._finalizer()

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


def _job(member: weakref.ref[Membership], path: str) -> Callable[[BackgroundThread], None]:
    """What the thread does. It holds no audit, so that one without other references is collected."""

    def scan_when_needed(thread: BackgroundThread) -> None:
        watched, watch = path, _watch(path)
        timeout = SCAN_INTERVAL_S
        while True:
            number = watch.current if watch is not None else None
            events = thread.wait(timeout, {} if number is None else {number: select.POLLIN})
            if events is None:
                return
            timeout = RESCAN_DELAY_S if events else SCAN_INTERVAL_S
            if events and watch is not None:
                with contextlib.suppress(OSError):  # other code has closed it
                    os.read(watch.number, 65536)
            if not thread.acquire(shared_lock):
                return
            try:
                membership = member()
                if membership is None:
                    return
                membership.run_once()
                now = membership.place.path
                del membership
            finally:
                shared_lock.release()
            if watch is None or not watch.is_ours or watched != now:
                watched, watch = now, _watch(now)

    return scan_when_needed


def _watch(path: str) -> Descriptor | None:
    """A descriptor that is readable when the directory changes. None: a user may have 128 of them."""
    with contextlib.suppress(OSError):
        return Descriptor(_ipcount.watch_directory(path))
    return None
