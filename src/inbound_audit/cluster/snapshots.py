"""Reads a node's answer to a request for its snapshot: the parts of each tree, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from inbound_audit.cluster import frames
from inbound_audit.cluster.frames import SESSIONS, Frame, FrameError, FrameType


def read_snapshots(parts: Sequence[bytes], max_hosts: int) -> list[tuple[Frame, list[bytes]]]:
    """Returns the first part and the records of all, for each tree. Raises FrameError if a part is missing or does not
    belong there, or if there are more than `max_hosts` with sessions. O(bytes)."""
    if len(parts) > frames.MAX_PARTS:
        raise FrameError(f"a snapshot of {len(parts)} parts")
    read = sorted((frames.unpack(part) for part in parts), key=lambda frame: (frame.tree, frame.part))
    return [_snapshot(list(group), max_hosts) for _, group in groupby(read, key=lambda frame: frame.tree)]


def _snapshot(read: list[Frame], max_hosts: int) -> tuple[Frame, list[bytes]]:
    first = read[0]
    for at, frame in enumerate(read):
        if frame._replace(records=b"", age_ms=0) != first._replace(records=b"", age_ms=0, part=at):
            raise FrameError("the parts of a snapshot do not belong together")
    if first.type != FrameType.SNAPSHOT or len(read) != first.parts:
        raise FrameError("parts of the snapshot are missing")
    if first.tree == SESSIONS and first.hosts > max_hosts:
        raise FrameError(f"a snapshot of {first.hosts:,} hosts")
    return first, [frame.records for frame in read if frame.records]
