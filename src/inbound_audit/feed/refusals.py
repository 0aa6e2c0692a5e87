"""The latest refusals: the ends of the decision logs of an audit, read from outside while they grow."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime

from inbound_audit.errors import cause_of, plain
from inbound_audit.feed.decision_lines import Line, decisions, opened
from inbound_audit.feed.look import RefusalRow
from inbound_audit.feed.rules import MAX_TEXT

MAX_REFUSALS = 200
MAX_LOGS = 16
"""Decision logs that are read; the others are not."""
MAX_READ = 1 << 18
"""Bytes of a log that are read for one look; of what comes faster the newest."""
_MAX_NUMBER = (1 << 63) - 1

_Log = tuple[str, int]
"""The path of a log, and the user of the process that names it."""


class Refusals:
    """Lock rule: the caller's."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._tails: dict[_Log, _Tail] = {}

    def refresh(self, logs: Iterable[_Log]) -> list[str]:
        """Reads what those logs have more. Returns a sentence for each that can't be read."""
        wanted = list(dict.fromkeys(logs))
        self._tails = {log: self._tails.get(log) or _Tail(*log) for log in wanted[:MAX_LOGS]}
        failures = []
        now = self._clock()
        for (path, _), tail in self._tails.items():
            try:
                tail.read(now)
            except (OSError, ValueError) as error:
                why = cause_of(error) if isinstance(error, OSError) else str(error)
                failures.append(f"the log {plain(path[:MAX_TEXT])} can't be read: {plain(why)}")
        if len(wanted) > MAX_LOGS:
            failures.append(f"{len(wanted)} decision logs: {MAX_LOGS} of them are read")
        return failures

    @property
    def rows(self) -> tuple[RefusalRow, ...]:
        """The newest first, by the times in the lines. A line that is of the future is as old as its reading: it hides
        no later ones."""
        found = [each for tail in self._tails.values() for each in tail.rows]
        return tuple(row for _, row in sorted(found, key=lambda each: each[0])[: -MAX_REFUSALS - 1 : -1])


class _Tail:
    """The last refusals of one log. A file that was replaced or cut short is read anew: what was written to it between
    the last look and then is not seen."""

    def __init__(self, path: str, user: int) -> None:
        self._path, self._user = path, user
        self._file = (0, 0)
        self._read_to = 0
        self.rows: deque[tuple[float, RefusalRow]] = deque(maxlen=MAX_REFUSALS)

    def read(self, now: float) -> None:
        """Raises OSError, ValueError. O(bytes that have come)."""
        with opened(self._path, self._user) as file:
            status = os.fstat(file.fileno())
            identity = status.st_dev, status.st_ino
            if identity != self._file or status.st_size < self._read_to:
                self._file, self._read_to = identity, 0
            if status.st_size == self._read_to:
                return
            start = max(self._read_to, status.st_size - MAX_READ)
            file.seek(start)
            piece = file.read(MAX_READ)
        # The last line may not be whole yet, nor the first, if what was before it is left out.
        whole = piece.rfind(b"\n") + 1
        if start > self._read_to:
            first = piece.find(b"\n") + 1
            self._read_to = start + whole
            self._take(piece[first:whole], now)
        else:
            self._read_to = start + (whole or (len(piece) if len(piece) == MAX_READ else 0))
            self._take(piece[:whole], now)

    def _take(self, data: bytes, now: float) -> None:
        newest = deque(decisions(data.splitlines()), MAX_REFUSALS)
        found = (refusal_of(line) for line in newest)
        self.rows.extend((min(each[0], now), each[1]) for each in found if each is not None)


def refusal_of(line: Line) -> tuple[float, RefusalRow] | None:
    """What a line says, and when that was; None if it is about no client: how many lines were left out, for example."""
    done, at = line.get("done"), line.get("time")
    if not isinstance(done, str) or not isinstance(at, str):
        return None
    try:
        seconds = datetime.fromisoformat(at.removesuffix("Z") + "+00:00" * at.endswith("Z")).timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds, RefusalRow(
        time=plain(at[:MAX_TEXT]),
        client=_text(line, "client"),
        done=plain(done[:MAX_TEXT]),
        by=_text(line, "by"),
        limit=_text(line, "limit"),
        prefix=_text(line, "prefix"),
        count=_number(line, "count"),
        most=_number(line, "most"),
        service=_text(line, "service"),
        listener=_text(line, "listener"),
        text=_text(line, "why") or _text(line, "text"),
    )


def _text(line: Line, name: str) -> str | None:
    value = line.get(name)
    return plain(value[:MAX_TEXT]) if isinstance(value, str) else None


def _number(line: Line, name: str) -> int | None:
    value = line.get(name)
    return value if type(value) is int and 0 <= value <= _MAX_NUMBER else None
