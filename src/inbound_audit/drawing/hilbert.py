"""Where an IPv4 prefix lies on the map: on a Hilbert curve through all addresses.

The map has `SIDE` x `SIDE` places, one per address: x to the right, y down, 0.0.0.0 at the top left. Neighbours on the
curve touch, so each prefix is one square or, if its length is odd, two of them side by side. A curve of 4^order steps
ends at the top right, and its first step is to the right if the order is even, down if it is odd:

    /2: 64.0.0.0 is 1      /4: 16.0.0.0 is 1
                            0  1 14 15
      0  3                  3  2 13 12
      1  2                  4  7  8 11
                            5  6  9 10
"""

from __future__ import annotations

from typing import NamedTuple

BITS = 32
SIDE = 1 << (BITS // 2)


class Box(NamedTuple):
    """A rectangle: its top left corner and its size, in places of the map."""

    x: int
    y: int
    width: int
    height: int


def box_of(address: int, length: int) -> Box:
    """Of the prefix of that length around an address. O(length)."""
    if length % 2:
        x, y, side, _ = _square(address, length + 1)
        other = _square(address ^ (1 << (BITS - length - 1)), length + 1)
        return Box(min(x, other.x), min(y, other.y), side + abs(x - other.x), side + abs(y - other.y))
    return _square(address, length)


def _square(address: int, length: int) -> Box:
    """For an even length. From the smallest square to the largest, which is how the curve is put together."""
    steps = address >> (BITS - length)
    x = y = 0
    side = 1
    for _ in range(length // 2):
        right = steps >> 1 & 1 > 0
        down = (steps ^ steps >> 1) & 1 > 0
        x, y = _turned(x, y, side, right, down)
        x, y = x + side * right, y + side * down
        side *= 2
        steps >>= 2
    size = SIDE // side
    return Box(x * size, y * size, size, size)


def _turned(x: int, y: int, side: int, right: bool, down: bool) -> tuple[int, int]:
    """A place of a quarter with that side: the upper quarters are the curve turned so that it begins and ends right."""
    if down:
        return x, y
    return (side - 1 - y, side - 1 - x) if right else (y, x)
