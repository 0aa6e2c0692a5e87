"""What a tree of a node can do: the seam between the protocol and the native core.

A tree holds a count per host. Records are bytes: a varint number of IPv4 hosts; for each a varint difference of its
address to the one before it (of the first: to zero), and a varint count; then the same for IPv6. Counts are absolute,
and 0 means that the host is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class NodeTree(Protocol):
    """The counts of one node. The digest is the sum modulo 2**64 of a fixed hash of each host and its count."""

    @property
    def hosts(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def digest(self) -> int: ...

    def set_many(self, records: bytes) -> int:
        """Sets these counts and returns how many differed.

        Raises ValueError for malformed records, and nothing has changed; CapacityError beyond the tree's bound, and
        some of them are set.
        """

    def replace(self, parts: Sequence[bytes]) -> int:
        """Makes these the only hosts; no host passes through a false count. Each part continues the one before.

        Raises as `set_many` does.
        """

    def empty(self) -> None:
        """Drops all hosts in one moment."""

    def records(self, after: bytes, max_bytes: int) -> tuple[bytes, bytes]:
        """Returns records of the hosts beyond a cursor, and the next cursor: b"" at the begin and at the end."""

    def set_word(self, state: int, heard_ns: int) -> None:
        """Says to other processes how this node is and when it was heard last (CLOCK_MONOTONIC)."""


class NodeTrees(Protocol):
    """The trees of the other nodes, which this host's processes count, and what changes in this host's own."""

    def add(self, name: str, max_hosts: int) -> NodeTree:
        """Raises CapacityError if there is no place for another node."""

    def said(self) -> NodeTree:
        """Returns a tree that no other process sees: what this node has said."""

    def difference(self, said: Any, max_bytes: int) -> bytes:
        """Returns records of what this host's own trees have otherwise than `said`, b"" if nothing.

        `complete` is False if some had no room: after they were set in `said`, the next call goes on there.
        """

    @property
    def complete(self) -> bool: ...

    def changed(self) -> bool:
        """Whether this host's own trees may have something that `difference` has not seen. One load per tree."""


def all_records(tree: NodeTree, max_bytes: int) -> list[bytes]:
    """Returns all hosts of a tree in parts of at most so many bytes; at least one part."""
    parts: list[bytes] = []
    cursor = b""
    while not parts or cursor:
        records, cursor = tree.records(cursor, max_bytes)
        parts.append(records)
    return parts
