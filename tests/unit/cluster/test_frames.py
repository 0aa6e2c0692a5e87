"""Frames as bytes: what is packed is read again, and what was damaged or forged is refused with a reason."""

from __future__ import annotations

import struct
from contextlib import suppress
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbound_audit.cluster import frames
from inbound_audit.cluster.frames import Frame, FrameError, FrameType, OtherVersionError, pack, unpack

u64 = st.integers(0, 2**64 - 1)
LONG = frames.MAX_RECORDS_BYTES


@st.composite
def any_frames(draw: st.DrawFn) -> Frame:
    kind = draw(st.sampled_from(FrameType))
    seq = draw(st.integers(1, 2**64 - 1))
    hosts = draw(st.integers(0, 2**32 - 1))
    frame = Frame(
        type=kind,
        tree=draw(st.integers(0, 2**16 - 1)),
        epoch=draw(u64),
        seq=seq,
        base=draw(st.integers(0, seq - 1)),
        age_ms=draw(st.integers(0, frames.MAX_AGE_MS)),
        hosts=hosts,
        total=draw(st.integers(hosts, 2**64 - 1)) if hosts else 0,
        digest=draw(u64),
    )
    if kind == FrameType.DELTA:
        return frame._replace(records=draw(st.binary(min_size=1)))
    if kind == FrameType.CLOCK:
        return frame._replace(base=0, clock_ms=draw(st.integers(0, frames.MAX_CLOCK_MS)))
    if kind == FrameType.OVERRIDES:
        return frame._replace(records=draw(st.binary()))
    if kind == FrameType.SNAPSHOT:
        parts = draw(st.integers(1, frames.MAX_PARTS))
        part = draw(st.integers(0, parts - 1))
        return frame._replace(base=0, parts=parts, part=part, records=draw(st.binary()))
    return frame


def sealed(body: bytes) -> bytes:
    """A forger knows how to make a checksum."""
    return body + struct.pack("<I", crc32(body))


@given(any_frames())
def test_a_frame_is_read_as_it_was_packed(frame: Frame) -> None:
    assert unpack(pack(frame)) == frame


def test_the_bytes_of_a_frame_stay_what_they_are() -> None:
    """Agents of the same version understand one another, whenever they were built."""
    frame = Frame(FrameType.DELTA, 0x0102030405060708, 9, 7, 1000, 1, 3, 0xAABB, b"\x01\x0a\x03\x00")
    assert pack(frame).hex() == (
        "69626163 01 01 0000 0807060504030201 0900000000000000 0700000000000000 e8030000 01000000"
        "0300000000000000 bbaa000000000000 010a0300 81cf9606"
    ).replace(" ", "")


def test_the_bytes_of_a_clock_stay_what_they_are() -> None:
    """An agent that does not know this type has the same version, and drops the frame."""
    frame = Frame(FrameType.CLOCK, 0x0102030405060708, 9, age_ms=1000, tree=1, clock_ms=1_795_842_060_000)
    assert pack(frame).hex() == (
        "69626163 01 05 0100 0807060504030201 0900000000000000 e02e8720a2010000 e8030000 00000000"
        "0000000000000000 0000000000000000 e65ab671"
    ).replace(" ", "")


def test_the_bytes_of_overrides_stay_what_they_are() -> None:
    """As those of a clock: an agent that does not know this type drops the frame."""
    frame = Frame(FrameType.OVERRIDES, 0x0102030405060708, 9, 0, 1000, 2, 2, 0xAABB, b"{}\n", tree=3)
    assert pack(frame).hex() == (
        "69626163 01 06 0300 0807060504030201 0900000000000000 0000000000000000 e8030000 02000000"
        "0200000000000000 bbaa000000000000 7b7d0a 6f0c8b4a"
    ).replace(" ", "")


def test_a_change_of_one_host_takes_at_most_69_bytes() -> None:
    """Five for the host and 64 for the frame."""
    frame = Frame(FrameType.DELTA, 1, 2, 1, 0, 1, 1, 0, b"\x01\xff\xff\xff\xff\x0f\x01\x00")
    assert len(pack(frame)) <= 69


@given(any_frames(), st.data())
def test_a_frame_with_a_bit_turned_is_refused(frame: Frame, data: st.DataObject) -> None:
    packed = bytearray(pack(frame))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(FrameError, match=r"checksum|first bytes") as caught:
        unpack(bytes(packed))
    assert not isinstance(caught.value, OtherVersionError)


@given(any_frames(), st.data())
def test_a_frame_that_was_cut_is_refused(frame: Frame, data: st.DataObject) -> None:
    packed = pack(frame)
    with pytest.raises(FrameError, match=r"bytes; it has|checksum"):
        unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])


@given(st.binary(max_size=200))
def test_no_bytes_raise_another_error(data: bytes) -> None:
    for forged in (data, sealed(data), sealed(b"ibac\x01" + data)):
        with suppress(FrameError):
            assert pack(unpack(forged)) == forged


@given(any_frames(), st.integers(0, 255).filter(lambda version: version != frames.VERSION))
def test_another_version_is_named(frame: Frame, version: int) -> None:
    """Whatever else has changed in it: all versions have the magic, the version and the checksum in common."""
    with pytest.raises(OtherVersionError, match=f"version {version} ") as caught:
        unpack(sealed(b"ibac" + bytes([version]) + pack(frame)[5:-4]))
    assert caught.value.version == version


GOOD = Frame(FrameType.DELTA, 1, 2, 1, 0, 1, 1, 0, b"records")
CLOCK = Frame(FrameType.CLOCK, 1, 2, clock_ms=1)
PART = Frame(FrameType.SNAPSHOT, 1, 2, 0, 0, 1, 1, 0, b"records", 0, 1)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (GOOD._replace(type=0), "type 0"),
        (GOOD._replace(type=7), "type 7"),
        (GOOD._replace(base=2), "before the state"),
        (GOOD._replace(base=2**64 - 1), "before the state"),
        (GOOD._replace(records=b""), "without records"),
        (GOOD._replace(type=FrameType.HEARTBEAT), "without a change"),
        (GOOD._replace(type=FrameType.GOODBYE), "without a change"),
        (GOOD._replace(hosts=2), "2 hosts with a count of 1"),
        (GOOD._replace(hosts=0), "0 hosts with a count of 1"),
        (GOOD._replace(total=0), "1 hosts with a count of 0"),
        (GOOD._replace(type=FrameType.CLOCK), "without a change"),
        (CLOCK._replace(clock_ms=frames.MAX_CLOCK_MS + 1), "no clock gives that time"),
        (CLOCK._replace(clock_ms=2**64 - 1), "no clock gives that time"),
        (PART._replace(part=1), "part 1 of 1"),
        (PART._replace(parts=0), "part 0 of 0"),
        (PART._replace(parts=frames.MAX_PARTS + 1), "part 0 of 257"),
        (PART._replace(parts=2**32 - 1, part=2**32 - 2), "part 4294967294"),
        (GOOD._replace(records=bytes(LONG + 1)), "a frame of 262,145 bytes"),
    ],
)
def test_a_forged_field_is_refused(frame: Frame, why: str) -> None:
    with pytest.raises(FrameError, match=why):
        unpack(pack(frame))


def test_the_longest_frame_is_read() -> None:
    assert unpack(pack(GOOD._replace(records=bytes(LONG)))).records == bytes(LONG)


@pytest.mark.parametrize("name", ["mx1", "a", "MX-1.example.org", "0_1", "m" * 63])
def test_a_name(name: str) -> None:
    assert frames.is_name(name)


@pytest.mark.parametrize("name", ["", "m" * 64, "mx 1", "mx1\n", "mx/1", "-mx", ".mx", "mx*", "mx$", "mx#", "mx?", "ü"])
def test_no_name(name: str) -> None:
    assert not frames.is_name(name)
