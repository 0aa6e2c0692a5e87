"""`load`: counts again what the log of a series says was counted, by processes that are gone or were elsewhere.

Nothing is counted twice. Each line has the id of the log that it belongs to and a number; every process is asked up to
which number the lines of each id are counted somewhere, and only what lies beyond is sent, all of it to one process,
which notes the new numbers together with the counts. Where one does not answer, nothing is loaded. A lock on the file
keeps two from loading it at once.

What a line ``remove`` takes away is not sent at all; if it was counted before, it is taken away again, in one request
with the number of that line.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import click

from inbound_audit.cli.console.desk import Desk, Windows
from inbound_audit.cli.console.output import Answer, Row, plain
from inbound_audit.cli.failure import Failure, reason
from inbound_audit.persist import Entry, default_directory, names, read_log
from inbound_audit.shared import OwnerInfo

ROWS_MOST, BYTES_MOST = 5000, 1 << 18
"""Of one request. A process that carries it out answers nobody else meanwhile."""

PATIENCE = 20.0
"""Seconds for a process to add the rows of one request."""

COMPLAINTS = 10
"""Lines that can't be read and are told of one by one."""

Step = Callable[[int], None]


class _Known(NamedTuple):
    """What the processes said: the series, the process that is to count, and up to where lines are counted."""

    one: Windows
    owner: OwnerInfo
    marks: dict[int, int]


def load(desk: Desk, series: str, file: str | None = None) -> Answer:
    path = os.path.join(default_directory(), names.log(series)) if file is None else file
    try:
        with open(path, "rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            known = _ask_all(desk, series)
            loaded = _Load(desk, known, path)
            loaded.run()
    except BlockingIOError:
        raise Failure(f"{path}: somebody else is loading it") from None
    except OSError as error:
        raise Failure(f"cannot read {click.format_filename(path)}: {reason(error)}") from None
    about: dict[str, object] = {"command": "load", "series": series, "file": path, "pid": known.owner.pid}
    return Answer(about, ("lines", "added", "known", "out_of_view", "failed", "bad"), [loaded.sums], _text(series))


def _text(series: str) -> Callable[[Row, Callable[[str], str]], str]:
    def text(row: Row, paint: Callable[[str], str]) -> str:
        lines, added, known, out_of_view, failed, bad = row
        words = f"{plain(series)}: {lines} lines, {paint(str(added))} counted, {known} known, {out_of_view} too old"
        return words + (f", {failed} that can't be counted" if failed else "") + (f", {bad} bad" if bad else "")

    return text


def _ask_all(desk: Desk, series: str) -> _Known:
    owners = desk.somebody()
    answers, wrong = desk.ask(owners, {"do": "known", "series": series})
    if wrong:
        raise Failure(f"nothing is loaded, since it might be counted twice: {'; '.join(wrong)}")
    marks: dict[int, int] = {}
    having: list[tuple[OwnerInfo, Windows]] = []
    for owner in owners:
        found: Any = answers[owner.id]
        for log, sequence in found["marks"].items():
            marks[int(log, 16)] = max(sequence, marks.get(int(log, 16), 0))
        if found["defined"] is not None:
            of = found["defined"]
            having.append((owner, Windows("series", series, of["type"], of["interval"], of["num_windows"])))
    if not having:
        raise Failure(f"{series!r}: no process has defined that series")
    if len({one[2:] for _, one in having}) > 1:
        raise Failure(
            f"{series!r}: is not the same in all processes: {', '.join(sorted({o.title for _, o in having}))}"
        )
    return _Known(having[0][1], having[0][0], marks)


class _Load:
    """One reading of a log. A row of a request is microseconds, key, count."""

    def __init__(self, desk: Desk, known: _Known, path: str) -> None:
        self._desk = desk
        self._known = known
        self._path = path
        self._removed: dict[str, int] = {}  # key: the last line, of those that are not known, that removes it
        self._marks = dict(known.marks)
        self._back: dict[str, dict[int, list[int]]] = {}  # key: by window, a time in it and what is to be taken away
        self._rows: list[list[object]] = []
        self._bytes = 0
        self._newest = int(time.time()) // known.one.interval
        self._complaints = 0
        self._lines = self._added = self._known_lines = self._out_of_view = self._failed = self._bad = 0

    @property
    def sums(self) -> Row:
        return (self._lines, self._added, self._known_lines, self._out_of_view, self._failed, self._bad)

    def run(self) -> None:
        """Reads the log twice: a line that removes something is about those before it."""
        with _progress() as (total, step):
            for entry in read_log(self._path, broken=self._complain):
                self._lines += 1
                if entry.by is None and not self._is_known(entry):
                    self._removed[entry.key] = entry.line
            total(self._lines)
            for at, entry in enumerate(read_log(self._path, broken=lambda line, why: None)):
                if at == self._lines:  # what was written meanwhile is for another time
                    break
                self._take(entry)
                if len(self._rows) >= ROWS_MOST or self._bytes >= BYTES_MOST:
                    self._send()
                    step(at + 1)
            self._send()
        if self._complaints > COMPLAINTS:
            self._desk.note(f"and {self._complaints - COMPLAINTS} more lines that can't be read")

    def _complain(self, line: int, why: str) -> None:
        self._bad += 1
        self._complaints += 1
        if self._complaints <= COMPLAINTS:
            self._desk.note(f"{self._path}:{line}: {why}")

    def _is_known(self, entry: Entry) -> bool:
        return entry.sequence <= self._known.marks.get(entry.log, 0)

    def _take(self, entry: Entry) -> None:
        known = self._is_known(entry)
        self._known_lines += known
        if not known:
            self._marks[entry.log] = max(entry.sequence, self._marks.get(entry.log, 0))
        last = self._removed.get(entry.key, 0)
        if entry.by is None:
            back = self._back.pop(entry.key, {}) if known or entry.line == last else {}
            for microseconds, by in back.values() if not known else ():
                self._append(microseconds, entry.key, -by)
        elif not known and entry.line > last:
            self._append(entry.microseconds, entry.key, entry.by)
        elif known and entry.line < last:
            window = entry.microseconds // (1_000_000 * self._known.one.interval)
            if window > self._newest - self._known.one.num_windows:
                sums = self._back.setdefault(entry.key, {}).setdefault(window, [entry.microseconds, 0])
                sums[1] += entry.by

    def _append(self, microseconds: int, key: str, by: int) -> None:
        if by:
            row: list[object] = [microseconds, key, by]
            self._rows.append(row)
            self._bytes += len(json.dumps(row))

    def _send(self) -> None:
        new = {f"{log:016x}": mark for log, mark in self._marks.items() if mark > self._known.marks.get(log, 0)}
        if not self._rows and not new:
            return
        one, owner = self._known.one, self._known.owner
        series = {"series": one.name, "type": one.type, "interval": one.interval, "num_windows": one.num_windows}
        answers, wrong = self._desk.ask([owner], {"do": "load", **series, "rows": self._rows, "marks": new}, PATIENCE)
        if wrong:
            raise Failure(f"{self._added} lines were counted, then {wrong[0]}; load again, and it goes on from there")
        answer: Any = answers[owner.id]
        self._added += answer["added"]
        self._out_of_view += answer["out_of_view"]
        self._failed += answer["failed"]
        if answer["why"]:
            self._desk.note(plain(str(answer["why"])))
        self._rows, self._bytes = [], 0


@contextlib.contextmanager
def _progress() -> Iterator[tuple[Step, Step]]:
    """A bar on standard error if that is a terminal: told how much there is, and how far it has come."""
    if not sys.stderr.isatty():
        yield (lambda total: None), (lambda done: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("loading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=None)
        yield (lambda total: bar.update(task, total=total)), (lambda done: bar.update(task, completed=done))
