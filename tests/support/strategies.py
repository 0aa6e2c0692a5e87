"""Addresses as they come in life: close to one another, because shared prefixes are what splits nodes."""

from __future__ import annotations

import ipaddress

from hypothesis import strategies as st

# Bits that may differ between two drawn addresses; the rest is one of a few fixed networks. A few bits at each byte
# border make chains, forks in mid-path, dense last bytes and far neighbours all likely.
V4_NETWORKS = [0x0A000000, 0xC0000200, 0xC6336400]
V6_NETWORKS = [0x20010DB8 << 96, (0x20010DB8 << 96) | (0xFFFF << 64), 0xFE80 << 112, 0]


def _near(networks: list[int], shifts: tuple[int, ...], bits: int) -> st.SearchStrategy[int]:
    tails = st.lists(st.tuples(st.sampled_from(shifts), st.integers(0, 7)), max_size=3)
    spread = st.builds(lambda pairs: sum(value << shift for shift, value in pairs), tails)
    dense = st.integers(0, 255)
    return st.builds(lambda net, a, b: (net + a + b) % (1 << bits), st.sampled_from(networks), spread, dense)


ipv4 = _near(V4_NETWORKS, (0, 5, 8, 13, 16, 24), 32).map(ipaddress.IPv4Address)
ipv6 = _near(V6_NETWORKS, (0, 8, 16, 24, 32, 60, 64, 72, 80, 96, 120), 128).map(ipaddress.IPv6Address)
mapped = ipv4.map(lambda a: ipaddress.IPv6Address((0xFFFF << 32) | int(a)))
addresses = st.one_of(ipv4, ipv4, ipv6, ipv6, mapped)

lengths4 = st.one_of(st.sampled_from([0, 8, 16, 20, 23, 24, 25, 28, 31, 32]), st.integers(0, 32))
lengths6 = st.one_of(st.sampled_from([0, 16, 29, 32, 48, 52, 56, 63, 64, 65, 112, 127, 128]), st.integers(0, 128))


def length_for(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> st.SearchStrategy[int]:
    return lengths4 if address.version == 4 else lengths6
