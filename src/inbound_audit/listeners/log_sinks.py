"""Where the lines of a decision log go. A line that can't be written now is given up, and counted by the caller."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

from inbound_audit.descriptor import open_file
from inbound_audit.errors import cause_of
from inbound_audit.log_limiter import LogLimiter

logger = logging.getLogger("inbound_audit.listeners")

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY


class Sink(Protocol):
    path: str

    def write(self, lines: Sequence[str]) -> int:
        """Writes lines of ASCII without their ends. Returns how many are lost. Raises nothing."""

    def reopen(self) -> None:
        """Opens anew what the lines go to. Raises OSError, and goes on with what it has."""

    def close(self) -> None:
        """Idempotent."""


class LogFile:
    """Appends to a file, which is made with the mode 0640. Lines are appended by one write, so several processes may
    have one file. A file that was renamed or removed is made anew before the next line.

    Raises OSError.

    Lock rule: the caller's.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._limiter = LogLimiter(logger)
        self._torn = False  # the last line was written in part
        self._file = open_file(self.path, _FLAGS, 0o640)

    def reopen(self) -> None:
        opened = open_file(self.path, _FLAGS, 0o640)
        self._file.close()
        self._file, self._torn = opened, False

    def _follow(self) -> None:
        """Opens the file anew if its name is that of another file, or of none. Raises OSError."""
        try:
            found = os.stat(self.path)
            is_same = (found.st_dev, found.st_ino) == self._file.identity[:2] and self._file.is_ours
        except FileNotFoundError:
            is_same = False
        if not is_same:
            self.reopen()

    def write(self, lines: Sequence[str]) -> int:
        try:
            self._follow()
        except OSError as error:  # the lines go to the file that has been renamed
            self._limiter.report(logging.WARNING, "the decision log %s can't be opened anew: %s", self.path, error)
        before = b"\n" * self._torn
        data = before + "".join(f"{line}\n" for line in lines).encode("ascii")
        try:
            written = os.write(self._file.number, data)
        except OSError as error:
            return self._lose(lines, cause_of(error))
        self._torn = not data[:written].endswith(b"\n")
        if written == len(data):
            return 0
        ends = accumulate((len(line) + 1 for line in lines), initial=len(before))
        whole = sum(end - 1 <= written for end in ends) - 1  # without the line feed, which the next line brings
        return self._lose(lines[max(0, whole) :], "there is no room")

    def _lose(self, lines: Sequence[str], why: str) -> int:
        text = "the decision log %s has lost %d lines: %s"
        self._limiter.report(logging.WARNING, text, self.path, len(lines), why)
        return len(lines)

    def close(self) -> None:
        self._file.close()
