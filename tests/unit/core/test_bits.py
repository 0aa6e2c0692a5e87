"""The machine words: masks of high bits, and the match of sixteen bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import inner


@given(st.integers(-300, 300))
def test_high_bits(n: int) -> None:
    n_bits = min(max(n, 0), 64)
    assert inner.high_bits(n) == (1 << 64) - (1 << (64 - n_bits))


@given(st.binary(min_size=16, max_size=16), st.integers(0, 255), st.integers(0, 255))
def test_match16_compares_the_bits_of_the_mask_alone(keys: bytes, byte: int, care: int) -> None:
    expected = sum(1 << i for i, key in enumerate(keys) if key & care == byte & care)
    assert inner.match16(keys, byte, care) == expected


@pytest.mark.parametrize("slot", range(16))
def test_match16_sees_each_byte(slot: int) -> None:
    keys = bytes(7 if i == slot else 0 for i in range(16))
    assert inner.match16(keys, 7, 0xFF) == 1 << slot
