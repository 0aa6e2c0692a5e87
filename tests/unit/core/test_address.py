"""Addresses as bits."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import inner

V4 = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
V6 = st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address).filter(lambda a: a.ipv4_mapped is None)
ANY = V4 | V6


def bits_of(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    return int(address) << (128 - address.max_prefixlen)


@given(ANY)
def test_an_address_is_left_aligned(address: ipaddress.IPv4Address) -> None:
    hi, lo, version = inner.words(str(address))
    assert (hi << 64 | lo, version) == (bits_of(address), address.version)
    assert inner.from_packed(address.packed) == str(address)


@given(ANY, st.integers(0, 128))
def test_mask_clears_the_bits_after_a_length(address: ipaddress.IPv4Address, length: int) -> None:
    length = min(length, address.max_prefixlen)
    assert inner.masked(str(address), length) == str(
        ipaddress.ip_network((address, length), strict=False).network_address
    )


@pytest.mark.parametrize(
    ("address", "following", "more"),
    [
        ("0.0.0.0", "0.0.0.1", True),
        ("10.0.0.255", "10.0.1.0", True),
        ("255.255.255.255", "0.0.0.0", False),
        ("::ffff:ffff:ffff:ffff", "0:0:0:1::", True),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::", False),
    ],
)
def test_the_next_address(address: str, following: str, more: bool) -> None:
    found, is_there = inner.next_address(address)
    assert (ipaddress.ip_address(found), is_there) == (ipaddress.ip_address(following), more)


@given(V4)
def test_an_ipv4_address_as_a_mapped_one_and_back(address: ipaddress.IPv4Address) -> None:
    (mapped, version), back = inner.mapped(str(address))
    assert version == 6
    assert ipaddress.IPv6Address(mapped).ipv4_mapped == address
    assert back == (str(address), 4)
    assert inner.from_packed(ipaddress.IPv6Address(mapped).packed) == str(address)


@given(V6, V6, st.integers(0, 128))
def test_compare_and_first_difference(one: ipaddress.IPv6Address, other: ipaddress.IPv6Address, bits: int) -> None:
    x, y = (int(a) >> (128 - bits) for a in (one, other))
    assert inner.compare(str(one), str(other), bits) == (x > y) - (x < y)
    if one != other:
        assert inner.first_difference(str(one), str(other)) == 128 - (int(one) ^ int(other)).bit_length()
