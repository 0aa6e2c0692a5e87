"""Addresses from a stream of lines into a counter: one a line, `-` in front closes one, `#` begins a comment."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from inbound_audit import PrefixCounter
from inbound_audit.cli.failure import Failure
from inbound_audit.errors import AddressError, CapacityError

CHUNK = 1 << 18

LONGEST = 256
"""Bytes of a line that are looked at: no address is that long, and a file without line ends must not fill memory."""

SHOWN = 10
"""Bad lines that are told one by one; the others are counted."""


class Tally:
    """What has been read: the counter, lines so far, and the lines that made no sense."""

    def __init__(self, counter: PrefixCounter) -> None:
        self.counter = counter
        self.lines = 0
        self.bad = 0
        self.complaints: list[str] = []

    def read(self, stream: BinaryIO, progress: Callable[[int, int], None]) -> None:
        """Counts all of `stream`. `progress(bytes, lines)` hears of each chunk.

        Raises Failure when the counter is full, OSError when the stream breaks.
        """
        rest = b""
        while chunk := _read(stream):
            block, newline, rest = (rest + chunk).rpartition(b"\n")
            if newline:
                self._count(block)
            rest = rest[:LONGEST]
            progress(len(chunk), self.lines)
        if rest:
            self._count(rest)

    def _count(self, block: bytes) -> None:
        # The core checks the text; a line that it takes has cost no other look. What it does not take (comments,
        # blanks, and mistakes) goes the long way.
        add, remove = self.counter.add, self.counter.remove
        lines = block.replace(b"\r\n", b"\n").decode("ascii", "backslashreplace").split("\n")
        number = self.lines
        try:
            for number, line in enumerate(lines, self.lines + 1):
                try:
                    if line[:1] == "-":
                        remove(line[1:])
                    else:
                        add(line)
                except AddressError:
                    self._look_closer(number, line)
        except CapacityError as error:
            raise Failure(f"line {number}: {error}; give it more room with --capacity") from None
        self.lines += len(lines)

    def _look_closer(self, number: int, line: str) -> None:
        """Takes comments and blanks away and tries once more; tells what is still wrong."""
        entry = line.partition("#")[0].strip()
        closes = entry.startswith("-")
        address = (entry[1:].lstrip() if closes else entry)[:LONGEST]
        if not entry:
            return
        try:
            (self.counter.remove if closes else self.counter.add)(address)
        except AddressError as error:
            self.bad += 1
            if len(self.complaints) < SHOWN:
                self.complaints.append(f"line {number}: {error}")


def _read(stream: BinaryIO) -> bytes:
    """What is there now, at most a chunk: a pipe that is slowly filled is counted as it comes."""
    read = getattr(stream, "read1", stream.read)
    data: bytes = read(CHUNK)
    return data
