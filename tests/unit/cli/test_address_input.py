"""Addresses from lines: what a line means, whatever the chunks are, and what is packed around it."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import re
import sys
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.command_line import lines

from inbound_audit import PrefixCounter
from inbound_audit.cli import address_input
from inbound_audit.cli.address_input import MAX_LINE, MAX_SHOWN, Find, InputStats, UnpackedStream, field, pattern
from inbound_audit.cli.failure import Failure


def read(data: bytes, find: Find | None = None) -> InputStats:
    stats = InputStats(PrefixCounter(capacity=1 << 24), find)
    stats.read(UnpackedStream(io.BufferedReader(io.BytesIO(data))), lambda lines: None)  # type: ignore[arg-type]
    stats.counter._check()
    return stats


def hosts(data: bytes, find: Find | None = None) -> dict[str, int]:
    """What is counted, if every line makes sense."""
    stats = read(data, find)
    assert stats.complaints == []
    return dict(stats.counter.items())


ENTRIES = st.one_of(
    st.ip_addresses(v=4, network="192.0.2.0/28").map(str),
    st.ip_addresses(v=6, network="2001:db8::/124").map(str),
)
LINES = st.tuples(
    st.sampled_from(["", "", "-", "- ", " ", "\t-"]),
    ENTRIES,
    st.sampled_from(["", "", " ", "# c", " # -", " GET /", ", 7"]),
)


@given(
    st.lists(LINES, max_size=60), st.integers(1, 40), st.booleans(), st.sampled_from([b"\n", b"\r\n", b"\r"])
)  # fmt: skip
def test_reading_is_the_same_whatever_the_chunks_and_the_ends_of_lines_are(
    rows: list[tuple[str, str, str]], chunk: int, last_line_ends: bool, end: bytes
) -> None:
    truth: Counter[str] = Counter()
    bad = 0
    for before, address, _ in rows:
        bad += "-" in before and not truth[address]
        truth[address] += 1 if "-" not in before else -(truth[address] > 0)
    data = lines("".join(row) for row in rows)
    data = (data if last_line_ends else data.removesuffix(b"\n")).replace(b"\n", end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(address_input, "CHUNK", chunk)
        found = read(data)
    assert dict(found.counter.items()) == {address: count for address, count in truth.items() if count}
    assert (found.lines, found.bad) == (len(rows), bad)


@given(st.binary(max_size=300))
def test_no_bytes_break_it(data: bytes) -> None:
    text = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    stats = InputStats(PrefixCounter(capacity=1 << 24))
    stats.read(io.BufferedReader(io.BytesIO(data)), lambda lines: None)  # type: ignore[arg-type]
    assert stats.lines == text.count(b"\n") + (text[-1:] not in (b"", b"\n"))
    assert all(complaint.isprintable() for complaint in stats.complaints)
    with contextlib.suppress(Failure, OSError):  # an archive, damaged data
        read(data)


def test_a_line_without_end_takes_no_memory() -> None:
    class Endless:
        """A gigabyte of one letter, then a newline and an address."""

        chunks = 4096

        def read1(self, size: int) -> bytes:
            self.chunks -= 1
            if self.chunks < 0:
                return b""
            return b"x" * size if self.chunks else b"\n2001:db8::7\n"

    found = InputStats(PrefixCounter(capacity=1 << 24))
    found.read(Endless(), lambda lines: None)
    assert (found.lines, found.bad, found.counter.total) == (2, 1, 1)
    assert len(found.complaints[0]) < 4 * MAX_SHOWN < MAX_LINE


# ---- where the address is


@pytest.mark.parametrize(
    ("line", "host"),
    [
        ("192.0.2.7:51234", "192.0.2.7"),
        ("192.0.2.7.51234", "192.0.2.7"),
        ("[2001:db8::7]:443", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:443 GET /", "2001:db8::7"),
        ("2001:db8::7.443", "2001:db8::7"),
        ("[192.0.2.7]:25", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("[::ffff:192.0.2.7]:25", "192.0.2.7"),
        ("2026-11-01T00:00:00Z 192.0.2.7 GET /", "192.0.2.7"),
        ("2026-11-01T00:00:00.123+01:00 2001:db8::7 GET /", "2001:db8::7"),
        ("2026-11-01 00:00:00,123 192.0.2.7:25", "192.0.2.7"),
        ("2026/11/01 00:00:00 192.0.2.7", "192.0.2.7"),
        ("[01/Nov/2026:00:00:00 +0000] 192.0.2.7", "192.0.2.7"),
        ("[2026-11-01T00:00:00Z] [2001:db8::7]:443", "2001:db8::7"),
        ("Nov  1 00:00:00 192.0.2.7", "192.0.2.7"),
        ("00:00:00.000001 192.0.2.7", "192.0.2.7"),
        ("1793491200.123 192.0.2.7", "192.0.2.7"),
        ('192.0.2.7 - - [01/Nov/2026:00:00:00 +0000] "GET /a#b HTTP/1.1" 200', "192.0.2.7"),
        ("192.0.2.7,200,GET", "192.0.2.7"),
        ('"192.0.2.7","GET"', "192.0.2.7"),
        ("2001:db8::7\t443", "2001:db8::7"),
    ],
)
def test_a_line_of_a_log(line: str, host: str) -> None:
    assert hosts(line.encode()) == {host: 1}
    assert hosts(f"{line}\n{line}\n-{line}\n- {line}\n{line}\n".encode()) == {host: 1}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "mx1 192.0.2.7 GET",
            "line 1: 'mx1 192.0.2.7 GET': does not begin with an address; --field 2 reads '192.0.2.7'",
        ),
        ("example.com:443 - [2001:db8::7]:25", "--field 3 reads '[2001:db8::7]:25'"),
        ("connect from unknown[192.0.2.7]", "--field N or --regex PATTERN says where it is"),
        ("nonsense", "line 1: 'nonsense': does not begin with an address"),
        ("192.0.2.0/24", "'192.0.2.0/24': does not begin with an address"),
        ("192.0.2.300", "'192.0.2.300': does not begin with an address"),
        ("-192.0.2.7", "'192.0.2.7': has fewer sessions"),
        ("x" * 500, f"'{'x' * MAX_SHOWN}'...: does not begin"),
        ("caf\udce9", "line 1: is not text"),
        ("\0\0\1", "line 1: is not text"),
    ],
)
def test_a_line_that_makes_no_sense(line: str, said: str) -> None:
    stats = read(line.encode("utf-8", "surrogateescape"))
    assert (stats.bad, stats.counter.total) == (1, 0)
    (complaint,) = stats.complaints
    assert complaint.isprintable()
    assert said in complaint


def test_a_field() -> None:
    data = b"# time host address\n00:00 mx1 192.0.2.7:25, x\n\n00:01 mx2 [2001:db8::7]:25\n00:02 mx1 -192.0.2.7\n"
    assert hosts(data, field(3)) == {"2001:db8::7": 1}
    stats = read(b"a b\na b c\n", field(3))
    assert stats.complaints[0] == "line 1: has 2 fields, and --field is 3"
    assert stats.complaints[1].startswith("line 2: 'a b c': ")
    assert "--field" not in stats.complaints[1]


def test_a_regular_expression() -> None:
    data = b"connect from unknown[192.0.2.7]\nwarning: x\nconnect from mx[2001:db8::7]\nconnect from mx[x]\n"
    stats = read(data, pattern(re.compile(r"connect from .*\[(.*)\]")))
    assert dict(stats.counter.items()) == {"192.0.2.7": 1, "2001:db8::7": 1}
    assert (stats.lines, stats.bad) == (4, 1)
    assert hosts(b"a 192.0.2.7 b\nc\n", pattern(re.compile(r"[\d.]{7,}"))) == {"192.0.2.7": 1}
    assert hosts(b"a \nc\n", pattern(re.compile(r"a (\d*)"))) == {}


# ---- what is around it

TEXT = b"192.0.2.7\n2001:db8::7\n192.0.2.7\n"
COUNTED = {"192.0.2.7": 2, "2001:db8::7": 1}


def zstd(data: bytes) -> bytes:
    module = pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    compressed: bytes = module.compress(data)
    return compressed


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstd])
def test_compressed_input(compress: Callable[[bytes], bytes]) -> None:
    assert hosts(compress(TEXT)) == COUNTED
    assert hosts(compress(TEXT[:9]) + compress(TEXT[9:])) == COUNTED  # files put together
    assert hosts(compress(b"\xef\xbb\xbf" + TEXT)) == COUNTED
    long = compress(TEXT * 1000)
    with pytest.raises(OSError, match="the compressed data is damaged"):
        read(long[: len(long) // 2] + b"\xff" * 20)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_is_taken_off(encoding: str) -> None:
    text = TEXT.decode() if encoding in ("utf-8-sig", "utf-16") else "\ufeff" + TEXT.decode()
    assert hosts(text.encode(encoding)) == COUNTED
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(address_input, "CHUNK", 5)  # in the middle of a letter
        assert hosts(text.encode(encoding)) == COUNTED


def test_archives_are_named() -> None:
    for data, what in {b"PK\x03\x04rest": "zip", b"7z\xbc\xaf'\x1crest": "7z", b"\x04\x22\x4d\x18rest": "lz4"}.items():
        with pytest.raises(Failure, match=rf"{what}.*unpack it first"):
            read(data)


def test_empty_input() -> None:
    assert hosts(b"") == hosts(b"\n\n# nothing\n") == {}
