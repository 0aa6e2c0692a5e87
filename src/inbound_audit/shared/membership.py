"""A process that counts in a shared audit: its own file, and the thread that looks who else is there.

To join, and to open a listener, is to be seen: who comes later looks at all that are there, and waits until each of
them has looked around once since. So two owners know of each other before the one that came later counts its first
session; from then on a session that is opened, a fence, and the others' counts read are all that a limit needs:
of two that race for the last place both see both, or one does. The wait is bounded: a process that is stopped looks at
nobody, and opens nothing either.

The thread sleeps until the directory changes (inotify) and looks around then, and every `PERIOD` in any case.

Fork: the parent's threads are stopped meanwhile and nobody makes a file, so that the child is copied from a process
that looks at nothing. The child lets go of the parent's file first of all, then has neither file nor sessions; it gets
a file when it opens its first session.

Lock rule: `_lock` is one for all memberships of the process, held for a look or a move, never for a wait. The thread
gives up waiting for it when it is told to stop, so whoever stops the thread may hold it.
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
from inbound_audit.shared import asked, control, files
from inbound_audit.shared.answering import Answering
from inbound_audit.shared.neighbours import Neighbours
from inbound_audit.shared.place import Place

logger = logging.getLogger("inbound_audit.shared")

PERIOD = 0.2
"""Seconds between two looks when nothing is heard: the most that a dead process is counted after its death."""

SOON = 0.02
"""Seconds to the look after one that was caused by an event: a file is closed just before its lock is let go."""

PATIENCE = 1.0
"""Seconds that a newcomer waits for the others to have seen it."""

_lock = threading.RLock()


class _Held:
    """What the system has lent us: descriptors, a name, a thread. It knows nothing of the audit, and can outlive it."""

    def __init__(self, place: Place, answering: Answering) -> None:
        self.place = place
        self.answering = answering
        self.fd: int | None = None
        self.file: str | None = None
        self.thread: threading.Thread | None = None
        self.wake: int | None = None
        """The thread ends when this end of its pipe is closed; the other one is its own."""

    def stop(self) -> None:
        """Ends the threads, and waits for that."""
        self.answering.stop()
        thread, self.thread = self.thread, None
        wake, self.wake = self.wake, None
        if wake is not None:
            os.close(wake)
        if thread is not None and thread is not threading.current_thread():  # which may be the one that collects us
            thread.join()

    def leave(self) -> None:
        """Nobody finds our file any more, and nobody looks around. The file stays open: it may still be written to."""
        self.answering.close()
        self.stop()
        if self.file is not None:
            files.remove(self.place, self.file)
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
        self.answering.in_child()
        for fd in (self.wake, self.fd):
            if fd is not None:
                os.close(fd)
        self.thread = self.wake = self.fd = self.file = None


class Membership:
    """One audit's part in a place. Raises SharedStateError or CapacityError when it can't have one."""

    def __init__(self, audit: _ipcount.Audit, name: str, group: str | None) -> None:
        self._audit = audit
        self._name = name
        self._group = group
        self._complaint = ""
        self._unasked = ""  # why nobody can ask us, as it was told
        self._settled = False  # sessions may be opened: we have a file, and were seen
        self._evicted = False  # our file is not where others find it: a new one is due
        self._held = _Held(Place(name, group), Answering(name, _carrying_out(audit)))
        self._neighbours = Neighbours(audit, self._held.place, remove_dead=True)
        # When the audit is collected. When Python exits, descriptors are left to the system: sessions may still come.
        self._end = weakref.finalize(audit, self._held.let_go)
        self._end.atexit = False

    # ---- our own file

    def settle(self) -> None:
        """Makes our file, lets others find it, waits until they have, and looks around from then on.

        Raises SharedStateError or CapacityError, and everything is as it was.
        """
        with _lock:
            if not self._end.alive:
                raise InboundAuditError("the audit is closed")
            if self._settled:
                return
            path = self._held.place.path
            if self._held.fd is None or self._evicted:
                try:
                    self._find_place()
                    self.look()
                    for name, why in self._neighbours.strangers:
                        raise SharedStateError(f"{path}/{name}: {why}")
                    self._move_in()
                    self._answer()
                except OSError as error:
                    raise SharedStateError(f"{path}: {error.strerror}") from None
        self.be_seen()
        with _lock:
            self._audit._mark_ready()
            self._settled = True
            self.start()

    def _find_place(self) -> None:
        """The directory may have been removed, or renamed: then it is made anew, where others look for it."""
        held = self._held
        if held.place.gone:
            before, held.place = held.place, Place(self._name, self._group, held.place.path)
            if held.file is not None:
                files.remove(before, held.file)
                held.file = None
            before.close()
            self._neighbours.move(held.place)

    def _move_in(self) -> None:
        """A new file with all our listeners in it. For a moment others may count both it and the one before."""
        held = self._held
        fd = files.make(held.place)
        try:
            self._audit._share(fd, os.getpid(), time.time_ns() // 1000)
            name = files.publish(held.place, fd)
        except BaseException:
            self._audit._detach_file(fd)
            os.close(fd)
            raise
        if held.file is not None:
            files.remove(held.place, held.file)
        before, held.fd, held.file = held.fd, fd, name
        held.answering.hush()  # its name is the one before
        self._evicted = False
        if before is not None:
            os.close(before)

    def _answer(self) -> None:
        """Lets ourselves be asked, if we can't be. What keeps us from it keeps nobody from counting, and is told."""
        held, why = self._held, ""
        if held.file is not None and not (held.answering.listens and files.has_socket(held.place, held.file)):
            try:
                held.answering.listen(held.place, files.id_of(held.file))
                held.answering.start()
            except (OSError, RuntimeError) as error:
                why = str(error)
                if why != self._unasked:
                    logger.warning("%s: nobody can ask us to change counts: %s", held.place.path, why)
        self._unasked = why

    def be_seen(self) -> None:
        """Waits until everybody who is there has looked around once from now on, at most `PATIENCE`."""
        deadline = time.monotonic() + PATIENCE
        pause = 0.0005
        awaited: dict[str, int] | None = None
        while True:
            try:
                with _lock:
                    if self._held.fd is None:
                        return
                    if awaited is None:
                        os.utime(self._held.fd)  # whoever watches the directory wakes up
                    self.look()  # others may be waiting for us
                    now = self._neighbours.looks
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

    def look(self) -> None:
        """Finds new owners, and drops dead ones. Raises OSError: then it was no look, and others wait for another."""
        with _lock:
            if not self._end.alive:
                return
            self._audit._scan_mark(True)
            try:
                self._neighbours.look(self._held.fd)
            except OSError:
                if self._end.alive:  # or else a signal's handler has closed it meanwhile
                    raise
            self._audit._scan_mark(False)

    def _mind_our_file(self) -> None:
        """Somebody may have removed our file, or cut it short: nobody would count us any more."""
        held = self._held
        if held.fd is None:
            self._find_place()
            return
        path = held.place.path
        if not self._evicted:
            needed = self._audit._needed  # asked first: the file may grow meanwhile
            found = os.fstat(held.fd)
            if found.st_size < needed:
                logger.error("%s: our file was cut short: the sessions that were open are counted no more", path)
                self._audit._forget()
                self._settled = False
                self._evicted = True
            elif found.st_nlink == 0 or held.place.gone:
                logger.warning("%s: our file was removed; we count in a new one", path)
                self._evicted = True
        if self._evicted:
            self._find_place()
            self._move_in()
            self._audit._mark_ready()
            self._settled = True
        self._answer()

    def attend(self) -> None:
        """What the thread does each time: sees to our file and looks around. What goes wrong is told once."""
        try:
            with _lock:
                if self._end.alive:
                    self._mind_our_file()
                    self.look()
        except Exception as error:  # whatever it is: a thread that ended would leave the dead among the counted
            if str(error) != self._complaint:
                foreseen = isinstance(error, (OSError, InboundAuditError))
                logger.error("%s: %s", self._held.place.path, error, exc_info=not foreseen)
            self._complaint = str(error)
        else:
            self._complaint = ""

    def start(self) -> None:
        """Starts the thread that looks around, unless it runs. If it can't, that is told, and tried again later."""
        held = self._held
        if held.answering.listens:
            with contextlib.suppress(OSError, RuntimeError):
                held.answering.start()
        if held.thread is not None or not self._end.alive:
            return
        try:
            told, wake = os.pipe()
        except OSError as error:
            logger.error("%s: nobody looks around: %s", held.place.path, error.strerror)
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
            logger.error("%s: nobody looks around: %s", held.place.path, error)
            return
        held.thread, held.wake = thread, wake

    # ---- what others are asked

    def tell_others(self, request: Mapping[str, object], timeout: float = control.PATIENCE) -> list[str]:
        """Asks all the others to carry out a request: a sentence for each that did not. Waits `timeout` at most."""
        with _lock:
            owners = {owner.id: owner for owner in self._neighbours.owners if owner.damaged is None}
            if not owners:
                return []
            try:
                place = _Borrowed(os.dup(self._held.place.fd))  # the directory may be made anew meanwhile
            except OSError as error:
                return [f"nobody can be asked: {error.strerror}"]
        try:
            answers = control.ask_all(place, owners, request, timeout)
        except SharedStateError as error:
            return [str(error)]
        finally:
            os.close(place.fd)
        return [
            f"process {owners[owner_id].pid} {why}"
            for owner_id, answer in answers.items()
            if (why := control.why_not(answer)) is not None
        ]

    # ---- the end, and forks

    def close(self) -> None:
        """Counts nowhere any more. The audit has forgotten its sessions. Idempotent."""
        with _lock:
            self._settled = False
            self._held.stop()
            self._neighbours.forget()
            self._end()

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

    def carry_out(line: bytes) -> bytes:
        found = ref()
        return b"" if found is None else asked.carry_out(cast(asked.Asked, found), line)

    return carry_out


def before_fork() -> None:
    """From here on nobody looks around, or makes a file; the caller stops the threads."""
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
        with contextlib.suppress(OSError):  # a user may have 128 of these: without one it is looked every PERIOD
            heard = _ipcount.watch_directory(path)
            held.callback(os.close, heard)
            poll.register(heard, select.POLLIN)
        timeout = PERIOD
        while True:
            events = [fd for fd, _ in poll.poll(1000 * timeout)]
            if told in events:
                return
            timeout = PERIOD
            if heard in events:
                os.read(heard, 65536)
                timeout = SOON
            while not _lock.acquire(timeout=SOON):
                if any(fd == told for fd, _ in poll.poll(0)):
                    return
            try:
                membership = member()
                if membership is None:
                    return
                membership.attend()
                del membership
            finally:
                _lock.release()
