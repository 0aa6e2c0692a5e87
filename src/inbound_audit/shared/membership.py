"""A process that counts in a shared audit: its own file, and the thread that looks who else is there.

To join, and to open a listener, is to be seen: who comes later looks at all that are there, and waits until each of
them has looked around once since. So two owners know of each other before the one that came later counts its first
session; from then on a session that is opened, a fence, and the others' counts read are all that a limit needs:
of two that race for the last place both see both, or one does. The wait is bounded: a process that is stopped looks at
nobody, and opens nothing either.

The thread sleeps until the directory changes (inotify) and looks around then, and every `PERIOD` in any case.

Fork: the parent's thread is stopped meanwhile, so that the child is copied from a process that looks at nothing. The
child lets go of the parent's file first of all, then has neither file nor sessions; it gets a file when it opens its
first session.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
import weakref

from inbound_audit import _ipcount
from inbound_audit.errors import InboundAuditError, SharedStateError
from inbound_audit.shared import files
from inbound_audit.shared.neighbours import Neighbours
from inbound_audit.shared.place import Place

logger = logging.getLogger("inbound_audit.shared")

PERIOD = 0.2
"""Seconds between two looks when nothing is heard: the most that a dead process is counted after its death."""

SOON = 0.02
"""Seconds to the look after one that was caused by an event: a file is closed just before its lock is let go."""

PATIENCE = 1.0
"""Seconds that a newcomer waits for the others to have seen it."""


class _Held:
    """What the system has lent us: descriptors, a name, a thread. It knows nothing of the audit, and can outlive it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.fd: int | None = None
        self.file: str | None = None
        self.thread: threading.Thread | None = None
        self.wake: tuple[int, int] | None = None

    def stop(self) -> None:
        """Ends the thread, and waits for that."""
        thread, self.thread = self.thread, None
        wake, self.wake = self.wake, None
        if thread is not None and wake is not None:
            os.close(wake[1])
            if thread is not threading.current_thread():  # which may be the one that collects an audit
                thread.join()
            os.close(wake[0])

    def let_go(self) -> None:
        self.stop()
        if self.file is not None:
            files.remove(self.place, self.file)
        if self.fd is not None:
            os.close(self.fd)
        self.fd = self.file = None
        self.place.close()

    def in_child(self) -> None:
        """A fork's child has none of the parent's threads, and lets go of its file."""
        self.thread = None
        if self.wake is not None:
            for fd in self.wake:
                os.close(fd)
        if self.fd is not None:
            os.close(self.fd)
        self.fd = self.file = self.wake = None


class Membership:
    """One audit's part in a place. Raises SharedStateError or CapacityError when it can't have one."""

    def __init__(self, audit: _ipcount.Audit, name: str, group: str | None) -> None:
        self._audit = audit
        self._name = name
        self._group = group
        self._lock = threading.RLock()
        self._complaint = ""
        self._evicted = False  # our file is not where others find it: a new one is due
        self._held = _Held(Place(name, group))
        self._neighbours = Neighbours(audit, self._held.place, remove_dead=True)
        # Also when the audit is collected, or Python exits.
        self._end = weakref.finalize(audit, self._held.let_go)

    def join(self) -> None:
        """Counts from now on. Raises SharedStateError or CapacityError."""
        self.settle()
        self.start()

    # ---- our own file

    def settle(self) -> None:
        """Makes our file, lets others find it and waits until they have."""
        with self._lock:
            if self._held.fd is not None:
                return
            self.look()
            for name, why in self._neighbours.strangers:
                raise SharedStateError(f"{self._held.place.path}/{name}: {why}")
            self._move_in()
            self.be_seen()
            self._audit._settled()

    def _move_in(self) -> None:
        """A new file with all our listeners in it; the one before is closed when it is found."""
        held = self._held
        if held.place.gone:
            place, held.place = held.place, Place(self._name, self._group)
            place.close()
            self._neighbours.move(held.place)
        fd = files.make(held.place)
        try:
            self._audit._share(fd, os.getpid(), time.time_ns() // 1000)
            name = files.publish(held.place, fd)
        except BaseException:
            self._audit._unsettle(fd)
            os.close(fd)
            raise
        before, held.fd, held.file = held.fd, fd, name
        if before is not None:
            os.close(before)

    def be_seen(self) -> None:
        """Waits until everybody who is there has looked around once from now on, at most `PATIENCE`."""
        with self._lock:
            if self._held.fd is None:
                return
            os.utime(self._held.fd)  # whoever watches the directory wakes up
            self.look()
            # An odd number is a look that may have begun before; the one after it counts.
            awaited = {name: (looked + 1) // 2 * 2 + 2 for name, looked in self._neighbours.waiting_for().items()}
            deadline = time.monotonic() + PATIENCE
            pause = 0.0005
            while awaited and time.monotonic() < deadline:
                time.sleep(pause)
                pause = min(2 * pause, 0.01)
                self.look()  # others may be waiting for us
                now = self._neighbours.waiting_for()
                awaited = {name: looked for name, looked in awaited.items() if now.get(name, looked) < looked}

    # ---- looking around

    def look(self) -> None:
        """Finds new owners, drops dead ones, and sees to our own file."""
        with self._lock:
            self._audit._looking(True)
            try:
                self._neighbours.look(self._held.fd)
            finally:
                self._audit._looking(False)

    def _mind_our_file(self) -> None:
        """Somebody may have removed our file, or cut it short: nobody would count us any more."""
        with self._lock:
            if self._audit.closed:
                return
            path = self._held.place.path
            if self._held.fd is not None and not self._evicted:
                needed = self._audit._needed  # asked first: the file may grow meanwhile
                found = os.fstat(self._held.fd)
                self._evicted = True
                if found.st_size < needed:
                    logger.error("%s: our file was cut short: the sessions that were open are counted no more", path)
                    self._audit._forget()
                elif found.st_nlink == 0:
                    logger.warning("%s: our file was removed; we count in a new one", path)
                else:
                    self._evicted = False
            if self._evicted:
                self._move_in()
                self._evicted = False
                self.be_seen()
                self._audit._settled()

    def attend(self) -> None:
        """What the thread does each time: sees to our file and looks around. What goes wrong is told once."""
        try:
            self._mind_our_file()
            self.look()
        except (OSError, InboundAuditError) as error:
            if str(error) != self._complaint:
                logger.error("%s: %s", self._held.place.path, error)
            self._complaint = str(error)
        else:
            self._complaint = ""

    def start(self) -> None:
        """Starts the thread that looks around, unless it runs."""
        if self._held.thread is None:
            self._held.wake = os.pipe()
            self._held.thread = threading.Thread(
                target=_watch,
                args=(weakref.ref(self), self._held.place.path, self._held.wake[0]),
                name=f"inbound_audit {self._name}",
                daemon=True,
            )
            self._held.thread.start()

    def pause(self) -> None:
        """Before a fork: nobody looks around or makes a file until `resume`, or for ever in the child."""
        self._held.stop()
        self._lock.acquire()

    def resume(self) -> None:
        """After it, in the parent."""
        self._lock.release()
        self.start()

    # ---- the end, and forks

    def close(self) -> None:
        """Counts nowhere any more. The audit has forgotten its sessions. Idempotent."""
        self._held.stop()
        with self._lock:
            self._neighbours.forget()
            self._end()

    def in_child(self) -> None:
        """In a forked child, whose audit has forgotten its sessions already."""
        self._lock = threading.RLock()  # the other is held, and not by this thread
        self._evicted = False
        self._held.in_child()
        self.attend()
        self.start()


def _watch(member: weakref.ref[Membership], path: str, wake: int) -> None:
    """The thread. It holds no audit, so that one which nobody else holds is collected."""
    with contextlib.ExitStack() as held:
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        heard = -1
        with contextlib.suppress(OSError):  # a user may have 128 of these: without one it is looked every PERIOD
            heard = _ipcount.watch_directory(path)
            held.callback(os.close, heard)
            poll.register(heard, select.POLLIN)
        timeout = PERIOD
        while True:
            events = [fd for fd, _ in poll.poll(1000 * timeout)]
            if wake in events:
                return
            timeout = PERIOD
            if heard in events:
                os.read(heard, 65536)
                timeout = SOON
            membership = member()
            if membership is None:
                return
            membership.attend()
            del membership
