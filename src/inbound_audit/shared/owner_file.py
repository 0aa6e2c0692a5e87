"""An owner's file: made whole before anybody can find it, and locked as long as its owner lives.

The lock is one of the open file (OFD, fcntl(2)): the kernel lets go of it when the last descriptor of that open file is
closed, which is at any death of the process. No process id is trusted, and none is needed. A forked child shares the
open file with its parent, so it closes its descriptor before it does anything else (`membership`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import struct

from inbound_audit.errors import CapacityError, SharedStateError
from inbound_audit.shared.control import protocol
from inbound_audit.shared.directory import SharedDirectory

NAME = re.compile(r"[0-9a-f]{16}\.owner")
SOCKET = re.compile(r"[0-9a-f]{16}\.control")
"""Anything else in the directory is none of ours, and left alone."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)

# <fcntl.h> of Linux; Python has no names for them.
_OFD_GETLK, _OFD_SETLK = 36, 37
_FLOCK = struct.Struct("hhqqi4x")  # type, whence, start, length, pid


def create(place: SharedDirectory) -> int:
    """A new file without a name, locked: a descriptor. Raises SharedStateError or CapacityError."""
    try:
        fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=place.fd)
    except OSError as error:
        raise (CapacityError if error.errno in _NO_ROOM else SharedStateError)(
            f"{place.path}: no file can be made there: {error.strerror}"
        ) from None
    doing = "lock files"
    try:
        lock(fd)
        if place.group is not None:
            doing = "give files to the group"
            os.fchown(fd, -1, place.group)
            os.fchmod(fd, 0o640)
    except OSError as error:
        os.close(fd)
        raise SharedStateError(f"{place.path}: we can't {doing} there: {error.strerror}") from None
    return fd


def lock(fd: int) -> bool:
    """Takes the owner's lock, as long as this open file is; False when somebody else has it. Raises OSError."""
    try:
        fcntl.fcntl(fd, _OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def publish(place: SharedDirectory, fd: int) -> str:
    """Gives a complete file a name that nobody has had; from then on others find it.

    Raises SharedStateError or CapacityError.
    """
    name = f"{secrets.token_hex(8)}.owner"
    try:
        os.link(f"/proc/self/fd/{fd}", name, src_dir_fd=place.fd, dst_dir_fd=place.fd, follow_symlinks=True)
    except OSError as error:
        proc = " (is /proc mounted?)" if error.errno == errno.ENOENT else ""
        raise (CapacityError if error.errno in _NO_ROOM else SharedStateError)(
            f"{place.path}: a file can't be given a name there{proc}: {error.strerror}"
        ) from None
    return name


def open_to_read(place: SharedDirectory, name: str) -> int | None:
    """A descriptor; None when there is no such file, or none that we may read. Raises OSError for want of one."""
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place.fd)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise
        return None


def has_owner(fd: int) -> bool:
    """Somebody holds the write lock. Only who may write to the file can: a reader's lock is none."""
    answer = fcntl.fcntl(fd, _OFD_GETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 1, 0))
    return bool(_FLOCK.unpack(answer)[0] == fcntl.F_WRLCK)


def id_of(name: str) -> str:
    """The owner's id, as the name of its file has it."""
    return name.removesuffix(".owner")


def remove(place: SharedDirectory, name: str) -> None:
    """Takes the name away, and that of the socket beside it; they may be gone already."""
    for one in (protocol.file_of(id_of(name)), name):
        _unlink(place, one)


def has_socket(place: SharedDirectory, name: str) -> bool:
    """Whether there is something where the socket beside that file belongs."""
    try:
        os.stat(protocol.file_of(id_of(name)), dir_fd=place.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def remove_orphan_socket(place: SharedDirectory, socket: str) -> None:
    """Removes a socket whose owner's file is not there any more: an owner has its file first."""
    try:
        os.stat(f"{socket.removesuffix('.control')}.owner", dir_fd=place.fd, follow_symlinks=False)
    except FileNotFoundError:
        _unlink(place, socket)


def _unlink(place: SharedDirectory, name: str) -> None:
    try:
        os.unlink(name, dir_fd=place.fd)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
