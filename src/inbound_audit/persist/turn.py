"""Whose turn it is: one lock for all keepers of a process, and what becomes of them at forks and at the end.

Nobody is in the middle of a save when the process forks, and the threads stand still, as in `shared.membership`.

Lock rule: nobody who has the turn waits for a thread that wants it, but for threads that give up waiting when they are
told to end.
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


class Turn:
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


turn = Turn()
alive: weakref.WeakSet[Member] = weakref.WeakSet()

_fork = threading.local()  # `members` of the fork that this thread is in


def _before_fork() -> None:
    turn.take()
    _fork.members = list(alive)
    for member in _fork.members:
        member.stop()


def _after_fork_in_parent() -> None:
    for member in _fork.__dict__.pop("members", ()):
        member.start()
    turn.give()


def _after_fork_in_child() -> None:
    turn.renew()
    for member in _fork.__dict__.pop("members", ()):
        member.in_child()
        member.start()


def _at_exit() -> None:
    for member in list(alive):
        member.leave()


atexit.register(_at_exit)
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
