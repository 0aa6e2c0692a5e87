"""Files that a policy is configured with: read as a whole, if they are regular and not too large."""

from __future__ import annotations

import os
from typing import NamedTuple

from inbound_audit.descriptor import open_regular
from inbound_audit.errors import PolicyError


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
