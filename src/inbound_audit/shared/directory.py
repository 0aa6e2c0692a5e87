"""The directory of a shared audit: where it is, and whose it may be.

Its files are read by whoever counts there, and a name in it is taken for an owner's. So it belongs to one user and is
closed to all others (0700); or to a group that was named, whose members trust one another (2770, that group's).
Anything else is refused and left as it is: another user's directory, a link, a mode that lets others in.
"""

from __future__ import annotations

import contextlib
import grp
import os
import re
import stat

from inbound_audit._ipcount import shared_mode_possible
from inbound_audit.errors import SharedStateError

DEFAULT_ROOT = "/dev/shm"
"""A file system in memory, that every Linux has and every user may write to."""

ROOT_VARIABLE = "INBOUND_AUDIT_SHM"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def directory_of(name: str) -> str:
    """Where the files of an audit lie, whether it exists or not: in /dev/shm, or in ``$INBOUND_AUDIT_SHM``.

    Raises SharedStateError for a name that can't be one.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SharedStateError(
            f"{name!r}: is no name for shared counts: a letter or digit, then up to 62 letters, digits, '.', '_' or '-'"
        )
    return os.path.join(os.path.abspath(os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT), f"inbound_audit-{name}")


class Directory:
    """An open directory. `fd` is -1 when it is closed."""

    fd: int
    path: str

    def close(self) -> None:
        """Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()

    def names(self) -> list[str]:
        """What is in the directory now."""
        # A descriptor of its own: after a fork, the position in a directory would be shared with another process.
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    @property
    def gone(self) -> bool:
        """Somebody has removed the directory: what is made in it would be found by nobody."""
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return True
        return not os.path.samestat(there, os.fstat(self.fd))


class SharedDirectory(Directory):
    """An open directory: that of the name, or the one at `path`, where it was found before.

    Raises SharedStateError when it is refused, or is not there and may not be made.
    """

    def __init__(
        self, name: str, group: str | None = None, path: str | None = None, *, read_only: bool = False
    ) -> None:
        self.fd = -1
        if not shared_mode_possible():
            raise SharedStateError(f"{name!r}: counts that processes share need Linux; leave out `shared`")
        self.path = path or directory_of(name)
        self.group = None if group is None else _number_of(group)
        if not read_only:
            self._make()
        try:
            self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise SharedStateError(f"{name!r}: nobody counts there; {self.path} does not exist") from None
        except OSError as error:
            why = error.strerror if _is_directory(self.path) else "it is a link or no directory"
            raise SharedStateError(f"{self.path}: refused: {why}") from None
        found = os.fstat(self.fd)
        fault = self._why_not_read(found) if read_only else self._why_not_join(found)
        if fault:
            self.close()
            raise SharedStateError(f"{self.path}: refused: {fault}")

    def _make(self) -> None:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.path, 0o700)
            if self.group is not None and self._is_for_nobody_yet():
                # Of several processes that start together each may do it.
                os.chown(self.path, -1, self.group, follow_symlinks=False)
                os.chmod(self.path, 0o2770)
        except OSError as error:
            raise SharedStateError(f"{self.path}: can't be made: {error.strerror}") from None

    def _is_for_nobody_yet(self) -> bool:
        """Ours, closed to all others, and empty: made just now, or left by those who counted without a group."""
        found = os.stat(self.path, follow_symlinks=False)
        ours = found.st_uid == os.geteuid() and stat.S_ISDIR(found.st_mode)
        return ours and stat.S_IMODE(found.st_mode) in (0o700, 0o2700) and not os.listdir(self.path)

    def _why_not_join(self, found: os.stat_result) -> str | None:
        mode = stat.S_IMODE(found.st_mode)
        if self.group is not None:
            if found.st_gid != self.group:
                return f"it belongs to the group {_name_of(found.st_gid)}, not to {_name_of(self.group)}"
            return None if mode == 0o2770 else f"its mode is {mode:04o}, not 2770; remove it while nobody counts"
        if found.st_uid != os.geteuid():
            return f"it belongs to another user (uid {found.st_uid}); choose another name, or share it with a group"
        if mode & 0o070:
            return f"it is shared with the group {_name_of(found.st_gid)}; say so (group={_name_of(found.st_gid)!r})"
        return None if mode & 0o077 == 0 else f"its mode {mode:04o} lets others in; remove it while nobody counts"

    def _why_not_read(self, found: os.stat_result) -> str | None:
        mode = stat.S_IMODE(found.st_mode)
        ours = found.st_uid == os.geteuid() or os.geteuid() == 0
        if not ours and (found.st_gid not in {os.getegid(), *os.getgroups()} or not mode & 0o070):
            return f"it belongs to another user (uid {found.st_uid})"
        return f"its mode {mode:04o} lets everybody in" if mode & 0o007 else None


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _number_of(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, TypeError, ValueError):
        raise SharedStateError(f"{group!r}: there is no such group") from None


def _name_of(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
