"""Frames: what one node says to the others, as bytes.

All numbers are little-endian. A frame has at most MAX_FRAME_BYTES.

    4s  magic         b"ibac"
    u8  version       1
    u8  type          of FrameType
    u16 tree          what it is about: 0: sessions; 1: windows; 2: windows for managers; 3: overrides
    u64 epoch         random, new at each start of an agent
    u64 seq           the number of this frame; of a snapshot: of the last delta that is in it; of a clock and
                      of overrides: of the frame before it
    u64 base          the number of the delta of this tree before this frame; of a snapshot: part (u32), parts (u32); of
                      a clock: its milliseconds since 1970; of overrides: 0
    u32 age           milliseconds since the start of the agent
    u32 hosts         \\
    u64 total          > of the state that this frame leads to; of a clock: 0
    u64 digest        /
        records       of a delta and of a part of a snapshot (node_trees.py; of windows: window_records.py); of
                      overrides, and of a part of a snapshot of them: lines (overrides/entry.py)
    u32 crc           CRC-32 of all bytes before it

Each version begins with the magic and the version, and ends with the CRC. A frame of a type that is not known is
dropped.
"""

from __future__ import annotations

import re
import struct
from enum import IntEnum
from typing import NamedTuple
from zlib import crc32

from inbound_audit.cluster.window_records import MAX_TIME_S
from inbound_audit.errors import InboundAuditError

VERSION = 1
SESSIONS = 0
"""The tree of frames about sessions; `host_series` has those of windows."""
OVERRIDES = 3
MAX_FRAME_BYTES = 256 * 1024
MAX_PARTS = 256
"""Parts of a snapshot, of all trees together: 64 MiB, enough for 2,700,000 hosts of IPv6 at 24 bytes each."""

_MAGIC = b"ibac"
_HEADER = struct.Struct("<4sBBHQQQIIQQ")
_CRC = struct.Struct("<I")
_TYPE_AT = 5
MIN_FRAME_BYTES = _HEADER.size + _CRC.size
MAX_RECORDS_BYTES = MAX_FRAME_BYTES - MIN_FRAME_BYTES
MAX_AGE_MS = 2**32 - 1
MAX_CLOCK_MS = 1000 * MAX_TIME_S

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class FrameError(InboundAuditError, ValueError):
    """These bytes are not a frame of this version."""


class OtherVersionError(FrameError):
    """A frame of a version that this agent does not know."""

    def __init__(self, version: int) -> None:
        self.version = version
        super().__init__(f"version {version} of the protocol; this agent knows version {VERSION}")


class FrameType(IntEnum):
    """What a frame is for. A goodbye is the last frame of an agent that ends in order. A clock says the time by which
    this node numbers its windows, and changes nothing. Overrides has those that are new, or none; `hosts` and `total`
    say how many this node has, and the digest is of all of them."""

    DELTA = 1
    SNAPSHOT = 2
    HEARTBEAT = 3
    GOODBYE = 4
    CLOCK = 5
    OVERRIDES = 6


_TYPES = frozenset(FrameType)
_MAY_WAIT = (FrameType.HEARTBEAT, FrameType.CLOCK, FrameType.OVERRIDES)


class Frame(NamedTuple):
    """One frame. The age is in milliseconds; `hosts`, `total` and `digest` are of the state that it leads to;
    `clock_ms` is what a clock says, in milliseconds since 1970."""

    type: int
    epoch: int
    seq: int
    base: int = 0
    age_ms: int = 0
    hosts: int = 0
    total: int = 0
    digest: int = 0
    records: bytes = b""
    part: int = 0
    parts: int = 0
    tree: int = 0
    clock_ms: int = 0

    @property
    def content(self) -> int:
        """The number of the last delta that is in the state that this frame leads to."""
        return self.seq if self.type in (FrameType.DELTA, FrameType.SNAPSHOT) else self.base


def is_name(text: str) -> bool:
    """Whether a cluster or a node may have this name: as a host name, at most 63 characters."""
    return _NAME.fullmatch(text) is not None


def may_wait(data: bytes) -> bool:
    """Whether these bytes look like a frame that changes nothing: a heartbeat, a clock, or overrides of which none is
    new. They are not checked."""
    return len(data) == MIN_FRAME_BYTES and data[_TYPE_AT] in _MAY_WAIT


def pack(frame: Frame) -> bytes:
    """Returns the bytes of a frame, with the checksum that they end in."""
    base = frame.base
    if frame.type == FrameType.SNAPSHOT:
        base = frame.part | frame.parts << 32
    elif frame.type == FrameType.CLOCK:
        base = frame.clock_ms
    numbers = (frame.tree, frame.epoch, frame.seq, base, frame.age_ms, frame.hosts, frame.total, frame.digest)
    body = _HEADER.pack(_MAGIC, VERSION, frame.type, *numbers) + frame.records
    return body + _CRC.pack(crc32(body))


def unpack(data: bytes) -> Frame:
    """Reads a frame. Each field is checked but the records, which the tree checks. Raises FrameError."""
    if not MIN_FRAME_BYTES <= len(data) <= MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(data):,} bytes; it has {MIN_FRAME_BYTES} to {MAX_FRAME_BYTES:,}")
    magic, version, type_, tree, epoch, seq, base, age, hosts, total, digest = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise FrameError("the first bytes are not those of a frame")
    end = len(data) - _CRC.size
    if crc32(memoryview(data)[:end]) != _CRC.unpack_from(data, end)[0]:
        raise FrameError("the checksum does not fit: the frame was damaged")
    if version != VERSION:
        raise OtherVersionError(version)
    frame = Frame(type_, epoch, seq, base, age, hosts, total, digest, bytes(data[_HEADER.size : end]), tree=tree)
    if type_ == FrameType.SNAPSHOT:
        frame = frame._replace(base=0, part=base & MAX_AGE_MS, parts=base >> 32)
    elif type_ == FrameType.CLOCK:
        frame = frame._replace(base=0, clock_ms=base)
    _check(frame)
    return frame


def _check(frame: Frame) -> None:
    """Raises FrameError if the fields of a frame contradict one another."""
    if frame.type == FrameType.SNAPSHOT:
        if not frame.part < frame.parts <= MAX_PARTS:
            raise FrameError(f"part {frame.part} of {frame.parts}; a snapshot has at most {MAX_PARTS}")
    elif frame.type not in _TYPES:
        raise FrameError(f"a frame of type {frame.type}")
    elif frame.clock_ms > MAX_CLOCK_MS:
        raise FrameError(f"{frame.clock_ms} ms since 1970: no clock gives that time")
    elif frame.base >= frame.seq:
        raise FrameError("a frame that comes before the state it builds on")
    elif frame.type != FrameType.OVERRIDES and (frame.type == FrameType.DELTA) != bool(frame.records):
        raise FrameError("a change without records, or records without a change")
    if frame.hosts > frame.total or (frame.hosts == 0) != (frame.total == 0):
        raise FrameError(f"{frame.hosts:,} hosts with a count of {frame.total:,}")
