"""Blocks of an arena: size classes, free lists, splitting, and what is given back."""

from __future__ import annotations

import random

import pytest
from tests.support import inner

CLASSES = range(len(inner.UNITS))


@pytest.fixture
def arena() -> inner.Arena:
    return inner.Arena(inner.MIN_CAPACITY + 1000 * inner.UNIT)


def free_units(arena: inner.Arena) -> int:
    return sum(inner.UNITS[c] * len(arena.free_list(c)) for c in CLASSES)


@pytest.mark.parametrize("size_class", CLASSES)
def test_the_first_block_lies_after_the_header(arena: inner.Arena, size_class: int) -> None:
    assert arena.alloc(size_class) == inner.HEADER_UNITS
    assert arena.bump == inner.HEADER_UNITS + inner.UNITS[size_class]
    assert arena.live == inner.UNITS[size_class]


@pytest.mark.parametrize("size_class", CLASSES)
def test_a_released_block_is_used_again(arena: inner.Arena, size_class: int) -> None:
    first, second = arena.alloc(size_class), arena.alloc(size_class)
    arena.release(size_class, first)
    assert arena.free_list(size_class) == [first]
    assert arena.live == arena.freed == inner.UNITS[size_class]
    assert arena.alloc(size_class) == first
    assert arena.alloc(size_class) == second + inner.UNITS[size_class]


@pytest.mark.parametrize("units", [1, 2, 3, 5, 19, 133, 134, 135, 268, 500])
def test_carving_leaves_no_unit_over(arena: inner.Arena, units: int) -> None:
    arena.carve(inner.HEADER_UNITS, units)
    taken = sorted((unit, inner.UNITS[c]) for c in CLASSES for unit in arena.free_list(c))
    at = inner.HEADER_UNITS
    for unit, size in taken:
        assert unit == at
        at += size
    assert at == inner.HEADER_UNITS + units


def test_a_block_is_split_from_the_smallest_larger_one(arena: inner.Arena) -> None:
    large, small = arena.alloc(6), arena.alloc(3)  # 37 and 6 units
    arena.release(6, large)
    arena.release(3, small)
    assert arena.split(3) == small
    assert free_units(arena) == 37 + 6 - 3
    assert arena.split(200) == 0


def test_a_full_arena_splits_before_it_refuses(arena: inner.Arena) -> None:
    blocks = []
    while unit := arena.alloc(7):
        blocks.append(unit)
    assert arena.alloc(14) == 0
    arena.release(7, blocks[0])
    leaves = [arena.alloc(0) for _ in range(40)]
    assert all(leaves)
    assert len(set(leaves)) == len(leaves)


def test_blocks_never_overlap() -> None:
    draw, arena, held = random.Random(5), inner.Arena(1 << 18), {}
    for _ in range(4000):
        if held and draw.random() < 0.5:
            unit = draw.choice(list(held))
            arena.release(held.pop(unit), unit)
        else:
            size_class = draw.choice(CLASSES)
            if unit := arena.alloc(size_class):
                held[unit] = size_class
    at = inner.HEADER_UNITS
    for unit in sorted(held):
        assert unit >= at
        at = unit + inner.UNITS[held[unit]]
    assert at <= arena.bump
    assert arena.live == sum(inner.UNITS[c] for c in held.values())
    assert free_units(arena) == arena.bump - inner.HEADER_UNITS - arena.live


def test_a_damaged_link_ends_a_free_list(arena: inner.Arena) -> None:
    first, second = arena.alloc(0), arena.alloc(0)
    arena.release(0, first)
    arena.release(0, second)
    arena.damage_free(second, 0xFFFFFFF0)
    assert arena.alloc(0) == second
    assert arena.free_list(0) == []


def test_a_reset_removes_everything(arena: inner.Arena) -> None:
    arena.add("10.0.0.1")
    arena.add("10.0.0.2")
    arena.reset()
    assert (arena.bump, arena.live, arena.freed) == (inner.HEADER_UNITS, 0, 0)
    assert arena.count("0.0.0.0/0") == 0
    assert arena.verify() is None


def test_a_renewed_arena_has_the_label_of_the_next_window_and_keeps_its_pages() -> None:
    arena = inner.Arena(1 << 22)
    for i in range(8000):
        arena.add(f"{1 + i % 223}.{i * 7 % 256}.{i * 13 % 251}.1")
    used = arena.bump * inner.UNIT
    arena.renew(42)
    assert (arena.number, arena.touched) == (42, used)
    assert arena.count("0.0.0.0/0") == 0


def test_a_trim_gives_back_one_slice_until_no_page_is_left() -> None:
    arena = inner.Arena(1 << 22)
    for i in range(8000):
        arena.add(f"{1 + i % 223}.{i * 7 % 256}.{i * 13 % 251}.1")
    arena.renew(1)
    left = [arena.touched]
    while arena.trim(0):
        left.append(arena.touched)
    assert left == sorted(left, reverse=True)
    assert len(left) > 2
    assert arena.touched <= 2 * inner.GRAIN
    assert arena.add("10.0.0.1") == inner.OK
    assert arena.verify() is None


def test_a_trim_leaves_what_is_to_be_kept() -> None:
    arena = inner.Arena(1 << 22)
    for i in range(8000):
        arena.add(f"{1 + i % 223}.{i * 7 % 256}.{i * 13 % 251}.1")
    arena.renew(1)
    assert not arena.trim(arena.touched)
