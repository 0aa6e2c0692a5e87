"""Address lists by name: read from files, searched by longest match, read again when they change.

A list that is read again is read in a thread, and takes the place of the old one when all of it is there: a session
never waits for a file, be it large, slow or bad.
"""

from __future__ import annotations

import io
import ipaddress
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from inbound_audit._ipcount import NetworkMap, parse_prefix
from inbound_audit.address_lists.rbldnsd import Entry, Value, Zone
from inbound_audit.errors import PolicyError
from inbound_audit.process import ProcessLock
from inbound_audit.ration import Ration
from inbound_audit.regular_file import Directories, Stamp, read_regular

logger = logging.getLogger("inbound_audit.address_lists")

Clock = Callable[[], float]
MAX_BYTES = 1 << 26
"""Bytes of one file."""
MAX_LISTS = 64
RETRY_S = 10
"""Seconds until a file is read again that never could be."""
_MAX_WARNINGS = 10  # lines of one file that are named when they can't be read; of more, only the number is logged


_one_at_a_time = ProcessLock()  # many threads that read would leave little to those that serve


class _Contents(NamedTuple):
    """A file as it was read: never changed, exchanged as a whole."""

    networks: NetworkMap
    values: list[Value | None]
    zone: Zone
    stamp: Stamp


class NetworkList:
    """One list. `kind` is the record that a match returns, ``"a"`` or ``"txt"``. `locate` returns the path of the file,
    or raises PolicyError.

    `refresh` is the number of seconds after which a look-up has the file checked again; 0: never. If the file has gone
    or can't be read by then, the list stays as it was, and an error is logged, once until there is another one. A line
    that can't be read is skipped with a warning.
    """

    def __init__(self, locate: Callable[[], Path], kind: str, refresh: float, clock: Clock) -> None:
        self._locate, self._kind, self._refresh, self._clock = locate, kind, refresh, clock
        self.path = locate()
        self._contents: _Contents | None = None
        self._error: str | None = None
        self._lock = ProcessLock()
        self._reader: threading.Thread | None = None  # in a child of a fork it is not alive

    def lookup(self, address: str, expand: bool = True) -> str | None:
        """The value of the longest match, None without one. O(log networks).

        `expand`: ``$`` in a text is replaced by the address, ``$1`` to ``$9`` by the file's own texts. Raises
        AddressError, and PolicyError for a list that could not be read, or is still being read for the first time.
        """
        contents = self._contents
        if (self._refresh or contents is None) and self._clock() >= self._due:
            try:
                self._start(changed=True)
            except PolicyError as error:
                self._report(str(error))
        if contents is None:
            raise PolicyError(self._error or f"{self.path}: is still being read")
        index = contents.networks.lookup(address)
        value = None if index is None else contents.values[index]
        if value is None or self._kind == "a":
            return value and value.a
        shown = str(ipaddress.ip_address(parse_prefix(address)[1]))
        # An entry without a text returns its A record: policies take "" for "not listed".
        return (contents.zone.expand(value.txt, shown) if expand else value.txt) or value.a

    def reload(self, wait_s: float | None, spend: Callable[[float], None] | None = None) -> None:
        """Reads the file. O(lines).

        Waits for `wait_s` seconds, for ever if it is None, then the file is read on in a thread. Raises PolicyError if
        the file turned out to be bad meanwhile; the list stays as it was. `spend` gets the seconds of the processor
        that the thread has taken: other threads of Python had to do without them.
        """
        if wait_s is None:
            self._read(changed=False)
        else:
            reader = self._start(changed=False, spend=spend)
            reader.join(wait_s)
            if reader.is_alive():
                return
        if self._error is not None:
            raise PolicyError(self._error)

    @property
    def is_being_read(self) -> bool:
        return self._reader is not None and self._reader.is_alive()

    def _start(self, changed: bool, spend: Callable[[float], None] | None = None) -> threading.Thread:
        with self._lock:
            if self._reader is None or not self.is_being_read:
                self._due = self._clock() + (self._refresh or RETRY_S)
                reader = threading.Thread(target=self._read, args=(changed, spend), name="address list", daemon=True)
                try:
                    reader.start()
                except RuntimeError as error:
                    raise PolicyError(f"{self.path}: is not read: {error}") from None
                self._reader = reader
            return self._reader

    def _read(self, changed: bool, spend: Callable[[float], None] | None = None) -> None:
        """Exchanges the contents; of a file that has not changed, only if not `changed`. Logs a new error."""
        self._due = self._clock() + (self._refresh or RETRY_S)
        try:
            with _one_at_a_time:
                self._contents = _read(self._locate(), self._contents if changed else None)
            self._error = None
        except (PolicyError, MemoryError) as error:
            self._report(str(error) or f"{self.path}: not enough memory")
        if spend is not None:
            spend(time.thread_time())

    def _report(self, message: str) -> None:
        if self._contents is not None and message != self._error:
            logger.error("a list stays as it was: %s", message)
        self._error = message


def _read(path: Path, known: _Contents | None) -> _Contents:
    """Reads a file; returns `known` if it is the same file still. Raises PolicyError, MemoryError."""
    raw, stamp = read_regular(path, MAX_BYTES, None if known is None else known.stamp)
    if raw is None and known is not None:
        return known
    wrong: list[str] = []
    # utf-8-sig: a byte order mark does not belong to the first address.
    lines = io.TextIOWrapper(io.BytesIO(raw or b""), encoding="utf-8-sig", errors="surrogateescape")
    try:
        zone = Zone(lines, lambda number, reason: wrong.append(f"{path}:{number}: {reason}"))
    except ValueError as error:
        raise PolicyError(f"{path}: {error}") from None
    networks, values = networks_of(zone.entries)
    zone.entries.clear()
    for line in wrong[:_MAX_WARNINGS]:
        logger.warning("%s; the line is skipped", line)
    if len(wrong) > _MAX_WARNINGS:
        logger.warning("%s: %d lines are skipped in all", path, len(wrong))
    return _Contents(networks, values, zone, stamp)


def networks_of(entries: Sequence[Entry]) -> tuple[NetworkMap, list[Value | None]]:
    """The networks of a list for look-ups, which return an index of the values. O(n log n)."""
    values: dict[Value | None, int] = {}
    # Of equal networks the first line counts; the map takes the last one. It makes its steps in Python, so that other
    # threads go on meanwhile.
    networks = NetworkMap((network, values.setdefault(value, len(values))) for network, value in reversed(entries))
    return networks, list(values)


class NetworkLists:
    """The lists of one policy, by name, whose files lie in its directories.

    A call that reads a file waits for it: while the policy is loaded for as long as it takes, from then on for as long
    as `ration` allows.
    """

    def __init__(self, directories: Directories, *, clock: Clock = time.monotonic) -> None:
        self._directories, self._clock = directories, clock
        self._lists: dict[str, NetworkList | None] = {}  # None: an empty one
        self._reading: list[NetworkList] = []  # also those that were replaced
        self.ration: Ration | None = None

    def define(self, name: str, source: str | None = None, kind: str = "a", refresh: float = 0) -> None:
        """Reads a list; an older one of that name is replaced. Without a source it is empty. Raises PolicyError."""
        if name not in self._lists and len(self._lists) >= MAX_LISTS:
            raise PolicyError(f"{name!r}: a policy has at most {MAX_LISTS} address lists")
        made = None
        self._reading = [one for one in self._reading if one.is_being_read]
        if len(self._reading) >= MAX_LISTS:
            raise PolicyError(f"{name!r}: {MAX_LISTS} address lists are still being read")
        if source is not None:
            locate = partial(self._directories.locate, source.removeprefix("file://"))
            made = NetworkList(locate, kind, refresh, self._clock)
            self._reading.append(made)
            self._wait(made)
        self._lists[name] = made

    def query(self, name: str, address: str, expand: bool = True) -> str | None:
        """Raises AddressError, PolicyError, and KeyError for an undefined list."""
        found = self._lists[name]
        return None if found is None else found.lookup(address, expand)

    def reload(self, name: str) -> None:
        """Raises PolicyError, KeyError."""
        if found := self._lists[name]:
            self._wait(found)

    def _wait(self, read: NetworkList) -> None:
        ration = self.ration
        if ration is None:
            read.reload(None)
            return
        with ration.spending() as left_s:
            if left_s <= 0:
                raise PolicyError(f"{read.path}: is not read now: the policy's hooks have taken too much time")
            read.reload(left_s, ration.spend)
