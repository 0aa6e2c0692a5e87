"""Free blocks that lie side by side are merged; live blocks stay where they are."""

from __future__ import annotations

import random

from tests.support import inner

CLASSES = range(len(inner.UNITS))


def free_units(arena: inner.Arena) -> int:
    return sum(inner.UNITS[c] * len(arena.free_list(c)) for c in CLASSES)


def test_leaves_become_a_larger_block() -> None:
    arena = inner.Arena()
    leaves = [arena.alloc(0) for _ in range(6)]
    last = arena.alloc(0)
    for leaf in leaves:
        arena.release(0, leaf)
    assert arena.free_list(3) == []
    arena.coalesce()
    assert arena.free_list(3) == [leaves[0]]  # six units
    assert arena.free_list(0) == []
    assert arena.alloc(3) == leaves[0]
    assert last + 1 == arena.bump
    assert arena.freed == 0


def test_a_run_at_the_end_counts_as_never_handed_out() -> None:
    arena = inner.Arena()
    first = arena.alloc(0)
    rest = [arena.alloc(0) for _ in range(10)]
    for unit in rest:
        arena.release(0, unit)
    arena.coalesce()
    assert arena.bump == first + 1
    assert free_units(arena) == 0
    assert arena.touched >= (rest[-1] + 1) * inner.UNIT


def test_blocks_around_a_live_one_are_not_merged() -> None:
    arena = inner.Arena()
    units = [arena.alloc(0) for _ in range(7)]
    for unit in units[:3] + units[4:6]:
        arena.release(0, unit)
    arena.coalesce()
    assert arena.free_list(1) == [units[0]]  # three units
    assert sorted(arena.free_list(0)) == units[4:6]


def test_no_unit_is_lost_and_no_live_one_is_handed_out() -> None:
    draw, arena, held = random.Random(7), inner.Arena(1 << 18), {}
    for round_ in range(30):
        for _ in range(100):
            if held and draw.random() < 0.55:
                unit = draw.choice(list(held))
                arena.release(held.pop(unit), unit)
            else:
                size_class = draw.choice(CLASSES)
                if unit := arena.alloc(size_class):
                    held[unit] = size_class
        arena.coalesce()
        assert arena.live == sum(inner.UNITS[c] for c in held.values())
        assert free_units(arena) == arena.bump - inner.HEADER_UNITS - arena.live, round_
        spans = [(unit, inner.UNITS[c]) for unit, c in held.items()]
        spans += [(unit, inner.UNITS[c]) for c in CLASSES for unit in arena.free_list(c)]
        at = inner.HEADER_UNITS
        for unit, size in sorted(spans):
            assert unit == at
            at += size


def test_a_free_list_that_was_damaged_ends_at_the_wrong_link() -> None:
    arena = inner.Arena()
    units = [arena.alloc(0) for _ in range(4)]
    for unit in units[:3]:
        arena.release(0, unit)
    arena.damage_free(units[2], 5)  # into the header
    arena.coalesce()
    assert arena.free_list(0) == [units[2]]
