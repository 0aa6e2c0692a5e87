"""The files of overrides in the directory of a shared audit, one for each user who makes some.

    /run/inbound_audit/inbound_audit-mail/    (0700 mail)
        3f0c...a1.owner                       counts of a process
        104.overrides                         overrides that the user 104 (mail), or root in its place, has made

In a group's directory no member may replace a file of another (it is sticky), so each has a file of its own; what
holds is all of them together (`Table.merge`). A file is a line of JSON per entry. A line that can't be read is left
out, and logged, and never makes a file useless. A file is written beside itself and renamed, under a lock on the
directory, so it is whole whenever its writer is killed.

Lock rule: the lock of the directory (flock) is held to write. Readers take none.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator

from inbound_audit.descriptor import open_file, open_regular
from inbound_audit.errors import CapacityError, SharedStateError, cause_of
from inbound_audit.log_limiter import LogLimiter
from inbound_audit.overrides.entry import Entry, Key, joined, read_line
from inbound_audit.overrides.table import Table, table_of
from inbound_audit.shared.directory import Directory

logger = logging.getLogger("inbound_audit.overrides")
_damage = LogLimiter(logger)

NAME = re.compile(r"(\d{1,10})\.overrides")
NEW = ".new"

MAX_BYTES = 1 << 23
"""Of a file: what is behind them is not read."""

LOCK_TIMEOUT_S = 5.0
_LOCK_POLL_S = 0.005

Status = tuple[int, int, int, int]
"""Device, inode, time of change and size of a file that was read."""


@contextlib.contextmanager
def locked(place: Directory) -> Iterator[None]:
    """Excludes other writers. Raises SharedStateError when one holds the lock for too long, OSError."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    with open_file(".", os.O_RDONLY | os.O_DIRECTORY, at=place.fd) as opened:
        while True:
            try:
                fcntl.flock(opened.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SharedStateError(f"{place.path}: another process holds the lock of its overrides") from None
                time.sleep(_LOCK_POLL_S)
        try:
            yield
        finally:  # a child of a fork may have a copy of the descriptor
            with contextlib.suppress(OSError):
                fcntl.flock(opened.number, fcntl.LOCK_UN)


class Files:
    """What the files of a directory hold, read again when they have changed.

    `names`: which names are files of overrides. `changed`: whether any has since `table` was called.

    Lock rule: the caller's; one thread at a time.
    """

    def __init__(self, names: re.Pattern[str] = NAME) -> None:
        self._names = names
        self._read: dict[str, tuple[Status, list[tuple[Key, Entry]]]] = {}
        self.changed = False

    def refresh(self, place: Directory, names: Iterable[str], *, all: bool) -> None:
        """Reads those of the `names` that have changed. `all`: there are no others. Raises OSError."""
        found = {name for name in names if self._names.fullmatch(name)}
        for name in found if not all else found | self._read.keys():
            self.changed = self._refresh(place, name) or self.changed

    def _refresh(self, place: Directory, name: str) -> bool:
        try:
            there = os.stat(name, dir_fd=place.fd, follow_symlinks=False)
            if name in self._read and self._read[name][0] == _status(there):
                return False
            with open_regular(name, os.O_RDONLY | os.O_NOFOLLOW, at=place.fd) as opened:
                there = os.fstat(opened.number)
                owner = self._names.fullmatch(name)
                if owner is not None and owner.groups() and int(owner[1]) != there.st_uid:
                    raise OSError(0, f"it belongs to the user {there.st_uid}")
                self._read[name] = _status(there), read_entries(f"{place.path}/{name}", _content(opened.number))
                return True
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):  # nothing is wrong with the file
                raise
            _damage.report(logging.WARNING, "%s/%s: is not read: %s", place.path, name, cause_of(error), kind=name)
        return self._read.pop(name, None) is not None

    def table(self, now: float) -> Table:
        """All of them together, without what says nothing any more: it takes no room."""
        self.changed = False
        return table_of(self.last_changes(now))

    def last_changes(self, now: float) -> dict[Key, Entry]:
        """The last change of each prefix in any file: first of all, so that none is left out for want of room while one
        before it is taken."""
        last: dict[Key, Entry] = {}
        for _, entries in self._read.values():
            for key, entry in entries:
                if entry.is_kept(now):
                    last[key] = joined(last[key], entry) if key in last else entry
        return last

    def split(self, name: str, now: float) -> tuple[dict[Key, Entry], set[Key]]:
        """What one file has, and the prefixes in the others."""
        own: dict[Key, Entry] = {}
        others: set[Key] = set()
        for file, (_, entries) in self._read.items():
            kept = {key: entry for key, entry in entries if entry.is_kept(now)}
            if file == name:
                own = kept
            else:
                others |= kept.keys()
        return own, others


def read_all(place: Directory, now: float, names: re.Pattern[str] = NAME) -> Table:
    """What the files of a directory say at a moment. Raises OSError."""
    files = Files(names)
    files.refresh(place, place.names(), all=True)
    return files.table(now)


Edit = Callable[[Table], Iterable[tuple[Key, Entry]]]
"""From what holds to what changes. It raises nothing but what the caller of `change` expects."""


def change(place: Directory, edit: Edit, now: float) -> bool:
    """Makes changes in the file of this process. Returns whether there were any. Raises SharedStateError,
    CapacityError, and what `edit` raises."""
    try:
        with locked(place):
            like = os.fstat(place.fd)
            name, files = own_name(like), Files()
            files.refresh(place, place.names(), all=True)
            last = files.last_changes(now)
            table = table_of(last)
            new = list(edit(table))
            if new:
                own, others = files.split(name, now)
                # What a full table has no room for stays where another file has an earlier change of the prefix.
                kept = {key for key, entry in own.items() if entry.order == last[key].order} & (table.keys() | others)
                made = Table((key, last[key]) for key in kept)
                made.update(new)  # there was room in the table of all
                write(place, name, made, like)
            return bool(new)
    except OSError as error:
        raise SharedStateError(f"{place.path}: overrides can't be changed there: {cause_of(error)}") from None


def lines_of(content: bytes) -> list[bytes]:
    """Lines end with a line feed alone, as they are counted."""
    lines = content.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def read_entries(
    path: str, content: bytes, read: Callable[[bytes], tuple[Key, Entry]] = read_line
) -> list[tuple[Key, Entry]]:
    """Those of the lines that are entries; the others are logged."""
    entries, bad, why = [], 0, ""
    for number, line in enumerate(lines_of(content), 1):
        try:
            entries.append(read(line))
        except (ValueError, RecursionError) as error:
            bad, why = bad + 1, f"line {number} {error}"
    if bad:
        _damage.report(logging.WARNING, "%s: %d lines are no overrides, and left out: %s", path, bad, why, kind=path)
    return entries


def write(place: Directory, name: str, table: Table, like: os.stat_result) -> None:
    """Replaces a file; without entries it is removed. `like`: the directory, whose user and group it is for. The caller
    holds the lock. Raises OSError."""
    if not table:
        place.remove(name)
        return
    content = b"".join(entry.line() for _, entry in sorted(table.items()))
    if len(content) > MAX_BYTES:
        raise CapacityError(f"{place.path}: the overrides take more than {MAX_BYTES} bytes; lift some")
    new = name + NEW
    place.remove(new)  # of a writer that was killed
    with open_file(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, at=place.fd) as opened:
        try:
            _give(opened.number, like)
            with memoryview(content) as left:
                at = 0
                while at < len(left):
                    at += os.write(opened.number, left[at:])
            os.fsync(opened.number)
            os.rename(new, name, src_dir_fd=place.fd, dst_dir_fd=place.fd)
        except BaseException:
            with contextlib.suppress(OSError):
                place.remove(new)
            raise


def _give(fd: int, like: os.stat_result) -> None:
    """Who may use the directory may read the file; and root writes in the place of the directory's user."""
    shared = stat.S_IMODE(like.st_mode) & 0o070
    user = like.st_uid if os.geteuid() == 0 else -1
    if user >= 0 or shared:
        os.fchown(fd, user, like.st_gid if shared or user >= 0 else -1)
    if shared:
        os.fchmod(fd, 0o640)


def own_name(like: os.stat_result) -> str:
    """The file that this process writes to in a directory."""
    return f"{like.st_uid if os.geteuid() == 0 else os.geteuid()}.overrides"


def remove_unused(place: Directory) -> None:
    """Before a process leaves a directory: where nothing but files of overrides is left, they go once they say nothing
    any more. That a prefix was lifted stays, as long as a copy somewhere may bring its override back."""
    with contextlib.suppress(OSError, SharedStateError):
        names = place.names()
        if names and all(NAME.fullmatch(name.removesuffix(NEW)) for name in names):
            with locked(place):
                if not read_all(place, time.time()):
                    own = own_name(os.fstat(place.fd))
                    for name in sorted(names, key=lambda name: name.startswith(own)):
                        place.remove(name)  # ours last: it may say that what another's file has was lifted


def _status(there: os.stat_result) -> Status:
    return there.st_dev, there.st_ino, there.st_mtime_ns, there.st_size


def _content(fd: int) -> bytes:
    pieces: list[bytes] = []
    left = MAX_BYTES
    while left and (piece := os.read(fd, left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
