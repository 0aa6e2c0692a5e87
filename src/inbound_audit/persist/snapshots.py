"""A snapshot's file: written whole or not at all, read with care, and set aside when it is damaged."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Iterable

from inbound_audit.persist import format, names
from inbound_audit.persist.format import Damaged, Snapshot
from inbound_audit.persist.state_directory import StateDirectory

_PIECE_BYTES = 1 << 24  # bytes that are read or written at once


def write(place: StateDirectory, file: str, pieces: Iterable[bytes | memoryview]) -> None:
    """Puts a complete file in the place of the one before. When this returns, it survives a power failure.

    Raises OSError, and the file is as it was.
    """
    new = file + names.NEW
    try:
        remove(place, new)  # whatever it is: a pipe would be waited for
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=place.fd)
        try:
            for piece in pieces:
                _write_all(fd, piece)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(new, file, src_dir_fd=place.fd, dst_dir_fd=place.fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=place.fd)
        raise
    place.sync()


def _write_all(fd: int, piece: bytes | memoryview) -> None:
    left = memoryview(piece)
    while left:
        left = left[os.write(fd, left[:_PIECE_BYTES]) :]


def read(place: StateDirectory, file: str, series: str) -> Snapshot:
    """The snapshot of that series. Raises FileNotFoundError when it is gone, Damaged, and OSError."""
    snapshot = format.decode(_read_all(place, file))
    if names.snapshot(snapshot.series.name, snapshot.id) != file or snapshot.series.name != series:
        raise Damaged(f"is the snapshot of series {snapshot.series.name!r} and id {snapshot.id}, under another name")
    return snapshot


def _read_all(place: StateDirectory, file: str) -> bytes:
    try:
        # Not to wait for the other end of a pipe that somebody has put there.
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place.fd)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Damaged("is a link") from None
        raise
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise Damaged("is no regular file")
        if found.st_size > format.MAX_SIZE:
            raise Damaged(f"is too large: {found.st_size} bytes; {format.MAX_SIZE} are possible")
        with open(fd, "rb", closefd=False) as stream:
            return stream.read(found.st_size)
    finally:
        os.close(fd)


def remove(place: StateDirectory, file: str) -> None:
    """It may be gone already. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(file, dir_fd=place.fd)


def exists(place: StateDirectory, file: str) -> bool:
    try:
        os.stat(file, dir_fd=place.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def set_aside(place: StateDirectory, file: str) -> str:
    """Gives a file a name under which nobody reads it, and which no other has; that name. Raises OSError."""
    for n in itertools.count():
        aside = f"{file}{names.DAMAGED}.{n}" if n else f"{file}{names.DAMAGED}"
        try:
            os.link(file, aside, src_dir_fd=place.fd, dst_dir_fd=place.fd, follow_symlinks=False)
        except FileExistsError:
            continue
        except FileNotFoundError:
            return aside
        except OSError:  # a directory, or a file system without such links
            if exists(place, aside):
                continue
            os.rename(file, aside, src_dir_fd=place.fd, dst_dir_fd=place.fd)
            break
        os.unlink(file, dir_fd=place.fd)
        break
    place.sync()
    return aside
