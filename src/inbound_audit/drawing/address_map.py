"""IPv4 as a map: each prefix lies where the Hilbert curve has it.

The colours follow the rule that docs/howto/map.md states, as those of the page do (`web/static/map.js`): a square has
the colour of its number, and what is larger and was not divided further a pale one, so that few sessions in a large
prefix are not what one sees first.
"""

from __future__ import annotations

from collections.abc import Iterator

from inbound_audit.drawing.colours import Scale
from inbound_audit.drawing.hilbert import BITS, Box, box_of
from inbound_audit.drawing.parts import Area, Labels, Rows, name_of
from inbound_audit.drawing.shapes import Rectangle, Shape, Text

MIN_SIDE = 4.0
"""Of what is drawn: smaller prefixes are drawn as the square of this side at least that they lie in."""
MAX_LABELS, MIN_SHARE = 12, 0.02
"""Of labels, and what a place that has one has of all."""
LABELS_A_SIDE = 8
"""What has a label is no larger than this share of the map."""
_NUMBER_SIZE = 8.0


def address_map(rows: Rows, area: Area, first: int = 0, length: int = 0) -> tuple[list[Shape], Scale, str]:
    """The prefix of that length around the address `first`, as large as the area has room for. O(rows).

    Returns the shapes, the colours of numbers, and what these numbers are counted in, such as ``"a /16"``.
    """
    view = _View(area, box_of(first, length), length)
    ground = Rectangle(area.x, area.y, view.width, view.height, "ground")
    spots = dict(_spots(rows, view))
    scale = Scale(rows.scale, max((rows.numbers[at] for at in spots), default=0))
    marks, labels = _labels(rows, view)
    shapes = [
        ground,
        *(
            Rectangle(*area.box, scale.fill(rows.numbers[at], pale=view.is_larger(rows.keys[at][2])), rows.title(at))
            for at, area in spots.items()
        ),
        *_grid(view, first),
        *marks,
        *labels,
    ]
    return shapes, scale, "an address" if view.smallest == BITS else f"a /{view.smallest}"


class _View:
    """A part of the map, and the area that it fills."""

    def __init__(self, area: Area, shown: Box, length: int) -> None:
        self.area, self.shown, self.length = area, shown, length
        self.scale = min(area.width / shown.width, area.height / shown.height)
        self.width, self.height = self.scale * shown.width, self.scale * shown.height
        self.cell = 0
        while self.cell < BITS // 2 and self.scale * (1 << self.cell) < MIN_SIDE:
            self.cell += 1

    @property
    def smallest(self) -> int:
        """The longest length that is drawn as it is."""
        return BITS - 2 * self.cell

    def is_larger(self, length: int) -> bool:
        """Whether a prefix has several smallest squares."""
        return length < self.smallest

    def area_of(self, address: int, length: int) -> Area:
        """Of a prefix, or of the square of the smallest length around it."""
        x, y, width, height = box_of(address, min(length, self.smallest))
        return Area(
            self.area.x + self.scale * (x - self.shown.x),
            self.area.y + self.scale * (y - self.shown.y),
            self.scale * width,
            self.scale * height,
        )


def _spots(rows: Rows, view: _View) -> Iterator[tuple[int, Area]]:
    """The rows that are drawn: those in which no other lies, and of those that are too small the outermost."""
    for at in rows.of(4):
        _, address, length = rows.keys[at]
        parent = rows.rows[at].parent
        is_large = view.is_larger(length)
        if not (rows.inside[at] if is_large else parent >= 0 and not view.is_larger(rows.keys[parent][2])):
            yield at, view.area_of(address, length)


def _labels(rows: Rows, view: _View) -> tuple[list[Shape], list[Text]]:
    """The places with the largest numbers: an edge around each, and its name beside it."""
    family = rows.of(4)
    found = list(_places(rows, view, family[0])) if family else []
    found = [at for at in found if rows.numbers[at] >= max(1.0, MIN_SHARE * rows.numbers[family[0]])]
    labels = Labels(Area(view.area.x, view.area.y, view.width, view.height))
    marks: list[Shape] = []
    for at in sorted(found, key=lambda at: -rows.numbers[at])[:MAX_LABELS]:
        area = view.area_of(*rows.keys[at][1:]).grown(1)
        if labels.place(f"{name_of(rows.rows[at])}: {rows.numbers[at]:,}", area):
            marks.append(Rectangle(*area.box, "text", rows.title(at), outline=True))
    return marks, labels.texts


def _places(rows: Rows, view: _View, at: int) -> Iterator[int]:
    """The rows that are to have a label: none is large, and none has most of its number in one that is inside it."""
    area = view.area_of(*rows.keys[at][1:])
    if not rows.inside[at] or max(area.width, area.height) * LABELS_A_SIDE <= max(view.width, view.height):
        yield rows.main(at)
    else:
        for one in rows.inside[at]:
            yield from _places(rows, view, one)


def _grid(view: _View, first: int) -> Iterator[Shape]:
    """The prefixes of the next length that ends a number of an address, each with that number."""
    length = view.length // 8 * 8 + 8
    if length > BITS:
        return
    start = first >> (BITS - view.length) << (BITS - view.length)
    for at in range(1 << (length - view.length)):
        address = start + (at << (BITS - length))
        area = view.area_of(address, length)
        yield Rectangle(*area.box, "grid", outline=True)
        if area.height >= 2 * _NUMBER_SIZE:
            number = str(address >> (BITS - length) & 255)
            yield Text(area.x + 2, area.y + _NUMBER_SIZE, number, _NUMBER_SIZE, "faint")
