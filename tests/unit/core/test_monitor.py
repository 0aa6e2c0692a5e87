"""Durations and monitors; `test_parse` has what users see of them."""

from __future__ import annotations

import pytest
from tests.support import inner


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        (b"90", 90_000),
        (b"0.5", 500),
        (b"250ms", 250),
        (b"1.5m", 90_000),
        (b"1h", 3_600_000),
        (b"1w", 604_800_000),
        (b"1073741824", (1 << 30) * 1000),
    ],
)
def test_a_duration(text: bytes, milliseconds: int) -> None:
    assert inner.parse_duration(text) == milliseconds


@pytest.mark.parametrize("text", [b"", b"s", b"-1", b"1 s", b"1.", b".5", b"1.2345", b"1x", b"1073741825", b"2000w"])
def test_a_text_that_is_no_duration(text: bytes) -> None:
    assert "duration" in inner.reason(inner.parse_duration(text))


@pytest.mark.parametrize(("text", "expected"), [(b"300,6", (300, 6)), (b" 5m , 6 ", (300, 6)), (b"1,1024", (1, 1024))])
def test_a_monitor(text: bytes, expected: tuple[int, int]) -> None:
    assert inner.parse_monitor(text) == expected


@pytest.mark.parametrize("text", [b"", b"300", b",6", b"300,", b"0,6", b"300,0", b"300,1025", b"0.5,6", b"300,6,6"])
def test_a_text_that_is_no_monitor(text: bytes) -> None:
    assert "monitor" in inner.reason(inner.parse_monitor(text))
