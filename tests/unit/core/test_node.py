"""Nodes of every size, against a dictionary."""

from __future__ import annotations

import random

import pytest
from tests.support import inner

GRADES = range(len(inner.SLOTS))
KINDS = [(v6, grade) for v6 in (False, True) for grade in GRADES]


def filled(v6: bool, grade: int, seed: int = 1) -> tuple[inner.Node, dict[int, int]]:
    draw = random.Random(seed)
    node = inner.Node(v6, grade)
    counts = {byte: draw.randrange(1, 1000) for byte in draw.sample(range(256), inner.SLOTS[grade])}
    for byte, count in counts.items():
        node.put(byte, count)
    return node, counts


@pytest.mark.parametrize(("v6", "grade"), KINDS)
def test_each_slot_is_found_and_no_other(v6: bool, grade: int) -> None:
    node, counts = filled(v6, grade)
    assert node.live == len(counts)
    assert [node.find(byte) for byte in range(256)] == [counts.get(byte) for byte in range(256)]


@pytest.mark.parametrize(("v6", "grade"), KINDS)
def test_the_sum_below_a_prefix_of_the_byte(v6: bool, grade: int) -> None:
    node, counts = filled(v6, grade)
    for bits in range(1, 8):
        for byte in (0, 0x5A, 0xFF):
            below = sum(count for key, count in counts.items() if key >> (8 - bits) == byte >> (8 - bits))
            assert node.sum_below(byte, bits) == below


@pytest.mark.parametrize(("v6", "grade"), KINDS)
def test_slots_are_erased_and_used_again(v6: bool, grade: int) -> None:
    node, counts = filled(v6, grade)
    gone = sorted(counts)[::2]
    for byte in gone:
        node.erase(byte)
        del counts[byte]
    assert [node.find(byte) for byte in range(256)] == [counts.get(byte) for byte in range(256)]
    assert node.sum_below(0, 1) + node.sum_below(128, 1) == sum(counts.values())
    for byte in gone:
        node.put(byte, 5)
    assert node.live == inner.SLOTS[grade]


@pytest.mark.parametrize(("v6", "grade"), KINDS)
def test_the_next_key_in_both_directions(v6: bool, grade: int) -> None:
    node, counts = filled(v6, grade)
    up, down, keys = [node.next_key(-1, 1)], [node.next_key(256, -1)], sorted(counts)
    while up[-1] >= 0:
        up.append(node.next_key(up[-1], 1))
    while down[-1] >= 0:
        down.append(node.next_key(down[-1], -1))
    assert up == [*keys, -1]
    assert down == [*reversed(keys), -1]


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("grade", [0, 2, 5])
def test_a_copy_grows_and_leaves_one_slot_out(v6: bool, grade: int) -> None:
    node, counts = filled(v6, grade)
    but = min(counts)
    copy = node.copied(grade + 1, but)
    del counts[but]
    assert {byte: copy.find(byte) for byte in range(256) if copy.find(byte)} == counts
    assert copy.live == len(counts)


def test_the_path_of_a_node_has_the_bytes_before_its_depth() -> None:
    assert inner.Node(False, 0, 2, "10.20.30.40").path == (0x0A14 << 48, 0)
    node = inner.Node(True, 0, 12, "2001:db8:1:2:3:4:5:6")
    assert node.path == (0x20010DB800010002, 0x0003000400000000)
