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
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

from inbound_audit import _ipcount
from inbound_audit.errors import InboundAuditError, SharedStateError
from inbound_audit.shared import owner_file
from inbound_audit.shared.control import client, protocol
from inbound_audit.shared.control.server import ControlServer
from inbound_audit.shared.directory import SharedDirectory
from inbound_audit.shared.scanner import OwnerScanner

logger = logging.getLogger("inbound_audit.shared")

SCAN_INTERVAL_S = 0.2
"""Seconds between two scan_counts when nothing is heard: the most that a dead process is counted after its death."""

RESCAN_DELAY_S = 0.02
"""Seconds to the look after one that was caused by an event: a file is closed just before its lock is let go."""

JOIN_TIMEOUT_S = 1.0
"""Seconds that a newcomer waits for the others to have seen it."""

_lock = threading.RLock()


class OsResources:
    """What the system has lent us: descriptors, a name, a thread. It knows nothing of the audit, and can outlive it."""

    def __init__(self, place: SharedDirectory, control_server: ControlServer) -> None:
        self.place = place
        self.control_server = control_server
        self.fd: int | None = None
        self.file: str | None = None
        self.thread: threading.Thread | None = None
        self.wake: int | None = None
        """The thread ends when this end of its pipe is closed; the other one is its own."""

    def stop(self) -> None:
        """Ends the threads, and waits for that."""
        self.control_server.stop()
        thread, self.thread = self.thread, None
        wake, self.wake = self.wake, None
        if wake is not None:
            os.close(wake)
        if thread is not None and thread is not threading.current_thread():  # which may be the one that collects us
            thread.join()

    def leave(self) -> None:
        """Removes the name of our file and stops the threads. The file stays open: it may still be written to."""
        self.control_server.close()
        self.stop()
        if self.file is not None:
            owner_file.remove(self.place, self.file)
            self.file = None

    def let_go(self) -> None:
        """All of it. Nobody counts in the file any more."""
        self.leave()
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
        self.place.close()

    def in_child(self) -> None:
        """A fork's child has none of the parent's threads, and lets go of its file and its socket."""
        self.control_server.in_child()
        for fd in (self.wake, self.fd):
            if fd is not None:
                os.close(fd)
        self.thread = self.wake = self.fd = self.file = None


class Membership:
    """One audit's part in a place. Raises SharedStateError or CapacityError when it can't have one."""

    def __init__(self, audit: _ipcount.Audit, name: str, group: str | None) -> None:
        self._own_file = _ipcount.OwnFile(audit)
        self._name = name
        self._group = group
        self._complaint = ""
        self._unasked = ""  # why nobody can ask us, as it was told
        self._settled = False  # sessions may be opened: we have a file, and were seen
        self._evicted = False  # our file is not where others find it: a new one is due
        self._held = OsResources(SharedDirectory(name, group), ControlServer(name, _carrying_out(audit)))
        self._scanner = OwnerScanner(audit, self._held.place, remove_dead=True)
        # When the audit is collected. When Python exits, descriptors are left to the system: sessions may still come.
        self._finalizer = weakref.finalize(audit, self._held.let_go)
        self._finalizer.atexit = False

    # ---- our own file

    def ensure_file(self) -> None:
        """Makes our file, lets others find it, waits until they have, and scan_counts around from then on.

        Raises SharedStateError or CapacityError, and everything is as it was.
        """
        with _lock:
            if not self._finalizer.alive:
                raise InboundAuditError("the audit is closed")
            if self._settled:
                return
            path = self._held.place.path
            if self._held.fd is None or self._evicted:
                try:
                    self._find_directory()
                    self.scan()
                    for name, why in self._scanner.incompatible:
                        raise SharedStateError(f"{path}/{name}: {why}")
                    self._create_file()
                    self._open_control()
                except OSError as error:
                    raise SharedStateError(f"{path}: {error.strerror}") from None
        self.wait_until_scanned()
        with _lock:
            self._own_file.mark_ready()
            self._settled = True
            self.start()

    def _find_directory(self) -> None:
        """The directory may have been removed, or renamed: then it is made anew, where others look for it."""
        held = self._held
        if held.place.gone:
            before, held.place = held.place, SharedDirectory(self._name, self._group, held.place.path)
            if held.file is not None:
                owner_file.remove(before, held.file)
                held.file = None
            before.close()
            self._scanner.move(held.place)

    def _create_file(self) -> None:
        """A new file with all our listeners in it. For a moment others may count both it and the one before."""
        held = self._held
        fd = owner_file.create(held.place)
        try:
            self._own_file.share(fd, os.getpid(), time.time_ns() // 1000)
            name = owner_file.publish(held.place, fd)
        except BaseException:
            self._own_file.detach(fd)
            os.close(fd)
            raise
        if held.file is not None:
            owner_file.remove(held.place, held.file)
        before, held.fd, held.file = held.fd, fd, name
        held.control_server.stop_listening()  # its name is the one before
        self._evicted = False
        if before is not None:
            os.close(before)

    def _open_control(self) -> None:
        """Lets ourselves be asked, if we can't be. What keeps us from it keeps nobody from counting, and is told."""
        held, why = self._held, ""
        if held.file is not None and not (held.control_server.listens and owner_file.has_socket(held.place, held.file)):
            try:
                held.control_server.listen(held.place, owner_file.id_of(held.file))
                held.control_server.start()
            except (OSError, RuntimeError) as error:
                why = str(error)
                if why != self._unasked:
                    logger.warning("%s: nobody can ask us to change counts: %s", held.place.path, why)
        self._unasked = why

    def wait_until_scanned(self) -> None:
        """Waits until everybody who is there has looked around once from now on, at most `JOIN_TIMEOUT_S`."""
        deadline = time.monotonic() + JOIN_TIMEOUT_S
        pause = 0.0005
        awaited: dict[str, int] | None = None
        while True:
            try:
                with _lock:
                    if self._held.fd is None:
                        return
                    if awaited is None:
                        os.utime(self._held.fd)  # whoever watches the directory wakes up
                    self.scan()  # others may be waiting for us
                    now = self._scanner.scan_counts
            except OSError:  # no descriptor is left; one may be, later
                now = {}
            if awaited is None and now:
                # An odd number is a look that may have begun before; the one after it counts.
                awaited = {name: (looked + 1) // 2 * 2 + 2 for name, looked in now.items()}
            awaited = {name: looked for name, looked in (awaited or {}).items() if now.get(name, looked) < looked}
            if not awaited or time.monotonic() > deadline:
                return
            time.sleep(pause)
            pause = min(2 * pause, 0.01)

    # ---- looking around

    def scan(self) -> None:
        """Finds new owners, and drops dead ones. Raises OSError: then it was no look, and others wait for another."""
        with _lock:
            if not self._finalizer.alive:
                return
            self._own_file.mark_scan(True)
            try:
                self._scanner.scan(self._held.fd)
            except OSError:
                if self._finalizer.alive:  # or else a signal's handler has closed it meanwhile
                    raise
            self._own_file.mark_scan(False)

    def _repair_own_file(self) -> None:
        """Somebody may have removed our file, or cut it short: nobody would count us any more."""
        held = self._held
        if held.fd is None:
            self._find_directory()
            return
        path = held.place.path
        if not self._evicted:
            needed = self._own_file.needed  # asked first: the file may grow meanwhile
            found = os.fstat(held.fd)
            if found.st_size < needed:
                logger.error("%s: our file was cut short: the sessions that were open are counted no more", path)
                self._own_file.forget()
                self._settled = False
                self._evicted = True
            elif found.st_nlink == 0 or held.place.gone:
                logger.warning("%s: our file was removed; we count in a new one", path)
                self._evicted = True
        if self._evicted:
            self._find_directory()
            self._create_file()
            self._own_file.mark_ready()
            self._settled = True
        self._open_control()

    def run_once(self) -> None:
        """What the thread does each time: sees to our file and scan_counts around. What goes wrong is told once."""
        try:
            with _lock:
                if self._finalizer.alive:
                    self._repair_own_file()
                    self.scan()
        except Exception as error:  # whatever it is: a thread that ended would leave the dead among the counted
            if str(error) != self._complaint:
                foreseen = isinstance(error, (OSError, InboundAuditError))
                logger.error("%s: %s", self._held.place.path, error, exc_info=not foreseen)
            self._complaint = str(error)
        else:
            self._complaint = ""

    def start(self) -> None:
        """Starts the thread that scans, unless it runs. A failure is logged; a later call tries again."""
        held = self._held
        if held.control_server.listens:
            with contextlib.suppress(OSError, RuntimeError):
                held.control_server.start()
        if held.thread is not None or not self._finalizer.alive:
            return
        try:
            told, wake = os.pipe()
        except OSError as error:
            logger.error("%s: nobody scan_counts around: %s", held.place.path, error.strerror)
            return
        thread = threading.Thread(
            target=_watch,
            args=(weakref.ref(self), held.place.path, told),
            name=f"inbound_audit {self._name}",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError as error:
            os.close(told)
            os.close(wake)
            logger.error("%s: nobody scan_counts around: %s", held.place.path, error)
            return
        held.thread, held.wake = thread, wake

    # ---- what others are asked

    def request_others(self, request: Mapping[str, object], timeout: float = client.TIMEOUT_S) -> list[str]:
        """Asks all the others to carry out a request: a sentence for each that did not. Waits `timeout` at most."""
        with _lock:
            owners = {owner.id: owner for owner in self._scanner.owners if owner.damaged is None}
            if not owners:
                return []
            try:
                place = _Borrowed(os.dup(self._held.place.fd))  # the directory may be made anew meanwhile
            except OSError as error:
                return [f"nobody can be asked: {error.strerror}"]
        try:
            answers = client.request_all(place, owners, request, timeout)
        except SharedStateError as error:
            return [str(error)]
        finally:
            os.close(place.fd)
        return [
            f"process {owners[owner_id].pid} {why}"
            for owner_id, answer in answers.items()
            if (why := client.why_not(answer)) is not None
        ]

    # ---- the end, and forks

    def close(self) -> None:
        """Counts nowhere any more. The audit has forgotten its sessions. Idempotent."""
        with _lock:
            self._settled = False
            self._held.stop()
            self._scanner.detach_all()
            self._finalizer()

    def leave(self) -> None:
        """Python exits."""
        with _lock:
            self._held.leave()

    def stop(self) -> None:
        """Before a fork. The caller holds the lock."""
        self._held.stop()

    def in_child(self) -> None:
        """In a forked child, whose audit has forgotten its sessions already: lets go of the parent's file."""
        self._settled = self._evicted = False
        self._held.in_child()


class _Borrowed(NamedTuple):
    fd: int


def _carrying_out(audit: _ipcount.Audit) -> Callable[[bytes], bytes]:
    """What answers requests to an `InboundAudit`, and does not keep it."""
    ref = weakref.ref(audit)

    def handle(line: bytes) -> bytes:
        found = ref()
        return b"" if found is None else protocol.handle(cast(protocol.ControlTarget, found), line)

    return handle


def before_fork() -> None:
    """From here on nobody scan_counts around, or makes a file; the caller stops the threads."""
    _lock.acquire()


def after_fork_in_parent() -> None:
    _lock.release()


def after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()


def _watch(member: weakref.ref[Membership], path: str, told: int) -> None:
    """The thread. It holds no audit, so that one which nobody else holds is collected."""
    with contextlib.ExitStack() as held:
        held.callback(os.close, told)
        poll = select.poll()
        poll.register(told, select.POLLIN)
        heard = -1
        with contextlib.suppress(
            OSError
        ):  # a user may have 128 of these: without one a scan is due every SCAN_INTERVAL_S
            heard = _ipcount.watch_directory(path)
            held.callback(os.close, heard)
            poll.register(heard, select.POLLIN)
        timeout = SCAN_INTERVAL_S
        while True:
            events = [fd for fd, _ in poll.poll(1000 * timeout)]
            if told in events:
                return
            timeout = SCAN_INTERVAL_S
            if heard in events:
                os.read(heard, 65536)
                timeout = RESCAN_DELAY_S
            while not _lock.acquire(timeout=RESCAN_DELAY_S):
                if any(fd == told for fd, _ in poll.poll(0)):
                    return
            try:
                membership = member()
                if membership is None:
                    return
                membership.run_once()
                del membership
            finally:
                _lock.release()
