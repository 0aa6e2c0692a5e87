"""Where an arena's memory comes from: it moves into a file, grows there, and leaves it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import inner

OFFSET = inner.GRAIN


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.fixture
def arena() -> inner.Arena:
    arena = inner.Arena(1 << 22)
    for i in range(100):
        assert arena.add(f"10.0.{i}.1") == inner.OK
    return arena


def test_an_arena_in_private_memory_is_backed_whole(arena: inner.Arena) -> None:
    assert arena.backed == arena.limit
    assert arena.held == arena.size
    assert not arena.grow(arena.limit)  # there is no file that could grow


def test_a_move_into_a_file_keeps_the_counts(arena: inner.Arena, fd: int) -> None:
    needs = arena.share_needs()
    assert arena.share(fd, OFFSET) == inner.OK
    assert arena.count("10.0.0.0/8") == 100
    assert arena.verify() is None
    assert os.fstat(fd).st_size == OFFSET + needs == OFFSET + arena.held
    assert needs % inner.GRAIN == 0


def test_an_arena_in_a_file_grows_with_what_it_holds(arena: inner.Arena, fd: int) -> None:
    arena.share(fd, OFFSET)
    before = arena.held
    for i in range(3000):
        assert arena.add(f"{11 + i % 200}.{i * 7 % 256}.{i * 13 % 251}.7") == inner.OK
    assert arena.held > before
    assert os.fstat(fd).st_size == OFFSET + arena.held
    assert arena.bump <= arena.backed == arena.reach
    assert arena.verify() is None


def test_an_arena_that_becomes_empty_keeps_the_first_grain_of_its_file(arena: inner.Arena, fd: int) -> None:
    arena.share(fd, OFFSET)
    for i in range(3000):
        arena.add(f"{11 + i % 200}.{i * 7 % 256}.{i * 13 % 251}.7")
    arena.reset()
    assert arena.held == inner.GRAIN
    assert arena.count("0.0.0.0/0") == 0
    assert arena.add("10.0.0.1") == inner.OK


def test_an_arena_that_leaves_its_file_is_empty_private_memory(arena: inner.Arena, fd: int) -> None:
    arena.share(fd, OFFSET)
    held = os.pread(fd, inner.PAGE, OFFSET)
    assert arena.leave()
    assert arena.count("0.0.0.0/0") == 0
    assert arena.backed == arena.limit
    assert arena.add("10.0.0.1") == inner.OK
    assert os.pread(fd, inner.PAGE, OFFSET) == held


def test_a_file_that_cannot_be_written_is_a_code_and_changes_nothing(arena: inner.Arena, tmp_path: Path) -> None:
    (tmp_path / "r").touch()
    fd = os.open(tmp_path / "r", os.O_RDONLY)
    try:
        assert arena.share(fd, OFFSET) == inner.FULL
    finally:
        os.close(fd)
    assert arena.count("10.0.0.0/8") == 100
    assert arena.verify() is None
