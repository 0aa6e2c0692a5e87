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
