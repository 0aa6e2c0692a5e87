"""The bytes of a snapshot: what one process has counted in one series.

docs/persistence.md draws them. Reading checks everything before anything is used: the digest over all of it first, then
each length and number, so that a file which is accepted is one that `encode` has written.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from inbound_audit.errors import SharedStateError

MAGIC = b"IASERIES"
VERSION = 1
BYTE_ORDER = 0x01020304
MAX_SIZE = 8 << 30
"""Bytes of a snapshot that is read: some 350 million hosts."""

ADDRESSES, STRINGS = 0, 1

_HEAD = struct.Struct("=8sIIQQqIIIIIIII")
_ID = struct.Struct("=Q")
_MARK = struct.Struct("=QQq")
_WINDOW = struct.Struct("=qIIQQQ")
_ROW = 24
_DIGEST = 32
_MIN_SIZE = _HEAD.size + _DIGEST


class Damaged(SharedStateError):
    """A file is no snapshot that can be used. The message says why, and does not name the file."""


class Series(NamedTuple):
    """What a snapshot says of its series. In a file `type` is ``"cidr"`` or ``"string"``; `interval` is in seconds."""

    name: str
    type: str
    interval: int
    num_windows: int


class Window(NamedTuple):
    """A window of time: its number, the prefix lengths to which hosts were folded and how many were, and the rows of 24
    bytes of what was added and taken away."""

    number: int
    level4: int
    level6: int
    folded: int
    added: bytes | memoryview
    taken: bytes | memoryview


class Mark(NamedTuple):
    """The lines up to `sequence` of a log id are counted; `window` was the current one when that was found out."""

    log: int
    sequence: int
    window: int


class Snapshot(NamedTuple):
    """What a file holds. `absorbed`: the ids whose files count nothing beside this one."""

    series: Series
    id: str
    newest: int
    absorbed: tuple[str, ...]
    marks: tuple[Mark, ...]
    windows: Sequence[Window]


def kind_of(type: str) -> str:
    """``"cidr"`` or ``"string"``: both kinds of addresses are one."""
    return "string" if type == "string" else "cidr"


def encode(snapshot: Snapshot) -> tuple[list[bytes | memoryview], bytes]:
    """The pieces of a file in their order, and the digest, which is the last of them. O(bytes); copies no rows."""
    series, name = snapshot.series, snapshot.series.name.encode("utf-8")
    body: list[bytes | memoryview] = [name + bytes(-len(name) % 8)]
    body += [_ID.pack(int(id, 16)) for id in snapshot.absorbed]
    body += [_MARK.pack(*mark) for mark in snapshot.marks]
    for window in snapshot.windows:
        sizes = len(window.added) // _ROW, len(window.taken) // _ROW
        body += [_WINDOW.pack(*window[:4], *sizes), window.added, window.taken]
    size = _HEAD.size + sum(map(len, body)) + _DIGEST
    kind = STRINGS if series.type == "string" else ADDRESSES
    counts = len(name), len(snapshot.absorbed), len(snapshot.marks), len(snapshot.windows), 0
    start = (MAGIC, VERSION, BYTE_ORDER, size, int(snapshot.id, 16), snapshot.newest)
    head = _HEAD.pack(*start, series.interval, series.num_windows, kind, *counts)
    digest = hashlib.blake2b(digest_size=_DIGEST)
    for piece in (head, *body):
        digest.update(piece)
    return [head, *body, digest.digest()], digest.digest()


def decode(data: bytes) -> Snapshot:
    """The content of a file; rows are views of `data`. Raises Damaged. O(bytes)."""
    _check_start(data)
    body = memoryview(data)[:-_DIGEST]
    if hashlib.blake2b(body, digest_size=_DIGEST).digest() != data[-_DIGEST:]:
        raise Damaged("its digest is not that of its bytes")
    reader = _Reader(body)
    head = _Head(*_HEAD.unpack(reader.take(_HEAD.size)))
    series = Series(reader.text(head.name), "string" if head.kind else "cidr", head.interval, head.num_windows)
    absorbed = tuple(f"{number:016x}" for (number,) in reader.records(_ID, head.absorbed))
    marks = tuple(Mark(*fields) for fields in reader.records(_MARK, head.marks))
    windows = tuple(reader.window() for _ in range(head.windows))
    if reader.left:
        raise Damaged(f"has {reader.left} bytes too many")
    _check(head, windows)
    return Snapshot(series, f"{head.id:016x}", head.newest, absorbed, marks, windows)


class _Head(NamedTuple):
    magic: bytes
    version: int
    byte_order: int
    size: int
    id: int
    newest: int
    interval: int
    num_windows: int
    kind: int
    name: int
    absorbed: int
    marks: int
    windows: int
    zero: int


class _Reader:
    """Takes pieces off the front. Raises Damaged where there are too few bytes."""

    def __init__(self, body: memoryview) -> None:
        self._body = body
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._body) - self._at

    def take(self, size: int) -> memoryview:
        if size > self.left:
            raise Damaged(f"ends {size - self.left} bytes too soon")
        self._at += size
        return self._body[self._at - size : self._at]

    def records(self, kind: struct.Struct, n: int) -> Iterator[tuple[int, ...]]:
        return kind.iter_unpack(self.take(n * kind.size))

    def text(self, size: int) -> str:
        """With zeros added, up to a multiple of 8 bytes."""
        padded = bytes(self.take(size + -size % 8))
        if any(padded[size:]):
            raise Damaged("has bytes other than zero after the name of its series")
        try:
            return padded[:size].decode("utf-8")
        except UnicodeDecodeError:
            raise Damaged("the name of its series is no UTF-8") from None

    def window(self) -> Window:
        number, level4, level6, folded, added, taken = _WINDOW.unpack(self.take(_WINDOW.size))
        return Window(number, level4, level6, folded, self.take(added * _ROW), self.take(taken * _ROW))


def _check_start(data: bytes) -> None:
    """Rejects foreign and truncated files before the digest is computed."""
    if len(data) < _MIN_SIZE or not data.startswith(MAGIC):
        raise Damaged(f"is no snapshot: {len(data)} bytes that begin with {data[:8]!r}")
    head = _Head(*_HEAD.unpack_from(data))
    if head.byte_order != BYTE_ORDER:
        raise Damaged("was written by a machine of another byte order")
    if head.version != VERSION:
        raise Damaged(f"is of version {head.version}; this is {VERSION}")
    if head.size != len(data):
        raise Damaged(f"has {len(data)} bytes, and should have {head.size}")


def _check(head: _Head, windows: tuple[Window, ...]) -> None:
    """Numbers that no series can have, although the digest is right."""
    numbers = [window.number for window in windows]
    if head.kind not in (ADDRESSES, STRINGS) or head.zero or not head.interval or not head.num_windows:
        raise Damaged("what it says of its series makes no sense")
    if len(set(numbers)) < len(numbers):
        raise Damaged("has a window twice")
    if numbers and not head.newest - head.num_windows < min(numbers) <= max(numbers) <= head.newest:
        raise Damaged(f"has windows {min(numbers)} to {max(numbers)}, and {head.newest} is the newest")
