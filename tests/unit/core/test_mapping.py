"""Files that are mapped, and ranges that are covered."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support import inner


def file_of(path: Path, data: bytes) -> int:
    path.write_bytes(data)
    return os.open(path, os.O_RDWR)


def test_a_mapped_file_is_read_and_written(tmp_path: Path) -> None:
    fd = file_of(tmp_path / "f", b"abc" + bytes(4093))
    try:
        mapping = inner.Mapping(fd, 4096, True)
        assert bytes(mapping[i] for i in range(3)) == b"abc"
        mapping[1] = ord("x")
        assert os.pread(fd, 3, 0) == b"axc"
    finally:
        os.close(fd)


def test_a_covered_range_reads_as_zeros_and_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    fd = file_of(tmp_path / "f", b"abc" + bytes(4093))
    try:
        mapping = inner.Mapping(fd, 4096)
        assert mapping.cover()
        assert [mapping[i] for i in range(3)] == [0, 0, 0]
        assert os.pread(fd, 3, 0) == b"abc"
    finally:
        os.close(fd)
