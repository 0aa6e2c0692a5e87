"""What a power failure may leave of files: every change is recorded, and what was not yet synced is there or not.

    python -m tests.support.power_loss SCENARIO DIRECTORY RECORD

runs a scenario under the library of `faults.c`, which writes the record. `crashes` draws what may be left: the changes
that an fsync has made durable, and any of the others, with torn writes. The changes of one directory keep their order,
and a rename happens or does not.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.faults import Library, forked
from tests.support.waiting import end_of

SPAN = {"interval": 1 << 20, "num_windows": 4}


class Change(NamedTuple):
    """A line of the record. `data`: what was written, or the paths; `at`: where in the file, or how long it is now."""

    what: str
    inode: int
    at: int
    data: bytes

    @property
    def paths(self) -> list[str]:
        return os.fsdecode(self.data).split("\0")

    @property
    def directory(self) -> str:
        """Whose entries it changes."""
        return os.path.dirname(self.paths[-1])


def read_record(path: Path) -> list[Change]:
    data, found, at = path.read_bytes(), [], 0
    while at < len(data):
        end = at
        for _ in range(4):
            end = data.index(b" ", end + 1)
        what, inode, place, size = data[at:end].decode().split(" ")
        if what == "note":
            line_end = data.index(b"\n", end)
            found.append(Change(what, 0, 0, data[end + 1 : line_end]))
            at = line_end + 1
        else:
            found.append(Change(what, int(inode), int(place), data[end + 1 : end + 1 + int(size)]))
            at = end + 2 + int(size)
    return found


class Left(NamedTuple):
    """What a crash has left. `promised` and `attempted`: the notes until then."""

    names: dict[str, int]  # path: inode
    contents: dict[int, bytes]
    promised: int
    attempted: int

    def write(self, root: str, to: Path) -> None:
        """Makes the files that were below `root`; a directory has no content."""
        for path, inode in sorted(self.names.items()):
            there = to / os.path.relpath(path, root)
            if there.parent.is_dir():
                if inode in self.contents:
                    there.write_bytes(self.contents[inode])
                else:
                    there.mkdir()


ENTRIES = ("create", "rename", "link", "unlink", "mkdir")


def crashes(record: list[Change], draws: int, seed: int = 1) -> Iterator[Left]:
    """What may be left by a failure after each change: with all that is not synced, without, and `draws` drawn ones."""
    rng = random.Random(seed)
    for end in range(1, len(record) + 1):
        if record[end - 1].what == "note":
            continue
        for draw in range(draws + 2):
            yield _left(record[:end], lambda draw=draw: draw == 0 or (draw > 1 and rng.random() < 0.5), rng)


def _left(record: list[Change], kept: Callable[[], bool], rng: random.Random) -> Left:
    synced = {change.data: i for i, change in enumerate(record) if change.what == "sync"}
    durable = {change.inode: i for i, change in enumerate(record) if change.what == "sync"}
    names: dict[str, int] = {}
    contents: dict[int, bytearray] = {}
    notes = {"promised": 0, "attempted": 0}
    for i, change in enumerate(record):
        if change.what == "note":
            name, value = change.data.decode().split()
            notes[name] = int(value)
        elif change.what in ENTRIES:
            if change.what == "create":
                contents.setdefault(change.inode, bytearray())
            if i < synced.get(os.fsencode(change.directory), -1) or kept():
                _enter(change, names)
        elif change.what in ("write", "truncate"):
            safe = i < durable.get(change.inode, -1)
            if safe or kept():
                _fill(change, contents.setdefault(change.inode, bytearray()), rng, torn=not safe)
    return Left(names, {inode: bytes(data) for inode, data in contents.items()}, **notes)


def _enter(change: Change, names: dict[str, int]) -> None:
    if change.what == "rename" and names.get(change.paths[0]) == change.inode:
        del names[change.paths[0]]
    if change.what == "unlink":
        names.pop(change.paths[0], None)
    else:
        names[change.paths[-1]] = change.inode


def _fill(change: Change, content: bytearray, rng: random.Random, *, torn: bool) -> None:
    if change.what == "truncate":
        del content[change.at :]
        return
    data = change.data[: rng.randrange(len(change.data) + 1)] if torn and rng.random() < 0.3 else change.data
    content.extend(bytes(max(0, change.at - len(content))))
    content[change.at : change.at + len(data)] = data


# ---- what is recorded


class Saved:
    """A series that is kept and logged. The notes say what was added, and what a save has promised."""

    def __init__(self, directory: Path, library: Library | None = None, *, log: bool = False) -> None:
        from inbound_audit import InboundAudit

        self._library = library
        self.audit = InboundAudit(state=directory / "a" / "state")
        self.audit.series.define("kept", "ip", **SPAN, persist=True, serialize=log)

    def count(self) -> int:
        return self.audit.series.count("kept", "0.0.0.0/0", 0, 3)

    def add(self, count: int, before: int = 0) -> None:
        assert self._library
        self._library.note(f"attempted {before + self.count() + count}")
        self.audit.series.add("kept", f"192.0.2.{count}", count)

    def save(self, before: int = 0) -> None:
        assert self._library
        self.audit.series.save()
        self._library.note(f"promised {before + self.count()}")


def save(directory: Path, library: Library) -> None:
    kept = Saved(directory, library)
    for count in (1, 2, 3):
        kept.add(count)
        kept.save()
    kept.audit.close()


def adopt(directory: Path, library: Library) -> None:
    """Two processes save and die; a third one adopts what they have left, and saves more."""
    from inbound_audit.persist.persisted_series import PersistedSeries

    def leave(count: int, before: int) -> None:
        PersistedSeries.adopt = lambda *arguments: None  # type: ignore[method-assign]
        kept = Saved(directory, library)
        kept.add(count, before)
        kept.save(before)
        os._exit(0)

    for count, before in ((3, 0), (5, 3)):
        assert end_of(forked(lambda count=count, before=before: leave(count, before))) == 0
    kept = Saved(directory, library)
    kept.save()
    kept.add(4)
    kept.save()
    kept.audit.close()


def log(directory: Path, library: Library) -> None:
    kept = Saved(directory, library, log=True)
    for _ in range(3):
        kept.add(1)
        kept.add(2)
        kept.save()
    kept.add(1)


def deliver(directory: Path, library: Library) -> None:
    from inbound_audit.cli.maildir import Maildir

    box = Maildir(str(directory / "a" / "mail"))
    for number in range(1, 4):
        library.note(f"attempted {number}")
        box._store(message(number))
        library.note(f"promised {number}")
    box.close()


def message(number: int) -> bytes:
    return b"Subject: %d\n\n" % number + 400 * b"a line of a message\n"


def main(name: str, directory: str, record: str) -> None:
    library = Library()
    fd = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    library.watch(directory)
    library.record(fd)
    {"save": save, "adopt": adopt, "log": log, "deliver": deliver}[name](Path(directory), library)


if __name__ == "__main__":
    main(*sys.argv[1:])
