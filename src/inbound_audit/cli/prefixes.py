"""Prefixes as `ipaddress` has them, and the rows of a tree that lie within one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network

from inbound_audit._ipcount import parse_prefix

Network = IPv4Network | IPv6Network

Row = tuple[int, str]
"""A count and its prefix."""

Position = tuple[int, int, int]
"""The position of a row in a tree: IPv4 first, then in address order, a prefix before what it holds."""


def network_of(cidr: str) -> Network:
    """The prefix that a text means. Raises CidrError."""
    _, packed, length = parse_prefix(cidr)
    return ip_network((packed, length))


def within(rows: list[Row], network: Network) -> list[Row]:
    """The rows of a tree that lie inside a prefix, without the prefix itself. O(log rows) and a copy."""
    first: Position = (network.version, int(network.network_address), network.prefixlen)
    last: Position = (network.version, int(network.broadcast_address), network.max_prefixlen)
    return rows[bisect_right(rows, first, key=_position) : bisect_right(rows, last, key=_position)]


def with_depths(rows: Iterable[Row]) -> Iterator[tuple[int, Row]]:
    """Each row of a tree with the number of rows whose prefix holds its prefix. O(rows)."""
    above: list[Network] = []
    for row in rows:
        network = network_of(row[1])
        while above and not _holds(above[-1], network):
            above.pop()
        yield len(above), row
        above.append(network)


def _holds(network: Network, other: Network) -> bool:
    return network.version == other.version and int(other.network_address) <= int(network.broadcast_address)


def _position(row: Row) -> Position:
    network = network_of(row[1])
    return network.version, int(network.network_address), network.prefixlen
