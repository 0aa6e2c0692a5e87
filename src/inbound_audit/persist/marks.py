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
        self._known: dict[int, Mark] = {}
        self._fresh: set[int] = set()  # those whose window is not known yet

    def note(self, marks: Mapping[int, int]) -> None:
        """The lines of these log ids are counted, up to these numbers."""
        for log, sequence in marks.items():
            if sequence > self.sequence(log):
                self._known[log] = Mark(log, sequence, 0)
                self._fresh.add(log)

    def adopt(self, marks: Iterable[Mark]) -> None:
        """Those of a snapshot whose counts are ours now."""
        for mark in marks:
            if mark.sequence > self.sequence(mark.log):
                self._known[mark.log] = mark
                self._fresh.discard(mark.log)

    def sequence(self, log: int) -> int:
        return self._known[log].sequence if log in self._known else 0

    def at(self, newest: int, num_windows: int) -> tuple[Mark, ...]:
        """All of them when `newest` is the current window. Those whose lines have all gone out of view are dropped."""
        for log in self._fresh:
            self._known[log] = self._known[log]._replace(window=newest)
        self._fresh.clear()
        self._known = {log: mark for log, mark in self._known.items() if newest - mark.window <= num_windows}
        return tuple(sorted(self._known.values()))

    @property
    def sequences(self) -> dict[int, int]:
        return {log: mark.sequence for log, mark in self._known.items()}
