"""The directory of a shared audit: where it is, and which users may use it.

Every process that is attached reads the files in it, and takes each name of the right form for an owner's file. So the
directory belongs to one user and is closed to all others (0700); or to a group that was named, whose members trust one
another (2770). Anything else is refused and left as it is: another user's directory, a link, a mode that lets others
in.
"""

from __future__ import annotations

import contextlib
import grp
import os
import re
import stat

from inbound_audit._ipcount import shared_mode_possible
from inbound_audit.descriptor import Descriptor, Identity, open_file
from inbound_audit.errors import SharedStateError

DEFAULT_ROOT = "/dev/shm"
"""A file system in memory, that every Linux has and every user may write to."""

ROOT_VARIABLE = "INBOUND_AUDIT_SHM"

MAX_TRIES = 100
"""To open a directory that other processes remove whenever it is empty."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def directory_of(name: str) -> str:
    """Where the files of an audit lie, whether it exists or not: in ``$INBOUND_AUDIT_SHM``; else in
    ``$RUNTIME_DIRECTORY`` (systemd's RuntimeDirectory=); else in /dev/shm.

    Raises SharedStateError for a name that can't be one.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SharedStateError(
            f"{name!r}: is no name for shared counts: a letter or digit, then up to 62 letters, digits, '.', '_' or '-'"
        )
    root = os.environ.get(ROOT_VARIABLE) or first_of("RUNTIME_DIRECTORY") or DEFAULT_ROOT
    return os.path.join(os.path.abspath(root), f"inbound_audit-{name}")


def first_of(variable: str) -> str:
    """The first absolute path in a list that systemd hands over (systemd.exec(5)); empty without one."""
    return next(filter(os.path.isabs, os.environ.get(variable, "").split(":")), "")


class Directory:
    """An open directory. Other code may close its descriptor: it is opened again where it was."""

    path: str
    _descriptor: Descriptor

    def _open(self, flags: int = 0) -> os.stat_result:
        """Opens the directory at `path`. Raises OSError."""
        self._descriptor = open_file(self.path, os.O_RDONLY | os.O_DIRECTORY | flags)
        return os.fstat(self._descriptor.number)

    @property
    def fd(self) -> int:
        """For a use that follows at once. Raises OSError if it was closed by other code and is not at `path` any
        more."""
        if not self._descriptor.is_ours and not self._descriptor.closed:
            again = open_file(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            if again.identity == self._descriptor.identity:
                self._descriptor = again
        return self._descriptor.number

    def copy(self) -> Directory:
        """The same directory with a descriptor of its own. Raises OSError."""
        made = Directory()
        made.path, made._descriptor = self.path, Descriptor(os.dup(self.fd))
        return made

    def close(self) -> None:
        """Idempotent."""
        self._descriptor.close()

    def names(self) -> list[str]:
        """What is in the directory now."""
        # A descriptor of its own: after a fork, the position in a directory would be shared with another process.
        with open_file(".", os.O_RDONLY | os.O_DIRECTORY, at=self.fd) as listed:
            return os.listdir(listed.number)

    def identity_of(self, name: str) -> Identity | None:
        """Of the file with that name in the directory; None without one. Raises OSError."""
        try:
            there = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return there.st_dev, there.st_ino, 0

    def remove(self, name: str) -> None:
        """Removes a name, which may be gone already. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.fd)

    @property
    def gone(self) -> bool:
        """Whether the directory was removed or replaced: no other process would find what is made in it."""
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return True
        return (there.st_dev, there.st_ino) != self._descriptor.identity[:2]


class SharedDirectory(Directory):
    """The open directory of a name, or the one at `path`, where it was found before.

    Raises SharedStateError when it is refused, or is not there and may not be made.
    """

    def __init__(
        self, name: str, group: str | None = None, path: str | None = None, *, read_only: bool = False
    ) -> None:
        if not shared_mode_possible():
            raise SharedStateError(f"{name!r}: counts that processes share need Linux; leave out `shared`")
        self.path = path or directory_of(name)
        self.group = None if group is None else _number_of(group)
        for tries_left in reversed(range(1 if read_only else MAX_TRIES)):
            if not read_only:
                self._make()
            try:
                found = self._open(os.O_NOFOLLOW)
                break
            except FileNotFoundError:  # another process has removed it: it was empty
                if not tries_left:
                    why = f"no process is attached to it: {self.path} does not exist"
                    raise SharedStateError(f"{name!r}: {why}") from None
            except OSError as error:
                why = str(error.strerror) if _is_directory(self.path) else "it is a link or no directory"
                raise SharedStateError(f"{self.path}: refused: {why}") from None
        fault = self._why_not_read(found) if read_only else self._why_not_join(found)
        if fault:
            self.close()
            raise SharedStateError(f"{self.path}: refused: {fault}")

    def remove_if_empty(self) -> None:
        """Removes the directory if no process has a file there. One that is about to join makes it anew."""
        with contextlib.suppress(OSError):
            if not self.gone:
                os.rmdir(self.path)

    def _make(self) -> None:
        made = False
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.path, 0o700)
                made = True
            if self.group is not None and self._is_new():
                # Of several processes that start together each may do it.
                os.chown(self.path, -1, self.group, follow_symlinks=False)
                os.chmod(self.path, 0o2770)
        except FileNotFoundError:
            pass  # as when it is opened
        except OSError as error:
            if made:
                with contextlib.suppress(OSError):
                    os.rmdir(self.path)
            raise SharedStateError(f"{self.path}: can't be made: {error.strerror}") from None

    def _is_new(self) -> bool:
        """Ours, closed to all others, and empty: made just now, or left by processes that counted without a group."""
        found = os.stat(self.path, follow_symlinks=False)
        ours = found.st_uid == os.geteuid() and stat.S_ISDIR(found.st_mode)
        return ours and stat.S_IMODE(found.st_mode) in (0o700, 0o2700) and not os.listdir(self.path)

    def _why_not_join(self, found: os.stat_result) -> str | None:
        mode = stat.S_IMODE(found.st_mode)
        if self.group is not None:
            if found.st_gid != self.group:
                return f"it belongs to the group {_name_of(found.st_gid)}, not to {_name_of(self.group)}"
            return (
                None if mode == 0o2770 else f"its mode is {mode:04o}, not 2770; remove it while no process is attached"
            )
        if found.st_uid != os.geteuid():
            return f"it belongs to another user (uid {found.st_uid}); choose another name, or share it with a group"
        if mode & 0o070:
            return f"it is shared with the group {_name_of(found.st_gid)}; say so (group={_name_of(found.st_gid)!r})"
        return (
            None if mode & 0o077 == 0 else f"its mode {mode:04o} lets others in; remove it while no process is attached"
        )

    def _why_not_read(self, found: os.stat_result) -> str | None:
        mode = stat.S_IMODE(found.st_mode)
        ours = found.st_uid == os.geteuid() or os.geteuid() == 0
        if not ours and (found.st_gid not in {os.getegid(), *os.getgroups()} or not mode & 0o070):
            return f"it belongs to another user (uid {found.st_uid})"
        return f"its mode {mode:04o} lets all users in" if mode & 0o007 else None


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
