"""Files that a policy is configured with: where they lie, and their bytes, if they are regular and not too large."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from inbound_audit.descriptor import open_regular
from inbound_audit.errors import PolicyError

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

        Raises PolicyError if the file lies outside of the directories, once ``..`` and all links are followed.
        """
        if len(name) > MAX_PATH:
            raise PolicyError(f"{name[:100]}...: a path has at most {MAX_PATH} characters")
        path = self.own / name
        try:
            real = path.resolve()
            inside = any(real.is_relative_to(place.resolve()) for place in self.all)
        except (OSError, RuntimeError, ValueError):  # a loop of links, a NUL in the name
            inside = False
        if not inside:
            raise PolicyError(
                f"{path}: lies outside of the policy's directory and of those of search (serve --policy-dir)"
            )
        return path


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
    `max_bytes`. A pipe or a device is neither waited for nor read.
    """
    try:
        with open_regular(path, os.O_RDONLY) as opened, open(opened.number, "rb", closefd=False) as file:
            status = os.fstat(opened.number)
            stamp = Stamp(status.st_mtime_ns, status.st_size, status.st_ino)
            raw = None if stamp == unless else file.read(max_bytes + 1)
    except OSError as error:
        raise PolicyError(f"{path}: {error.strerror or error}") from None
    if raw is not None and len(raw) > max_bytes:
        raise PolicyError(f"{path}: is larger than {max_bytes} bytes")
    return raw, stamp
