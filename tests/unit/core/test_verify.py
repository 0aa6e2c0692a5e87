"""The checker finds what is damaged, and ends whatever it reads."""

from __future__ import annotations

import random

import pytest
from tests.support import inner


@pytest.fixture
def arena() -> inner.Arena:
    arena = inner.Arena(1 << 18)
    for i in range(60):
        arena.add(f"10.0.{i % 7}.{i}")
        arena.add(f"2001:db8::{i % 5}:{i}")
    return arena


def test_a_sound_tree_has_no_fault(arena: inner.Arena) -> None:
    assert arena.verify() is None
    for i in range(60):
        arena.remove(f"10.0.{i % 7}.{i}")
        assert arena.verify() is None


def test_a_lost_block_is_a_fault(arena: inner.Arena) -> None:
    arena.alloc(0)
    assert arena.verify() == "the number of units in use is wrong"


def test_a_block_that_is_free_and_in_use_is_a_fault(arena: inner.Arena) -> None:
    unit = arena.alloc(0)
    arena.release(0, unit)
    arena.carve(unit, 1)
    assert arena.verify() is not None


def test_a_wrong_number_of_children_is_a_fault(arena: inner.Arena) -> None:
    arena.damage(arena.root_unit(False), 2, 0)  # the bit map of its slots
    assert arena.verify() == "a node's slots do not fit their number"


def test_damaged_words_end_in_a_fault_and_not_in_a_crash() -> None:
    draw = random.Random(3)
    for _ in range(300):
        arena = inner.Arena(1 << 18)
        for i in range(40):
            arena.add(f"10.{i % 3}.{i % 7}.{i}")
            arena.add(f"2001:db8:{i % 3}::{i}")
        for _ in range(draw.randrange(1, 4)):
            unit = draw.randrange(inner.HEADER_UNITS, arena.bump)
            arena.damage(unit, draw.randrange(4), draw.getrandbits(32))
        fault = arena.verify()
        assert fault is None or isinstance(fault, str)
        arena.count("10.0.0.0/9")
        arena.seek("10.0.0.0")
