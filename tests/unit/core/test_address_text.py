"""Addresses from text and to text; `test_prefix` has the grammar around them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import inner


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_a_number_up_to_a_maximum(value: int, maximum: int) -> None:
    assert inner.parse_number(str(value).encode(), maximum) == (value if value <= maximum else -1)


@pytest.mark.parametrize("text", [b"", b" 1", b"1 ", b"+1", b"-1", b"1.0", b"0x1", b"\xb2", b"9" * 40])
def test_a_text_that_is_no_number(text: bytes) -> None:
    assert inner.parse_number(text, 2**31 - 1) == -1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"192.0.2.7", ("192.0.2.7", 0)),
        (b"192.0.2.7:25", ("192.0.2.7", 25)),
        (b"[2001:db8::7]:65535", ("2001:db8::7", 65535)),
        (b"[2001:db8::7]", ("2001:db8::7", 0)),
        (b"2001:db8::7", ("2001:db8::7", 0)),
        (b"::ffff:192.0.2.7", ("192.0.2.7", 0)),
        (b"[fe80::1%eth0]:25", ("fe80::1", 25)),
    ],
)
def test_a_remote_address(text: bytes, expected: tuple[str, int]) -> None:
    assert inner.parse_remote(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"192.0.2.7:", "port"),
        (b"192.0.2.7:65536", "port"),
        (b"[2001:db8::7]:x", "port"),
        (b"192.0.2.07", "leading zero"),
        (b"192.0.2", "parts"),
        (b"192.0.2.256", "octet"),
        (b"[192.0.2.7]", "brackets"),
        (b"fe80::1%", "zone"),
        (b"mx.example", "name"),
        (b"192.0.2.7 ", "blanks"),
        (b"192.0.2.7\x00", "NUL"),
        (b"", "empty"),
    ],
)
def test_a_text_that_is_no_address(text: bytes, reason: str) -> None:
    assert reason in inner.reason(inner.parse_remote(text))


@pytest.mark.parametrize(
    ("address", "port", "expected"),
    [("192.0.2.7", 25, "192.0.2.7:25"), ("2001:db8::7", 65535, "2001:db8::7.65535"), ("::", 0, "::.0")],
)
def test_the_form_that_policies_split(address: str, port: int, expected: str) -> None:
    assert inner.format_remote(address, port) == expected


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("2001:0DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("2001:db8:0:1:0:0:0:1", "2001:db8:0:1::1"),
        ("1:0:0:2:0:0:3:4", "1::2:0:0:3:4"),  # of two equal runs the first
        ("0:1:0:1:0:1:0:1", "0:1:0:1:0:1:0:1"),  # a single group stays
    ],
)
def test_the_text_of_an_address_is_that_of_rfc_5952(given: str, canonical: str) -> None:
    assert inner.masked(given, 128) == canonical
