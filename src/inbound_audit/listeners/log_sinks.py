"""Where the lines of a decision log go. A line that can't be written now is given up, and counted by the caller."""

from __future__ import annotations

import errno
import json
import logging
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Protocol

from inbound_audit.descriptor import Descriptor, open_file
from inbound_audit.errors import cause_of
from inbound_audit.log_limiter import LogLimiter

logger = logging.getLogger("inbound_audit.listeners")

SYSLOG = "/var/run/syslog" if sys.platform == "darwin" else "/dev/log"
JOURNAL = "/run/systemd/journal/socket"

MAX_WAIT_S = 0.5
"""Seconds to wait for a log service that is slow, for all lines that are written at once."""

IDENTIFIER = "inbound-audit"

_DAEMON, _NOTICE, _INFO = 3, 5, 6  # the facility and the severities: RFC 3164, 4.1.1

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


class LogSocket:
    """Sends each line as a datagram to the Unix socket of a log service; `render` makes its bytes. It waits for a
    receiver that is slow for `MAX_WAIT_S` in all, and connects anew to one that was started again.

    Raises OSError.

    Lock rule: the caller's.
    """

    def __init__(self, path: str, render: Callable[[str], bytes]) -> None:
        self.path, self._render = path, render
        self._limiter = LogLimiter(logger)
        self._socket = self._connect()

    def _connect(self) -> Descriptor:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as made:
            made.connect(self.path)
            return Descriptor(made.detach())

    def reopen(self) -> None:
        connected = self._connect()
        self._socket.close()
        self._socket = connected

    def write(self, lines: Sequence[str]) -> int:
        deadline = time.monotonic() + MAX_WAIT_S
        lost = 0
        for at, line in enumerate(lines):
            try:
                self._send(self._render(line), deadline)
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    lost += 1
                    continue
                text = "the log service at %s has lost %d lines: %s"
                self._limiter.report(logging.WARNING, text, self.path, len(lines) - at, cause_of(error))
                return lost + len(lines) - at
        return lost

    def _send(self, data: bytes, deadline: float) -> None:
        """Raises OSError."""
        try:
            self._write(data, deadline)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise
            self.reopen()
            self._write(data, deadline)

    def _write(self, data: bytes, deadline: float) -> None:
        while True:
            try:
                os.write(self._socket.number, data)  # a datagram is sent whole or not at all
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise
                poll = select.poll()
                poll.register(self._socket.number, select.POLLOUT)
                poll.poll(1000 * left)
            else:
                return

    def close(self) -> None:
        self._socket.close()


def syslog_message(line: str) -> bytes:
    """A line for a syslog service of this machine (RFC 3164, without a time, which the service knows)."""
    return f"<{_DAEMON * 8 + _priority(json.loads(line))}>{IDENTIFIER}[{os.getpid()}]: {line}".encode("ascii")


def journal_message(line: str) -> bytes:
    """A line for journald, in its native protocol: MESSAGE is the line, and each of its members is a field."""
    row = json.loads(line)
    fields = {"MESSAGE": line, "PRIORITY": _priority(row), "SYSLOG_IDENTIFIER": IDENTIFIER}
    return b"".join(
        _field(name, str(value)) for name, value in (fields | {n.upper(): v for n, v in row.items()}).items()
    )


def _field(name: str, value: str) -> bytes:
    """https://systemd.io/JOURNAL_NATIVE_PROTOCOL/: a value with a line feed comes after its length."""
    data = value.encode()
    if b"\n" not in data:
        return name.encode("ascii") + b"=" + data + b"\n"
    return name.encode("ascii") + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


def _priority(row: dict[str, object]) -> int:
    return _INFO if row.get("done") == "accepted" else _NOTICE
