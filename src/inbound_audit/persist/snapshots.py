"""A snapshot's file: written whole or not at all, checked when read, and set aside when it is damaged."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Iterable

from inbound_audit.descriptor import Descriptor, open_file
from inbound_audit.persist import format, names
from inbound_audit.persist.format import Damaged, Snapshot
from inbound_audit.persist.state_directory import StateDirectory

_PIECE_BYTES = 1 << 24  # bytes that are read or written at once


def write(place: StateDirectory, file: str, pieces: Iterable[bytes | memoryview]) -> None:
    """Replaces the file by a complete one. When this returns, the file survives a power failure.

    Raises OSError, and the file is as it was.
    """
    new = file + names.NEW
    try:
        place.remove(new)  # left by a process that was killed, or a pipe, whose open would wait
        with open_file(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, at=place.fd) as made:
            for piece in pieces:
                _write_all(made, piece)
            os.fsync(made.number)
        os.rename(new, file, src_dir_fd=place.fd, dst_dir_fd=place.fd)  # model: adoption/rename
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=place.fd)
        raise
    place.sync()


def _write_all(made: Descriptor, piece: bytes | memoryview) -> None:
    left = memoryview(piece)
    while left:
        left = left[os.write(made.number, left[:_PIECE_BYTES]) :]


def read(place: StateDirectory, file: str, series: str) -> Snapshot:
    """The snapshot of that series. Raises FileNotFoundError when it is gone, Damaged, and OSError."""
    snapshot = format.decode(_read_all(place, file))
    if names.snapshot(snapshot.series.name, snapshot.id) != file or snapshot.series.name != series:
        raise Damaged(f"is the snapshot of series {snapshot.series.name!r} and id {snapshot.id}, under another name")
    return snapshot


def _read_all(place: StateDirectory, file: str) -> bytes:
    try:
        # O_NONBLOCK: a pipe that lies there has perhaps no other end.
        with open_file(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, at=place.fd) as opened:
            found = os.fstat(opened.number)
            if not stat.S_ISREG(found.st_mode):
                raise Damaged("is no regular file")
            if found.st_size > format.MAX_SIZE:
                raise Damaged(f"is too large: {found.st_size} bytes; {format.MAX_SIZE} are possible")
            with open(opened.number, "rb", closefd=False) as stream:
                return stream.read(found.st_size)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Damaged("is a link") from None
        raise


def set_aside(place: StateDirectory, file: str) -> str:
    """Renames a file so that no process reads it, and returns the new name. Raises OSError."""
    for n in itertools.count():
        aside = f"{file}{names.DAMAGED}.{n}" if n else f"{file}{names.DAMAGED}"
        try:
            os.link(file, aside, src_dir_fd=place.fd, dst_dir_fd=place.fd, follow_symlinks=False)
        except FileExistsError:
            continue
        except FileNotFoundError:
            return aside
        except OSError:  # a directory, or a file system without such links
            if place.identity_of(aside) is not None:
                continue
            os.rename(file, aside, src_dir_fd=place.fd, dst_dir_fd=place.fd)
            break
        os.unlink(file, dir_fd=place.fd)
        break
    place.sync()
    return aside
