"""Files that a user names: where those of a policy may lie, and the bytes of any, if it is regular and not too large.

A pipe or a device in its place is neither waited for nor read.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from inbound_audit.descriptor import open_regular
from inbound_audit.errors import PolicyError

MAX_SETTING_BYTES = 1 << 20
"""Bytes of a file with settings: a certificate chain, a key, a password, addresses."""

MAX_PATH = 4096
"""Characters of a file's path."""


class Directories:
    """The directories in which all files of a policy lie: that of its own file, then those of `search`.

    Relative ones start where the process is now; where it goes later makes no difference.
    """

    def __init__(self, path: str | os.PathLike[str], search: Sequence[str | os.PathLike[str]] = ()) -> None:
        self.own = Path(path).absolute().parent
        self.all = (self.own, *(Path(place).absolute() for place in search))

    def locate(self, name: str) -> Path:
        """The path of a file; a relative name starts from the policy's own directory. O(directories on the way).

        Raises PolicyError if the file lies outside of the directories, once ``..`` and all links are followed, or if
        they can't be.
        """
        if len(name) > MAX_PATH:
            raise PolicyError(f"{name[:100]}...: a path has at most {MAX_PATH} characters")
        path = self.own / name
        try:
            real = real_path(path)
            inside = any(real.is_relative_to(real_path(place)) for place in self.all)
        except ValueError:  # a NUL in the name
            inside = False
        except OSError as error:
            inside = False
            # Of what lies outside a script learns nothing, and a loop of links leads nowhere.
            named_inside = any(Path(os.path.normpath(path)).is_relative_to(place) for place in self.all)
            if named_inside and error.errno != errno.ELOOP:
                raise PolicyError(f"{path}: {error.strerror}") from None
        if not inside:
            raise PolicyError(
                f"{path}: lies outside of the policy's directory and of those of search (serve --policy-dir)"
            )
        return path


def real_path(path: str | os.PathLike[str]) -> Path:
    """The path with ``..`` and all links followed; its end may be missing. Raises OSError if one can't be read, which
    `Path.resolve` takes for a file, and ValueError for a NUL."""
    try:
        return Path(os.path.realpath(path, strict=True))
    except (FileNotFoundError, NotADirectoryError):
        return Path(os.path.realpath(path))


class Stamp(NamedTuple):
    """Changes whenever a file is written or replaced."""

    modified_ns: int
    size: int
    inode: int


def read_regular(
    path: str | os.PathLike[str], max_bytes: int, unless: Stamp | None = None
) -> tuple[bytes | None, Stamp]:
    """The bytes of a file and its stamp; None in place of the bytes if the stamp is `unless`.

    Raises PolicyError, which names the file, when it is missing, not a regular file, unreadable or larger than
    `max_bytes`.
    """
    try:
        with _opened(path) as file:
            status = os.fstat(file.fileno())
            stamp = Stamp(status.st_mtime_ns, status.st_size, status.st_ino)
            return None if stamp == unless else _read(path, file, max_bytes), stamp
    except OSError as error:
        raise PolicyError(f"{path}: {error.strerror or error}") from None


def read_setting(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file, at most MAX_SETTING_BYTES. Raises OSError."""
    with _opened(path) as file:
        return _read(path, file, MAX_SETTING_BYTES)


@contextlib.contextmanager
def named_regular(path: str) -> Iterator[str]:
    """For a library that opens files by name: a name of the file that was checked, whatever is put into its place
    meanwhile. Raises OSError."""
    with open_regular(path, os.O_RDONLY) as opened:
        if os.fstat(opened.number).st_size > MAX_SETTING_BYTES:
            raise _too_large(path, MAX_SETTING_BYTES)
        name = f"/proc/self/fd/{opened.number}"
        try:
            os.stat(name)
        except FileNotFoundError:  # a changed root may have no /proc
            name = path
        yield name


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    with open_regular(path, os.O_RDONLY) as opened, open(opened.number, "rb", closefd=False) as file:
        yield file


def _read(path: str | os.PathLike[str], file: BinaryIO, max_bytes: int) -> bytes:
    raw = file.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise _too_large(path, max_bytes)
    return raw


def _too_large(path: str | os.PathLike[str], max_bytes: int) -> OSError:
    return OSError(0, f"is larger than {max_bytes} bytes", os.fspath(path))
