"""Snapshots of processes that have ended: which of them count, and whose they are now.

A saved count is in one file, except for a moment: a process that adopts a snapshot writes its own with the adopted id
in it before it removes the other. So a file counts nothing when its id stands in the list of another one, and that list
is asked for while the lock of the id is held. Whoever reads the files one after the other can't miss the one that has
the id: it can lose it only by going itself into another file, and where a file went meanwhile, all are read again.

docs/model/adoption.pml is a model of this; comments "model: adoption/NAME" name its steps.
"""

from __future__ import annotations

import logging

from inbound_audit.errors import SharedStateError
from inbound_audit.persist import names, snapshots
from inbound_audit.persist.format import Damaged, Series, Snapshot, kind_of
from inbound_audit.persist.locks import Locks
from inbound_audit.persist.state_directory import StateDirectory

logger = logging.getLogger("inbound_audit.persist")

_MAX_ROUNDS = 1000


def ids_of(place: StateDirectory, series: str) -> list[str]:
    """The ids that have a snapshot of the series, in their order. Raises OSError."""
    wanted = names.encoded(series)
    parsed = (names.parse(file) for file in place.names())
    return sorted(id for found, id in filter(None, parsed) if found == wanted)


def absorbed(place: StateDirectory, series: str) -> set[str]:
    """The ids whose snapshots of the series count nothing, since another snapshot has their counts.

    Raises OSError; SharedStateError when files come and go too quickly. O(bytes of all snapshots of the series).
    """
    for _ in range(_MAX_ROUNDS):
        found: set[str] = set()
        try:
            for id in ids_of(place, series):  # model: adoption/list_files
                try:  # model: adoption/read_list
                    found.update(snapshots.read(place, names.snapshot(series, id), series).absorbed)
                except Damaged:
                    continue  # logged when it is set aside
        except FileNotFoundError:  # model: adoption/read_again
            continue
        return found
    raise SharedStateError(f"{place.path}: snapshots of {series!r} come and go too quickly to be read")


def load(place: StateDirectory, series: Series, id: str) -> Snapshot | None:
    """A snapshot whose lock we hold. None when it can't be used: it is gone, or damaged and was set aside, or it is of
    another definition. Raises OSError.
    """
    file = names.snapshot(series.name, id)
    try:
        snapshot = snapshots.read(place, file, series.name)
    except FileNotFoundError:
        return None
    except Damaged as why:
        set_aside_and_log(place, file, f"{why}; nothing of it is counted")
        return None
    difference = _difference(series, snapshot.series)
    if difference:
        logger.warning("%s/%s: is left alone: %s", place.path, file, difference)
        return None
    return snapshot


def set_aside_and_log(place: StateDirectory, file: str, why: str) -> None:
    """Sets a file aside and says so. Raises OSError."""
    aside = snapshots.set_aside(place, file)
    logger.error("%s/%s: %s; it was set aside as %s", place.path, file, why, aside)


def _difference(wanted: Series, found: Series) -> str | None:
    if kind_of(wanted.type) != kind_of(found.type):
        return f"its series is of type {found.type}, and {wanted.name!r} is defined as {wanted.type}"
    for what in ("interval", "num_windows"):
        if getattr(wanted, what) != getattr(found, what):
            return f"its {what} is {getattr(found, what)}, and {wanted.name!r} is defined with {getattr(wanted, what)}"
    return None


def release_unused(locks: Locks, needed: set[str]) -> None:
    """Lets go of the ids that were taken, but for those that are needed; and of lock files that stand for nothing.

    Raises OSError.
    """
    files = locks.place.names()  # model: adoption/list_unused
    used: dict[str, list[str]] = {}
    for file in files:
        found = names.parse(file.removesuffix(names.NEW))
        if found:
            used.setdefault(found[1], []).append(file)
    for id in filter(None, map(names.parse_lock, files)):
        if not any(map(names.parse, used.get(id, ()))):
            locks.take(id)
    for id in locks.taken:
        for file in used.get(id, ()):
            if file.endswith(names.NEW):  # was being written when its process died
                locks.place.remove(file)
        if id not in needed:
            locks.release(id, remove=not any(map(names.parse, used.get(id, ()))))
