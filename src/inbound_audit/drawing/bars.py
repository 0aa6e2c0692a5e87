"""Numbers as bars, one beside the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from inbound_audit.drawing.shapes import Drawing, Rectangle, Shape, Text

WIDTH, HEIGHT, BOTTOM = 960, 180, 20
SIZE = 13
MAX_LETTERS = 16
"""Of a label."""


def bars(rows: Sequence[tuple[str, int, int]]) -> Drawing:
    """A bar a row: its label, its height, and how much of it is refused. A label that would reach into the next one, or
    over the edge, is left out. O(rows)."""
    most = max(number for _, number, _ in rows) or 1
    return Drawing(WIDTH, HEIGHT, f"bars, {most:,} at most", tuple(_shapes(rows, most)))


def _shapes(rows: Sequence[tuple[str, int, int]], most: int) -> Iterator[Shape]:
    yield Text(0, 12, f"{most:,}", SIZE)
    wide = WIDTH / len(rows)
    scale = (HEIGHT - 2 * BOTTOM) / most
    labels = [Text(at * wide, HEIGHT - 5, label[:MAX_LETTERS], SIZE) for at, (label, _, _) in enumerate(rows)]
    every = math.ceil((max(label.width for label in labels) + SIZE) / wide)
    for at, (name, number, refused) in enumerate(rows):
        title = f"{name}: {number:,}" + (f", {refused:,} refused" if refused else "")
        for fill, height in (("all", number * scale), ("refused", refused * scale)):
            if height:
                yield Rectangle(at * wide, HEIGHT - BOTTOM - height, 0.9 * wide, height, fill, title)
        if at % every == 0 and (not at or labels[at].x + labels[at].width <= WIDTH):
            yield labels[at]
