"""One lock for all stores of a process, and what happens to them at forks and at exit.

No save is in progress when the process forks, and the threads are stopped, as in `shared.membership`.

Lock rule: the holder waits for no thread that may be waiting for the lock, except threads that give up waiting when
they are stopped.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from typing import Protocol


class Member(Protocol):
    """A keeper, as far as the process's life goes."""

    def stop(self) -> None: ...
    def start(self) -> None: ...
    def in_child(self) -> None: ...
    def leave(self) -> None: ...


class ProcessLock:
    """A lock that the thread which has it may take again, and that a fork's child has anew."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def take(self, timeout: float = -1) -> bool:
        return self._lock.acquire(timeout=timeout)

    def give(self) -> None:
        self._lock.release()

    def renew(self) -> None:
        """In a fork's child: whoever waits for it there is not."""
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


process_lock = ProcessLock()
alive: weakref.WeakSet[Member] = weakref.WeakSet()

_fork = threading.local()  # `members` of the fork that this thread is in


def _before_fork() -> None:
    process_lock.take()
    _fork.members = list(alive)
    for member in _fork.members:
        member.stop()


def _after_fork_in_parent() -> None:
    for member in _fork.__dict__.pop("members", ()):
        member.start()
    process_lock.give()


def _after_fork_in_child() -> None:
    process_lock.renew()
    for member in _fork.__dict__.pop("members", ()):
        member.in_child()
        member.start()


def _at_exit() -> None:
    for member in list(alive):
        member.leave()


atexit.register(_at_exit)
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
