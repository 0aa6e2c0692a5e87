"""A file that a user asks for: it is written whole, or the one that was there stays."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat


def write(path: str | os.PathLike[str], content: bytes, *, replace: bool = True) -> None:
    """Writes all of a file. What can't be replaced by a rename, a pipe or a device, is written to.

    Without `replace` it raises FileExistsError if anything has that name. Raises OSError, and then the file is as it
    was, or not there. A file that is replaced keeps its mode and, if root replaces it, its owner. O(bytes).
    """
    if not replace:
        _write_new(path, content, path)
        return
    try:
        before = os.stat(path)
    except FileNotFoundError:
        before = None
    if before is not None and not stat.S_ISREG(before.st_mode):
        with open(path, "wb") as file:
            file.write(content)
        return
    path = os.path.realpath(path)  # a link stays one
    _write_new(os.path.join(os.path.dirname(path), f".{secrets.token_hex(8)}.new"), content, path, before)


def _write_new(
    new: str | os.PathLike[str], content: bytes, path: str | os.PathLike[str], like: os.stat_result | None = None
) -> None:
    """Makes the file `new`, which then gets the name `path`."""
    number = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with open(number, "wb") as file:
            if like is not None:
                with contextlib.suppress(PermissionError):
                    os.fchown(number, like.st_uid, like.st_gid)
                os.fchmod(number, stat.S_IMODE(like.st_mode))
            file.write(content)
            file.flush()
            os.fsync(number)
        if new != path:
            os.rename(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise
