"""Where the directory of a shared audit is.

Every user may make a directory in /dev/shm, and so take a name that a service uses. Services have a place where only
root, or their own user, makes directories: the first of ``$RUNTIME_DIRECTORY``, or `SERVICES_ROOT`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import stat

from inbound_audit.errors import SharedStateError, cause_of

SERVICES_ROOT = "/run/inbound_audit"
"""Of services. It belongs to root or to the service's user, and no other user may write to it."""

DEFAULT_ROOT = "/dev/shm"
"""Of all others: a file system in memory, that every Linux has and every user may write to."""

ROOT_VARIABLE = "INBOUND_AUDIT_SHM"

PREFIX = "inbound_audit-"
"""Of the directory's name; the audit's name follows."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def directory_of(name: str, *, group: int | None = None) -> str:
    """Where the files of an audit of this user lie, or of an audit that counts with `group` (gid), whether it exists or
    not.

    In ``$INBOUND_AUDIT_SHM``; else in the first of ``$RUNTIME_DIRECTORY`` (systemd's RuntimeDirectory=); else in
    `SERVICES_ROOT`, if the audit is there or this process may make it there; else in /dev/shm. Raises SharedStateError
    for a name that can't be one.
    """
    candidates = _candidates(name)
    for path, found in candidates:
        if found is not None and found.st_uid == os.geteuid():
            return path
    for path, found in candidates:
        if found is not None and found.st_gid == group and found.st_mode & 0o070:
            return path
    return next((path for path, found in candidates if found is None and _may_make(path)), candidates[-1][0])


def find_directory(name: str, user: str | None = None) -> str:
    """Where the files of an audit lie that this process may read: those of `user` (a name or number), else its own, or
    those of one of its groups. Without those: the ones of any user, or where its own would be.

    Raises SharedStateError for an unknown user, and for a name that can't be one.
    """
    uid = os.geteuid() if user is None else number_of_user(user)
    groups = {os.getegid(), *os.getgroups()}

    def rank(candidate: tuple[str, os.stat_result | None]) -> int:
        found = candidate[1]
        if found is None:
            return 3
        return 0 if found.st_uid == uid else 1 if found.st_gid in groups and found.st_mode & 0o070 else 2

    path, found = min(_candidates(name), key=rank)
    return path if found is not None else directory_of(name)


def known_audits(*, unreadable: bool = False) -> list[str]:
    """The names of the shared audits of this machine, in order: those whose directory has files of processes, and with
    `unreadable` also those whose directory this user can't read. O(entries of /dev/shm)."""
    found: set[str] = set()
    for root in _roots():
        with contextlib.suppress(FileNotFoundError, PermissionError), os.scandir(root) as entries:
            found.update(entry.name.removeprefix(PREFIX) for entry in entries if _is_audit(entry, unreadable))
    return sorted(name for name in found if _NAME.fullmatch(name))


def _is_audit(entry: os.DirEntry[str], unreadable: bool) -> bool:
    if not (entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False)):
        return False
    try:
        with os.scandir(entry.path) as files:
            return any(file.name.endswith(".owner") for file in files)
    except PermissionError:
        return unreadable
    except OSError:  # it is no directory, or has gone
        return False


def check_name(name: str) -> None:
    """Raises SharedStateError for what can be no name of shared counts."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SharedStateError(
            f"{name!r}: is no name for shared counts: a letter or digit, then up to 62 letters, digits, '.', '_' or '-'"
        )


def _candidates(name: str) -> list[tuple[str, os.stat_result | None]]:
    check_name(name)
    paths = [os.path.join(root, PREFIX + name) for root in _roots()]
    return [(path, _status_of(path)) for path in paths]


def _may_make(path: str) -> bool:
    root = os.path.dirname(path)
    return root != SERVICES_ROOT or os.access(root, os.W_OK) or not os.path.lexists(root)


def _roots() -> list[str]:
    """The directories that audits may be in, the best first."""
    named = os.environ.get(ROOT_VARIABLE) or first_of("RUNTIME_DIRECTORY")
    if named:
        return [os.path.abspath(named)]
    there = _status_of(SERVICES_ROOT)
    if there is not None:
        owners = {0, os.geteuid(), *([there.st_uid] if os.geteuid() == 0 else [])}
        trusted = stat.S_ISDIR(there.st_mode) and there.st_uid in owners and not there.st_mode & 0o022
        return [SERVICES_ROOT, DEFAULT_ROOT] if trusted else [DEFAULT_ROOT]
    if os.geteuid() != 0:
        return [DEFAULT_ROOT]
    # Root makes it. In a container it may be on a disk: then only if another user has taken the name in memory.
    roots = [SERVICES_ROOT, DEFAULT_ROOT]
    return roots if _is_in_memory(os.path.dirname(SERVICES_ROOT)) else roots[::-1]


def _is_in_memory(mounted: str) -> bool:
    with contextlib.suppress(OSError), open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
        return any(line.split()[1:3] == [mounted, "tmpfs"] for line in mounts)
    return False


def _status_of(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # what this user can't reach is not its own
        return None
    except OSError as error:  # it may be there: another place would split the counts
        raise SharedStateError(f"{path}: {cause_of(error)}") from None


def first_of(variable: str) -> str:
    """The first absolute path in a list that systemd hands over (systemd.exec(5)); empty without one."""
    return next(filter(os.path.isabs, os.environ.get(variable, "").split(":")), "")


def number_of_user(user: str) -> int:
    """The uid of a user's name, or of the uid as a text. Raises SharedStateError for an unknown name."""
    try:
        return int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    except (KeyError, AttributeError, ValueError):
        raise SharedStateError(f"{user!r}: there is no such user") from None


def name_of_user(uid: int) -> str:
    """The name, or the uid of a user without one."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def user_text(uid: int) -> str:
    """A user for a message."""
    name = name_of_user(uid)
    return f"uid {uid}" if name == str(uid) else f"{name}, uid {uid}"
