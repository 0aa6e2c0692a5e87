"""Up to which line of which log the counts of a series go, so that no line is counted twice.

A process numbers the lines that it writes under a log id of its own. What it has saved says up to which number; who
loads a log notes how far that went. A mark is kept until all lines that it speaks of are out of view.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from inbound_audit.persist.format import Mark

EVERY = (1 << 63) - 1
"""The mark of a log id whose lines are all counted, those that will be written too."""


class Marks:
    """Those of one series."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int | None]] = {}  # by log id: number, and window, None until it is known

    def note(self, marks: Mapping[int, int]) -> None:
        """The lines of these log ids are counted, up to these numbers."""
        for log, sequence in marks.items():
            self._raise(log, sequence, None)

    def adopt(self, marks: Iterable[Mark]) -> None:
        """Those of a snapshot whose counts are ours now."""
        for mark in marks:
            self._raise(*mark)

    def _raise(self, log: int, sequence: int, window: int | None) -> None:
        if sequence > self._known.get(log, (0, None))[0]:
            self._known[log] = sequence, window

    def at(self, newest: int, num_windows: int) -> tuple[Mark, ...]:
        """All of them when `newest` is the current window. Those whose lines have all gone out of view are dropped."""
        marks = [Mark(log, sequence, newest if at is None else at) for log, (sequence, at) in self._known.items()]
        kept = sorted(mark for mark in marks if newest - mark.window <= num_windows)
        self._known = {mark.log: (mark.sequence, mark.window) for mark in kept}
        return tuple(kept)

    @property
    def sequences(self) -> dict[int, int]:
        return {log: sequence for log, (sequence, _) in self._known.items()}
