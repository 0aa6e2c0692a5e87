"""A picture of an audit as one drawing: a heading, the map of IPv4, the icicle of IPv6, and what the colours mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from textwrap import wrap

from inbound_audit._ipcount import parse_prefix
from inbound_audit.drawing.address_map import MIN_SIDE, address_map
from inbound_audit.drawing.colours import PALE, Scale
from inbound_audit.drawing.icicle import icicle
from inbound_audit.drawing.parts import LABEL, Area, Rows
from inbound_audit.drawing.shapes import Drawing, Rectangle, Shape, Text
from inbound_audit.picture import Picture

WIDTH = 1024
MIN_WIDTH, MAX_WIDTH = 320, 8192
"""Of a drawing, in pixels."""

MARGIN = 16
MAP_SHARE = 0.56
_HEADING, _ABOUT, _TITLE = 20, 13, 13
"""Sizes of texts."""
_SWATCH, _LINE = 14, 18
"""Of a legend."""


def figure(
    picture: Picture,
    heading: str,
    about: str = "",
    *,
    within: str | None = None,
    refused: Sequence[int] | None = None,
    scale: str = "count",
    what: str = "sessions",
    width: int = WIDTH,
) -> Drawing:
    """IPv4 left and IPv6 right, or the one that has rows.

    `heading` and `about` are the lines above it; empty: none. `within`: the picture is of that prefix. `refused` are
    the refusals of the picture's rows; `scale` is a name of `SCALES`, and `what` a word for what is counted. O(rows).
    """
    rows = Rows(picture, refused, scale)
    shapes: list[Shape] = list(_heading(heading, about, width))
    y = round(shapes[-1].y) + MARGIN if shapes else MARGIN
    families = [version for version in (4, 6) if rows.of(version)]
    if not families:
        shapes.append(Text(MARGIN, y + _ABOUT, f"No {what or 'rows'}.", _ABOUT, "quiet"))
        y += _ABOUT
    counted = "refusals" if scale == "refusals" else what
    below = float(y)
    for version, area in _areas(families, y, width):
        root = rows.rows[rows.of(version)[0]]
        title = _cut(f"IPv{version}: {root.count:,} {what}".strip(), _TITLE, area.width)
        shapes.append(Text(area.x, y + _TITLE, title, _TITLE))
        if version == 4:
            _, packed, length = parse_prefix(within or "0.0.0.0/0")
            drawn, colours, unit = address_map(rows, area, int.from_bytes(packed, "big"), length)
            words = " ".join(filter(None, ("or more", counted, "in", unit)))
        else:
            drawn, colours = icicle(rows, area)
            words = f"or more {counted}".strip()
        shapes += drawn
        for shape in _legend(colours, area, words, has_pale=any(shape.fill.endswith(PALE) for shape in drawn)):
            shapes.append(shape)
            below = max(below, shape.y + MARGIN)
    return Drawing(width, round(below + MARGIN / 2), ". ".join(filter(None, (heading, about))), tuple(shapes))


def _heading(heading: str, about: str, width: int) -> Iterator[Text]:
    y = float(MARGIN)
    for text, size in ((heading, _HEADING), (about, _ABOUT)):
        if text:
            is_first = size == _HEADING
            words = _cut(text, size, width - 2 * MARGIN)
            yield Text(MARGIN, y + size, words, size, "text" if is_first else "quiet", is_first)
            y += 1.5 * size


def _areas(families: Sequence[int], y: float, width: int) -> Iterator[tuple[int, Area]]:
    room = width - 2 * MARGIN
    both = len(families) == 2
    side = _side(MAP_SHARE * (room - MARGIN) if both else room)
    top = y + _TITLE + MARGIN // 2
    if 4 in families:
        yield 4, Area(MARGIN, top, side, side)
    if 6 in families:
        left = MARGIN + side if both else 0
        yield 6, Area(MARGIN + left, top, room - left, side if both else room // 2)


def _side(most: float) -> int:
    """Of the map: what is smallest in it has whole pixels."""
    cells = 1 << int(math.log2(most / MIN_SIDE))
    return int(most // cells) * cells


def _cut(text: str, size: float, width: float) -> str:
    most = _letters(size, width)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _letters(size: float, width: float) -> int:
    """How many have room."""
    return max(1, int(width / Text(0, 0, "x", size).width))


def _legend(scale: Scale, area: Area, words: str, *, has_pale: bool) -> Iterator[Shape]:
    """Below an area and no wider, in as many lines as it takes; the words come last."""
    steps = [(scale.fill(bound), f"{bound:,}") for bound in scale.bounds]
    steps[-1] = steps[-1][0], f"{steps[-1][1]} {words}"
    steps += [(scale.fill(scale.bounds[-1], pale=True), "in a larger prefix")] * has_pale
    left, end = _SWATCH + 4, area.x + area.width
    x, y = area.x, area.y + area.height + MARGIN / 2
    for fill, text in steps:
        labels = [Text(0, 0, line, LABEL, "quiet") for line in wrap(text, _letters(LABEL, area.width - left))]
        width = max(label.width for label in labels)
        if x > area.x and x + left + width > end:
            x, y = area.x, y + _LINE
        yield Rectangle(x, y, _SWATCH, _SWATCH, fill)
        for at, label in enumerate(labels):
            yield label._replace(x=x + left, y=y + at * _LINE + _SWATCH - 3)
        x, y = x + left + width + 8, y + (len(labels) - 1) * _LINE
