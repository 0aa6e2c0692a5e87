"""Windows as bytes: what a node says of the windows of its series.

Records of windows follow one another without a mark between them, sorted by window. All numbers are little-endian.

    u8  scope         index in SCOPES
    u8  sign          0: what was added; 1: what was taken away
    u8  level4        prefix length to which IPv4 hosts were folded; 32: they were not
    u8  level6        the same for IPv6; 128: they were not
    u32 interval      seconds
    u16 slots         windows of the series
    u8  name_size     bytes of the name
    i64 number        of the window: seconds since 1970, divided by the interval
    u32 size          bytes of its records; 0: the window is empty now, or has left the view
        name          UTF-8
        records       hosts, as those of sessions (node_trees.py)
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import NamedTuple

SCOPES = ("connections", "receptions", "rejections", "series", "strings")
MAX_NAME_BYTES = 64
MAX_SLOTS = 1024
MAX_INTERVAL_S = 1 << 30
MAX_TIME_S = (1 << 59) // 10**6
"""No clock of an audit gives a time further from 1970 (IA_MAX_TIME_US of clock.h)."""
UNFOLDED = (32, 128)
"""The levels of a window whose hosts were not folded."""

_HEAD = struct.Struct("<BBBBIHBqI")
MAX_HEAD_BYTES = _HEAD.size + MAX_NAME_BYTES

Levels = tuple[int, int]


class SeriesKey(NamedTuple):
    """A series, the same on every node. `interval` is in seconds."""

    scope: str
    name: str
    interval: int
    slots: int


class Window(NamedTuple):
    """One window of a series, and whether it is what was added (0) or what was taken away (1)."""

    series: SeriesKey
    number: int
    sign: int


class WindowRecords(NamedTuple):
    """What is said of one window. No records: it is empty, or has left the view."""

    window: Window
    levels: Levels
    records: bytes


def can_be_said(key: SeriesKey) -> bool:
    """Whether `unpack` takes the windows of a series."""
    try:
        name_size = len(key.name.encode())
    except UnicodeEncodeError:
        return False
    return key.scope in SCOPES and _is_series(key.interval, key.slots, name_size)


def _is_series(interval: int, slots: int, name_size: int) -> bool:
    return 0 < interval <= MAX_INTERVAL_S and 0 < slots <= MAX_SLOTS and 0 < name_size <= MAX_NAME_BYTES


def pack(said: WindowRecords) -> bytes:
    """Returns the bytes of one window's records."""
    (scope, name, interval, slots), number, sign = said.window
    text = name.encode()
    numbers = (SCOPES.index(scope), sign, *said.levels, interval, slots, len(text), number, len(said.records))
    return _HEAD.pack(*numbers) + text + said.records


def unpack(data: bytes) -> list[WindowRecords]:
    """Reads records of windows; those of hosts are not checked. Raises ValueError for bytes that `pack` does not make
    of windows in their order."""
    found: list[WindowRecords] = []
    at = 0
    while at < len(data):
        if at + _HEAD.size > len(data):
            raise ValueError("the records of a window are cut short")
        scope, sign, level4, level6, interval, slots, name_size, number, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        text, records = data[at : at + name_size], data[at + name_size : at + name_size + size]
        at += name_size + size
        if at > len(data):
            raise ValueError("the records of a window are cut short")
        if not (scope < len(SCOPES) and sign <= 1 and level4 <= UNFOLDED[0] and level6 <= UNFOLDED[1]):
            raise ValueError(f"a window of scope {scope}, sign {sign}, folded to /{level4} and /{level6}")
        if not _is_series(interval, slots, name_size):
            raise ValueError(f"a series of {slots} windows of {interval} s, with a name of {name_size} bytes")
        if abs(number) > MAX_TIME_S // interval + 1:
            raise ValueError(f"window {number} of {interval} s: no clock gives that time")
        window = Window(SeriesKey(SCOPES[scope], text.decode(), interval, slots), number, sign)
        if found and window <= found[-1].window:
            raise ValueError("the windows are not in their order")
        found.append(WindowRecords(window, (level4, level6), records))
    return found


def weight_of(window: Window, levels: Levels) -> int:
    """Returns the odd number below 2**64 with which the digest of a window's hosts is multiplied in that of all
    windows: BLAKE2b, of eight bytes, over the records of that window when it is empty, with the lowest bit set."""
    key = pack(WindowRecords(window, levels, b""))
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little") | 1
