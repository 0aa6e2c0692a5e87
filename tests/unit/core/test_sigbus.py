"""A mapped file that is cut short costs its bytes and not the process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import inner

SIZE = 16 * 4096


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "f").write_bytes(b"\x07" * SIZE)
    fd = os.open(tmp_path / "f", os.O_RDWR)
    yield fd
    os.close(fd)


def test_a_lost_page_reads_as_zeros_and_the_loss_is_noted(fd: int) -> None:
    mapping = inner.Mapping(fd, SIZE)
    assert mapping[SIZE - 1] == 7
    assert not mapping.was_lost()
    os.ftruncate(fd, 4096)
    assert mapping[SIZE - 1] == 0
    assert mapping[0] == 7
    assert mapping.was_lost()
    assert not mapping.was_lost()


def test_a_range_that_is_written_stays_writable(fd: int) -> None:
    mapping = inner.Mapping(fd, SIZE, True)
    os.ftruncate(fd, 4096)
    mapping[SIZE - 1] = 9
    assert mapping[SIZE - 1] == 9
    assert mapping.was_lost()


def test_only_the_lost_page_is_replaced(fd: int) -> None:
    mapping = inner.Mapping(fd, SIZE)
    os.ftruncate(fd, 4096)
    assert mapping[5 * 4096] == 0
    os.ftruncate(fd, SIZE)
    os.pwrite(fd, b"\x08" * SIZE, 0)
    assert mapping[5 * 4096] == 0  # a page of its own now
    assert mapping[6 * 4096] == 8


def test_each_of_several_ranges_notes_its_own_loss(fd: int) -> None:
    one, other = inner.Mapping(fd, SIZE), inner.Mapping(fd, SIZE)
    os.ftruncate(fd, 4096)
    assert one[SIZE - 1] == 0
    assert one.was_lost()
    assert not other.was_lost()
    assert other[SIZE - 1] == 0
    assert other.was_lost()


def test_ranges_are_guarded_and_lost_in_many_threads(fd: int) -> None:
    os.ftruncate(fd, 4096)
    found = []

    def work() -> None:
        for _ in range(50):
            mapping = inner.Mapping(fd, SIZE)
            found.append((mapping[0], mapping[SIZE - 1], mapping.was_lost()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(7, 0, True)] * 200
