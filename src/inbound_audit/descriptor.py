"""Descriptors that other code of the process may close.

A daemon closes all numbers at once, and a library may close one twice. The program then gets the same number for a file
or a socket of its own. So a number is compared with the file's identity before each use, and before it is closed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
import sys
from typing import Final, TypeAlias

Identity: TypeAlias = tuple[int, int, int]
"""Device and inode of a file, and the mark of an inotify descriptor."""

_MARK = signal.SIGRTMAX - 1 if sys.platform == "linux" else 0
"""Set as the signal of ours (F_SETSIG), which is never sent: it belongs to the open file, and others have 0."""

FIRST: Final = 3
"""Numbers below are the standard streams: whoever writes to one that was closed at start would write to our file."""


class Descriptor:
    """Takes over an open descriptor, which gets a number above the standard streams. Raises OSError.

    `identity` is that of the file that was opened, also when the descriptor is closed.

    Lock rule: the owner's; `number` and `is_ours` are checks of one moment, so their result is used at once.
    """

    __slots__ = ("_lost", "_number", "identity")

    def __init__(self, number: int) -> None:
        self._number = -1
        self._lost = False
        if number < FIRST:
            low = number
            try:
                number = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, FIRST)
            finally:
                os.close(low)
        try:
            self.identity = _identity_of(number, mark=True)
        except OSError:
            os.close(number)
            raise
        self._number = number

    @property
    def is_ours(self) -> bool:
        """Whether the number still stands for the file that it was opened for. Once it did not, it never does again:
        the same file may be opened once more under the same number, and that is another descriptor."""
        try:
            if self._number >= 0 and _identity_of(self._number) != self.identity:
                self._forget()
        except OSError as error:
            if error.errno == errno.EBADF:  # another error says nothing about the number
                self._forget()
        return self._number >= 0

    def _forget(self) -> None:
        self._lost, self._number = True, -1

    @property
    def current(self) -> int | None:
        """The number, for a use that follows at once; None if the descriptor is closed, or was by other code."""
        return self._number if self.is_ours else None

    @property
    def number(self) -> int:
        """As `current`. Raises OSError (EBADF) without a descriptor."""
        if not self.is_ours:
            raise OSError(errno.EBADF, "a descriptor of inbound_audit was closed by other code of this process")
        return self._number

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._number < 0 and not self._lost

    def close(self) -> None:
        """Idempotent. A number that stands for another file is left open."""
        if self.is_ours:
            os.close(self._number)
        self._number = -1

    def __enter__(self) -> Descriptor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def open_file(path: str | os.PathLike[str], flags: int, mode: int = 0o600, *, at: int | None = None) -> Descriptor:
    """As os.open, without inheritance. `at` is the descriptor of the directory that `path` begins in. Raises
    OSError."""
    return Descriptor(os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=at))


def open_regular(path: str | os.PathLike[str], flags: int, mode: int = 0o600, *, at: int | None = None) -> Descriptor:
    """As `open_file`. Raises OSError for anything but a regular file; it waits for no other end of a pipe."""
    opened = open_file(path, flags | os.O_NONBLOCK | os.O_NOCTTY, mode, at=at)
    if not stat.S_ISREG(os.fstat(opened.number).st_mode):
        opened.close()
        raise OSError(0, "it is not a regular file", os.fspath(path))
    return opened


def make_directory(path: str | os.PathLike[str], mode: int = 0o700) -> bool:
    """Makes a directory, unless one has that name. Returns whether it was made: one that is there stays as it is.

    Raises OSError with the true cause: what has the name is asked itself. (`os.makedirs` and `Path.mkdir` say "file
    exists" for a directory that could not be read.)
    """
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(path)) from None
        return False
    return True


def make_directories(path: str, mode: int = 0o700, mode_above: int = 0o700) -> None:
    """As `make_directory`, with those above that are missing. What was made survives a power failure. Raises
    OSError."""
    try:
        made = make_directory(path, mode)
    except FileNotFoundError:
        make_directories(os.path.dirname(path), mode_above, mode_above)
        made = make_directory(path, mode)
    if made:
        with contextlib.suppress(PermissionError):  # the directory above may be one that we can't read
            sync_directory(os.path.dirname(path))


def sync_directory(path: str | os.PathLike[str]) -> None:
    """What was made, renamed or removed in the directory survives a power failure. Raises OSError."""
    with open_file(path, os.O_RDONLY | os.O_DIRECTORY) as opened:
        os.fsync(opened.number)


def pipe() -> tuple[Descriptor, Descriptor]:
    """Both ends of a pipe, to read and to write. Neither waits. Raises OSError."""
    reads, writes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        end = Descriptor(reads)
    except OSError:
        os.close(writes)
        raise
    return end, Descriptor(writes)


def _identity_of(number: int, *, mark: bool = False) -> Identity:
    found = os.fstat(number)
    if stat.S_IFMT(found.st_mode):
        return found.st_dev, found.st_ino, 0
    # An inotify descriptor shares its inode with all others of its kind.
    if mark:
        fcntl.fcntl(number, fcntl.F_SETSIG, _MARK)
    return found.st_dev, found.st_ino, fcntl.fcntl(number, fcntl.F_GETSIG)
