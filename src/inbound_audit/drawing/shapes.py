"""What a drawing consists of. Lengths are in pixels: x to the right, y down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

LETTER = 0.57
"""The width of a letter, as a share of the size of a text: fonts differ, so labels have some room to spare."""


class Rectangle(NamedTuple):
    """`fill` is a name of `colours.COLOURS`; `title` is shown when one points at it. `outline`: its edge alone."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    title: str = ""
    outline: bool = False


class Text(NamedTuple):
    """One line of text: it begins at x, and its letters stand on y. `halo`: it lies on other shapes."""

    x: float
    y: float
    text: str
    size: float = 12
    fill: str = "text"
    bold: bool = False
    halo: bool = False

    @property
    def width(self) -> float:
        """About."""
        return len(self.text) * LETTER * self.size


Shape = Rectangle | Text


@dataclass(frozen=True)
class Drawing:
    """Shapes, of which a later one lies over an earlier one. `title` says what it shows in one sentence."""

    width: int
    height: int
    title: str
    shapes: tuple[Shape, ...]
