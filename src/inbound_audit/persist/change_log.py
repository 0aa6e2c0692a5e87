"""The log of a series: a line for each change, from all processes that count in the same state directory.

    1f0c44d29b07aa13 42 1795572000123456 1 192.0.2.7
    log id           no. microseconds    by key

The core writes a line with one call to a file that is opened to append, so lines don't mix. ``remove`` in the place of
the number says that the key was forgotten. A key that is a text is percent-encoded.
"""

from __future__ import annotations

import codecs
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from inbound_audit.descriptor import Identity, open_regular
from inbound_audit.persist import names
from inbound_audit.persist.state_directory import StateDirectory

logger = logging.getLogger("inbound_audit.persist")

MAX_LINE = 3 * 4096 + 128
"""Bytes of a line: a key has 4096 at most."""

_LINE = re.compile(
    rb"([0-9a-f]{16}) ([1-9][0-9]{0,18}) (-?[0-9]{1,18}) (-?[1-9][0-9]{0,9}|remove) ((?:[^% \n]|%[0-9A-Fa-f]{2})*)\n"
)


class Entry(NamedTuple):
    """A line of a log. `log` and `sequence` identify it; `by` is None where the key was forgotten; `line` is its
    number in the file, from 1."""

    log: int
    sequence: int
    microseconds: int
    by: int | None
    key: str
    line: int


class ChangeLog:
    """Where the change log of a series is, and which file the core writes to. It has no descriptor: the core has."""

    def __init__(self, series: str) -> None:
        self.series = series
        self.reported_failures = 0  # lines that could not be written, as far as they were logged
        self._identity: Identity | None = None

    def follow(self, place: StateDirectory, write_to: Callable[[int, bytes], object]) -> None:
        """If the file was renamed or removed, or none is open yet, opens the file of that name and hands over its
        descriptor and its path. Raises OSError."""
        name = names.log(self.series)
        if self._identity is not None and self._identity == place.identity_of(name):
            return
        with open_regular(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, at=place.fd) as file:
            write_to(file.number, os.fsencode(os.path.join(place.path, name)))
            self._identity = file.identity


def read_log(
    path: str | os.PathLike[str],
    after: Mapping[int, int] | None = None,
    broken: Callable[[int, str], object] | None = None,
) -> Iterator[Entry]:
    """The entries of a log in their order, but those whose log id has that number, or a greater one, in `after`.

    What can't be read is left out: `broken` is called with the number of the line and the reason (without it,
    both are logged). A last line without its end is being written, or was when there was no room for more: it is left
    out too. Raises OSError. O(1) memory.
    """
    known = {} if after is None else after
    tell = broken or (lambda line, why: logger.warning("%s:%d: %s", os.fspath(path), line, why))
    for number, line in _lines(path, tell):
        entry = _parsed(line, number, tell)
        if entry is not None and entry.sequence > known.get(entry.log, 0):
            yield entry


def _lines(path: str | os.PathLike[str], tell: Callable[[int, str], object]) -> Iterator[tuple[int, bytes]]:
    """Complete lines with their numbers, but the empty ones."""
    with open_regular(path, os.O_RDONLY) as opened, open(opened.number, "rb", closefd=False) as file:
        number = 0
        while line := file.readline(2 * MAX_LINE):  # one that was cut off, and the next after it
            number += 1
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            possible = line.endswith(b"\n")
            while not line.endswith(b"\n"):
                line = file.readline(2 * MAX_LINE)
                if not line:
                    return
            if not possible:
                tell(number, "is too long for a line of a log")
            elif line != b"\n":
                yield number, line


def _parsed(line: bytes, number: int, tell: Callable[[int, str], object]) -> Entry | None:
    found = _LINE.fullmatch(line)
    if found is None:
        # A line that was cut off, when there was no room for all of it, is followed at once by the next one.
        start, *fields = line.rsplit(b" ", 4)
        found = _LINE.fullmatch(b" ".join([start[-16:], *fields]))
        tell(
            number,
            "is not a line of a change log" if found is None else "a line that was cut off stands before another",
        )
    if found is None:
        return None
    try:
        key = unquote_to_bytes(found[5]).decode("utf-8")
    except UnicodeDecodeError:
        tell(number, "its key is no UTF-8")
        return None
    by = None if found[4] == b"remove" else int(found[4])
    return Entry(int(found[1], 16), int(found[2]), int(found[3]), by, key, number)
