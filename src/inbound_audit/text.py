"""Texts that people read, the same in every command and screen."""

from __future__ import annotations


def age(seconds: float) -> str:
    """``59s``, ``3m20s``, ``2h5m``, ``40d3h``: the two largest units."""
    left = max(0, int(seconds))
    units = [(left // 86400, "d"), (left // 3600 % 24, "h"), (left // 60 % 60, "m"), (left % 60, "s")]
    first = next((at for at, (number, _) in enumerate(units) if number), 3)
    return "".join(f"{number}{letter}" for number, letter in units[first : first + 2])
