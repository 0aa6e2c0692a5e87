"""Files of other owners: attached, refreshed, detached."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import inner

MAGIC = 0x72656E776F6169  # "iaowner"
LAYOUT, MARK = 2, 0x01020304


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.fixture
def other(fd: int) -> inner.Owner:
    """Another owner with two listeners in its file."""
    other = inner.Owner()
    for tree, count in enumerate((1, 10)):
        other.add_tree(0, tree)
        other.add(tree, "192.0.2.7", count)
    other.move_into(fd)
    return other


def size(fd: int) -> int:
    return os.fstat(fd).st_size


def opened(owner: inner.Owner, fd: int) -> inner.OwnerFile:
    file = inner.OwnerFile(owner, fd, size(fd))
    assert file.fault == inner.SOUND
    return file


def test_trees_of_another_owner_are_counted_as_soon_as_they_are_attached(fd: int, other: inner.Owner) -> None:
    mine = inner.Owner()
    file = opened(mine, fd)
    assert mine.sum_trees("192.0.2.7") == 0
    assert file.attach(0, 1) == inner.SOUND
    assert mine.sum_trees("192.0.2.7") == 1
    assert file.attach(0, 2) == inner.SOUND
    assert mine.sum_trees("192.0.2.0/24") == 11
    other.add(0, "192.0.2.9", 100)
    assert mine.sum_trees("192.0.2.0/24") == 111


def test_a_detached_owner_counts_no_more(fd: int, other: inner.Owner) -> None:
    mine = inner.Owner()
    file = opened(mine, fd)
    file.attach()
    file.attach()
    file.detach(0)
    assert mine.listed() == 0
    assert mine.sum_trees("192.0.2.0/24") == 0


def test_an_address_range_is_used_again_after_the_delay_and_not_before(fd: int, other: inner.Owner) -> None:
    mine = inner.Owner()
    where = []
    for now in (0, inner.REUSE_DELAY_NS - 1, 2 * inner.REUSE_DELAY_NS):
        file = opened(mine, fd)
        assert file.attach(now=now) == inner.SOUND
        where.append(file.first_address())
        assert mine.sum_trees("192.0.2.7") == 1
        file.detach(now)
    assert where[0] != where[1]
    assert where[2] in where[:2]


def test_a_file_that_was_cut_short_is_a_fault(fd: int, other: inner.Owner) -> None:
    file = opened(inner.Owner(), fd)
    file.attach()
    assert file.refresh(size(fd), size(fd)) == inner.SOUND
    assert file.refresh(size(fd) - 1, size(fd)) == inner.CUT_SHORT


def test_a_stride_that_changes_is_a_fault(fd: int, other: inner.Owner) -> None:
    file = opened(inner.Owner(), fd)
    other.set_stride(inner.GRAIN)
    assert file.refresh(size(fd), size(fd)) == inner.NONSENSE


@pytest.mark.parametrize("stride", [0, 1, inner.GRAIN - 1, 1 << 40])
def test_a_stride_that_no_owner_writes(fd: int, other: inner.Owner, stride: int) -> None:
    other.set_stride(stride)
    assert inner.OwnerFile(inner.Owner(), fd, size(fd)).fault == inner.NONSENSE


def test_a_file_that_is_too_short_is_not_ready(fd: int) -> None:
    assert inner.OwnerFile(inner.Owner(), fd, inner.GRAIN - 1).fault == inner.NOT_READY


@pytest.mark.parametrize(
    ("magic", "layout", "mark", "fault"),
    [
        (MAGIC, LAYOUT, MARK, inner.SOUND),
        (MAGIC, LAYOUT + 1, MARK, inner.OTHER_LAYOUT),
        (MAGIC, LAYOUT, 0, inner.NONSENSE),
        (int.from_bytes(MAGIC.to_bytes(8, "little"), "big"), LAYOUT, MARK, inner.OTHER_ORDER),
        (0, LAYOUT, MARK, inner.OTHER_MAGIC),
    ],
)
def test_the_first_fields_of_a_header(magic: int, layout: int, mark: int, fault: int) -> None:
    assert inner.header_fault(magic, layout, mark, MAGIC) == fault


def test_the_sum_of_another_owner_is_read_until_it_is_detached(fd: int, other: inner.Owner) -> None:
    other.use_sum(1, True)  # the mark in a header
    mine = inner.Owner()
    file = opened(mine, fd)
    assert file.attach(inner.INBOUND_CIDR) == inner.SOUND
    assert file.attach_sum() == inner.SOUND
    assert mine.sum_trees("192.0.2.7", inner.INBOUND_CIDR) == 10  # not 1
    assert not mine.own_sum()
    other.use_sum(1, False)
    assert mine.sum_trees("192.0.2.7", inner.INBOUND_CIDR) == 1
    other.use_sum(1, True)
    file.detach(0)
    assert mine.sum_trees("192.0.2.7", inner.INBOUND_CIDR) == 0


def test_a_process_that_keeps_a_sum_reads_its_own(fd: int, other: inner.Owner) -> None:
    other.use_sum(1, True)
    mine = inner.Owner()
    mine.use_sum(mine.add_sum(), True)
    file = opened(mine, fd)
    assert file.attach_sum() == inner.SOUND
    assert (mine.own_sum(), mine.sum_trees("192.0.2.7", inner.INBOUND_CIDR)) == (True, 0)
    file.detach(0)
    assert mine.own_sum()
