"""An owner's file: complete before other processes can find it, and locked as long as its owner lives.

The lock is an OFD lock (fcntl(2)): it belongs to an open file, and the kernel releases it with the last reference to
that open file, at any death of the process. No process id is trusted, and none is needed.

The reference is a mapping that no child inherits (`_ipcount.HeldFile`): other code of the process can't release the
lock by closing a descriptor, and a child of a fork does not keep it. What is read and written goes through another open
file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import struct
from typing import NamedTuple

from inbound_audit._ipcount import HeldFile
from inbound_audit.descriptor import Descriptor, open_file
from inbound_audit.errors import CapacityError, SharedStateError, cause_of
from inbound_audit.shared.control import file_of
from inbound_audit.shared.directory import SharedDirectory

NAME = re.compile(r"[0-9a-f]{16}\.owner")
SOCKET = re.compile(r"[0-9a-f]{16}\.control")
"""Anything else in the directory is left alone."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK)
_FLOCK = struct.Struct("hhqqi4x")  # type, whence, start, length, pid


class NewFile(NamedTuple):
    """A file that has no name yet: a descriptor to write to it, and its lock."""

    descriptor: Descriptor
    lock: HeldFile


def create(place: SharedDirectory) -> NewFile:
    """Makes a file without a name, and takes its lock. Raises SharedStateError or CapacityError."""
    doing = "make files"
    try:
        with open_file(".", os.O_TMPFILE | os.O_RDWR, at=place.fd) as locked:
            doing = "lock files"
            if not lock(locked.number):  # model: owners/lock
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            if place.group is not None:
                doing = "give files to the group"
                os.fchown(locked.number, -1, place.group)
                os.fchmod(locked.number, 0o640)
            doing = "open files again (is /proc mounted?)"
            return NewFile(open_file(f"/proc/self/fd/{locked.number}", os.O_RDWR), HeldFile(locked.number))
    except OSError as error:
        raise (CapacityError if error.errno in _NO_ROOM else SharedStateError)(
            f"{place.path}: we can't {doing} there: {cause_of(error)}"
        ) from None


def lock(fd: int) -> bool:
    """Takes the write lock for this open file; False when another open file has it. Raises OSError."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def has_owner(fd: int) -> bool:
    """Whether a process holds the write lock. Only a process that may write to the file can take
    it; read locks do not count."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 1, 0))
    return bool(_FLOCK.unpack(answer)[0] == fcntl.F_WRLCK)


def new_name() -> str:
    """A name that no owner's file has had."""
    return f"{secrets.token_hex(8)}.owner"


def publish(place: SharedDirectory, descriptor: Descriptor, name: str) -> None:
    """Gives a complete file its name; from then on others find it. Raises SharedStateError or CapacityError."""
    try:
        source = f"/proc/self/fd/{descriptor.number}"
        # model: owners/publish
        os.link(source, name, src_dir_fd=place.fd, dst_dir_fd=place.fd, follow_symlinks=True)
    except OSError as error:
        raise (CapacityError if error.errno in _NO_ROOM else SharedStateError)(
            f"{place.path}: a file can't be given a name there: {cause_of(error)}"
        ) from None


def open_to_read(place: SharedDirectory, name: str) -> Descriptor | None:
    """None when there is no such file, or none that we may read. Raises OSError when no descriptor is left."""
    try:
        return open_file(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, at=place.fd)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise
        return None


def id_of(name: str) -> str:
    """The owner's id, as the name of its file has it."""
    return name.removesuffix(".owner")


def remove(place: SharedDirectory, name: str) -> None:
    """Removes the names of the file and of the socket beside it; they may be gone already. Raises OSError."""
    remove_name(place, socket_of(name))
    remove_name(place, name)


def socket_of(name: str) -> str:
    """The name of the socket beside that file."""
    return file_of(id_of(name))


def remove_unused_socket(place: SharedDirectory, socket: str) -> None:
    """Removes a socket without an owner's file: an owner has its file first. Raises OSError."""
    if place.identity_of(f"{socket.removesuffix('.control')}.owner") is None:
        remove_name(place, socket)


def remove_name(place: SharedDirectory, name: str) -> None:
    """Removes a name, if it is there and we may. Raises OSError."""
    try:
        place.remove(name)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
