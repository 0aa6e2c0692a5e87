"""The directory of a shared audit: where it is, and which users may use it.

Every process that is attached reads the files in it, and takes each name of the right form for an owner's file. So the
directory belongs to one user and is closed to all others (0700); or to a group that was named, whose members trust one
another (3770: sticky, so each removes its own files alone). Anything else is refused and left as it is: another user's
directory, a link, a mode that lets others in.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import stat

from inbound_audit._ipcount import shared_mode_possible
from inbound_audit.descriptor import Descriptor, Identity, make_directory, open_file
from inbound_audit.errors import SharedStateError, cause_of
from inbound_audit.shared.places import (
    ROOT_VARIABLE,
    SERVICES_ROOT,
    directory_of,
    find_directory,
    name_of_user,
    number_of_user,
    user_text,
)

_NO_GROUP = (1 << 32) - 1  # chown(2) takes this number for "as it is"

MAX_TRIES = 100
"""To open a directory that other processes remove whenever it is empty."""


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
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:  # it says nothing about the directory
            return False
        return (there.st_dev, there.st_ino) != self._descriptor.identity[:2]


class SharedDirectory(Directory):
    """The open directory of a name, or the one at `path`, where it was found before.

    `read_only`: of `user` (a name or number), of this one, or of a group of this one. Raises SharedStateError when it
    is refused, or is not there and may not be made.
    """

    def __init__(
        self,
        name: str,
        group: str | None = None,
        path: str | None = None,
        *,
        read_only: bool = False,
        user: str | None = None,
    ) -> None:
        if not shared_mode_possible():
            raise SharedStateError(f"{name!r}: counts that processes share need Linux; leave out `shared`")
        self.group = None if group is None else _number_of(group)
        self._user = user
        self.path = path or (find_directory(name, user) if read_only else directory_of(name, group=self.group))
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
                raise SharedStateError(f"{self.path}: refused: {_why_not_open(self.path, error)}") from None
        try:
            fault = self._why_not_read(found) if read_only else self._why_not_join(self._give_to_group(found))
        except OSError as error:
            fault = cause_of(error)
        if fault:
            self.close()
            raise SharedStateError(f"{self.path}: refused: {fault}")

    def remove_if_empty(self) -> None:
        """Removes the directory if no process has a file there. One that is about to join makes it anew."""
        with contextlib.suppress(OSError):
            if not self.gone:
                os.rmdir(self.path)

    def _make(self) -> None:
        try:
            for_services = os.path.dirname(self.path) == SERVICES_ROOT and os.geteuid() == 0
            if for_services and make_directory(SERVICES_ROOT, 0o755):
                os.chmod(SERVICES_ROOT, 0o755)  # only root writes beside it: it can't be another's by now
            with contextlib.suppress(FileExistsError, FileNotFoundError):  # the latter as when it is opened
                os.mkdir(self.path, 0o700)
        except OSError as error:
            raise SharedStateError(f"{self.path}: can't be made: {cause_of(error)}") from None

    def _give_to_group(self, found: os.stat_result) -> os.stat_result:
        """A directory of ours that is new and empty, or was made by an earlier version, is closed to all but the group.
        Of several processes that start together each may do it. Works on what is open, whatever has its name."""
        if self.group is None or found.st_uid != os.geteuid():
            return found
        mode, fd = stat.S_IMODE(found.st_mode), self.fd
        new = mode in (0o700, 0o2700) and not self.names()
        earlier = mode == 0o2770 and found.st_gid == self.group
        if not (new or earlier):
            return found
        try:
            os.chown(fd, -1, self.group)
            os.chmod(fd, 0o3770)
        except OSError as error:
            self.close()
            with contextlib.suppress(OSError):
                os.rmdir(self.path)
            raise SharedStateError(f"{self.path}: can't be made: {cause_of(error)}") from None
        return os.fstat(fd)

    def _why_not_join(self, found: os.stat_result) -> str | None:
        mode = stat.S_IMODE(found.st_mode)
        if self.group is not None:
            if found.st_gid != self.group:
                return f"it belongs to the group {_name_of(found.st_gid)}, not to {_name_of(self.group)}"
            return (
                None if mode == 0o3770 else f"its mode is {mode:04o}, not 3770; remove it while no process is attached"
            )
        if found.st_uid != os.geteuid():
            how = f"choose another name, share it with a group, or use a directory of your own: ${ROOT_VARIABLE}"
            return f"it belongs to another user ({user_text(found.st_uid)}); {how}"
        if mode & 0o070:
            return f"it is shared with the group {_name_of(found.st_gid)}; say so (group={_name_of(found.st_gid)!r})"
        return (
            None if mode & 0o077 == 0 else f"its mode {mode:04o} lets others in; remove it while no process is attached"
        )

    def _why_not_read(self, found: os.stat_result) -> str | None:
        mode = stat.S_IMODE(found.st_mode)
        ours = found.st_uid == (os.geteuid() if self._user is None else number_of_user(self._user))
        shared = self._user is None and found.st_gid in {os.getegid(), *os.getgroups()} and mode & 0o070
        if not ours and (not shared or os.geteuid() == 0):
            name = name_of_user(found.st_uid)
            how = f"; name that user (--user {name}, or user={name!r})" if os.geteuid() == 0 else ""
            return f"it belongs to another user ({user_text(found.st_uid)}){how}"
        return f"its mode {mode:04o} lets all users in" if mode & 0o007 else None


def _why_not_open(path: str, error: OSError) -> str:
    with contextlib.suppress(OSError):
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode):
            return "it is a link or no directory"
        if error.errno == errno.EACCES and found.st_uid != os.geteuid():
            return f"it belongs to another user ({user_text(found.st_uid)})"
    return cause_of(error)


def _number_of(group: str) -> int:
    """The number of a group that has a name, or of one that is a number: in a changed root no group has a name."""
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, TypeError, ValueError):
        if isinstance(group, str) and group.isdecimal() and int(group) < _NO_GROUP:
            return int(group)
        raise SharedStateError(f"{group!r}: there is no such group") from None


def _name_of(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
