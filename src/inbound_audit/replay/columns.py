"""CSV and JSON lines: the columns by their names.

CSV begins with a line of names; JSON is an object a line, and ``request.remote_ip`` is a member of a member. A column
is found by its usual names, or by the name that is given for it.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from inbound_audit.replay.formats import GROUPS, Fields

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "address": ("address", "client", "client_ip", "clientip", "ip", "remote", "remote_addr", "remote_ip", "peer",
                "src_ip", "source.ip", "request.remote_ip", "request.client_ip"),
    "time": ("time", "timestamp", "ts", "@timestamp", "date", "time_iso8601", "end"),
    "start": ("start", "begin", "opened", "connected_at", "event.start"),
    "duration": ("duration", "seconds", "session_time", "request_time", "elapsed"),
    "event": ("event", "action", "event.action", "type"),
    "id": ("id", "session", "session_id", "connection", "connection_id", "conn_id", "conn"),
}  # fmt: skip
"""The columns and their usual names. With `start`, or with `time` alone, a time stamp; `event` is one of `EVENTS`."""

EVENTS = {
    **dict.fromkeys(("connect", "connected", "open", "opened", "start", "accept", "login"), "address"),
    **dict.fromkeys(("disconnect", "disconnected", "close", "closed", "end", "logout"), "closed"),
    **dict.fromkeys(("reception", "received"), "received"),
    **dict.fromkeys(("rejection", "rejected", "reject"), "rejected"),
}
"""Which of `GROUPS` it is."""

OTHER: Fields = (None,) * len(GROUPS)  # type: ignore[assignment]
"""A line about something else than a connection."""

_DELIMITERS = ",;\t"
_TIME = re.compile(
    r"(?P<stamp>\d{9,10}|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d|\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d)"
    r"(?:[.,]?(?P<fraction>\d{1,9}))?(?P<zone>Z| ?[+-]\d\d:?\d\d)?"
)
_DURATION = re.compile(r"\d{1,12}(\.\d{1,20})?(e-\d\d?)?")


def _fields(line: str, delimiter: str) -> list[str]:
    """Raises ValueError."""
    try:
        return [each.strip() for each in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error as error:
        raise ValueError(f"does not begin with a line of CSV ({error})") from None


class Columns:
    """How the lines of one file are read. `given` has other names for columns.

    Raises ValueError, which says what to write, if the file has no column for the address or the time.
    """

    unit = 1.0
    one_at_a_time = False

    def __init__(self, name: str, first: bytes, given: Mapping[str, str]) -> None:
        self.name = name
        self._header = first.strip()
        text = first.decode("utf-8", "replace").strip()
        if name == "csv":
            self._delimiter = max(_DELIMITERS, key=text.count)
            self._names = _fields(text, self._delimiter)
            known = self._names
        else:
            known = [each for each, _ in _flat(json.loads(text))]
        lower = {each.lower(): each for each in known}
        self._at = {
            column: given[column] if column in given else next((lower[each] for each in usual if each in lower), None)
            for column, usual in COLUMNS.items()
        }
        self.starts = self._at["start"] is not None
        self.paired = self.tells_messages = self._at["event"] is not None
        for column, missing in (("address", not self._at["address"]), ("time", not (self._at["time"] or self.starts))):
            if missing or (column in given and given[column] not in known):
                raise ValueError(
                    f"has no column {given.get(column, column)!r} (there are: {', '.join(known[:20])}); "
                    f"write which one it is, such as --column {column}={known[0] if known else 'NAME'}"
                )

    def fields(self, block: bytes) -> Iterator[Fields]:
        for line in block.splitlines():
            found = self._read(line)
            if found is not None:
                yield found

    def fits(self, line: bytes) -> bool:
        return self._read(line) is not None

    def _read(self, line: bytes) -> Fields | None:
        """None: it is no line of this file's format."""
        try:
            row = self._row(line.decode("utf-8"))
            if row is None:
                return OTHER
            values = {column: _value(row, name) for column, name in self._at.items()}
        except (ValueError, csv.Error, RecursionError):  # not text, not JSON
            return None
        event = EVENTS.get(values["event"].lower()) if self.paired else "address"
        if event is None:
            return OTHER
        connects = event == "address"
        found = _TIME.fullmatch(values["start" if self.starts else "time"])
        address, duration = values["address"], values["duration"]
        if not address and connects and self.name == "json":  # programs log other things as well
            return OTHER
        if found is None or (connects and not address) or (duration and _DURATION.fullmatch(duration) is None):
            return None
        stamp, fraction, zone = (_bytes(each or "") for each in found.group("stamp", "fraction", "zone"))
        key = _bytes(values["id"] if self._at["id"] else address)
        if connects:
            return stamp, fraction, zone, key, None, _bytes(address), None, _bytes(duration), None, None
        closed, received, rejected = (b"" if event == each else None for each in ("closed", "received", "rejected"))
        return stamp, fraction, zone, key, None, None, closed, None, received, rejected

    def _row(self, text: str) -> Mapping[str, Any] | None:
        """By the names of the columns; None for the line of names. Raises ValueError or csv.Error."""
        if self.name == "json":
            return dict(_flat(json.loads(text)))
        if text.strip().encode() == self._header:
            return None
        row = next(csv.reader([text], delimiter=self._delimiter, strict=True), [])
        if len(row) != len(self._names):
            raise ValueError("has another number of columns")
        return dict(zip(self._names, map(str.strip, row), strict=True))


def _flat(value: object, before: str = "") -> Iterator[tuple[str, object]]:
    """The members of an object and of the objects in it. Raises ValueError if it is no object."""
    if not isinstance(value, dict):
        raise ValueError("is not an object")
    for name, member in value.items():
        if isinstance(member, dict):
            yield from _flat(member, f"{before}{name}.")
        else:
            yield before + name, member


def _value(row: Mapping[str, Any], name: str | None) -> str:
    """The text of a member; empty without such a member."""
    value = None if name is None else row.get(name)
    return "" if value is None else str(value)


def _bytes(text: str) -> bytes | None:
    return text.encode("utf-8", "replace") or None
