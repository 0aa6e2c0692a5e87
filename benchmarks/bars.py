"""The bars: what has to be held. They stand in `bars.md`, in words, and are read from there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

BARS_FILE = Path(__file__).with_name("bars.md")

_ROW = re.compile(
    r"^\| (?P<key>[\w-]+) \| (?P<what>.+?) \| at (?P<sense>most|least) (?P<limit>[\d.]+) (?P<unit>.+?) \|$"
)
_HEAD = re.compile(r"^\|(?: key |---)\|")


@dataclass(frozen=True)
class Bar:
    """One figure that has to be held: `limit` is the most it may be, or the least when `at_least`."""

    key: str
    what: str
    at_least: bool
    limit: float
    unit: str

    def holds(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"at {'least' if self.at_least else 'most'} {self.limit:g} {self.unit}"


def parse_bars(text: str) -> dict[str, Bar]:
    """The rows of the table by key, in order. Raises ValueError for a row that says no bar, or a key used twice."""
    bars: dict[str, Bar] = {}
    for line in text.splitlines():
        if not line.startswith("|") or _HEAD.match(line):
            continue
        row = _ROW.match(line)
        if row is None:
            raise ValueError(f"no bar: {line}")
        if row["key"] in bars:
            raise ValueError(f"a second bar {row['key']!r}")
        bars[row["key"]] = Bar(row["key"], row["what"], row["sense"] == "least", float(row["limit"]), row["unit"])
    return bars


def load_bars() -> dict[str, Bar]:
    return parse_bars(BARS_FILE.read_text(encoding="utf-8"))
