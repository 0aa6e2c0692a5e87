"""The address lists behind `msys.cidr`: read from files, searched by longest match, read again when they change."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from inbound_audit._ipcount import NetworkMap
from inbound_audit.errors import PolicyError
from inbound_audit.log_limiter import LogLimiter
from inbound_audit.lua import rbldnsd

Clock = Callable[[], float]


class NetworkList:
    """One list. `kind` is the record that a match answers, ``"a"`` or ``"txt"``.

    `refresh` is how many seconds pass before a look-up looks at the file again; 0: never. A file that has gone or is
    wrong by then leaves the list as it was, and is logged.
    """

    def __init__(self, path: Path, kind: str, refresh: float, *, clock: Clock, burst: LogLimiter) -> None:
        self._path, self._kind, self._refresh = path, kind, refresh
        self._clock, self._burst = clock, burst
        self._read()

    def lookup(self, address: str) -> str | None:
        """The value of the longest match, None without one. Raises AddressError. O(log networks)."""
        if self._refresh and self._clock() >= self._due:
            self._look_again()
        index = self._networks.lookup(address)
        return None if index is None else self._values[index]

    def reload(self) -> None:
        """Reads the file now. Raises PolicyError, and the list stays as it was. O(lines)."""
        self._read()

    def _look_again(self) -> None:
        self._due = self._clock() + self._refresh
        try:
            if _stamp(self._path) != self._stamp:
                self._read()
        except PolicyError as error:
            self._burst.report(logging.ERROR, "a list stays as it was: %s", error)

    def _read(self) -> None:
        stamp = _stamp(self._path)
        values: dict[str | None, int] = {}
        items = []
        try:
            with self._path.open(encoding="utf-8", errors="surrogateescape") as lines:
                for network, value in rbldnsd.parse(lines, str(self._path)):
                    items.append((network, values.setdefault(self._answer(value), len(values))))
        except OSError as error:
            raise PolicyError(f"{self._path}: {error.strerror or error}") from None
        self._networks, self._values = NetworkMap(items), list(values)
        self._stamp, self._due = stamp, self._clock() + self._refresh

    def _answer(self, value: rbldnsd.Value | None) -> str | None:
        """An entry without a text answers its A record: "" is what policies take for "not listed"."""
        if value is None:
            return None
        return value.txt or value.a if self._kind == "txt" else value.a


def _stamp(path: Path) -> tuple[int, int, int]:
    """Changes whenever the file is written or replaced."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise PolicyError(f"{path}: {error.strerror or error}") from None
    return status.st_mtime_ns, status.st_size, status.st_ino


class NetworkLists:
    """The lists of one policy, by name; relative paths start from the policy's directory."""

    def __init__(self, directory: Path, *, burst: LogLimiter, clock: Clock = time.monotonic) -> None:
        self._directory, self._burst, self._clock = directory, burst, clock
        self._lists: dict[str, NetworkList] = {}

    def define(self, name: str, source: str, kind: str, refresh: float) -> None:
        """Reads a list; an older one of that name is replaced. Raises PolicyError that names file and line."""
        path = self._directory / source.removeprefix("file://")
        self._lists[name] = NetworkList(path, kind, refresh, clock=self._clock, burst=self._burst)

    def query(self, name: str, address: str) -> str | None:
        """Raises AddressError for what is no address, KeyError for an undefined list."""
        return self._lists[name].lookup(address)

    def reload(self, name: str) -> None:
        """Raises PolicyError, KeyError."""
        self._lists[name].reload()
