"""The lines of a change log."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import inner


@pytest.fixture
def log(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield fd, tmp_path / "log"
    os.close(fd)


def test_a_line_per_change(log: tuple[int, Path]) -> None:
    fd, path = log
    assert inner.log_change(fd, 0x1F0C44D29B07AA13, 41, None, "192.0.2.7", 1, False, 1795572000123456) == (42, 0)
    assert inner.log_change(fd, 0x1F0C44D29B07AA13, 42, None, "2001:db8::7", -5, False, -1) == (43, 0)
    assert inner.log_change(fd, 1, 43, None, "192.0.2.7", 0, True, 7) == (44, 0)
    assert path.read_bytes() == (
        b"1f0c44d29b07aa13 42 1795572000123456 1 192.0.2.7\n"
        b"1f0c44d29b07aa13 43 -1 -5 2001:db8::7\n"
        b"0000000000000001 44 7 remove 192.0.2.7\n"
    )


def test_the_key_of_a_series_of_strings_is_percent_encoded(log: tuple[int, Path]) -> None:
    fd, path = log
    key = bytes(range(256))
    inner.log_change(fd, 0, 0, key, "::", 1, False, 0)
    line = path.read_bytes().split(b" ")[-1]
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
    assert line == b"".join(bytes([c]) if c in plain else b"%%%02X" % c for c in key) + b"\n"


def test_the_longest_key_is_one_line(log: tuple[int, Path]) -> None:
    fd, path = log
    inner.log_change(fd, 2**64 - 1, 2**64 - 2, b"\xff" * inner.MAX_KEY, "::", -(2**32) + 1, False, 2**59)
    assert path.read_bytes().count(b"%FF") == inner.MAX_KEY
    assert path.read_bytes().endswith(b"%FF\n")


def test_a_series_without_a_log_writes_nothing(log: tuple[int, Path]) -> None:
    assert inner.log_change(-1, 0, 5, None, "192.0.2.7", 1, False, 0) == (5, 0)


def test_a_line_that_cannot_be_written_is_counted(tmp_path: Path) -> None:
    (tmp_path / "r").touch()
    fd = os.open(tmp_path / "r", os.O_RDONLY)
    try:
        assert inner.log_change(fd, 0, 5, None, "192.0.2.7", 1, False, 0) == (6, 1)
    finally:
        os.close(fd)
