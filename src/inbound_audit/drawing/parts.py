"""What a map and an icicle have in common: the rows of a picture with their colours, and labels that do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from inbound_audit._ipcount import parse_prefix
from inbound_audit.drawing.shapes import Text
from inbound_audit.picture import Picture, PictureRow

LABEL = 11
"""The size of a label."""
GAP = 3
MAIN_SHARE = 0.7
"""A prefix is called by what is inside it, if one row inside has this share of it."""


@dataclass(frozen=True)
class Area:
    """A rectangle of a drawing, in pixels."""

    x: float
    y: float
    width: float
    height: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        return self.x, self.y, self.width, self.height

    def grown(self, by: float) -> Area:
        return Area(self.x - by, self.y - by, self.width + 2 * by, self.height + 2 * by)

    def touches(self, other: Area) -> bool:
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )

    def holds(self, other: Area) -> bool:
        return (
            self.x <= other.x
            and other.x + other.width <= self.x + self.width
            and self.y <= other.y
            and other.y + other.height <= self.y + self.height
        )


class Rows:
    """The rows of a picture, each with its place among addresses and its title.

    `refused` has the refusals of each row. `numbers` are what is coloured: the refusals if `scale` is ``"refusals"``,
    else the counts.
    """

    def __init__(self, picture: Picture, refused: Sequence[int] | None = None, scale: str = "count") -> None:
        self.rows = picture.rows
        self.refused = refused or (0,) * len(self.rows)
        self.numbers = self.refused if scale == "refusals" else tuple(row.count for row in self.rows)
        self.scale = scale

    @cached_property
    def keys(self) -> list[tuple[int, int, int]]:
        """Of each row: the version, the first address and the length."""
        parsed = (parse_prefix(row.prefix) for row in self.rows)
        return [(version, int.from_bytes(packed, "big"), length) for version, packed, length in parsed]

    @cached_property
    def inside(self) -> list[list[int]]:
        """Of each row: the positions of the rows inside it that are in no other."""
        found: list[list[int]] = [[] for _ in self.rows]
        for at, row in enumerate(self.rows):
            if row.parent >= 0:
                found[row.parent].append(at)
        return found

    def of(self, version: int) -> list[int]:
        """Positions."""
        return [at for at, key in enumerate(self.keys) if key[0] == version]

    def main(self, at: int) -> int:
        """The position of the row in which most of this one is."""
        while inside := [one for one in self.inside[at] if self.numbers[one] >= MAIN_SHARE * self.numbers[at] > 0]:
            at = inside[0]
        return at

    def title(self, at: int) -> str:
        row, refused = self.rows[at], self.refused[at]
        text = f"{name_of(row)}: {row.count:,}" + (f", {refused:,} refused" if refused else "")
        main = self.main(at)
        return text if main == at else f"{text}; of these {self.title(main)}"


def name_of(row: PictureRow) -> str:
    """A prefix; of a host its address."""
    return row.prefix.removesuffix("/128" if ":" in row.prefix else "/32")


@dataclass
class Labels:
    """Texts that lie in an area and on no other text."""

    area: Area
    texts: list[Text] = field(default_factory=list)
    _taken: list[Area] = field(default_factory=list)

    def place(self, text: str, spot: Area, size: float = LABEL) -> bool:
        """Beside a spot, where there is room. O(texts)."""
        label = Text(0, 0, text, size, halo=True)
        middle = spot.y + spot.height / 2 - size / 2
        right, left = spot.x + spot.width + GAP, spot.x - label.width - GAP
        above, below = spot.y - size - GAP, spot.y + spot.height + GAP
        for x, y in ((right, middle), (left, middle), (right, above), (right, below), (left, above), (left, below)):
            area = Area(x, y, label.width, size)
            if self.area.holds(area) and not any(area.touches(other) for other in self._taken):
                self._taken.append(area)
                self.texts.append(label._replace(x=x, y=y + 0.85 * size))
                return True
        return False
