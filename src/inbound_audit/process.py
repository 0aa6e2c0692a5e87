"""The life of the process: forks, exit, and background threads.

What must survive a fork, or act at exit, registers here, in one of the `Stage`s. In a child, stages follow one another
from the first to the last; at exit, from the last to the first. Before a fork, the locks are taken from the last stage
to the first, then the background threads are stopped: so the child is a copy of a process in which no thread of ours is
in the middle of a change. In the parent the threads go on.

A fork may bypass Python's hooks (a server that embeds Python, `ctypes`). Its child is found out before anything is
counted there (`_ipcount.handle_fork`), and goes through the same steps, but for those before the fork: so a member
takes nothing for granted but that its own thread and the locks' holders do not exist.

docs/model/fork.pml is a model of this; comments "model: fork/NAME" name its steps.

Lock rule: a thread that holds the lock of a stage takes only locks of earlier stages. The holder of a lock may wait for
a background thread to stop: `BackgroundThread.acquire` gives up when the thread is to stop.
"""

from __future__ import annotations

import atexit
import contextlib
import enum
import logging  # its fork handlers must be there before ours, which wait for a thread that may be logging
import os
import select
import threading  # and its own handlers, before ours start a thread in a child
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar

from inbound_audit import _ipcount
from inbound_audit.descriptor import Descriptor, pipe

logger = logging.getLogger("inbound_audit")

LOCK_POLL_S = 0.02

MAX_WAIT_S = 1.0
"""Seconds of the longest wait: other code may close a pipe that a thread is about to wait for, and no wake comes."""

RETRY_S = 0.2
"""Seconds after which a background thread begins again after an error that was not expected."""

Member = TypeVar("Member")


class Stage(enum.IntEnum):
    """What depends on what: a member may use those of earlier stages."""

    COUNTS = 0
    SHARED = 1
    PERSISTED = 2


class ProcessLock:
    """A re-entrant lock that is free in a child of a fork: the thread of the parent that held it does not exist there.

    Before a fork the locks of the stages are taken, so what they protect is whole in the child. What any other lock
    protects is as the thread left it: each change under it has to be one that may stop in the middle.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _locks.add(self)

    def acquire(self, timeout: float = -1) -> bool:
        _ipcount.handle_fork()
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        self._lock.release()

    def renew(self) -> None:
        """In a child: its holder may not exist."""
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


_locks: weakref.WeakSet[ProcessLock] = weakref.WeakSet()

shared_lock, persist_lock = ProcessLock(), ProcessLock()
"""Of all memberships, and of all stores, of this process."""

Step: TypeAlias = Callable[[Any], object]

_members: dict[Stage, weakref.WeakKeyDictionary[object, tuple[Step, Step | None]]] = {
    stage: weakref.WeakKeyDictionary() for stage in Stage
}
_threads: weakref.WeakSet[BackgroundThread] = weakref.WeakSet()


class HeldInForks(Protocol):
    """A lock, or what else a fork waits for."""

    def acquire(self) -> object: ...
    def release(self) -> object: ...


_waited_for: weakref.WeakSet[HeldInForks] = weakref.WeakSet()


def wait_before_forks(lock: HeldInForks) -> None:
    """From now on a fork waits until no other thread holds the lock. What it protects may run without the GIL, and a
    thread that holds it may take the locks of all stages."""
    _waited_for.add(lock)


def register(member: Member, stage: Stage, in_child: Callable[[Member], object], at_exit: Step | None = None) -> None:
    """From now on the member takes part in forks and in the exit, until it is collected.

    `in_child` gives up what belongs to the parent; threads of the parent do not exist then. Both get the member.
    """
    _members[stage][member] = (in_child, at_exit)


class BackgroundThread:
    """One daemon thread for all of its members; it runs `job` while there are any. Members need a thread to save or to
    scan, and thousands of threads would wait for one lock.

    `job` is called in the thread with this object. It returns when `wait` or `acquire` says so. The thread may be
    stopped, and started again, any number of times.

    Lock rule: none. All methods may be called from any thread, also from the background thread itself and from
    finalizers: `enter` adds before it starts, and `leave` starts the thread again if a member came while it was
    stopped.
    """

    def __init__(self, name: str, job: Callable[[BackgroundThread], None]) -> None:
        self._name = name
        self._job = job
        self.after_fork_in_child()
        _threads.add(self)

    def after_fork_in_child(self) -> None:
        """The thread does not exist here, and the pipe is the parent's."""
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._stops = False
        self._busy = False
        self._pipe: tuple[Descriptor, Descriptor] | None = None
        self._members: dict[Any, None] = {}

    @property
    def members(self) -> list[Any]:
        return list(self._members)

    def __contains__(self, member: object) -> bool:
        return member in self._members

    def enter(self, member: object) -> None:
        """Starts the thread unless it runs. Again with the same member: the same. Raises OSError, RuntimeError."""
        self._members[member] = None
        self.start()
        self.wake()

    def leave(self, member: object) -> None:
        """Ends the thread with its last member. Idempotent."""
        if self._members.pop(member, self) is None and not self._members:
            self.stop()
            if self._members:
                self.start()

    def start(self) -> None:
        """Starts the thread, unless it runs. Raises RuntimeError."""
        with self._lock:
            self._stops = False
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()  # model: fork/start
                self._thread = thread

    def start_if_missing(self) -> None:
        """Starts the thread if there are members and no thread. One that `stop` waits for ends as it was asked to.
        Raises RuntimeError."""
        with self._lock:
            if self._members and self._thread is None:
                self.start()

    def stop(self) -> bool:
        """Ends the thread, and waits for that, unless it is in a `busy` block: it ends after the block. Returns whether
        it ran."""
        with self._lock:
            runs = self._thread is not None and not self._stops
            self._stops = True  # model: fork/stop
            thread = None if self._busy else self._thread
        self.wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join()  # model: fork/join
        return runs

    def wake(self) -> None:
        """Lets `wait` return."""
        with self._lock, contextlib.suppress(OSError):  # a full pipe wakes the thread, and so did the loss of an end
            if self._pipe is not None:
                os.write(self._pipe[1].number, b"\0")

    # ---- for the job

    def wait(self, timeout: float | None, polled: Mapping[int, int] | None = None) -> set[int] | None:
        """Waits for `timeout` seconds, for `wake`, or for events of descriptors: their numbers, and which events. May
        return sooner.

        Returns the numbers that have events, or None when the job is to return.
        """
        try:
            end = self._open_pipe()
        except OSError:  # no descriptor is left, or other code closes them now
            time.sleep(LOCK_POLL_S)
            return None if self._ends() else set()
        if self._ends():  # `stop` may have found no pipe to write to
            return None
        poll = select.poll()
        poll.register(end, select.POLLIN)
        for number, events in (polled or {}).items():
            poll.register(number, events)
        found = {number for number, _ in poll.poll(1000 * min(MAX_WAIT_S, MAX_WAIT_S if timeout is None else timeout))}
        with self._lock, contextlib.suppress(OSError):
            if end in found and self._pipe is not None:
                os.read(self._pipe[0].number, 4096)
        return None if self._ends() else found - {end}

    def acquire(self, lock: ProcessLock) -> bool:
        """Takes a lock; False when the job is to return instead."""
        while not lock.acquire(LOCK_POLL_S):  # model: fork/take_or_give_up
            if self._ends():
                return False
        return True

    @property
    def runs(self) -> bool:
        """Whether the thread exists: also one that is in a `busy` block and ends after it."""
        return self._thread is not None

    @contextlib.contextmanager
    def busy(self) -> Iterator[bool]:
        """A block that `stop` does not wait for. False: the thread is to stop, so do nothing in the block."""
        with self._lock:
            self._busy = not self._stops
        try:
            yield self._busy
        finally:
            with self._lock:
                self._busy = False

    def _ends(self) -> bool:
        """Whether the job is to return. From then on `start` makes another thread."""
        with self._lock:
            if self._stops and self._thread is threading.current_thread():
                self._thread = None  # model: fork/end_of_job
            return self._thread is not threading.current_thread()

    def _open_pipe(self) -> int:
        """The end to read from. A pipe that other code has closed is made anew. Raises OSError."""
        with self._lock:
            if self._pipe is None or not all(end.is_ours for end in self._pipe):
                self._pipe = pipe()
            return self._pipe[0].number

    def _run(self) -> None:
        with self._lock:  # `start` has noted the thread
            pass
        while not self._ends():
            try:
                self._job(self)
                break
            except Exception:
                logger.exception("the thread %r begins again", self._name)
                time.sleep(RETRY_S)
        with self._lock:
            if self._thread is threading.current_thread():
                self._thread = None


def start_missing_threads() -> None:
    """Starts the background threads that could not be started when they were needed: the system had none to give. The
    lock of a stage is held, so no fork is on its way."""
    for thread in list(_threads):
        with contextlib.suppress(RuntimeError):  # was logged when it was needed
            thread.start_if_missing()


# ---- forks and exit

_paused: list[BackgroundThread] = []  # those that run again in the parent; under both locks
_held: list[Any] = []  # the locks that this fork has waited for


def _before_fork() -> None:
    waited_for = sorted(_waited_for, key=id)  # one order for threads that fork at the same time
    for lock in waited_for:
        lock.acquire()
    persist_lock.acquire()  # model: fork/lock_persist
    shared_lock.acquire()  # model: fork/lock_shared
    _held[:] = waited_for
    _paused[:] = [thread for thread in list(_threads) if thread.stop()]
    _ipcount._lock_counters()
    _ipcount.announce_fork(True)  # next: model: fork/fork


def _after_fork_in_parent() -> None:
    _ipcount.announce_fork(False)
    _ipcount._release_counters()
    paused, _paused[:] = list(_paused), []
    for thread in paused:
        _guarded(thread.start)  # model: fork/start_again
    held, _held[:] = list(_held), []
    shared_lock.release()  # model: fork/unlock
    persist_lock.release()
    for lock in held:
        lock.release()


def _after_fork_in_child() -> None:
    _ipcount._release_counters()
    _ipcount.handle_fork()
    _ipcount.announce_fork(False)
    while _held:
        _held.pop().release()


def _become_child() -> None:
    """The handler of all forks: in the child, before anything is counted there."""
    _paused.clear()
    for lock in list(_locks):
        lock.renew()  # model: fork/renew_locks
    for thread in list(_threads):
        thread.after_fork_in_child()
    for stage in Stage:
        for member, (in_child, _) in list(_members[stage].items()):
            _guarded(in_child, member)  # model: fork/forget


def _at_exit() -> None:
    if not _ipcount.fork_is_pending():  # else all that is open is the parent's
        for stage in reversed(Stage):
            for member, (_, at_exit) in list(_members[stage].items()):
                if at_exit is not None:
                    _guarded(at_exit, member)


def _guarded(step: Callable[..., object], *arguments: object) -> None:
    """What one member does wrong keeps no other from its part."""
    try:
        step(*arguments)
    except Exception:
        logger.exception("a fork or the exit of the process was not handled completely")


_ipcount.set_fork_handler(_become_child)
atexit.register(_at_exit)
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
