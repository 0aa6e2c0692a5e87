"""The colours of drawings by their names, each for a light and for a dark background; and which one a number has.

A larger number is further away from the background in lightness, so the order is seen without seeing colours.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

STEPS = 8
"""Of a scale."""
PALE = "-pale"
"""The end of the name of a pale colour."""
PALE_SHARE = 0.35
"""Which share it has of its own; the rest is the ground's."""


class Colour(NamedTuple):
    light: str
    dark: str


_SCALES = {
    "count": (
        ("#c3df5c", "#86cf60", "#45b57b", "#1f9a8a", "#2a788e", "#3a5688", "#472f7d", "#3b0f52"),
        ("#4b4a9c", "#3a659a", "#2a8390", "#25a184", "#4cbd6c", "#8cd449", "#c6e02b", "#fdf06a"),
    ),
    "refusals": (
        ("#fdc98c", "#fca057", "#f2745c", "#d94a69", "#b32f78", "#86277f", "#581a78", "#2f0f5c"),
        ("#642a86", "#8a2f84", "#b33a7c", "#da4b6b", "#f26d5c", "#fb9a68", "#fdc98c", "#fcf4b8"),
    ),
}

SCALES = tuple(_SCALES)
_GROUND = Colour("#f2f2ef", "#1f2227")


def _pale(colour: str, ground: str) -> str:
    parts = ((int(one[at : at + 2], 16) for one in (colour, ground)) for at in (1, 3, 5))
    return "#" + "".join(f"{round(PALE_SHARE * own + (1 - PALE_SHARE) * other):02x}" for own, other in parts)


COLOURS: dict[str, Colour] = {
    "background": Colour("#ffffff", "#14161a"),
    "ground": _GROUND,
    "grid": Colour("#dcdcd6", "#33373e"),
    "text": Colour("#1b1d20", "#e9eaec"),
    "quiet": Colour("#63676d", "#9a9fa7"),
    "faint": Colour("#a3a69f", "#5b6068"),
    "nothing": Colour("#e0e0db", "#30343a"),
    "all": Colour("#2a9d8f", "#2a9d8f"),
    "refused": Colour("#d1495b", "#d1495b"),
    "over-low": Colour("#101214", "#ffffff"),
    "over-high": Colour("#ffffff", "#101214"),
    **{
        f"{name}{step}": Colour(*pair)
        for name, scale in _SCALES.items()
        for step, pair in enumerate(zip(*scale, strict=True))
    },
    **{
        f"{name}{step}{PALE}": Colour(*map(_pale, pair, _GROUND))
        for name, scale in _SCALES.items()
        for step, pair in enumerate(zip(*scale, strict=True))
    },
}


class Scale:
    """The colours of numbers from 1 to `most`, by their logarithm. 0 has the colour ``nothing``.

    `bounds` are the least numbers of each colour: 1, 3, 10, 30, ... or fewer.
    """

    def __init__(self, name: str, most: int) -> None:
        self.name = name
        fine = [digit * 10**power for power in range(len(str(most))) for digit in (1, 3)]
        fine = [each for each in fine if each <= max(1, most)]
        self.bounds: Sequence[int] = fine[:: -(-len(fine) // STEPS)]

    def step(self, number: int) -> int:
        """Of a number of 1 or more."""
        at = bisect_right(self.bounds, number) - 1
        return (at + 1) * STEPS // len(self.bounds) - 1

    def fill(self, number: int, *, pale: bool = False) -> str:
        return f"{self.name}{self.step(number)}{PALE * pale}" if number else "nothing"

    def over(self, number: int) -> str:
        """The colour of a text that lies on `fill`."""
        return "text" if not number else "over-low" if self.step(number) < STEPS // 2 else "over-high"
