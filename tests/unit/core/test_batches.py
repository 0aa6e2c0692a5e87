"""Arrays of packed addresses, in every form that a caller may hold."""

from __future__ import annotations

import array
import ipaddress
import random
import sys

import numpy as np
import pytest

from inbound_audit import PrefixCounter
from inbound_audit.errors import AddressError, CidrError

HOSTS4 = [ipaddress.IPv4Address(random.Random(1).getrandbits(32) & 0xFFFF00FF) for _ in range(500)] + [
    ipaddress.IPv4Address("192.0.2.7")
] * 3
HOSTS6 = [ipaddress.IPv6Address(random.Random(2).getrandbits(128) | 1 << 127) for _ in range(500)]
PACKED4 = b"".join(host.packed for host in HOSTS4)
PACKED6 = b"".join(host.packed for host in HOSTS6)
NUMBERS = [int(host) for host in HOSTS4]

FORMS4 = {
    "bytes": PACKED4,
    "bytearray": bytearray(PACKED4),
    "memoryview": memoryview(PACKED4),
    "numpy bytes": np.frombuffer(PACKED4, dtype=np.uint8),
    "numpy rows": np.frombuffer(PACKED4, dtype=np.uint8).reshape(-1, 4),
    "numpy items": np.frombuffer(PACKED4, dtype="V4"),
    "numpy numbers": np.array(NUMBERS, dtype=np.uint32),
    "numpy network order": np.array(NUMBERS, dtype=">u4"),
    "array of numbers": array.array("I", NUMBERS),
}
FORMS6 = {
    "bytes": PACKED6,
    "numpy rows": np.frombuffer(PACKED6, dtype=np.uint8).reshape(-1, 16),
    "numpy items": np.frombuffer(PACKED6, dtype="V16"),
}


@pytest.mark.parametrize(
    ("form", "hosts", "version"),
    [pytest.param(form, HOSTS4, 4, id=f"4 {name}") for name, form in FORMS4.items()]
    + [pytest.param(form, HOSTS6, 6, id=f"6 {name}") for name, form in FORMS6.items()],
)
def test_every_form_says_the_same(form, hosts, version):
    if version == 4 and sys.byteorder == "big" and isinstance(form, np.ndarray) and form.dtype == ">u4":
        pytest.skip("on such a machine that is the order of numbers")
    one_by_one, batch = PrefixCounter(), PrefixCounter()
    for host in hosts:
        one_by_one.add(host)
    batch.add_many(form, version=version)
    batch._check()
    assert list(batch.items()) == list(one_by_one.items())
    for length in (None, 0, 7, 24, 32):
        expected = [one_by_one.count(f"{host}/{host.max_prefixlen if length is None else length}") for host in hosts]
        assert list(batch.count_many(form, version=version, prefixlen=length)) == expected


def test_mapped_addresses_in_an_array_of_ipv6_are_ipv4():
    counter = PrefixCounter()
    mapped = [ipaddress.IPv6Address("::ffff:192.0.2.7"), ipaddress.IPv6Address("::ffff:192.0.2.8")]
    packed = b"".join(host.packed for host in mapped)
    counter.add_many(packed, version=6)
    assert list(counter) == ["192.0.2.7", "192.0.2.8"]
    assert list(counter.count_many(packed, version=6)) == [1, 1]
    assert list(counter.count_many(packed, version=6, prefixlen=120)) == [2, 2]
    assert list(counter.count_many(packed, version=6, prefixlen=64)) == [counter.count("::/64")] * 2 == [0, 0]


def test_none_at_all():
    counter = PrefixCounter()
    counter.add_many(b"")
    assert list(counter.count_many(b"")) == []


@pytest.mark.parametrize(
    "packed",
    [bytes(5), "192.0.2.7", None, 7, [b"\0\0\0\0"], np.zeros((3, 5), np.uint8), np.zeros(4, np.uint64),
     np.zeros((2, 2, 4), np.uint8), np.zeros(4, np.float64), np.zeros(4, np.float32), np.zeros(4, np.int32),
     np.zeros((8, 8), np.uint8)[:, :4], memoryview(bytes(16))[::2]],
    ids=lambda p: type(p).__name__,
)  # fmt: skip
def test_what_is_no_array_of_addresses(packed):
    counter = PrefixCounter()
    for attempt in (counter.add_many, counter.count_many):
        with pytest.raises(AddressError):
            attempt(packed)
    assert len(counter) == 0


def test_bad_arguments():
    counter = PrefixCounter()
    with pytest.raises(AddressError, match="version 5"):
        counter.add_many(b"", version=5)
    with pytest.raises(CidrError, match="33"):
        counter.count_many(bytes(4), prefixlen=33)
    with pytest.raises(AddressError):
        counter.add_many(bytes(20), version=6)
