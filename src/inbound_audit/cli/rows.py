"""Counts as they are printed: the row of the reference's console, and colour where there is somebody to see it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console

WIDTH, GAP = 7, " " * 25


class Rows:
    """Formats rows for one console; without a terminal, or with NO_COLOR, they are plain text."""

    def __init__(self, console: Console) -> None:
        # A row of rich's own costs 20 microseconds, a tree may have a million: the colour is asked for once.
        with console.capture() as captured:
            console.print("@", style="cyan", end="")
        self._before, _, self._after = captured.get().partition("@")

    def format(self, rows: Iterable[tuple[int, str]]) -> Iterator[str]:
        """``     31                         10.0.0.0/8``: as in the reference's console."""
        before, after = self._before, self._after
        return (f"{before}{count:{WIDTH}d}{after}{GAP}{prefix}\n" for count, prefix in rows)


def as_objects(rows: Iterable[tuple[int, str]]) -> list[dict[str, object]]:
    """The same rows for JSON."""
    return [{"prefix": prefix, "count": count} for count, prefix in rows]
