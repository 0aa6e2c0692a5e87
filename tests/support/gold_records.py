"""The slow truth about records: what the hosts of a node are as bytes, and the digest of them. Nothing is shared with
the core; addresses are `ipaddress` objects."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from itertools import pairwise

from tests.support.gold import Address

WIDTH = {4: 32, 6: 128}
WORD = 1 << 64


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the high bit of a byte says that one more follows."""
    head = bytearray()
    while number > 0x7F:
        head.append(0x80 | number & 0x7F)
        number >>= 7
    return bytes([*head, number])


def encode(hosts: Mapping[Address, int]) -> bytes:
    """Records of hosts and their counts; 0 says that a host is gone."""
    out = b""
    for version in (4, 6):
        found = sorted((int(host), count) for host, count in hosts.items() if host.version == version)
        out += varint(len(found))
        for (before, _), (address, count) in pairwise([(0, 0), *found]):
            out += varint(address - before) + varint(count)
    return out


def decode(data: bytes) -> dict[Address, int]:
    """The hosts and counts of records. Raises ValueError for bytes that `encode` would not have written."""
    hosts: dict[Address, int] = {}
    rest = list(reversed(data))

    def number(bits: int) -> int:
        found, shift = 0, 0
        while rest:
            byte = rest.pop()
            found |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                if found >> bits:
                    break
                return found
        raise ValueError("a number has no end, or too many bits")

    for version in (4, 6) if data else ():
        address = 0
        for _ in range(number(32)):
            address += number(WIDTH[version])
            if address >> WIDTH[version]:
                raise ValueError("an address lies beyond its family")
            hosts[(ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address)(address)] = number(32)
    if rest or (data and encode(hosts) != data):
        raise ValueError("these are not the bytes that these hosts have")
    if any(getattr(host, "ipv4_mapped", None) for host in hosts):
        raise ValueError("an IPv4-mapped address is written as IPv4")
    return hosts


def mix(word: int) -> int:
    """The finalizer of SplitMix64."""
    word = (word + 0x9E3779B97F4A7C15) % WORD
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB % WORD
    return word ^ word >> 31


def hash_host(host: Address, count: int) -> int:
    """Of an address as left-aligned bits, its version and its count."""
    hi, lo = divmod(int(host) << (128 - WIDTH[host.version]), WORD)
    return mix(mix((mix(hi) + host.version) % WORD ^ lo) ^ count)


def digest(hosts: Mapping[Address, int]) -> int:
    """The sum of the hashes of all hosts that are there."""
    return sum(hash_host(host, count) for host, count in hosts.items() if count) % WORD
