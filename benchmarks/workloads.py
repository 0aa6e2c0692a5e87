"""Addresses to count, by name and size. The same name and size give the same addresses in every run.

What a workload draws is distinct and in random order, so the first of them can be hosts to fill a structure with, and
those that follow are hosts which are not in it.
"""

from __future__ import annotations

import socket
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Packed = NDArray[np.uint8]
"""Addresses in network order, one a row: shape (n, 4) or (n, 16)."""

Version = Literal[4, 6]

WIDTH = {4: 4, 6: 16}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True)
class Workload:
    """`draw` makes that many distinct addresses or more, if there are; `lengths` are the prefix lengths to ask for."""

    name: str
    what: str
    version: Version
    lengths: tuple[int, ...]
    draw: Callable[[np.random.Generator, int], Packed]

    def packed(self, size: int) -> Packed:
        """`size` addresses. Raises ValueError when the workload has not so many."""
        rng = np.random.default_rng([zlib.crc32(self.name.encode()), size])
        drawn = self.draw(rng, size)
        if len(drawn) < size:
            raise ValueError(f"workload {self.name!r} has only {len(drawn)} of {size} addresses")
        return drawn[rng.permutation(len(drawn))[:size]]

    def texts(self, size: int) -> list[str]:
        return texts_of(self.packed(size), self.version)


def texts_of(packed: Packed, version: int) -> list[str]:
    """Packed addresses as text."""
    data, width, family = packed.tobytes(), WIDTH[version], FAMILY[version]
    return [socket.inet_ntop(family, data[at : at + width]) for at in range(0, len(data), width)]


def _rows(numbers: NDArray[Any]) -> Packed:
    """IPv4 addresses as numbers, as rows of four bytes."""
    return numbers.astype(">u4").view(np.uint8).reshape(-1, 4)


def _distinct(numbers: NDArray[Any]) -> NDArray[Any]:
    """As `np.unique`, which takes ten times longer over millions."""
    numbers = np.sort(numbers)
    return numbers[np.append(True, numbers[1:] != numbers[:-1])]


def _random4(rng: np.random.Generator, size: int) -> Packed:
    return _rows(_distinct(rng.integers(0, 2**32, size + size // 64 + 16, dtype=np.uint32)))


def _random6(rng: np.random.Generator, size: int) -> Packed:
    rows = rng.integers(0, 256, (size, 16), dtype=np.uint8)
    rows[:, 0] = 0x20 | rows[:, 0] & 0x1F  # 2000::/3, the global unicast addresses
    return rows


def _scan6(rng: np.random.Generator, size: int) -> Packed:
    rows = rng.integers(0, 256, (size, 16), dtype=np.uint8)
    rows[:, :4] = (0x20, 0x01, 0x0D, 0xB8)
    return rows


def _zipf(rng: np.random.Generator, ranks: int, size: int) -> NDArray[Any]:
    """Ranks 0 .. ranks - 1, the probability of each falling as 1 / (rank + 10)."""
    weight = 1.0 / (np.arange(ranks) + 10.0)
    return np.searchsorted(np.cumsum(weight / weight.sum()), rng.random(size)).clip(0, ranks - 1)


def _mail4(rng: np.random.Generator, size: int) -> Packed:
    blocks = rng.integers(0, 2**16, max(4, size // 2000), dtype=np.uint32)
    of_net = blocks[_zipf(rng, len(blocks), max(8, size // 20))]
    nets = rng.permutation(_distinct((of_net << 8) | rng.integers(0, 2**8, len(of_net), dtype=np.uint32)))
    found = np.empty(0, dtype=np.uint32)
    while len(found) < size:
        drawn = (nets[_zipf(rng, len(nets), size)] << 8) | rng.integers(1, 255, size, dtype=np.uint32)
        found = _distinct(np.concatenate([found, drawn]))
    return _rows(found)


def _grades4(rng: np.random.Generator, size: int) -> Packed:
    """Two hosts in a /24, 65 of these in a /16: the nodes of both levels have just outgrown a smaller one."""
    i = np.arange(min(size, 130 << 16), dtype=np.uint64)
    net, block = i // 2 % 65, i // 130
    return _rows((block % 256) << 24 | (block // 256) << 16 | (net * 3) << 8 | (i % 2) * 199 + 1)


def _grades6(rng: np.random.Generator, size: int) -> Packed:
    """A node of two children for each of ten bytes, under nodes of 65 children, and hosts that need a block each."""
    i = np.arange(min(size, 65 * 224 << 10), dtype=np.uint64)
    rows = np.zeros((len(i), 16), dtype=np.uint8)
    rows[:, 0], rows[:, 1] = 0x20 + (i >> 10) // 65, (i >> 10) % 65 * 3
    for bit in range(10):
        rows[:, 11 - bit] = (i >> bit & 1) * 199 + 1
    return rows


def _half4(rng: np.random.Generator, size: int) -> Packed:
    """64 /24s in the lower half of each /16: a /17 is then a sum over every slot of the largest searched node."""
    i = np.arange(min(size, 64 << 16), dtype=np.uint64)
    block = i // 64
    return _rows((block % 256) << 24 | (block // 256) << 16 | (i % 64) << 8 | rng.integers(0, 256, len(i), np.uint64))


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("random", "IPv4, uniformly random", 4, (32, 24, 20, 16), _random4),
        Workload("mail", "IPv4 as a mail server sees it: few networks with many hosts, by Zipf's law", 4,
                 (32, 24, 20, 16), _mail4),
        Workload("random6", "IPv6, random in 2000::/3", 6, (128, 64, 48, 32), _random6),
        Workload("scan6", "IPv6, a scan from one /32: every session from another address of it", 6,
                 (128, 64, 48, 32), _scan6),
        Workload("grades", "IPv4, worst for size: every node just past a smaller one", 4, (32, 24, 20, 16), _grades4),
        Workload("grades6", "IPv6, worst for size: pairs of pairs, ten nodes deep, just past a smaller one above", 6,
                 (128, 64, 48, 32), _grades6),
        Workload("half", "IPv4, worst for a sum: a /17 over all slots of the largest searched node", 4,
                 (32, 24, 17, 16), _half4),
    )
}  # fmt: skip
