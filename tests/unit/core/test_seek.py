"""The nearest host at or beyond an address, against a sorted list."""

from __future__ import annotations

import bisect
import ipaddress
import random

import pytest
from tests.support import inner


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("spread", [0xFF, 0x30303, None])
def test_the_nearest_host_up_and_down(version: int, spread: int | None) -> None:
    draw = random.Random(version)
    kind = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    width = 32 if version == 4 else 128
    base = 10 << 24 if version == 4 else 0x20010DB8 << 96

    def any_address() -> int:
        bits = draw.getrandbits(width)
        return bits if spread is None else base | (bits & spread)

    hosts = sorted({any_address() for _ in range(200)})
    arena = inner.Arena()
    for host in hosts:
        arena.add(str(kind(host)))
    for start in [any_address() for _ in range(200)] + hosts[:20] + [0, 2**width - 1]:
        above = bisect.bisect_left(hosts, start)
        below = bisect.bisect_right(hosts, start) - 1
        assert arena.seek(str(kind(start)), 1) == (str(kind(hosts[above])) if above < len(hosts) else None)
        assert arena.seek(str(kind(start)), -1) == (str(kind(hosts[below])) if below >= 0 else None)


def test_an_empty_tree_has_no_host() -> None:
    assert inner.Arena().seek("0.0.0.0") is None
    assert inner.Arena().seek("::1", -1) is None


def test_the_families_are_apart() -> None:
    arena = inner.Arena()
    arena.add("10.0.0.1")
    assert arena.seek("::1") is None
    assert arena.seek("0.0.0.0") == "10.0.0.1"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("spread", [0xFF, 0x30303, 0xFF000001, None])
def test_what_lies_below_a_prefix(version: int, spread: int | None) -> None:
    """In nodes of all sizes: the longest prefix with the same hosts, and their sessions."""
    draw = random.Random(version)
    network = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
    width = 32 if version == 4 else 128
    base = 10 << 24 if version == 4 else 0x20010DB8 << 96
    arena = inner.Arena()
    hosts: list[int] = []
    for many in (0, 1, 1, 3, 30, 90, 400):
        for _ in range(many):
            bits = draw.getrandbits(width)
            hosts.append(bits if spread is None else base | (bits & spread))
            arena.add(str(network(hosts[-1]).network_address))
        for start in [*draw.sample(hosts, min(len(hosts), 4)), draw.getrandbits(width)]:
            for length in [0, width, *draw.sample(range(width), 12)]:
                given = network((start, length), strict=False)
                first, last = int(given.network_address), int(given.broadcast_address)
                inside = [host for host in hosts if first <= host <= last]
                common = width - (min(inside, default=0) ^ max(inside, default=0)).bit_length()
                narrowed = inside and network((inside[0], common), strict=False)
                assert arena.branch(str(given)) == ((len(inside), str(narrowed)) if inside else None)
