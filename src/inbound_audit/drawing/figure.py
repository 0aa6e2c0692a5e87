"""A picture of an audit as one drawing: a heading, the map of IPv4, the icicle of IPv6, and what the colours mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from inbound_audit.drawing.address_map import MIN_SIDE, address_map
from inbound_audit.drawing.colours import Scale
from inbound_audit.drawing.icicle import icicle
from inbound_audit.drawing.parts import Area, Rows
from inbound_audit.drawing.shapes import Drawing, Rectangle, Shape, Text
from inbound_audit.picture import Picture

WIDTH = 1024
MIN_WIDTH, MAX_WIDTH = 320, 8192
"""Of a drawing, in pixels."""

MARGIN = 16
MAP_SHARE = 0.56
_HEADING, _ABOUT, _TITLE = 20, 13, 13
"""Sizes of texts."""
_SWATCH = 14


def figure(
    picture: Picture,
    heading: str,
    about: str = "",
    *,
    within: tuple[int, int, int] | None = None,
    refused: Sequence[int] | None = None,
    scale: str = "count",
    what: str = "sessions",
    width: int = WIDTH,
) -> Drawing:
    """IPv4 left and IPv6 right, or the one that has rows.

    `heading` and `about` are the lines above it, either without one if it is empty. `within`: the picture is of that
    prefix (version, first address, length). `refused` are the refusals of the picture's rows; `scale` is a name of
    `SCALES`, and `what` a word for what is counted. O(rows).
    """
    rows = Rows(picture, refused, scale)
    y = float(MARGIN)
    shapes: list[Shape] = []
    for text, size, fill in ((heading, _HEADING, "text"), (about, _ABOUT, "quiet")):
        if text:
            shapes.append(Text(MARGIN, y + size, _cut(text, size, width - 2 * MARGIN), size, fill, size == _HEADING))
            y += 1.5 * size
    y += MARGIN / 2 * bool(shapes)
    families = [version for version in (4, 6) if rows.of(version)]
    if not families:
        shapes.append(Text(MARGIN, y + _HEADING, f"No {what}.", _ABOUT, "quiet"))
        y += 2 * _HEADING
    room = width - 2 * MARGIN
    side = _side(MAP_SHARE * (room - MARGIN) if len(families) == 2 else room)
    areas = {4: Area(MARGIN, y + 1.5 * _TITLE, side, side)}
    x = MARGIN + (side + MARGIN if len(families) == 2 else 0)
    areas[6] = Area(x, y + 1.5 * _TITLE, width - MARGIN - x, side if len(families) == 2 else min(side, room / 2))
    for version in families:
        area, root = areas[version], rows.rows[rows.of(version)[0]]
        shapes.append(Text(area.x, y + _TITLE, f"IPv{version}: {root.count:,} {what}", _TITLE, "text"))
        first, length = (0, 0) if within is None else within[1:]
        shapes += address_map(rows, area, first, length) if version == 4 else icicle(rows, area)
    if families:
        y = max(areas[version].y + areas[version].height for version in families) + MARGIN
        shapes += _legend(rows.scale, y, "refusals" if scale == "refusals" else what)
        y += _SWATCH
    return Drawing(width, round(y + MARGIN), ". ".join(filter(None, (heading, about))), tuple(shapes))


def _side(most: float) -> int:
    """Of the map: what is smallest in it has whole pixels."""
    cells = 1 << int(math.log2(most / MIN_SIDE))
    return int(most // cells) * cells


def _cut(text: str, size: float, width: float) -> str:
    most = int(width / Text(0, 0, "x", size).width)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _legend(scale: Scale, y: float, what: str) -> Iterator[Shape]:
    x = float(MARGIN)
    words = [f"{bound:,}" for bound in scale.bounds]
    words[-1] += f" and more {what}"
    for bound, text in zip(scale.bounds, words, strict=True):
        yield Rectangle(x, y, _SWATCH, _SWATCH, scale.fill(bound))
        label = Text(x + _SWATCH + 4, y + _SWATCH - 3, text, 11, "quiet")
        yield label
        x += _SWATCH + 4 + label.width + 10
