"""Who lives: each process that writes snapshots holds the lock of a file ``ID.lock``.

The lock is one of the open file, as in `shared.files`: the kernel lets go of it at any death of the process, and a
process id that is used again means nothing. Who takes the lock of an id whose process has ended may do with its files
what it likes, and is the only one. A lock file is removed after the last file that it stands for, by who holds it; so
one that has no name any more when it is locked is worth nothing.
"""

from __future__ import annotations

import contextlib
import os

from inbound_audit.persist import names
from inbound_audit.persist.state_directory import StateDirectory
from inbound_audit.shared import owner_file


class Locks:
    """Those that one process holds: its own, and those of ids that it adopts from. It knows nothing of an audit."""

    def __init__(self, place: StateDirectory) -> None:
        self.place = place
        self.id = names.new_id()
        self._own: int | None = None
        self._taken: dict[str, int] = {}

    @property
    def held(self) -> bool:
        """Others see that we live."""
        return self._own is not None

    @property
    def lost(self) -> bool:
        """Somebody has removed our lock file: others take us for dead. Raises OSError."""
        if self._own is None:
            return False
        try:
            there = os.stat(names.lock(self.id), dir_fd=self.place.fd, follow_symlinks=False)
        except FileNotFoundError:
            return True
        return not os.path.samestat(there, os.fstat(self._own))

    @property
    def taken(self) -> list[str]:
        """The ids that we have taken and not released."""
        return list(self._taken)

    def hold(self) -> None:
        """Makes our lock file, unless there is one. Raises OSError."""
        while self._own is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fd = os.open(names.lock(self.id), flags, 0o600, dir_fd=self.place.fd)
            if self._is_good(fd):
                self._own = fd
            else:  # somebody who tidies up took it before we could
                os.close(fd)
                self.id = names.new_id()

    def _is_good(self, fd: int) -> bool:
        """Takes the lock of a file that has its name still. Raises OSError, and the file is closed."""
        try:
            return owner_file.lock(fd) and os.fstat(fd).st_nlink > 0
        except OSError:
            os.close(fd)
            raise

    def take(self, id: str) -> bool:
        """Takes the lock of an id whose process has ended, for good; False: it lives, or another has taken it.

        Raises OSError.
        """
        if id == self.id:
            return False
        if id in self._taken:
            return True
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(names.lock(id), flags, 0o600, dir_fd=self.place.fd)
        if not self._is_good(fd):
            os.close(fd)
            return False
        self._taken[id] = fd
        return True

    def release(self, id: str, *, remove: bool) -> None:
        """Lets go of an id that was taken; `remove`: nothing is left that its lock file stands for. Raises OSError."""
        fd = self._taken.pop(id)
        try:
            if remove:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(names.lock(id), dir_fd=self.place.fd)
        finally:
            os.close(fd)

    def release_all(self, *, remove: bool = False) -> None:
        """Lets go of all; `remove`: we leave no snapshot behind. Never raises."""
        for id in list(self._taken):
            with contextlib.suppress(OSError):
                self.release(id, remove=False)
        if remove and self._own is not None:
            with contextlib.suppress(OSError):
                os.unlink(names.lock(self.id), dir_fd=self.place.fd)
        self.renew()

    def renew(self) -> None:
        """Another id, without a lock yet; those that were taken stay so."""
        own, self._own = self._own, None
        self.id = names.new_id()
        if own is not None:
            os.close(own)

    def move(self, place: StateDirectory) -> None:
        """The directory is another one: nothing that was locked is there."""
        self.release_all()
        self.place = place
