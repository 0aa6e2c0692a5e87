"""The names of the files of a state directory.

    SERIES.ID.series            the snapshot of one series of one process
    SERIES.log                  the log of a series
    ID.lock                     locked as long as the process that has the id lives
    AUDIT.overrides             the copy of a shared audit's overrides (room `overrides`)
    SERIES.ID.series.new        a snapshot that is being written, or was when its process died
    SERIES.ID.series.damaged    set aside; then .damaged.1 and so on

SERIES is the name of a series in UTF-8, in which all but letters, digits, ``_``, ``-`` and dots that don't come first
are percent-encoded. ID are 16 hexadecimal digits, drawn at random. Whatever else lies there is left alone.
"""

from __future__ import annotations

import re
import secrets
from urllib.parse import quote

NEW = ".new"
DAMAGED = ".damaged"

_SNAPSHOT = re.compile(r"([A-Za-z0-9_%-][A-Za-z0-9_%.-]*)\.([0-9a-f]{16})\.series")
_LOCK = re.compile(r"([0-9a-f]{16})\.lock")


def new_id() -> str:
    """An id that no process has had."""
    return secrets.token_hex(8)


def encoded(series: str) -> str:
    """The name of a series as a part of a file's name. O(bytes)."""
    text = quote(series, safe="").replace("~", "%7E")
    return f"%2E{text[1:]}" if text.startswith(".") else text


def snapshot(series: str, id: str) -> str:
    return f"{encoded(series)}.{id}.series"


def lock(id: str) -> str:
    return f"{id}.lock"


def log(series: str) -> str:
    return f"{encoded(series)}.log"


def parse(file: str) -> tuple[str, str] | None:
    """The encoded series and the id of a snapshot's name; None for any other."""
    found = _SNAPSHOT.fullmatch(file)
    return (found[1], found[2]) if found else None


def parse_lock(file: str) -> str | None:
    """The id of a lock's name; None for any other."""
    found = _LOCK.fullmatch(file)
    return found[1] if found else None
