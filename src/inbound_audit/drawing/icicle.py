"""IPv6 as an icicle: a prefix is a box as wide as its count, and the prefixes inside it hang below it.

A picture splits prefixes in two. A level of the icicle goes on to the next digit of an address.
"""

from __future__ import annotations

from collections.abc import Iterator

from inbound_audit.drawing.colours import Scale
from inbound_audit.drawing.parts import LABEL, Area, Rows, name_of
from inbound_audit.drawing.shapes import Rectangle, Shape, Text

DIGIT = 4
"""Bits of a digit."""
MIN_WIDTH = 2.0
"""Of a box."""
MIN_LEVEL, MAX_LEVEL = 16.0, 44.0
_EDGE = 1.0


def icicle(rows: Rows, area: Area) -> tuple[list[Shape], Scale]:
    """The rows of IPv6, one at least, as deep as the area has room for; and the colours of numbers. O(rows)."""
    positions = rows.of(6)
    scale = Scale(rows.scale, rows.numbers[positions[0]])
    boxes = list(_boxes(rows, positions[0], area))
    levels = max(level for _, level, _, _ in boxes) + 1
    height = min(MAX_LEVEL, max(MIN_LEVEL, area.height // levels))
    most = int(area.height / height + 0.01)
    shapes: list[Shape] = []
    for at, level, x, width in boxes:
        if level < most:
            shapes += _box(rows, at, scale, Area(x, area.y + level * height, width, height))
    return shapes, scale


def _boxes(rows: Rows, root: int, area: Area) -> Iterator[tuple[int, int, float, float]]:
    """Position, level, x and width. What is inside a box that is too narrow is left out."""
    scale = area.width / max(1, rows.rows[root].count)
    waiting = [(root, 0, area.x)]
    while waiting:
        at, level, x = waiting.pop()
        width = scale * rows.rows[at].count
        yield at, level, x, max(width, MIN_WIDTH)
        if width >= MIN_WIDTH:
            waiting += ((one, level + 1, x + scale * before) for one, before in _next_level(rows, at))


def _next_level(rows: Rows, at: int) -> Iterator[tuple[int, int]]:
    """The outermost rows inside a row that are longer by a digit, each with the count of what is before it."""
    digits = rows.keys[at][2] // DIGIT
    waiting = [(at, 0)]
    while waiting:
        one, before = waiting.pop()
        if rows.keys[one][2] // DIGIT > digits:
            yield one, before
            continue
        for inside in rows.inside[one]:
            waiting.append((inside, before))
            before += rows.rows[inside].count


def _box(rows: Rows, at: int, scale: Scale, area: Area) -> Iterator[Shape]:
    edge = _EDGE if area.width > 2 * MIN_WIDTH else 0
    yield Rectangle(
        area.x, area.y, area.width - edge, area.height - _EDGE, scale.fill(rows.numbers[at]), rows.title(at)
    )
    row = rows.rows[at]
    for words in (f"{name_of(row)}: {row.count:,}", name_of(row), f"{row.count:,}"):
        label = Text(area.x + 4, area.y + area.height / 2 + 0.35 * LABEL, words, LABEL, scale.over(rows.numbers[at]))
        if label.width + 8 <= area.width:
            yield label
            return
