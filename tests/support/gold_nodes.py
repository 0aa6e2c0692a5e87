"""The slow model of a node's tree: a dictionary of counts, the records of the wire, and the digest of all counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from inbound_audit.errors import CapacityError

Host = tuple[int, int]
"""The family, 4 or 6, and the address as a number: in this order hosts are sorted."""

WIDTH = {4: 32, 6: 128}
MAX_COUNT = 2**32 - 1


def varint(number: int) -> bytes:
    """Seven bits per byte, the lowest first; the highest bit of a byte says that another follows."""
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns the number and the place behind it. Raises ValueError if it is cut, or longer than it need be."""
    number = shift = 0
    while True:
        if at >= len(data):
            raise ValueError("a number is cut")
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            if byte == 0 and shift > 7:
                raise ValueError("a number has more bytes than it needs")
            return number, at


def encode(counts: Mapping[Host, int] | Iterable[tuple[Host, int]]) -> bytes:
    """The records of these hosts."""
    rows = sorted(counts.items() if isinstance(counts, Mapping) else counts)
    written = b""
    for family in (4, 6):
        here = [(address, count) for (of, address), count in rows if of == family]
        written += varint(len(here))
        last = 0
        for address, count in here:
            written += varint(address - last) + varint(count)
            last = address
    return written


def decode(records: bytes) -> list[tuple[Host, int]]:
    """The hosts of these records. Raises ValueError if they are not canonical."""
    rows: list[tuple[Host, int]] = []
    at = 0
    if not records:
        return rows
    for family in (4, 6):
        many, at = read_varint(records, at)
        address = 0
        for index in range(many):
            step, at = read_varint(records, at)
            count, at = read_varint(records, at)
            address += step
            if index and step == 0:
                raise ValueError("an address comes twice")
            if address >> WIDTH[family] or count > MAX_COUNT:
                raise ValueError("a number is too large")
            if family == 6 and address >> 32 == 0xFFFF:
                raise ValueError("an IPv4-mapped address")
            rows.append(((family, address), count))
    if at != len(records):
        raise ValueError("bytes follow the records")
    return rows


def mix(word: int) -> int:
    """The finalizer of SplitMix64."""
    word = word + 0x9E3779B97F4A7C15 & 2**64 - 1
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & 2**64 - 1
    word = (word ^ word >> 27) * 0x94D049BB133111EB & 2**64 - 1
    return word ^ word >> 31


def hash_of(host: Host, count: int) -> int:
    """Of the address, left-aligned in 128 bits, its family, and the count."""
    family, address = host
    address <<= 128 - WIDTH[family]
    return mix(mix(mix(address >> 64) + family ^ address & 2**64 - 1) ^ count)


def digest(counts: Mapping[Host, int]) -> int:
    return sum(hash_of(host, count) for host, count in counts.items()) % 2**64


class GoldTree:
    """One node's counts (cluster/node_trees.py)."""

    def __init__(self, name: str = "", max_hosts: int = 10**9) -> None:
        self.name = name
        self.max_hosts = max_hosts
        self.counts: dict[Host, int] = {}
        self.total = 0
        self.digest = 0
        self.word = (0, 0)

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
        return _cut(((host, count) for host, count in sorted(self.counts.items()) if host > beyond), max_bytes)

    def set_word(self, state: int, heard_ns: int) -> None:
        self.word = (state, heard_ns)


def _cut(rows: Iterator[tuple[Host, int]], max_bytes: int) -> tuple[bytes, bytes]:
    """As many of these as fit, and the cursor behind the last one: b"" if all do."""
    taken: list[tuple[Host, int]] = []
    size = 10
    for host, count in rows:
        size += 24
        if size > max_bytes:
            (family, address), _ = taken[-1]
            return encode(taken), bytes([family]) + address.to_bytes(16, "big")
        taken.append((host, count))
    return (encode(taken) if taken else b""), b""


class GoldTrees:
    """The trees of a node (cluster/node_trees.py). `own`: the counts of this host's sessions, which a test changes."""

    def __init__(self, max_nodes: int = 4000) -> None:
        self.own: dict[Host, int] = {}
        self.max_nodes = max_nodes
        self.trees: dict[str, GoldTree] = {}
        self._moved = False

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
        return _cut(changed, max_bytes)[0]

    def changed(self) -> bool:
        return self._moved
