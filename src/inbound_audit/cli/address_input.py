"""Addresses from a stream of lines into a counter.

A line has an address, with or without a port, at its beginning or after a time stamp; what follows is not read. A
``-`` before the address closes a session; ``#`` begins a comment. With `Fields` or `Pattern` the address is elsewhere
in the line. Compressed input is unpacked.
"""

from __future__ import annotations

import codecs
import importlib
import io
import re
import sys
from collections.abc import Callable, Iterator
from typing import Protocol

from inbound_audit import PrefixCounter
from inbound_audit._ipcount import parse_address
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.output import plain
from inbound_audit.errors import AddressError, CapacityError

CHUNK = 1 << 18

MAX_LINE = 1 << 16
"""Bytes of a line that are read: a stream without line ends must not fill memory."""

MAX_SHOWN = 60
"""Letters of a bad line that a message has."""

MAX_COMPLAINTS = 10
"""Bad lines that are reported one by one; the others are counted."""

Find = Callable[[str], str | None]
"""The text of the address in a line; None if a line without an address is allowed. Raises ValueError."""

# 2026-11-01T00:00:00.123Z; [01/Nov/2026:00:00:00 +0000]; Nov  1 00:00:00; 1793491200.123
_TIME = re.compile(
    r"(?:\[(?=[^\]]*[/ T-])[^\]]*\]"
    r"|\d{4}[-/]\d\d[-/]\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?)?(?: ?(?:Z|[+-]\d\d:?\d\d))?"
    r"|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d\d:\d\d:\d\d(?:[.,]\d+)?|\d{9,}(?:\.\d+)?)[\s,:]+"
)
# 192.0.2.7:51234; [2001:db8::7]:443 and [192.0.2.7]; 192.0.2.7.51234 and 2001:db8::7.443 as tcpdump writes them
_PORT = re.compile(
    r"(?P<four>\d+\.\d+\.\d+\.\d+)[.:]\d{1,5}|\[(?P<bracketed>[^\[\]\s]+)\](?::\d{1,5})?"
    r"|(?P<six>[\da-fA-F]*:[\da-fA-F:]+)\.\d{1,5}"
)


class InputStats:
    """What has been read: the counter, the number of lines, and the lines that could not be read."""

    def __init__(self, counter: PrefixCounter, find: Find | None = None) -> None:
        self.counter = counter
        self.lines = 0
        self.bad = 0
        self.complaints: list[str] = []
        self._find = find

    def read(self, stream: Reader, progress: Callable[[int], None]) -> None:
        """Counts all of `stream`, and calls `progress` with the number of lines for each chunk.

        Raises Failure when the counter is full, OSError when the stream breaks.
        """
        for block in blocks(stream):
            self._count(block)
            progress(self.lines)

    def _count(self, block: bytes) -> None:
        # The core checks the text: a line that is an address is looked at only there. What the core does not take
        # (comments, blanks, log lines, and mistakes) is read once more.
        add, remove = self.counter.add, self.counter.remove
        lines = block.decode("utf-8", "surrogateescape").split("\n")
        number = self.lines
        try:
            for number, line in enumerate(lines, self.lines + 1):
                if self._find is not None:
                    self._read_line(number, line)
                    continue
                try:
                    if line[:1] == "-":
                        remove(line[1:])
                    else:
                        add(line)
                except AddressError:
                    self._read_line(number, line)
        except CapacityError as error:
            raise Failure(f"line {number}: {error}; give it more room with --capacity") from None
        self.lines += len(lines)

    def _read_line(self, number: int, line: str) -> None:
        address = None
        try:
            found = (self._find or first_address)(line)
            if found is not None:
                address = without_port(found.removeprefix("-").lstrip())
                (self.counter.remove if found.startswith("-") else self.counter.add)(address)
        except ValueError as error:
            self.bad += 1
            if len(self.complaints) < MAX_COMPLAINTS:
                self.complaints.append(f"line {number}: {_why(line, address, error, self._find is None)}")


def first_address(line: str) -> str | None:
    """The address at the beginning of a line or after a time stamp, with its ``-``; None for a comment."""
    text = line.strip()
    sign = "-" if text.startswith("-") else ""
    text = text.removeprefix("-").lstrip()
    if not text or text.startswith("#"):
        return None
    stamp = _TIME.match(text)
    if stamp and stamp.end() < len(text):
        text = text[stamp.end() :]
        sign, text = ("-", text[1:].lstrip()) if text.startswith("-") else (sign, text)
    return sign + re.split(r"[\s,;#\"']", text.lstrip("\"'"), maxsplit=1)[0]


def field(number: int) -> Find:
    """The field `number` of a line, from 1, between blanks."""

    def find(line: str) -> str | None:
        fields = line.split(None, number)
        if not fields or fields[0].startswith("#"):
            return None
        if len(fields) < number:
            raise ValueError(f"has {len(fields)} fields, and --field is {number}")
        return fields[number - 1].strip("\"',;")

    return find


def pattern(compiled: re.Pattern[str]) -> Find:
    """The first group of a regular expression, or all that it matches. Lines without a match are left out."""

    def find(line: str) -> str | None:
        found = compiled.search(line)
        return None if found is None else (found[1] if compiled.groups else found[0]) or None

    return find


def without_port(text: str) -> str:
    """An address as it is, without a port. Anything but an address stays as it is."""
    found = _PORT.fullmatch(text)
    return text if found is None else next(filter(None, found.groups()))


def _why(line: str, address: str | None, error: ValueError, at_start: bool) -> str:
    """What is wrong with a line in which this address was found, and which option reads it."""
    text = line.strip()
    if "\0" in text or any("\udc80" <= letter <= "\udcff" for letter in text):
        return "is not text"
    if address is None or _is_address(address):  # the line has too few fields; or a session is closed that is not open
        return str(error)
    shown = f"{plain(text[:MAX_SHOWN])!r}{'...' if len(text) > MAX_SHOWN else ''}"
    if not at_start:
        return f"{shown}: {plain(str(error))[: 2 * MAX_SHOWN]}"
    for number, word in enumerate(text.split(), 1):
        if number > 1 and _is_address(without_port(word.strip("\"',;()<>"))):
            return f"{shown}: does not begin with an address; --field {number} reads {word!r}"
    return f"{shown}: does not begin with an address; --field N or --regex PATTERN says where it is"


def _is_address(text: str) -> bool:
    try:
        parse_address(text)
    except AddressError:
        return False
    return True


def _unix(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


# ---- streams


class Reader(Protocol):
    def read1(self, size: int, /) -> bytes: ...


def blocks(stream: Reader) -> Iterator[bytes]:
    """Whole lines, some thousand at a time, without the line end of the last one. Of a line that is longer than
    `MAX_LINE` its first bytes are kept, and its last ones. Raises OSError when the stream breaks."""
    rest = b""
    while chunk := stream.read1(CHUNK):
        text = rest + chunk
        # A carriage return ends a line, too. At the end of a chunk it may be half of one.
        text, half = (text[:-1], b"\r") if text.endswith(b"\r") else (text, b"")
        block, newline, rest = _unix(text).rpartition(b"\n")
        if newline:
            yield block
        rest = rest[:MAX_LINE] + half
    if rest:
        yield _unix(rest).removesuffix(b"\n")


_ARCHIVES = {b"PK\x03\x04": "a zip archive", b"7z\xbc\xaf": "a 7z archive", b"\x04\x22\x4d\x18": "compressed with lz4"}
_UNPACKERS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ": "lzma",
    b"\x28\xb5\x2f\xfd": "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd",
}
"""The modules that unpack a stream, by its first bytes."""

_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


class UnpackedStream:
    """A stream without its compression (gzip, bzip2, xz, zstd) and without a byte order mark; UTF-16 becomes UTF-8.

    Raises Failure for an archive, OSError for damaged data and when the stream breaks.
    """

    def __init__(self, stream: io.BufferedReader) -> None:
        head = stream.peek(4)
        for magic, what in _ARCHIVES.items():
            if head.startswith(magic):
                raise Failure(f"the input is {what}; unpack it first, and pipe the text in")
        module = next((module for magic, module in _UNPACKERS.items() if head.startswith(magic)), None)
        self._stream = stream if module is None else io.BufferedReader(importlib.import_module(module).open(stream))
        self._decoder: codecs.IncrementalDecoder | None = None
        head = self._checked(self._stream.peek, 4)
        for mark, encoding in _MARKS.items():
            if head.startswith(mark):
                self._stream.read(len(mark))
                self._decoder = codecs.getincrementaldecoder(encoding)("replace") if encoding != "utf-8" else None

    def read1(self, size: int, /) -> bytes:
        data = self._checked(self._stream.read1, size)
        return data if self._decoder is None else self._decoder.decode(data, not data).encode()

    def _checked(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            return read(size)
        except Exception as error:  # each module has errors of its own, OSError among them
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise OSError(f"the compressed data is damaged: {error}") from None
