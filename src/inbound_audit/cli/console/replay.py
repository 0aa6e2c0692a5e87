"""`load`: counts again what the change log of a series holds, from processes that have ended or ran elsewhere.

No line is counted twice. Each line has the id of its log and a number. Every process says up to which number it has
counted the lines of each log. Only the lines beyond are sent, all to one process, which notes the new numbers together
with the counts. If a process does not answer, nothing is loaded. A lock on the file keeps a second `load` out.

A line that a later ``remove`` takes away is not sent. If it was counted before, it is subtracted again, in the request
that has the number of the ``remove``.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from typing import Any, NamedTuple

import click

from inbound_audit.cli.console.context import ConsoleContext, SeriesInfo, titles
from inbound_audit.cli.console.result import Paint, Result, ResultRow
from inbound_audit.cli.failure import Failure, reason
from inbound_audit.cli.output import plain, progress
from inbound_audit.descriptor import open_regular
from inbound_audit.persist import Entry, default_directory, names, read_log
from inbound_audit.shared import OwnerInfo

MAX_ROWS, MAX_BYTES = 5000, 1 << 18
"""Of one request. A process that handles it answers no other request meanwhile."""

LOAD_TIMEOUT_S = 20.0
"""Seconds for a process to add the rows of one request."""

MAX_COMPLAINTS = 10
"""Lines that can't be read and are reported one by one."""

SUMS = ("lines", "added", "known", "out_of_view", "failed", "bad")
"""What became of the lines of a log; each has a number."""


class _Known(NamedTuple):
    """What the processes answered: the series, the process that is to count, and the last number counted per log."""

    one: SeriesInfo
    owner: OwnerInfo
    marks: dict[int, int]


def load(context: ConsoleContext, series: str, file: str | None = None) -> Result:
    path = os.path.join(default_directory(), names.log(series)) if file is None else file
    try:
        with open_regular(path, os.O_RDONLY) as log:
            fcntl.flock(log.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            known = _ask_all(context, series)
            loaded = _Load(context, known, path)
            loaded.run()
    except BlockingIOError:
        raise Failure(f"{path}: another process is loading it") from None
    except OSError as error:
        hint = f"; {_no_log(context, series)}" if file is None else ""
        raise Failure(f"cannot read {click.format_filename(path)}: {reason(error)}{hint}") from None
    about: dict[str, object] = {"command": "load", "series": series, "file": path, "pid": known.owner.pid}
    return Result(about, SUMS, [tuple(loaded.sums.values())], lambda row, paint: _text(series, row, paint))


def _no_log(context: ConsoleContext, series: str) -> str:
    """What to write instead of a series without a change log."""
    there = [one for one in context.all_series if one.scope == "series"]
    if any(one.name == series for one in there):
        return f"write the path of its change log: load {plain(series)} FILE"
    return f"no process counts a series {plain(series)!r} (there is: {titles(there)})"


def _text(series: str, row: ResultRow, paint: Paint) -> str:
    lines, added, known, out_of_view, failed, bad = row
    words = f"{plain(series)}: {lines} lines, {paint(str(added))} counted, {known} known, {out_of_view} too old"
    return words + (f", {failed} that can't be counted" if failed else "") + (f", {bad} bad" if bad else "")


def _ask_all(context: ConsoleContext, series: str) -> _Known:
    owners = context.some_owners()
    answers, failures = context.request(owners, {"do": "known", "series": series})
    if failures:
        raise Failure(f"nothing is loaded, since it might be counted twice: {'; '.join(failures)}")
    marks: dict[int, int] = {}
    having: list[tuple[OwnerInfo, SeriesInfo]] = []
    for owner in owners:
        found: Any = answers[owner.id]
        for log, sequence in found["marks"].items():
            marks[int(log, 16)] = max(sequence, marks.get(int(log, 16), 0))
        if found["defined"] is not None:
            of = found["defined"]
            having.append((owner, SeriesInfo("series", series, of["type"], of["interval"], of["num_windows"])))
    if not having:
        raise Failure(f"{series!r}: no process has defined that series")
    if len({one[2:] for _, one in having}) > 1:
        raise Failure(f"{series!r}: the processes define it differently: {titles([one for _, one in having])}")
    return _Known(having[0][1], having[0][0], marks)


class _Load:
    """One reading of a log. A row of a request is microseconds, key, count."""

    def __init__(self, context: ConsoleContext, known: _Known, path: str) -> None:
        self._context = context
        self._known = known
        self._path = path
        self._removed: dict[str, int] = {}  # key: the last line, of those that are not known, that removes it
        self._marks = dict(known.marks)
        self._back: dict[str, dict[int, list[int]]] = {}  # key: by window, a time in it and what is to be taken away
        self._rows: list[list[object]] = []
        self._bytes = 0
        self._newest = int(time.time()) // known.one.interval
        self.sums = dict.fromkeys(SUMS, 0)

    def run(self) -> None:
        """Reads the log twice: a ``remove`` is about the lines before it."""
        with progress("loading") as step:
            for entry in read_log(self._path, broken=self._complain):
                self.sums["lines"] += 1
                if entry.by is None and not self._is_known(entry):
                    self._removed[entry.key] = entry.line
            step(total=self.sums["lines"])
            for at, entry in enumerate(read_log(self._path, broken=lambda line, why: None)):
                if at == self.sums["lines"]:  # a process has written more lines meanwhile
                    break
                self._take(entry)
                if len(self._rows) >= MAX_ROWS or self._bytes >= MAX_BYTES:
                    self._send()
                    step(completed=at + 1, lines=at + 1)
            self._send()
        if self.sums["bad"] > MAX_COMPLAINTS:
            self._context.note(f"and {self.sums['bad'] - MAX_COMPLAINTS} more lines that can't be read")

    def _complain(self, line: int, why: str) -> None:
        self.sums["bad"] += 1
        if self.sums["bad"] <= MAX_COMPLAINTS:
            self._context.note(f"{self._path}:{line}: {why}")

    def _is_known(self, entry: Entry) -> bool:
        return entry.sequence <= self._known.marks.get(entry.log, 0)

    def _take(self, entry: Entry) -> None:
        known = self._is_known(entry)
        self.sums["known"] += known
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
        request = {"do": "load", **one.described, "type": one.type, "rows": self._rows, "marks": new}
        answers, failures = self._context.request([owner], request, LOAD_TIMEOUT_S)
        if failures:
            raise Failure(f"{self.sums['added']} lines were counted, then {failures[0]}; load again to count the rest")
        answer: Any = answers[owner.id]
        for name in ("added", "out_of_view", "failed"):
            self.sums[name] += answer[name]
        if answer["why"]:
            self._context.note(plain(str(answer["why"])))
        self._rows, self._bytes = [], 0
