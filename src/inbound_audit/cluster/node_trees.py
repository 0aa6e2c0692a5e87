"""What the protocol needs of the native core: a node's counts, and a series of which other nodes have a part.

A tree holds a count per host. Records are bytes: a varint number of IPv4 hosts; for each a varint difference of its
address to the one before it (of the first: to zero), and a varint count; then the same for IPv6. Counts are absolute,
and 0 means that the host is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Counts(Protocol):
    """What one node has said. The digest is the sum modulo 2**64 of a fixed hash of each host and its count."""

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


class NodeTree(Counts, Protocol):
    """The hosts of one node."""

    def set_word(self, state: int, heard_ns: int) -> None:
        """Says to other processes how this node is and when it was heard last (CLOCK_MONOTONIC)."""


class NodeTrees(Protocol):
    """The trees of the other nodes, which this host's processes count, and what changes in this host's own."""

    def add(self, name: str, max_hosts: int) -> NodeTree:
        """Raises CapacityError if there is no place for another node."""

    def said(self, name: str = "", max_hosts: int = 2**32) -> NodeTree:
        """Returns a tree that no other process sees: what this node has said. Raises CapacityError."""

    def difference(self, said: Any, max_bytes: int) -> bytes:
        """Returns records of what this host's own trees have otherwise than `said`, b"" if nothing.

        `complete` is False if some had no room: after they were set in `said`, the next call goes on there.
        """

    @property
    def complete(self) -> bool: ...

    def changed(self) -> bool:
        """Whether this host's own trees may have something that `difference` has not seen. One load per tree."""


class SeriesTrees(Protocol):
    """The series of this host, for what the cluster counts in them."""

    def said(self, name: str = "", max_hosts: int = 2**32) -> NodeTree:
        """As of `NodeTrees`."""

    def check_records(self, parts: list[bytes]) -> int:
        """Returns how many hosts with a count are in records that continue one another. Raises ValueError if they are
        no such records."""

    def replicated(self) -> list[tuple[str, str, int, int, int]]:
        """Returns `(scope, name, interval, slots, replicate)` of each series in which a process of this host may have
        recorded something."""

    def series(self, scope: str, name: str, interval: int, slots: int) -> ClusterSeries:
        """Returns that series over the cluster, made at the first call. Raises CapacityError."""


class ClusterSeries(Protocol):
    """A series over the cluster: what this host's processes have recorded in it, and, in windows that they count, the
    sum of what the other nodes have. Windows have the numbers of UTC; sign 1 is what was taken away."""

    @property
    def number(self) -> int:
        """The number of the current window."""

    @property
    def complete(self) -> bool:
        """Whether the last `difference` had room for all."""

    @property
    def is_full(self) -> bool:
        """Whether a change was not made in a window in view since the last `fill`: it had no room."""

    def advance(self) -> bool:
        """Goes on to the current window. Returns whether windows came into view, which are to be filled: the new ones,
        or all if the clock was set back."""

    def tree(self, number: int, sign: int, max_hosts: int) -> NodeTree:
        """Returns a tree that no other process sees, for what another node has in that window. Each change of it is
        made in the sum as well, while that window is in view and was filled since. Raises CapacityError."""

    def fill(self, number: int, sign: int, trees: list[Any]) -> bool:
        """Makes the sum over other nodes in that window the sum of these trees. Returns False if it has no room."""

    def difference(self, number: int, sign: int, said: Any, max_bytes: int) -> bytes:
        """Returns records of what this host's processes have otherwise than `said`, as `NodeTrees.difference` does."""

    def stamp(self, number: int, sign: int) -> int:
        """Returns a number that differs after a change of this host's processes in that window."""

    def levels(self, number: int) -> tuple[int, int]:
        """Returns the shortest prefix lengths to which a process has folded hosts of that window."""


def all_records(tree: Counts, max_bytes: int) -> list[bytes]:
    """Returns all hosts of a tree in parts of at most so many bytes; at least one part."""
    parts: list[bytes] = []
    cursor = b""
    while not parts or cursor:
        records, cursor = tree.records(cursor, max_bytes)
        parts.append(records)
    return parts
