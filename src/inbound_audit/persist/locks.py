"""Liveness locks: each process that writes snapshots holds the lock of a file ``ID.lock``.

It is an OFD lock that is held as that of an owner's file (`shared.owner_file`): the kernel releases it at any death of
the process, no process id is trusted, and no descriptor has to stay open. A process that takes the lock of an id whose
process has ended is the only one that may change that id's files. A lock file is removed after the last file that it
stands for, by the holder of its lock; so a lock file that has no name any more when it is locked is worth nothing.
"""

from __future__ import annotations

import contextlib
import os

from inbound_audit._ipcount import HeldFile
from inbound_audit.descriptor import Descriptor, Identity, open_file
from inbound_audit.persist import names
from inbound_audit.persist.state_directory import StateDirectory
from inbound_audit.shared import owner_file


class Locks:
    """The locks of one process: its own, and those of ids that it adopts from. It has no reference to an audit."""

    def __init__(self, place: StateDirectory) -> None:
        self.place = place
        self.id = names.new_id()
        self._own: tuple[HeldFile, Identity] | None = None
        self._taken: dict[str, HeldFile] = {}

    @property
    def held(self) -> bool:
        """Whether others see that this process lives."""
        return self._own is not None

    @property
    def lost(self) -> bool:
        """Whether our lock file was removed: others take us for dead. Raises OSError."""
        return self._own is not None and self._own[1] != self.place.identity_of(names.lock(self.id))

    @property
    def taken(self) -> list[str]:
        """The ids that we have taken and not released."""
        return list(self._taken)

    def hold(self) -> None:
        """Makes our lock file, unless there is one. Raises OSError; then the next try has another id."""
        while self._own is None:  # model: adoption/make_lock
            id, self.id = self.id, names.new_id()
            with open_file(names.lock(id), os.O_RDWR | os.O_CREAT | os.O_EXCL, at=self.place.fd) as made:
                try:
                    lock = _locked(made)  # model: adoption/hold
                except OSError:
                    with contextlib.suppress(OSError):  # else a scan for unused lock files removes it
                        os.unlink(names.lock(id), dir_fd=self.place.fd)
                    raise
            if lock is not None:  # else a process that removes unused lock files took it before we could
                self._own, self.id = (lock, made.identity), id

    def take(self, id: str) -> bool:
        """Takes the lock of an id whose process has ended; False: it lives, or another process has taken it.

        Raises OSError.
        """
        if id == self.id:
            return False
        if id not in self._taken:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            with open_file(names.lock(id), flags, at=self.place.fd) as found:  # model: adoption/open_lock
                lock = _locked(found)  # model: adoption/take
            if lock is None:
                return False
            self._taken[id] = lock
        return True

    def release(self, id: str, *, remove: bool) -> None:
        """Releases an id that was taken; `remove`: no file is left that its lock file stands for. Raises OSError."""
        lock = self._taken.pop(id)
        try:
            if remove:
                self.place.remove(names.lock(id))  # model: adoption/remove_lock
        finally:
            lock.release()  # model: adoption/release

    def release_all(self, *, remove: bool = False) -> None:
        """Releases all; `remove`: we leave no snapshot behind. Never raises."""
        for id in list(self._taken):
            with contextlib.suppress(OSError):
                self.release(id, remove=False)
        if remove and self._own is not None:
            with contextlib.suppress(OSError):
                self.place.remove(names.lock(self.id))
        self.renew()

    def renew(self) -> None:
        """Another id, without a lock yet; those that were taken stay taken."""
        own, self._own = self._own, None
        self.id = names.new_id()
        if own is not None:
            own[0].release()

    def move(self, place: StateDirectory) -> None:
        """The directory is another one: none of our lock files is there."""
        self.release_all()
        self.place = place


def _locked(file: Descriptor) -> HeldFile | None:
    """The lock of a file that has a name still; None when another process has it. Raises OSError."""
    if not owner_file.lock(file.number) or os.fstat(file.number).st_nlink == 0:
        return None
    return HeldFile(file.number)
