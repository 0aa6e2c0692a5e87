"""What has changed in the directories of shared audits: one inotify descriptor for the process.

A user may have few of these descriptors (128 by default), and other code may close ours. A directory without a watch is
compared by its time of change; then any of its files may have changed.

Lock rule: `shared_lock`, for everything but `watched`.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
import time
import weakref
from collections.abc import Mapping

from inbound_audit import _ipcount
from inbound_audit.descriptor import Descriptor
from inbound_audit.process import Stage, register
from inbound_audit.shared.directory import Directory

_EVENT = struct.Struct("iIII")  # watch, what happened, cookie, bytes of the name
_CLOSED, _IGNORED = 0x8, 0x8000  # by its writer; the watch has ended

_COARSE_NS = 50_000_000
"""Two changes within this time may give a directory the same time of change."""


class Changes:
    """The names that have changed in a directory; at first, and where it can't be found out, any may have.

    A file that was closed by its writer is reported twice, by two calls of `take`: a process that dies closes its file
    just before the kernel releases the lock on it. Without a watch, only new and lost names are found.
    """

    def __init__(self, place: Directory) -> None:
        self.place = place
        self._names: set[str] | None = None  # None: any
        self._closed: set[str] = set()
        self._again: set[str] | None = set()
        self._number = 0  # of the watch; 0: none
        self._changed_ns = 0
        self._listed: set[str] = set()
        self._follow()

    @property
    def pending(self) -> bool:
        """Whether there is something to take that was not reported yet, as of the last `inotify.read`."""
        if not self._number and self._names is not None:
            try:
                self._compare()
            except OSError:
                self._names = None
        return self._names is None or bool(self._names)

    @property
    def repeats(self) -> bool:
        """Whether there is something to take for the second time."""
        return self._again is None or bool(self._again)

    @property
    def watched(self) -> bool:
        """Whether the system reports changes here by itself."""
        return self._number > 0

    def take(self, *, all: bool = False) -> set[str] | None:
        """The names that have changed since the last call, and those of the last call; None: `all`, or any."""
        if all and not self._number:
            self._follow()
        found = self._names if self.pending else set()
        names = None if found is None or self._again is None else found | self._again
        self._names, self._again, self._closed = set(), None if found is None else self._closed, set()
        return None if all else names

    def mentions(self, name: str) -> bool:
        """Whether `take` would report that name."""
        return self.pending and (self._names is None or name in self._names)

    def lose_track(self) -> None:
        """What was taken last was not checked: any name may have changed."""
        self._names = None

    def note(self, names: Mapping[str, int]) -> None:
        """Those names have changed, and what happened to each. The directory itself has none."""
        if self._names is not None:
            self._names.update(filter(None, names))
        self._closed.update(name for name, what in names.items() if what & _CLOSED)

    def lose(self) -> None:
        """The watch has ended, or events were lost."""
        self._number, self._names = 0, None

    def close(self) -> None:
        """Ends the watch. Idempotent."""
        inotify.remove(self, self._number)
        self._number = 0

    def _follow(self) -> None:
        with contextlib.suppress(OSError):  # as the system allows
            self._number = inotify.add(self)
            self._names = None  # what came before the watch

    def _compare(self) -> None:
        changed_ns = os.fstat(self.place.fd).st_mtime_ns
        if self._names is not None and (changed_ns != self._changed_ns or time.time_ns() - changed_ns < _COARSE_NS):
            before, self._listed = self._listed, set(self.place.names())
            self._names |= {"", *(before ^ self._listed)}  # "": perhaps only the directory was touched
        self._changed_ns = changed_ns


_NONE: weakref.WeakSet[Changes] = weakref.WeakSet()


class _Inotify:
    """The descriptor and what its events are about."""

    def __init__(self) -> None:
        self._descriptor: Descriptor | None = None
        self._watches: dict[int, weakref.WeakSet[Changes]] = {}
        register(self, Stage.SHARED, _Inotify.reset)  # in a child: the events are the parent's

    def reset(self) -> None:
        """Closes the descriptor."""
        if self._descriptor is not None:
            self._descriptor.close()
        self._descriptor = None
        watches, self._watches = self._watches, {}
        for one in [one for watching in watches.values() for one in watching]:
            one.lose()

    @property
    def number(self) -> int | None:
        """The descriptor's number; None without a watch."""
        return self._descriptor.current if self._descriptor is not None else None

    @property
    def polled(self) -> dict[int, int]:
        """What to wait for: a descriptor that is readable when a watched directory has changed. Empty without one."""
        number = self.number
        return {} if number is None else {number: select.POLLIN}

    def add(self, one: Changes) -> int:
        """Watches a directory. Returns the number of the watch, which several audits of one directory share. Raises
        OSError."""
        fd = self.number
        if fd is None:
            self.reset()
            self._descriptor = Descriptor(_ipcount.watch_directory(one.place.path))
            number = 1
        else:
            number = _ipcount.add_watch(fd, one.place.path)
        self._watches.setdefault(number, weakref.WeakSet()).add(one)
        return number

    def remove(self, one: Changes, number: int) -> None:
        self._watches.get(number, _NONE).discard(one)
        self._end_if_unused(number)

    def _end_if_unused(self, number: int) -> None:
        if number in self._watches and not self._watches[number]:
            del self._watches[number]
            with contextlib.suppress(OSError):  # the directory was removed, and its watch with it
                if self._descriptor is not None:
                    _ipcount.remove_watch(self._descriptor.number, number)
        if not self._watches:
            self.reset()

    def read(self) -> bool:
        """Notes for all directories what has changed up to now. Returns whether anything has."""
        found = False
        try:
            while self._descriptor is not None:
                self._note(os.read(self._descriptor.number, 65536))
                found = True
        except BlockingIOError:
            pass
        except OSError:  # other code has closed it
            self.reset()
            found = True
        return found

    def _note(self, events: bytes) -> None:
        found: dict[int, dict[str, int]] = {}
        at = 0
        while at < len(events):
            number, what, _, size = _EVENT.unpack_from(events, at)
            at += _EVENT.size + size
            names = found.setdefault(number, {})
            name = os.fsdecode(events[at - size : at].rstrip(b"\0"))
            names[name] = names.get(name, 0) | what
        for number, names in found.items():
            lost = names.get("", 0) & _IGNORED
            for one in self._watches.pop(number, _NONE) if lost else self._watches.get(number, _NONE):
                one.note(names)
                if lost:
                    one.lose()
            self._end_if_unused(number)
        if -1 in found:  # some events were left out
            self.reset()


inotify = _Inotify()
