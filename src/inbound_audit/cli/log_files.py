"""The logs of `inbound-audit replay`: opened, unpacked and read, as often as needed, with a progress bar."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import tzinfo
from itertools import chain, islice
from os import fstat
from stat import S_ISREG

import click

from inbound_audit.cli.address_input import UnpackedStream, blocks
from inbound_audit.cli.failure import Failure, reason
from inbound_audit.replay.reading import Event, LogReader, form_of, merged, tells_ends
from inbound_audit.replay.stamps import StampReader

HEAD_BLOCKS = 4
"""Blocks at the beginning of a log in which its format is found: a megabyte."""


@dataclass(frozen=True)
class LogOptions:
    """How logs are read. `duration` is in seconds; `columns` has names for columns of CSV and JSON."""

    form: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    duration: float | None = None
    year: int | None = None
    zone: tzinfo | None = None


class LogFile:
    """One log; ``-`` is standard input. It and pipes can be read once. Raises Failure if it can't be read or
    understood."""

    def __init__(self, name: str, options: LogOptions) -> None:
        self.name = "standard input" if name == "-" else click.format_filename(name)
        self.position = 0
        self.size: int | None = None
        self._path = name
        self._options = options
        self._newest = time.time()
        self._begun: Iterator[bytes] | None = self._blocks()
        head = list(islice(self._begun, HEAD_BLOCKS))
        # A pipe, such as the shell's <(...), is not opened again: what was read of it would be lost.
        self._begun = chain(head, self._begun) if not self.rereadable else None
        self._head = b"\n".join(head)
        try:
            self._form = form_of(self._head, options.form, options.columns)
        except ValueError as error:
            raise Failure(f"{self.name}: {error}") from None
        if options.duration is None and not tells_ends(self._form, self._head):
            raise Failure(
                f"{self.name}: its lines do not say how long a connection lasts; write it, such as --duration 5s"
            )
        self.first = next((event[0] for event in self._new_reader().events([self._head])), float("-inf"))

    @property
    def rereadable(self) -> bool:
        return self._path != "-" and self.size is not None

    @property
    def tells_messages(self) -> bool:
        """Whether its lines may be receptions or rejections."""
        return self._form.tells_messages

    def reader(self, step: Callable[[], None]) -> tuple[LogReader, Callable[[], Iterator[Event]]]:
        """What reads the log from its beginning, and a function that begins to. `step` is called for each block."""
        reader = self._new_reader()
        return reader, lambda: reader.events(_stepping(self._begun or self._blocks(), step))

    def _new_reader(self) -> LogReader:
        options = self._options
        stamps = StampReader(self._newest, options.year, options.zone)
        return LogReader(self.name, self._form, stamps, options.duration or 0.0)

    def _blocks(self) -> Iterator[bytes]:
        try:
            with _standard_input() if self._path == "-" else open(self._path, "rb") as stream:
                status = fstat(stream.fileno())
                if S_ISREG(status.st_mode):
                    self.size, self._newest = status.st_size, status.st_mtime
                seekable = stream.seekable()
                for block in blocks(UnpackedStream(stream)):
                    self.position = stream.tell() if seekable else 0
                    yield block
        except OSError as error:
            raise Failure(f"cannot read {self.name}: {reason(error)}") from None


def _standard_input() -> io.BufferedReader:
    if sys.stdin is None:
        raise Failure("standard input is closed: there is no log to read")
    return open(sys.stdin.fileno(), "rb", closefd=False)


def events_of(logs: list[LogFile], step: Callable[..., None]) -> tuple[list[LogReader], Iterator[Event]]:
    """The readers of all logs, and their events in one order of time. `step` moves a progress bar."""
    readers: list[LogReader] = []

    def move() -> None:
        step(completed=sum(log.position for log in logs), lines=sum(reader.lines for reader in readers))

    pairs = [log.reader(move) for log in logs]
    readers += [reader for reader, _ in pairs]
    return readers, merged([begin for _, begin in pairs], [log.first for log in logs])


def _stepping(blocks: Iterable[bytes], step: Callable[[], None]) -> Iterator[bytes]:
    for block in blocks:
        yield block
        step()
