"""Other ways to count sessions by prefix in Python, behind one protocol.

What a peer cannot do is said by its class: most count only the prefix lengths that were chosen before the first
session came. Each takes and gives text, as a listener has it, and keeps no session with a count of zero.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

from inbound_audit import PrefixCounter

FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
WIDTH = {4: 32, 6: 128}
CHOSEN = {4: (32, 24, 16, 8), 6: (128, 64, 48, 32)}
"""The lengths of those peers that need them chosen beforehand."""


class Peer(Protocol):
    """`any_prefix`: any length can be asked for. `name`, `how`: for the report."""

    name: ClassVar[str]
    how: ClassVar[str]
    any_prefix: ClassVar[bool]

    def __init__(self, version: int) -> None: ...
    def add(self, address: str, /) -> object: ...
    def remove(self, address: str, /) -> object: ...
    def count(self, cidr: str, /) -> int: ...


class Ours:
    """The trie of this project; its bound methods are handed out, so that nothing is added to their price."""

    name: ClassVar[str] = "inbound_audit"
    how: ClassVar[str] = "`PrefixCounter`"
    any_prefix: ClassVar[bool] = True

    def __init__(self, version: int) -> None:
        counter = PrefixCounter()
        self.add, self.remove, self.count = counter.add, counter.remove, counter.count


class FixedDicts:
    """A dict for each chosen length, keyed by the number that the prefix is."""

    name: ClassVar[str] = "dict, 4 lengths"
    how: ClassVar[str] = "a dict for each of 4 lengths, keyed by integers"
    any_prefix: ClassVar[bool] = False

    def __init__(self, version: int) -> None:
        self.family, self.width = FAMILY[version], WIDTH[version]
        self.tables: dict[int, dict[int, int]] = {length: {} for length in self.lengths(version)}
        self.levels = [(self.width - length, table) for length, table in self.tables.items()]

    @staticmethod
    def lengths(version: int) -> Iterable[int]:
        return CHOSEN[version]

    def add(self, address: str, /) -> None:
        number = int.from_bytes(socket.inet_pton(self.family, address), "big")
        for shift, table in self.levels:
            key = number >> shift
            table[key] = table.get(key, 0) + 1

    def remove(self, address: str, /) -> None:
        number = int.from_bytes(socket.inet_pton(self.family, address), "big")
        for shift, table in self.levels:
            key = number >> shift
            left = table[key] - 1
            if left:
                table[key] = left
            else:
                del table[key]

    def count(self, cidr: str, /) -> int:
        address, _, digits = cidr.partition("/")
        length = int(digits)
        number = int.from_bytes(socket.inet_pton(self.family, address), "big")
        return self.tables[length].get(number >> (self.width - length), 0)


class AllDicts(FixedDicts):
    """The same for every length there is, so that any prefix can be asked for."""

    name = "dict, all lengths"
    how = "a dict for each of 33 (IPv6: 129) lengths, keyed by integers"
    any_prefix = True

    @staticmethod
    def lengths(version: int) -> Iterable[int]:
        return range(WIDTH[version] + 1)


class Networks:
    """What one writes with the standard library alone: a dict keyed by `ipaddress` networks."""

    name: ClassVar[str] = "ipaddress"
    how: ClassVar[str] = "a dict keyed by `ip_network` objects of 4 lengths"
    any_prefix: ClassVar[bool] = False

    def __init__(self, version: int) -> None:
        self.chosen = CHOSEN[version]
        self.table: dict[object, int] = {}

    def add(self, address: str, /) -> None:
        for length in self.chosen:
            key = ipaddress.ip_network((address, length), strict=False)
            self.table[key] = self.table.get(key, 0) + 1

    def remove(self, address: str, /) -> None:
        for length in self.chosen:
            key = ipaddress.ip_network((address, length), strict=False)
            left = self.table[key] - 1
            if left:
                self.table[key] = left
            else:
                del self.table[key]

    def count(self, cidr: str, /) -> int:
        return self.table.get(ipaddress.ip_network(cidr, strict=False), 0)


class Radix:
    """py-radix with a node for each chosen length of a host; a node holds its count in its `data`."""

    name: ClassVar[str] = "py-radix"
    how: ClassVar[str] = "`Radix`, a node for each of 4 lengths"
    any_prefix: ClassVar[bool] = False

    def __init__(self, version: int) -> None:
        from radix import Radix as Tree

        self.chosen: tuple[int, ...] = CHOSEN[version]
        self.tree: Any = Tree()

    def add(self, address: str, /) -> None:
        for length in self.chosen:
            data = self.tree.add(address, length).data
            data["n"] = data.get("n", 0) + 1

    def remove(self, address: str, /) -> None:
        for length in self.chosen:
            data = self.tree.search_exact(address, length).data
            data["n"] -= 1
            if not data["n"]:
                self.tree.delete(address, length)

    def count(self, cidr: str, /) -> int:
        node = self.tree.search_exact(cidr)
        return node.data["n"] if node else 0


class RadixWalk(Radix):
    """py-radix with a node for each host; any prefix can be asked for, by visiting every host in it."""

    name = "py-radix, summing"
    how = "`Radix` of hosts; a count is a sum over `search_covered`"
    any_prefix = True

    def __init__(self, version: int) -> None:
        super().__init__(version)
        self.chosen = (WIDTH[version],)

    def count(self, cidr: str, /) -> int:
        return sum(node.data["n"] for node in self.tree.search_covered(cidr))


class Tricia:
    """pytricia with an entry for each chosen length of a host. A look-up there is the longest match, so `has_key`."""

    name: ClassVar[str] = "pytricia"
    how: ClassVar[str] = "`PyTricia`, an entry for each of 4 lengths"
    any_prefix: ClassVar[bool] = False

    def __init__(self, version: int) -> None:
        from pytricia import PyTricia

        self.chosen = CHOSEN[version]
        self.tree: Any = PyTricia(WIDTH[version], FAMILY[version])

    def add(self, address: str, /) -> None:
        tree = self.tree
        for length in self.chosen:
            prefix = f"{address}/{length}"
            tree.insert(prefix, tree[prefix] + 1 if tree.has_key(prefix) else 1)

    def remove(self, address: str, /) -> None:
        tree = self.tree
        for length in self.chosen:
            prefix = f"{address}/{length}"
            left = tree[prefix] - 1
            if left:
                tree.insert(prefix, left)
            else:
                tree.delete(prefix)

    def count(self, cidr: str, /) -> int:
        return self.tree[cidr] if self.tree.has_key(cidr) else 0


class SubnetTrees:
    """pysubnettree finds only the longest match of an address, so each chosen length has a tree of its own."""

    name: ClassVar[str] = "pysubnettree"
    how: ClassVar[str] = "a `SubnetTree` for each of 4 lengths"
    any_prefix: ClassVar[bool] = False

    def __init__(self, version: int) -> None:
        from SubnetTree import SubnetTree

        self.trees: dict[int, Any] = {length: SubnetTree() for length in CHOSEN[version]}

    def add(self, address: str, /) -> None:
        for length, tree in self.trees.items():
            tree[f"{address}/{length}"] = tree[address] + 1 if address in tree else 1

    def remove(self, address: str, /) -> None:
        for length, tree in self.trees.items():
            left = tree[address] - 1
            if left:
                tree[f"{address}/{length}"] = left
            else:
                tree.remove(f"{address}/{length}")

    def count(self, cidr: str, /) -> int:
        address, _, digits = cidr.partition("/")
        tree = self.trees[int(digits)]
        return tree[address] if address in tree else 0  # noqa: SIM401 - it has no `get`


PEERS: tuple[type[Peer], ...] = (FixedDicts, AllDicts, Networks, Radix, RadixWalk, Tricia, SubnetTrees)
COUNTERS: tuple[type[Peer], ...] = (Ours, *PEERS)
