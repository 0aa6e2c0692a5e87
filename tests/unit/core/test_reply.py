"""What a refused peer is sent."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis.strategies import binary, integers, ip_addresses, lists, none, one_of, sampled_from
from tests.support import inner

ADDRESS, LIMIT, COUNT = 1, 2, 3


@given(
    lists(one_of(binary(max_size=20), sampled_from([ADDRESS, LIMIT, COUNT])), max_size=32),
    ip_addresses(),
    one_of(none(), binary(max_size=200)),
    integers(0, 2**63 - 1),
)
def test_parts_follow_one_another(parts, address, limit, count):
    mapped = getattr(address, "ipv4_mapped", None)
    fields = {
        ADDRESS: str(mapped or address).encode(),
        LIMIT: (limit or b"")[: inner.MAX_FIELD_BYTES],
        COUNT: str(min(count, 2**32 - 1)).encode(),
    }
    expected = b"".join(part if isinstance(part, bytes) else fields[part] for part in parts)
    assert inner.write_reply(parts, str(address), limit, count) == expected


@pytest.mark.parametrize("host", ["255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"])
def test_the_longest_reply_has_room(host: str) -> None:
    parts = [b"x" * 16384, *[LIMIT, ADDRESS, COUNT] * 10]
    made = inner.write_reply(parts, host, b"y" * 1000, 2**40)
    assert len(made) <= inner.MAX_REPLY_BYTES
    assert made.count(str(ipaddress.ip_address(host)).encode()) == 10
