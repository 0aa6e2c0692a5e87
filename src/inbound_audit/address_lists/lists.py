"""Address lists by name: read from files, searched by longest match, read again when they change."""

from __future__ import annotations

import ipaddress
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from inbound_audit._ipcount import NetworkMap, parse_prefix
from inbound_audit.address_lists.rbldnsd import Value, Zone
from inbound_audit.errors import PolicyError
from inbound_audit.log_limiter import LogLimiter

logger = logging.getLogger("inbound_audit.address_lists")

Clock = Callable[[], float]
_MAX_WARNINGS = 10  # lines of one file that are named when they can't be read; of more, only the number is logged


class NetworkList:
    """One list. `kind` is the record that a match returns, ``"a"`` or ``"txt"``.

    `refresh` is the number of seconds after which a look-up checks the file again; 0: never. If the file has gone or
    can't be read by then, the list stays as it was, and an error is logged. A line that can't be read is skipped with a
    warning.
    """

    def __init__(self, path: Path, kind: str, refresh: float, *, clock: Clock, limiter: LogLimiter) -> None:
        self._path, self._kind, self._refresh = path, kind, refresh
        self._clock, self._limiter = clock, limiter
        self.reload()

    def lookup(self, address: str, expand: bool = True) -> str | None:
        """The value of the longest match, None without one. Raises AddressError. O(log networks).

        `expand`: ``$`` in a text is replaced by the address, ``$1`` to ``$9`` by the file's own texts.
        """
        if self._refresh and self._clock() >= self._due:
            self._check_file()
        index = self._networks.lookup(address)
        value = None if index is None else self._values[index]
        if value is None or self._kind == "a":
            return value and value.a
        shown = str(ipaddress.ip_address(parse_prefix(address)[1]))
        # An entry without a text returns its A record: policies take "" for "not listed".
        return (self._zone.expand(value.txt, shown) if expand else value.txt) or value.a

    def reload(self) -> None:
        """Reads the file now. Raises PolicyError, and the list stays as it was. O(lines)."""
        stamp = _stamp(self._path)
        wrong: list[str] = []
        try:
            # utf-8-sig: a byte order mark does not belong to the first address.
            with self._path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
                zone = Zone(lines, lambda number, reason: wrong.append(f"{self._path}:{number}: {reason}"))
        except OSError as error:
            raise PolicyError(f"{self._path}: {error.strerror or error}") from None
        values: dict[Value | None, int] = {}
        networks: dict[str, int] = {}
        for network, value in zone.entries:
            networks.setdefault(network, values.setdefault(value, len(values)))
        self._networks, self._values, self._zone = NetworkMap(networks.items()), list(values), zone
        zone.entries.clear()
        self._stamp, self._due = stamp, self._clock() + self._refresh
        for line in wrong[:_MAX_WARNINGS]:
            logger.warning("%s; the line is skipped", line)
        if len(wrong) > _MAX_WARNINGS:
            logger.warning("%s: %d lines are skipped in all", self._path, len(wrong))

    def _check_file(self) -> None:
        self._due = self._clock() + self._refresh
        try:
            if _stamp(self._path) != self._stamp:
                self.reload()
        except PolicyError as error:
            self._limiter.report(logging.ERROR, "a list stays as it was: %s", error)


def _stamp(path: Path) -> tuple[int, int, int]:
    """Changes whenever the file is written or replaced."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise PolicyError(f"{path}: {error.strerror or error}") from None
    return status.st_mtime_ns, status.st_size, status.st_ino


class NetworkLists:
    """The lists of one policy, by name; relative paths start from the policy's directory."""

    def __init__(self, directory: Path, *, limiter: LogLimiter, clock: Clock = time.monotonic) -> None:
        self._directory, self._limiter, self._clock = directory, limiter, clock
        self._lists: dict[str, NetworkList | None] = {}  # None: an empty one

    def define(self, name: str, source: str | None = None, kind: str = "a", refresh: float = 0) -> None:
        """Reads a list; an older one of that name is replaced. Without a source it is empty. Raises PolicyError."""
        if source is None:
            self._lists[name] = None
            return
        path = self._directory / source.removeprefix("file://")
        self._lists[name] = NetworkList(path, kind, refresh, clock=self._clock, limiter=self._limiter)

    def query(self, name: str, address: str, expand: bool = True) -> str | None:
        """Raises AddressError for what is not an address, KeyError for an undefined list."""
        found = self._lists[name]
        return None if found is None else found.lookup(address, expand)

    def reload(self, name: str) -> None:
        """Raises PolicyError, KeyError."""
        if found := self._lists[name]:
            found.reload()
