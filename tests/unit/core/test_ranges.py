"""The binary search in ranges that do not overlap; `test_networks` has how networks become ranges."""

from __future__ import annotations

import pytest
from tests.support import inner


@pytest.fixture
def ranges() -> inner.Ranges:
    return inner.Ranges([("10.0.0.0", 1), ("10.1.0.0", 2), ("10.2.0.0", -1), ("192.0.2.0", 3)])


@pytest.mark.parametrize(
    ("address", "value"),
    [
        ("0.0.0.0", -1),
        ("9.255.255.255", -1),
        ("10.0.0.0", 1),
        ("10.0.255.255", 1),
        ("10.1.0.0", 2),
        ("10.2.0.0", -1),
        ("192.0.1.255", -1),
        ("255.255.255.255", 3),
    ],
)
def test_an_address_has_the_value_of_its_range(ranges: inner.Ranges, address: str, value: int) -> None:
    assert ranges.lookup(address) == value


def test_no_ranges_hold_no_address() -> None:
    assert inner.Ranges([]).lookup("10.0.0.1") == -1
