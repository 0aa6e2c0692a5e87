"""The slow model of a node's tree, and of the trees of an agent: dictionaries of counts (cluster/node_trees.py).

The bytes are those of `gold_records`. What was worked out is kept, since each frame is read by many nodes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

from tests.support import gold_records
from tests.support.gold import Address

from inbound_audit.errors import CapacityError

Host = tuple[int, int]
"""The version, 4 or 6, and the address as a number: in this order hosts are sorted."""


@lru_cache(10_000)
def address_of(host: Host) -> Address:
    version, address = host
    return ipaddress.IPv4Address(address) if version == 4 else ipaddress.IPv6Address(address)


@lru_cache(10_000)
def hash_of(host: Host, count: int) -> int:
    return gold_records.hash_host(address_of(host), count)


def encode(counts: Mapping[Host, int]) -> bytes:
    """The records of these hosts."""
    return gold_records.encode({address_of(host): count for host, count in counts.items()})


@lru_cache(10_000)
def decode(records: bytes) -> tuple[tuple[Host, int], ...]:
    """The hosts of these records, in their order. Raises ValueError if they are no records."""
    return tuple(((host.version, int(host)), count) for host, count in gold_records.decode(records).items())


def digest(counts: Mapping[Host, int]) -> int:
    return sum(hash_of(host, count) for host, count in counts.items()) % gold_records.WORD


class GoldTree:
    """One node's counts."""

    def __init__(self, name: str = "", max_hosts: int = 10**9) -> None:
        self.name = name
        self.max_hosts = max_hosts
        self.counts: dict[Host, int] = {}
        self.total = 0
        self.digest = 0
        self.word = (0, 0)
        self.resume: Host = (0, 0)
        """Where a walk over this host goes on, as far as it had room."""

    @property
    def hosts(self) -> int:
        return len(self.counts)

    def _set(self, host: Host, count: int) -> bool:
        before = self.counts.pop(host, 0)
        if before:
            self.digest = (self.digest - hash_of(host, before)) % 2**64
        if count:
            self.counts[host] = count
            self.digest = (self.digest + hash_of(host, count)) % 2**64
        self.total += count - before
        return before != count

    def set_many(self, records: bytes) -> int:
        rows = decode(records)
        changes = sum(self._set(host, count) for host, count in rows)
        if self.hosts > self.max_hosts:
            raise CapacityError("too many hosts")
        return changes

    def replace(self, parts: Sequence[bytes]) -> int:
        rows = [row for part in parts for row in decode(part)]
        if any(one[0] >= next_[0] for one, next_ in pairwise(rows)):
            raise ValueError("a part does not continue the one before")
        after = dict(rows)
        if len(after) > self.max_hosts:
            raise CapacityError("too many hosts")
        gone = [host for host in self.counts if host not in after]
        return sum(self._set(host, 0) for host in gone) + sum(self._set(host, count) for host, count in rows)

    def empty(self) -> None:
        self.counts = {}
        self.total = self.digest = 0

    def records(self, after: bytes, max_bytes: int) -> tuple[bytes, bytes]:
        start = int.from_bytes(after[1:], "big") if after else -1
        beyond = (after[0], start) if after else (0, 0)
        return cut(((host, count) for host, count in sorted(self.counts.items()) if host > beyond), max_bytes)

    def set_word(self, state: int, heard_ns: int) -> None:
        self.word = (state, heard_ns)


def cut(rows: Iterator[tuple[Host, int]], max_bytes: int) -> tuple[bytes, bytes]:
    """As many of these as fit, and the cursor behind the last one: b"" if all do."""
    taken: list[tuple[Host, int]] = []
    size = 10
    for host, count in rows:
        size += 24
        if size > max_bytes:
            (family, address), _ = taken[-1]
            return encode(dict(taken)), bytes([family]) + address.to_bytes(16, "big")
        taken.append((host, count))
    return (encode(dict(taken)) if taken else b""), b""


class GoldTrees:
    """The trees of an agent. `own`: the counts of this host's sessions, which a test changes."""

    def __init__(self, max_nodes: int = 4000) -> None:
        self.own: dict[Host, int] = {}
        self.max_nodes = max_nodes
        self.trees: dict[str, GoldTree] = {}
        self.complete = True
        self._moved = True  # until the first difference

    def open(self, host: Host, sessions: int = 1) -> None:
        """Opens sessions, or closes them with a negative number."""
        count = self.own.pop(host, 0) + sessions
        assert count >= 0
        if count:
            self.own[host] = count
        self._moved = True

    def clear(self) -> None:
        """All workers of the host are killed."""
        self.own.clear()
        self._moved = True

    def add(self, name: str, max_hosts: int) -> GoldTree:
        if len(self.trees) >= self.max_nodes:
            raise CapacityError("no section is left")
        tree = self.trees[name] = GoldTree(name, max_hosts)
        return tree

    def said(self) -> GoldTree:
        return GoldTree()

    def difference(self, said: GoldTree, max_bytes: int) -> bytes:
        self._moved = False
        hosts = sorted(self.own.keys() | said.counts.keys())
        changed = ((host, self.own.get(host, 0)) for host in hosts if self.own.get(host, 0) != said.counts.get(host, 0))
        records, rest = cut(changed, max_bytes)
        self.complete = not rest
        return records

    def changed(self) -> bool:
        return self._moved or not self.complete
