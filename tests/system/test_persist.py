"""`persist`: what is kept of a series outlives its process, whole or not at all, and counts once."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import logging
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import keeping
from tests.support.keeping import (
    ALL4,
    ALL6,
    BEGIN,
    NAME,
    Clock,
    Counting,
    counting,
    dying_at,
    files_of,
    fork_to,
    in_a_child,
    read,
    snapshots_of,
)
from tests.support.sharing import FULL, owner_files, rounds
from tests.support.sharing import NAME as SHARED
from tests.support.waiting import end_of, eventually

from inbound_audit import InboundAudit
from inbound_audit._ipcount import SeriesStore
from inbound_audit.descriptor import open_file
from inbound_audit.errors import SharedStateError
from inbound_audit.persist import (
    StateDirectory,
    StateStore,
    claims,
    default_directory,
    format,
    names,
    snapshots,
    store,
)
from inbound_audit.persist.format import Damaged, Mark, Series, Snapshot, Window
from inbound_audit.persist.locks import Locks
from inbound_audit.shared import owner_file

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="keeping series needs Linux"),
    pytest.mark.timeout(600 if FULL else 300),
]


state, clock = keeping.state, keeping.clock  # fixtures


@pytest.fixture(scope="module", autouse=True)
def _what_lives_long() -> Iterator[None]:
    """What is there before these tests is not looked through before each of their many forks."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def period(monkeypatch):
    """The keepers' threads do their work all the time."""
    monkeypatch.setattr(store, "SAVE_INTERVAL_S", 0.01)
    monkeypatch.setattr(store, "SHARE", 0)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# ---- the directory


def test_where_state_is_kept(monkeypatch):
    monkeypatch.setenv("INBOUND_AUDIT_STATE", "/srv/counts")
    assert default_directory() == "/srv/counts"
    monkeypatch.setenv("INBOUND_AUDIT_STATE", "")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_directory() == "/var/lib/inbound_audit"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/mail")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert default_directory() == "/home/mail/.local/state/inbound_audit"
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    assert default_directory() == "/home/mail/.local/state/inbound_audit"
    monkeypatch.setenv("XDG_STATE_HOME", "/var/home/state")
    assert default_directory() == "/var/home/state/inbound_audit"
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/mail:/var/lib/other")
    assert default_directory() == "/var/lib/mail/inbound_audit"
    monkeypatch.setenv("STATE_DIRECTORY", "")
    assert default_directory() == "/var/home/state/inbound_audit"


def test_it_is_made_for_its_owner_alone(state):
    before = os.umask(0)
    try:
        StateDirectory(str(state / "a" / "b" / "c"))
    finally:
        os.umask(before)
    for made in ("a", "a/b", "a/b/c"):
        assert (state / made).stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777, 0o2770])
def test_a_directory_that_others_may_write_to_is_refused(state, clock, mode):
    state.chmod(mode)
    with pytest.raises(SharedStateError, match="lets other users write"):
        Counting(state, clock)
    assert state.stat().st_mode & 0o7777 == mode
    assert files_of(state) == []


def test_others_may_read_it(state, clock):
    state.chmod(0o755)
    with counting(state, clock) as kept:
        kept.add()
    assert [path.stat().st_mode & 0o777 for path in state.iterdir()] == [0o600, 0o600]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory to another user")
def test_another_users_directory_is_refused(state, clock):
    os.chown(state, 12345, -1)
    with pytest.raises(SharedStateError, match=r"refused: it belongs to another user \(uid 12345\)"):
        Counting(state, clock)


@pytest.mark.parametrize("path", ["file", "file/below", "gone/file"])
def test_a_path_that_cannot_be_a_directory_is_an_error(state, clock, path):
    (state / "file").write_text("")
    (state / "gone").symlink_to("nowhere")
    with pytest.raises(SharedStateError, match=f"{path}.*: no state can be kept there"):
        Counting(state / path, clock)


@pytest.mark.parametrize(
    "name", ["a", "with space/and slash", "..", ".", ".hidden", "é", "a.0123456789abcdef.series", "%"]
)
def test_names_of_series_are_names_of_files(state, clock, name):
    with counting(state, clock, name=name, log=True) as kept:
        kept.add()
    assert all(path.parent == state and not path.name.startswith(".") for path in state.iterdir())
    assert len(list(state.iterdir())) == 3
    with counting(state, clock, name=name) as again:
        assert again.count() == 1


# ---- the bytes

ROWS = st.integers(0, 3).map(lambda n: os.urandom(24 * n))
U32, U64, I64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(-(2**62), 2**62)
IDS = st.lists(U64.map("{:016x}".format), max_size=3).map(tuple)


@st.composite
def any_snapshot(draw) -> Snapshot:
    slots, newest = draw(st.integers(1, 9)), draw(I64)
    numbers = draw(st.sets(st.integers(0, slots - 1)))
    return Snapshot(
        Series(
            draw(st.text(max_size=30)), draw(st.sampled_from(["cidr", "string"])), draw(st.integers(1, 2**31)), slots
        ),
        draw(U64.map("{:016x}".format)),
        newest,
        draw(IDS),
        tuple(Mark(*row) for row in draw(st.lists(st.tuples(U64, U64, I64), max_size=3))),
        tuple(Window(newest - n, *draw(st.tuples(U32, U32, U64, ROWS, ROWS))) for n in sorted(numbers)),
    )


@given(any_snapshot())
def test_bytes_and_back(snapshot):
    pieces, digest = format.encode(snapshot)
    data = b"".join(pieces)
    assert format.decode(data) == snapshot
    assert data[-32:] == digest == blake2b(data[:-32], digest_size=32).digest()


SMALL = Snapshot(
    Series("spam", "cidr", 300, 6),
    "00c0ffee00c0ffee",
    7,
    ("0123456789abcdef",),
    (Mark(5, 6, 7),),
    (Window(7, 32, 56, 9, struct.pack("=QQII", 0xC0000207 << 32, 0, 3, 4), b""), Window(3, 32, 128, 0, b"", bytes(24))),
)
SMALL_BYTES = b"".join(format.encode(SMALL)[0])


def test_the_bytes_are_as_the_documentation_draws_them():
    drawn = struct.pack("=8sIIQQq", b"IASERIES", 1, 0x01020304, len(SMALL_BYTES), 0x00C0FFEE00C0FFEE, 7)
    drawn += struct.pack("=8I", 300, 6, 0, 4, 1, 1, 2, 0) + b"spam\0\0\0\0"
    drawn += struct.pack("=Q", 0x0123456789ABCDEF) + struct.pack("=QQq", 5, 6, 7)
    drawn += struct.pack("=qIIQQQ", 7, 32, 56, 9, 1, 0) + struct.pack("=QQII", 0xC0000207 << 32, 0, 3, 4)
    drawn += struct.pack("=qIIQQQ", 3, 32, 128, 0, 0, 1) + bytes(24)
    assert drawn + blake2b(drawn, digest_size=32).digest() == SMALL_BYTES


def test_a_torn_file_is_refused_at_every_length():
    for size in range(len(SMALL_BYTES)):
        with pytest.raises(Damaged):
            format.decode(SMALL_BYTES[:size])
        with pytest.raises(Damaged):  # a hole, where a file system gave the length but not the bytes
            format.decode(
                SMALL_BYTES[:size].ljust(len(SMALL_BYTES), b"\0") + b"\0" * (SMALL_BYTES[size:].strip(b"\0") == b"")
            )
        with pytest.raises(Damaged):
            format.decode(SMALL_BYTES + SMALL_BYTES[: size + 1])


def test_every_flipped_bit_is_found():
    for at in range(len(SMALL_BYTES)):
        for bit in range(8):
            data = bytearray(SMALL_BYTES)
            data[at] ^= 1 << bit
            with pytest.raises(Damaged):
                format.decode(bytes(data))


def digested(body: bytes) -> bytes:
    """With the length and the digest that it should have."""
    body = body[:16] + struct.pack("=Q", len(body) + 32) + body[24:]
    return body + blake2b(body, digest_size=32).digest()


def patched(at: int, kind: str, *values: object) -> bytes:
    body = bytearray(SMALL_BYTES[:-32])
    struct.pack_into(kind, body, at, *values)
    return digested(bytes(body))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is no snapshot: 0 bytes"),
        (b"#!/bin/sh\n" * 30, "is no snapshot: 300 bytes that begin with b'#!/bin/s'"),
        (patched(8, "=I", 2), "is of version 2; this is 1"),
        (patched(12, "=I", 0x04030201), "another byte order"),
        (patched(40, "=I", 0), "makes no sense"),
        (patched(44, "=I", 0), "makes no sense"),
        (patched(48, "=I", 2), "makes no sense"),
        (patched(68, "=I", 1), "makes no sense"),
        (patched(52, "=I", 2**32 - 1), "ends [0-9]+ bytes too soon"),
        (patched(56, "=I", 2**32 - 1), "ends [0-9]+ bytes too soon"),
        (patched(60, "=I", 2**32 - 1), "ends [0-9]+ bytes too soon"),
        (patched(64, "=I", 2**32 - 1), "ends [0-9]+ bytes too soon"),
        (patched(64, "=I", 1), "has 64 bytes too many"),
        (patched(72, "=4s", b"sp\xff\xfe"), "is no UTF-8"),
        (patched(79, "=B", 1), "bytes other than zero after the name"),
        (patched(32, "=q", 6), "has windows 3 to 7, and 6 is the newest"),
        (patched(32, "=q", 9), "has windows 3 to 7, and 9 is the newest"),
        (patched(112, "=q", 3), "has a window twice"),
        (digested(SMALL_BYTES[:-32] + bytes(8)), "has 8 bytes too many"),
    ],
)
def test_bytes_that_mean_nothing_are_refused_although_their_digest_is_right(data, why):
    with pytest.raises(Damaged, match=why):
        format.decode(data)


# ---- saved and loaded


def test_a_series_is_there_again(state, clock):
    with counting(state, clock) as first:
        first.add("192.0.2.7", 3)
        first.add("2001:db8::7", -2)
        clock.now += 300
        first.add("192.0.2.9", 5)
        before = first.by_window(ALL4), first.by_window(ALL6)
        assert before == ([5, 3, 0, 0, 0, 0], [0, -2, 0, 0, 0, 0])
    with counting(state, clock) as second:
        assert (second.by_window(ALL4), second.by_window(ALL6)) == before
        assert second.count("192.0.2.7") == 3
        second.add("192.0.2.7", -10)
        second.add("2001:db8::7", 2)
        SeriesStore(second.audit).check()
    with counting(state, clock) as third:
        assert (third.count(ALL4), third.count(ALL6)) == (-2, 0)


def test_texts_are_kept_too(state, clock):
    with counting(state, clock, type="string") as first:
        first.add("alice@example.org", 3)
        first.add("", 2)
    with counting(state, clock, type="string") as second:
        assert [second.count(key) for key in ("alice@example.org", "", "bob")] == [3, 2, 0]


def test_what_was_folded_stays_so(state, clock):
    with counting(state, clock, max_hosts=20) as first:
        for i in range(64):
            first.add(f"2001:db8::{i:x}:0:0:1")
            first.add(f"10.0.{i}.1")
        folded = first.series.folded(NAME)
        assert folded
        counts = first.count("2001:db8::/32"), first.count("10.0.0.0/16")
    with counting(state, clock, max_hosts=20) as second:
        assert (second.count("2001:db8::/32"), second.count("10.0.0.0/16")) == counts == (64, 64)
        assert [row[:3] for row in second.series.folded(NAME)] == [row[:3] for row in folded]


def test_windows_that_went_out_of_view_meanwhile_are_left_out(state, clock):
    with counting(state, clock) as first:
        for window in range(6):
            first.add("192.0.2.7", window + 1)
            clock.now += 300
    clock.now += 600
    with counting(state, clock) as second:
        assert second.by_window() == [0, 0, 0, 6, 5, 4]
    clock.now += 1800
    with counting(state, clock) as third:
        assert third.count() == 0
    assert files_of(state) == []


def test_the_clock_was_set_back_meanwhile(state, clock):
    with counting(state, clock) as first:
        first.add("192.0.2.7", 1)
        clock.now += 600
        first.add("192.0.2.7", 4)
    clock.now -= 86400
    with counting(state, clock) as second:
        assert second.by_window() == [4, 0, 1, 0, 0, 0]
        clock.now += 300
        second.add("192.0.2.7", 8)
        assert second.by_window() == [8, 4, 0, 1, 0, 0]
    with counting(state, clock) as third:
        assert third.by_window() == [8, 4, 0, 1, 0, 0]


def test_what_has_not_changed_is_not_written(state, clock):
    with counting(state, clock) as kept:
        kept.add()
        kept.store.save()
        (path,) = snapshots_of(state)
        before = path.stat().st_ino
        kept.store.run_once()
        assert path.stat().st_ino == before
        kept.add()
        kept.store.run_once()
        assert path.stat().st_ino != before
        path.unlink()
        kept.store.run_once()
        assert read(path).windows


def test_a_save_is_on_the_disk_when_it_returns(state, clock):
    """First the bytes, then the name: a power failure in between finds the file before."""
    with counting(state, clock) as kept:
        kept.add()
        with dying_at(-1) as calls:
            kept.store.save()
        calls = [call for call in calls if call in ("write", "fsync", "rename")]
        assert calls[-4:] == ["write", "fsync", "rename", "fsync"]
        assert set(calls[:-3]) == {"write"}


def test_a_series_that_counts_nothing_leaves_no_file(state, clock):
    with counting(state, clock) as kept:
        kept.add("192.0.2.7", 2)
        kept.store.save()
        assert len(files_of(state)) == 2
        kept.add("192.0.2.7", -2)
        kept.store.run_once()
        assert snapshots_of(state) == []
    assert files_of(state) == []


def test_the_thread_saves_and_adopts(state, clock, period):
    with counting(state, clock) as first, counting(state, clock) as second:
        first.add("192.0.2.7", 3)
        second.add("192.0.2.7", 4)
        eventually(lambda: len(snapshots_of(state)) == 2, "two snapshots")
        assert (first.count(), second.count()) == (3, 4)
        first.die()
        eventually(lambda: second.count() == 7, "the counts of the dead")
        eventually(lambda: len(files_of(state)) == 2, "the end of its files")


def test_a_collected_audit_closes_its_files(state, clock, period):
    forgotten = Counting(state, clock)
    forgotten.add()
    forgotten.store.save()
    threads = threading.active_count()
    del forgotten
    gc.collect()
    eventually(lambda: threading.active_count() < threads, "the end of its thread")
    with counting(state, clock) as heir:
        assert heir.count() == 1


# ---- files that are not snapshots


def damaged(state: Path, clock: Clock, data: bytes, caplog: pytest.LogCaptureFixture) -> str:
    """Starts beside an orphan of these bytes: it is not counted, and kept under another name. The message."""
    path = state / names.snapshot(NAME, "00000000000000aa")
    path.write_bytes(data)
    caplog.clear()
    with counting(state, clock) as kept:
        assert (kept.count(ALL4), kept.count(ALL6)) == (0, 0)
        kept.add()
    (message,) = messages(caplog)
    aside = message.rpartition(" ")[2]
    assert (state / aside).read_bytes() == data
    assert not path.exists()
    (state / aside).unlink()
    for left in snapshots_of(state):
        left.unlink()
    return message


@pytest.fixture
def saved(state, clock) -> bytes:
    """A snapshot of two addresses under the id 00000000000000aa, that no process has; it is not in the directory."""
    with counting(state, clock) as kept:
        kept.add("192.0.2.7", 3)
        kept.add("2001:db8::7", 1)
    (path,) = snapshots_of(state)
    data = b"".join(format.encode(read(path)._replace(id="00000000000000aa"))[0])
    shutil.rmtree(state)
    state.mkdir(0o700)
    return data


def test_the_whole_file_would_count(state, clock, saved):
    (state / names.snapshot(NAME, "00000000000000aa")).write_bytes(saved)
    with counting(state, clock) as kept:
        assert (kept.count(ALL4), kept.count(ALL6)) == (3, 1)


def test_a_torn_file_is_set_aside_at_every_length(state, clock, saved, caplog):
    for size in range(len(saved)):
        assert "nothing of it is counted; it was set aside" in damaged(state, clock, saved[:size], caplog)


def test_a_file_with_a_flipped_byte_is_set_aside(state, clock, saved, caplog):
    for at in range(len(saved)):
        data = saved[:at] + bytes([saved[at] ^ 0xFF]) + saved[at + 1 :]
        assert "set aside" in damaged(state, clock, data, caplog)


def test_rows_that_are_none_are_set_aside(state, clock, saved, caplog):
    snapshot = format.decode(saved)
    for fields in ((1 << 32, 0, 0, 4), (1 << 32, 0, 1, 5), (1, 0, 1, 4), (1 << 32, 1, 1, 4)):
        row = struct.pack("=QQII", *fields)
        window = snapshot.windows[0]._replace(added=bytes(snapshot.windows[0].added) + row)
        data = b"".join(format.encode(snapshot._replace(windows=(window,)))[0])
        assert "nothing of it is counted" in damaged(state, clock, data, caplog)


def test_a_file_under_another_name_is_set_aside(state, clock, saved, caplog):
    """A copy would count twice, and another series' counts for this one."""
    copy = b"".join(format.encode(format.decode(saved)._replace(id="00000000000000bb"))[0])
    assert "is the snapshot of series 'failures' and id 00000000000000bb" in damaged(state, clock, copy, caplog)
    other = b"".join(format.encode(format.decode(saved)._replace(series=Series("other", "cidr", 300, 6)))[0])
    assert "is the snapshot of series 'other'" in damaged(state, clock, other, caplog)


def test_nothing_is_overwritten_when_a_file_is_set_aside(state, clock, saved, caplog):
    path = state / names.snapshot(NAME, "00000000000000aa")
    for n in range(12):
        path.write_bytes(saved[: n + 1])
        Counting(state, clock).end()
    kept = [path.with_name(f"{path.name}.damaged{f'.{n}' * (n > 0)}") for n in range(12)]
    assert [file.read_bytes() for file in kept] == [saved[: n + 1] for n in range(12)]
    assert len(messages(caplog)) == 12


def test_what_is_no_file_is_set_aside(state, clock, saved, caplog):
    (state / "elsewhere").write_bytes(saved)
    names_of = [state / names.snapshot(NAME, f"{n:016x}") for n in range(3)]
    names_of[0].mkdir()
    os.mkfifo(names_of[1])
    names_of[2].symlink_to("elsewhere")
    with counting(state, clock) as kept:
        assert kept.count() == 0
    assert files_of(state) == ["elsewhere", *(f"{path.name}.damaged" for path in names_of)]
    reported = messages(caplog)
    assert [text.split(": ")[1].split(";")[0] for text in reported] == [
        "is no regular file",
        "is no regular file",
        "is a link",
    ]


def test_a_file_that_is_too_large_is_set_aside(state, clock, saved, caplog, monkeypatch):
    monkeypatch.setattr(format, "MAX_SIZE", len(saved) - 1)
    assert f"is too large: {len(saved)} bytes" in damaged(state, clock, saved, caplog)


def test_other_names_are_left_alone(state, clock, saved):
    others = ["README", "failures.series", "failures.00000000000000AA.series", "failures.00000000000000aa.series.bak"]
    others += ["failures.00000000000000aa.series.damaged", "0123.lock", "other.00000000000000aa.series"]
    for name in others:
        (state / name).write_bytes(saved)
    with counting(state, clock) as kept:
        kept.store.run_once()
        assert kept.count() == 0
    assert files_of(state) == sorted(others)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"interval": 600}, "its interval is 300, and 'failures' is defined with 600"),
        ({"windows": 12}, "its num_windows is 6, and 'failures' is defined with 12"),
        ({"type": "string"}, "its series is of type cidr, and 'failures' is defined as string"),
    ],
)
def test_a_file_of_another_definition_is_left_alone(state, clock, options, why, caplog):
    with counting(state, clock) as first:
        first.add("192.0.2.7", 3)
    before = files_of(state)
    with counting(state, clock, **options) as other:
        other.store.run_once()
        assert other.series.hosts(NAME) == 0
        other.add("192.0.2.7", 100)
    assert [text.partition(": is left alone: ")[2] for text in messages(caplog)] == [why]
    assert set(before) < set(files_of(state))
    with counting(state, clock, type="ip") as again:
        assert again.count() == 3


# ---- several processes


def test_a_living_owner_keeps_its_files(state, clock):
    with counting(state, clock) as first, counting(state, clock) as second:
        first.add("192.0.2.7", 1)
        second.add("192.0.2.7", 2)
        for kept in (first, second, first, second):
            kept.store.run_once()
        assert (first.count(), second.count()) == (1, 2)
        assert len(files_of(state)) == 4
        assert all(read(path).absorbed == () for path in snapshots_of(state))


def test_one_heir_of_several(state, clock):
    """Everything that was left counts once, whoever comes first."""
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(counting(state, clock)) for _ in range(8)]
        for n, kept in enumerate(crowd):
            kept.add(f"192.0.2.{n}", 10**n)
        for kept in crowd:
            kept.store.save()
        for n in (3, 0, 6):
            crowd[n].die()
            for heir in random.sample([kept for kept in crowd if not kept.audit.closed], 2):
                heir.store.run_once()
            assert sum(kept.count() for kept in crowd if not kept.audit.closed) == 11111111
        assert len(snapshots_of(state)) == 5
    with counting(state, clock) as last:
        assert last.count() == 11111111
        assert [last.count(f"192.0.2.{n}") for n in range(8)] == [10**n for n in range(8)]
        assert len(files_of(state)) == 2


def test_series_of_one_process_have_different_heirs(state, clock):
    with counting(state, clock) as both:
        other = both.series.define("other", "ip", 60, 2)
        both.store.keep(*other[:4])
        both.add("192.0.2.7", 3)
        both.series.add("other", "192.0.2.7", 4)
    assert len(files_of(state)) == 3
    with counting(state, clock) as first:
        assert first.count() == 3
        assert len(files_of(state)) == 4  # its own two; and a snapshot and its lock, which wait for who keeps "other"
        with counting(state, clock, name="other", interval=60, windows=2) as second:
            assert second.count() == 4
            assert len(files_of(state)) == 4


def test_an_id_in_another_file_counts_nothing(state, clock, saved):
    """As after a kill between the heir's write and the removal of what it had inherited."""
    orphan = state / names.snapshot(NAME, "00000000000000aa")
    orphan.write_bytes(saved)
    heir = format.decode(saved)._replace(id="00000000000000bb", absorbed=("00000000000000aa",))
    (state / names.snapshot(NAME, heir.id)).write_bytes(b"".join(format.encode(heir)[0]))
    with counting(state, clock) as kept:
        assert kept.count() == 3
        assert not orphan.exists()
        kept.store.run_once()
        assert read(snapshots_of(state)[0]).absorbed == ()


def test_an_id_in_the_file_of_a_living_owner_counts_nothing(state, clock, saved):
    with counting(state, clock) as alive:
        alive.add("192.0.2.7", 50)
        alive.store._kept[NAME].absorbed.add("00000000000000aa")
        alive.store.save()
        alive.store._kept[NAME].absorbed.clear()
        orphan = state / names.snapshot(NAME, "00000000000000aa")
        orphan.write_bytes(saved)
        with counting(state, clock) as kept:
            assert kept.count() == 0
            assert not orphan.exists()


def test_ids_are_inherited_until_their_files_are_gone(state, clock, saved):
    """Somebody looks at a file that counts nothing, so it can't be removed at once; it counts nothing all the while."""
    orphan = state / names.snapshot(NAME, "00000000000000aa")
    orphan.write_bytes(saved)
    heir = format.decode(saved)._replace(id="00000000000000bb", absorbed=("00000000000000aa",))
    (state / names.snapshot(NAME, heir.id)).write_bytes(b"".join(format.encode(heir)[0]))
    busy = Locks(StateDirectory(state))
    assert busy.take("00000000000000aa")
    for _ in range(3):
        kept = Counting(state, clock)
        kept.store.run_once()
        assert kept.count() == 3
        assert [read(path).absorbed for path in snapshots_of(state) if path != orphan] == [("00000000000000aa",)]
        kept.die()
    busy.release_all()
    with counting(state, clock) as kept:
        assert kept.count() == 3
        assert not orphan.exists()


@pytest.mark.parametrize(
    ("type", "four", "six"), [("ip", (5, 3), (2, 7)), ("cidr", (5, 3), (0, 0)), ("cidr_ipv6", (0, 0), (2, 7))]
)
def test_a_snapshot_of_before_holds_both_families(state, clock, type, four, six):
    """A series of type cidr counted both. Whatever its type is now, it adopts what it counts, once, and keeps that."""
    v4, v6 = (0xC0000207 << 32, 0), (0x20010DB8 << 32, 7)

    def rows(*counted: tuple[tuple[int, int], int, int]) -> bytes:
        return b"".join(struct.pack("=QQII", *key, count, version) for key, count, version in counted)

    newest = int(BEGIN) // 300
    windows = (
        Window(newest, 32, 128, 0, rows((v4, 5, 4), (v6, 2, 6)), b""),
        Window(newest - 1, 32, 128, 0, rows((v4, 4, 4), (v6, 9, 6)), rows((v4, 1, 4), (v6, 2, 6))),
    )
    saved = Snapshot(Series(NAME, "cidr", 300, 6), "00000000000000aa", newest, (), (), windows)
    (state / names.snapshot(NAME, saved.id)).write_bytes(b"".join(format.encode(saved)[0]))
    for _ in range(3):  # adopted from the file of before, then from our own
        with counting(state, clock, type=type) as kept:
            kept.store.run_once()
            assert (kept.by_window(ALL4)[:2], kept.by_window(ALL6)[:2]) == (list(four), list(six))
            SeriesStore(kept.audit).check()
        assert len(snapshots_of(state)) == 1


def test_ids_are_inherited_from_a_file_of_which_only_a_part_found_room(state, clock, caplog):
    """That part may have the counts of a file that could not be removed yet; so it counts nothing either way."""
    older, newer = "00000000000000aa", "00000000000000bb"
    both = struct.pack("=QQII", 0x0A000001 << 32, 0, 100, 4) + struct.pack("=QQII", 0xC0000207 << 32, 0, 1, 4)
    window = Window(int(BEGIN) // 300, 32, 128, 0, both, b"")
    marks = (Mark(7, 9, window.number),)
    heir = Snapshot(Series(NAME, "cidr", 300, 6), newer, window.number, (older,), marks, (window,))
    busy = Locks(StateDirectory(state))
    with counting(state, clock) as kept:
        kept.add("192.0.2.7", 2**32 - 101)  # there is room for a hundred more
        (state / names.snapshot(NAME, newer)).write_bytes(b"".join(format.encode(heir)[0]))
        first = heir._replace(id=older, absorbed=(), windows=(window._replace(added=both[:24]),))
        (state / names.snapshot(NAME, older)).write_bytes(b"".join(format.encode(first)[0]))
        assert busy.take(older)
        kept.store.run_once()
        assert kept.count("10.0.0.1") == 100
        assert [message for message in messages(caplog) if "only a part of it is counted" in message]
        assert kept.store.known(NAME) == {7: 9}  # a line of its log may be in that part: none is loaded twice
        busy.release_all()
        kept.store.run_once()
        assert kept.count("10.0.0.1") == 100
        assert len(snapshots_of(state)) == 1


def test_a_list_of_ids_moves_while_it_is_looked_for(state, saved, monkeypatch):
    """Who has the ids is adopted himself, into a file that was not there when the reading began."""

    def put(id: str, *absorbed: str) -> None:
        data = b"".join(format.encode(format.decode(saved)._replace(id=id, absorbed=absorbed))[0])
        (state / names.snapshot(NAME, id)).write_bytes(data)

    put("00000000000000aa")
    put("00000000000000bb", "00000000000000aa")
    place, really = StateDirectory(state), snapshots.read

    def read_late(place, file, series):
        if file == names.snapshot(NAME, "00000000000000bb"):
            put("00000000000000cc", "00000000000000aa", "00000000000000bb")
            (state / file).unlink(missing_ok=True)
        return really(place, file, series)

    monkeypatch.setattr(snapshots, "read", read_late)
    assert claims.absorbed(place, NAME) == {"00000000000000aa", "00000000000000bb"}


def test_a_lock_file_that_was_removed_is_worth_nothing(state):
    """Who opened it before it was removed gets the lock of a file without a name."""
    place = StateDirectory(state)
    first, second = Locks(place), Locks(place)
    assert first.take("00000000000000aa")
    real = os.open

    def open_first(*args, **named):
        fd = real(*args, **named)
        first.release("00000000000000aa", remove=True)
        return fd

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", open_first)
        assert not second.take("00000000000000aa")
    assert second.take("00000000000000aa")
    second.release_all()


def test_files_without_a_lock_are_adopted(state, clock):
    """A copy of the snapshots is a backup."""
    with counting(state, clock) as kept:
        kept.add()
    for lock in state.glob("*.lock"):
        lock.unlink()
    with counting(state, clock) as again:
        assert again.count() == 1
        assert len(files_of(state)) == 2


def test_what_was_being_written_is_tidied_up(state, clock):
    with counting(state, clock) as kept:
        kept.add()
        kept.store.save()
        (path,) = snapshots_of(state)
        half = path.with_name(path.name + ".new")
        half.write_bytes(b"half")
        with counting(state, clock) as other:
            other.store.run_once()
            assert half.exists()  # its owner lives, and may be writing
        kept.die()
    (state / "00000000000000cc.lock").write_bytes(b"")
    with counting(state, clock) as again:
        assert again.count() == 1
        assert len(files_of(state)) == 2


def test_our_lock_file_was_removed(state, clock, caplog):
    with counting(state, clock) as kept:
        kept.add("192.0.2.7", 2)
        kept.store.save()
        before = kept.id
        (state / names.lock(before)).unlink()
        kept.store.run_once()
        kept.store.run_once()
        assert kept.id != before
        assert kept.count() == 2
        assert files_of(state) == sorted([names.lock(kept.id), names.snapshot(NAME, kept.id)])
        assert "our lock file was removed" in messages(caplog)[0]
    with counting(state, clock) as again:
        assert again.count() == 2


def test_our_lock_file_was_removed_before_there_was_room_to_write(state, clock, saved):
    """What we had adopted stays ours."""
    (state / names.snapshot(NAME, "00000000000000aa")).write_bytes(saved)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        kept = Counting(state, clock)
        (state / names.lock(kept.id)).unlink()
        kept.store.run_once()
        with counting(state, clock) as other:
            assert (kept.count(), other.count()) == (3, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept.end()
    with counting(state, clock) as again:
        assert again.count() == 3


def test_the_directory_was_removed(state, clock, caplog):
    with counting(state, clock, log=True) as kept:
        kept.add("192.0.2.7", 2)
        kept.store.save()
        shutil.rmtree(state)
        kept.add("192.0.2.7", 3)
        kept.store.run_once()
        kept.add("192.0.2.7", 4)
        assert messages(caplog) == [f"{state}: the directory was removed or replaced; all is written anew"]
        assert (state / f"{NAME}.log").read_text().endswith(" 4 192.0.2.7\n")
    with counting(state, clock) as again:
        assert again.count() == 9


# ---- no room, and other trouble


def test_counting_goes_on_when_nothing_can_be_written(state, clock, caplog):
    kept = Counting(state, clock)
    for i in range(100):
        kept.add(f"192.0.2.{i}")
    kept.store.save()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        kept.add("192.0.2.7", 5)
        with pytest.raises(OSError, match="File too large"):
            kept.store.save()
        for _ in range(50):
            kept.store.run_once()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (line,) = messages(caplog)
    assert line.startswith(f"{state}: File too large")
    assert kept.count() == 105
    kept.die()
    with counting(state, clock) as again:  # the file is as it was
        assert again.count() == 100
        assert len(files_of(state)) == 2


@pytest.mark.parametrize("what", ["a pipe", "a link", "a file of somebody who died"])
def test_what_lies_where_a_file_is_written_holds_up_no_save(state, clock, what):
    """A pipe without a reader would be waited for; what a link names is not ours to write to."""
    elsewhere = state / "elsewhere"
    elsewhere.write_bytes(b"theirs")
    with counting(state, clock) as kept:
        new = state / (names.snapshot(NAME, kept.id) + names.NEW)
        if what == "a pipe":
            os.mkfifo(new)
        elif what == "a link":
            new.symlink_to(elsewhere)
        else:
            new.write_bytes(b"IASERIES" * 1000)
        kept.add("192.0.2.7", 3)
        kept.store.save()
        assert [read(path).windows[0].added[16:20] for path in snapshots_of(state)] == [struct.pack("=I", 3)]
        assert not os.path.lexists(new)
    assert elsewhere.read_bytes() == b"theirs"


def test_what_was_adopted_without_room_is_written_when_there_is_some(state, clock, saved, caplog):
    """Nobody else takes it meanwhile, and it counts once, whoever dies."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    orphan = state / names.snapshot(NAME, "00000000000000aa")
    orphan.write_bytes(saved)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        kept = Counting(state, clock)
        assert kept.count() == 3
        with counting(state, clock) as other:
            other.store.run_once()
            assert (kept.count(), other.count()) == (3, 0)
        kept.die()
        second = Counting(state, clock)
        assert second.count() == 3
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert orphan.exists()
    second.store.run_once()
    assert second.count() == 3
    assert not orphan.exists()
    second.end()
    with counting(state, clock) as last:
        assert last.count() == 3


@pytest.fixture
def small(state) -> Iterator[Path]:
    """A file system with room for 16 pages."""
    path = state / "small"
    path.mkdir(0o700)
    if os.geteuid() != 0 or subprocess.call(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "small", path]) != 0:
        pytest.skip("mounts a file system")
    yield path
    subprocess.check_call(["umount", "-l", path])


def test_a_full_disk(small, clock, caplog):
    kept = Counting(small, clock)
    for i in range(1000):
        kept.add(f"10.0.{i >> 8}.{i & 255}")
    kept.store.save()
    for i in range(2000):
        kept.add(f"10.1.{i >> 8}.{i & 255}")
    with pytest.raises(OSError, match="No space left"):
        kept.store.save()
    assert kept.count() == 3000
    assert len(files_of(small)) == 2
    (small / "ballast").write_bytes(bytes(20000))
    kept.store.run_once()
    assert len(messages(caplog)) == 1
    kept.die()
    with counting(small, clock) as again:  # has no room for its own file beside the one that it adopts
        assert again.count() == 1000
        (small / "ballast").unlink()
        again.store.run_once()
        again.store.run_once()
        assert len(files_of(small)) == 2
        assert read(snapshots_of(small)[0]).absorbed == ()


def test_an_orphan_that_cannot_be_read_does_not_keep_others_from_being_adopted(
    state, clock, saved, caplog, monkeypatch
):
    for id in ("00000000000000aa", "00000000000000bb", "00000000000000cc"):
        data = b"".join(format.encode(format.decode(saved)._replace(id=id))[0])
        (state / names.snapshot(NAME, id)).write_bytes(data)
    read_all = snapshots._read_all

    def broken(place, file):
        if "bb" in file and not healed:
            raise OSError(5, "Input/output error", file)
        return read_all(place, file)

    healed = False
    monkeypatch.setattr(snapshots, "_read_all", broken)
    with counting(state, clock) as kept:
        assert kept.count() == 0  # who can't read a file can't know what else it has
        assert "Input/output error" in messages(caplog)[0]
        healed = True
        kept.store.run_once()
        assert kept.count() == 9


def test_an_orphan_that_cannot_be_set_aside_does_not_either(state, clock, saved, caplog, monkeypatch):
    (state / names.snapshot(NAME, "00000000000000aa")).write_bytes(saved[:-1])
    (state / names.snapshot(NAME, "00000000000000bb")).write_bytes(
        b"".join(format.encode(format.decode(saved)._replace(id="00000000000000bb"))[0])
    )

    def refuse(place, file):
        raise OSError(1, "Operation not permitted", file)

    monkeypatch.setattr(snapshots, "set_aside", refuse)
    with counting(state, clock) as kept:
        assert kept.count() == 3
        assert "Operation not permitted" in messages(caplog)[0]


# ---- kills


def reference(n: int) -> list[str]:
    return [f"10.0.{i >> 8}.{i & 255}" for i in range(n)]


def write_for_ever(state: Path, shared: mmap.mmap) -> None:
    """Counts one host more, saves, says so, and so on. First of all it adopts what those before it have left."""
    with counting(state, Clock()) as kept:
        n = kept.count()
        shared[8:16] = struct.pack("=Q", n)
        while True:
            shared[0:8] = struct.pack("=Q", n + 1)
            kept.add(reference(n + 1)[n])
            kept.store.save()
            n += 1
            shared[8:16] = struct.pack("=Q", n)


def test_killed_in_the_middle_of_persisting(tmp_path, clock, capsys):
    """`kill -9` at random moments of saving and adopting: the series is as it was before the save, or after it."""
    state = tmp_path / "state"  # on a disk that takes its time
    shared = mmap.mmap(-1, 16)
    rng = random.Random(4)
    befores = afters = 0
    with counting(state, clock) as kept:
        for host in reference(200):
            kept.add(host)
    shared[:] = struct.pack("=QQ", 200, 200)
    for turn in range(rounds(25, 200)):
        pid = fork_to(lambda: write_for_ever(state, shared))
        time.sleep(rng.random() ** 2 * 0.1)
        os.kill(pid, signal.SIGKILL)
        assert end_of(pid) == -signal.SIGKILL
        begun, saved = struct.unpack("=QQ", shared[:])
        if turn % 3 == 0:
            continue  # whatever this one was doing, the next one goes on from there
        with counting(state, clock) as kept:
            n = kept.count()
            assert n in (saved, begun)
            assert list(map(kept.count, reference(n + 1))) == [1] * n + [0]
            SeriesStore(kept.audit).check()
            befores, afters = befores + (n < begun), afters + (n == begun > saved)
        shared[:] = struct.pack("=QQ", n, n)
    if FULL:
        with capsys.disabled():
            print(f"\n    {befores} were as before, {afters} as after a save that was not finished; {n} hosts", end=" ")
        assert befores


def heir_until(state: Path, step: int) -> int:
    """Adopts, saves and ends, or dies at a step of that. How many there are."""
    with dying_at(step) as calls, counting(state, Clock()) as kept:
        kept.store.run_once()
    return len(calls)


@pytest.fixture
def estate(state) -> Path:
    """What four processes have left: one wrote in the middle of its end, one had absorbed another."""
    ids = [f"{n:016x}" for n in range(1, 6)]
    base = Snapshot(Series(NAME, "cidr", 300, 6), ids[0], int(BEGIN) // 300, (), (Mark(1, 1, 0),), ())
    for n, absorbed in enumerate([(), (), (ids[1],), (), ()]):
        row = struct.pack("=QQII", (0x0A000000 + n) << 32, 0, 10**n, 4)
        window = Window(base.newest, 32, 128, 0, row, b"")
        snapshot = base._replace(id=ids[n], absorbed=absorbed, windows=(window,))
        (state / names.snapshot(NAME, ids[n])).write_bytes(b"".join(format.encode(snapshot)[0]))
        (state / names.lock(ids[n])).write_bytes(b"")
    (state / (names.snapshot(NAME, ids[3]) + ".new")).write_bytes(b"IASERIES")
    return state


ESTATE = 11101  # the second one's counts are in the third one's file


def steps_of(state: Path) -> int:
    """Calls to the system that an heir makes."""
    copy = copy_of(state)
    try:
        return heir_until(copy, -1)
    finally:
        shutil.rmtree(copy)


def copy_of(state: Path) -> Path:
    return Path(shutil.copytree(state, f"{state}-copy"))


def check_estate(state: Path) -> None:
    """Everything counts once."""
    with counting(state, Clock()) as kept:
        assert kept.count() == ESTATE
        assert [kept.count(f"10.0.0.{n}") for n in range(5)] == [1, 0, 100, 1000, 10000]
        kept.store.run_once()
        assert len(files_of(state)) == 2


def test_an_heir_dies_at_any_step(estate):
    """One heir, killed before each of its calls to the system in turn; the next one finds everything, once."""
    for step in itertools.count():
        copy = copy_of(estate)
        try:
            end = in_a_child(lambda: heir_until(copy, step))  # noqa: B023
            check_estate(copy)
        finally:
            shutil.rmtree(copy)
        if end == 0:  # it made fewer calls than that: how many depends on when its background threads run
            break
        assert end == 9
    assert step > 50


def test_chains_of_heirs_that_die(estate):
    """Each heir adopts from the one before, and is killed somewhere."""
    rng = random.Random(5)
    steps = steps_of(estate)
    for _ in range(rounds(15, 300)):
        copy = copy_of(estate)
        try:
            for _ in range(rng.randrange(2, 6)):
                assert in_a_child(lambda: heir_until(copy, rng.randrange(steps // 2))) in (0, 9)  # noqa: B023
            check_estate(copy)
        finally:
            shutil.rmtree(copy)


def test_heirs_side_by_side_that_die(estate):
    """Several at once race for the same files; some are killed."""
    rng = random.Random(6)
    for _ in range(rounds(15, 200)):
        copy = copy_of(estate)
        steps = [rng.choice((-1, rng.randrange(150))) for _ in range(4)]
        pids = [fork_to(lambda: heir_until(copy, step)) for step in steps]  # noqa: B023
        assert {end_of(pid) for pid in pids} <= {0, 9}
        try:
            check_estate(copy)
        finally:
            shutil.rmtree(copy)


# ---- forks


def test_a_child_keeps_its_own(state, clock):
    with counting(state, clock) as kept:
        kept.add("192.0.2.7", 3)
        kept.store.save()
        before = files_of(state)

        def child() -> None:
            assert kept.count() == 0
            kept.store.run_once()
            assert files_of(state) == before  # none of its own until it counts
            kept.store.save()
            kept.add("192.0.2.9", 4)
            kept.store.save()
            assert kept.id not in "".join(before)
            assert set(before) < set(files_of(state))
            kept.end()

        assert in_a_child(child) == 0
        assert kept.count() == 3
        kept.store.run_once()
        assert kept.count() == 7
    with counting(state, clock) as again:
        assert again.count() == 7


def test_a_child_that_is_killed_takes_nothing_with_it(state, clock):
    with counting(state, clock) as kept:
        kept.add("192.0.2.7", 3)

        def child() -> None:
            kept.add("192.0.2.9", 4)
            kept.store.save()
            kept.add("192.0.2.9", 100)
            os.kill(os.getpid(), signal.SIGKILL)

        assert in_a_child(child) == -signal.SIGKILL
        kept.store.run_once()
        assert kept.count() == 7


def test_forks_while_others_save(state, clock, period):
    """No child is copied from the middle of a save, and each has a thread of its own."""
    with counting(state, clock) as kept:
        end = threading.Event()

        def churn() -> None:
            for n in range(10**9):
                if end.is_set():
                    return
                kept.add(f"10.0.0.{n % 250}")
                kept.store.save()

        churner = threading.Thread(target=churn)
        churner.start()

        def child() -> None:
            kept.add("192.0.2.9", 1)
            eventually(lambda: (state / names.snapshot(NAME, kept.id)).exists(), "a file of the child's own")
            kept.end()

        try:
            for _ in range(rounds(10, 100)):
                assert in_a_child(child) == 0
        finally:
            end.set()
            churner.join()
        eventually(lambda: kept.count("192.0.2.9") == rounds(10, 100), "the children's counts")


def test_a_fork_without_anything_kept(state, clock):
    with counting(state, clock, keep=False) as kept:
        assert in_a_child(lambda: kept.store.run_once()) == 0
    assert files_of(state) == []


def test_a_child_adopts_nothing_before_it_counts(state, clock, saved):
    """A worker that was forked to do something else must not take what is its parent's to inherit."""
    with counting(state, clock) as kept:

        def child() -> None:
            (state / names.snapshot(NAME, "00000000000000aa")).write_bytes(saved)
            kept.store.run_once()
            assert kept.count() == 0
            kept.add("192.0.2.9", 40)
            kept.store.run_once()
            kept.store.run_once()
            assert kept.count() == 43

        assert in_a_child(child) == 0
        kept.store.run_once()
        assert kept.count() == 43


def test_a_child_claims_nothing_that_its_parent_had_adopted(state, clock, saved):
    orphan = state / names.snapshot(NAME, "00000000000000aa")
    orphan.write_bytes(saved)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        kept = Counting(state, clock)  # which can't write that it has adopted
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    def child() -> None:
        kept.add("192.0.2.9", 40)
        kept.store.save()

    assert in_a_child(child) == 0
    kept.die()
    assert orphan.exists()
    with counting(state, clock) as again:
        assert again.count() == 43


# ---- the end of Python


def test_counts_are_saved_when_python_exits(state, clock):
    code = (
        "from tests.support.keeping import *\nkept = Counting(Path(sys.argv[1]), Clock())\nkept.add('192.0.2.7', 3)\n"
    )
    subprocess.run([sys.executable, "-c", f"import sys\n{code}", state], check=True, timeout=200)
    with counting(state, clock) as again:
        assert again.count() == 3


# ---- through the front door


def test_define_keeps_and_logs(state, clock):
    def start() -> InboundAudit:
        audit = InboundAudit(state=state / "made", clock=clock)
        audit.series.define("spam", "ip", 60, 5, persist=True, serialize=True)
        return audit

    with start() as audit:
        audit.series.add("spam", "192.0.2.7", 3)
        audit.series.save()
        assert len(snapshots_of(state / "made", "spam")) == 1
        audit.series.add("spam", "192.0.2.7", 4)
        assert audit.series.defined("spam")[4:7] == (True, "none", True)
    assert len((state / "made" / "spam.log").read_text().splitlines()) == 2
    with start() as audit:
        assert audit.series.count("spam", "192.0.2.7") == 7


def test_a_series_is_kept_and_logged_from_when_it_is_asked_for(state, clock):
    with InboundAudit(state=state, clock=clock) as audit:
        audit.series.define("spam", "ip", 60, 5)
        audit.series.add("spam", "192.0.2.7", 3)
        assert list(state.iterdir()) == []
        audit.series.define("spam", "ip", 60, 5, serialize=True)
        audit.series.add("spam", "192.0.2.7", 4)
        audit.series.define("spam", "ip", 60, 5, persist=True)
    (path,) = snapshots_of(state, "spam")
    ((_, line, _),) = read(path).marks
    assert line == 1
    with InboundAudit(state=state, clock=clock) as audit:
        audit.series.define("spam", "ip", 60, 5, persist=True)
        assert audit.series.count("spam", "192.0.2.7") == 7


def test_a_refused_directory_is_an_error_each_time(state, clock):
    state.chmod(0o777)
    with InboundAudit(state=state, clock=clock) as audit:
        for _ in range(2):
            with pytest.raises(SharedStateError, match="lets other users write"):
                audit.series.define("spam", "ip", 60, 5, persist=True)
        audit.series.add("spam", "192.0.2.7", 3)
        assert audit.series.count("spam", "192.0.2.7") == 3
        state.chmod(0o700)
        audit.series.define("spam", "ip", 60, 5, persist=True)
    assert len(snapshots_of(state, "spam")) == 1


def test_a_child_may_define_while_its_parent_does(state, clock):
    """The thread that was defining is not in the child, which must not wait for it."""
    held, end = threading.Event(), threading.Event()
    with InboundAudit(state=state, clock=clock) as audit:

        def define() -> None:
            with audit.series._lock:
                held.set()
                end.wait()

        thread = threading.Thread(target=define)
        thread.start()
        held.wait()
        assert in_a_child(lambda: audit.series.define("spam", "ip", 60, 5, persist=True)) == 0
        end.set()
        thread.join()


WORKER = """
from inbound_audit import InboundAudit
from inbound_audit.persist import store
store.SAVE_INTERVAL_S = 0.02
audit = InboundAudit(shared=NAME, capacity=1 << 24, state=STATE)
audit.series.define('spam', 'ip', 3600, 5, persist=True, max_bytes=1 << 20)
"""


def test_what_a_killed_worker_of_a_shared_audit_had_saved_comes_back(hire, state):
    setup = f"STATE = {str(state)!r}\n{WORKER}"
    crew = hire.hire(3, setup)
    for n, worker in enumerate(crew):
        worker.do(f"audit.series.add('spam', '192.0.2.{n}', {10**n})")
        worker.do("audit.series.save()")
    assert [worker.do("audit.series.count('spam', '192.0.2.0/24', 0, 4)") for worker in crew] == [111] * 3
    crew[1].kill()
    for worker in (crew[0], crew[2]):
        eventually(lambda: worker.do("audit.series.count('spam', '192.0.2.0/24', 0, 4)") == 111, "the sum")  # noqa: B023
    for worker in (crew[0], crew[2]):
        worker.kill()
        worker.await_end()
    crew[1].await_end()
    again = hire(setup)
    assert again.do("audit.series.count('spam', '192.0.2.0/24', 0, 4)") == 111
    assert again.do("audit.series.count('spam', '192.0.2.1', 0, 4)") == 10


def test_what_a_forked_worker_inherits_is_seen_by_all(hire, state):
    """It has a file of its own before it has counted anything else."""
    join = f"STATE = {str(state)!r}\n{WORKER.rpartition('audit.series')[0]}"
    define = WORKER[WORKER.index("audit.series.define") :]
    first = hire(join + define)
    first.do("audit.series.add('spam', '192.0.2.7', 3)")
    first.do("audit.close()")
    parent = hire(join)
    child = parent.fork()
    child.do(define)
    parent.do("audit.series.define('spam', 'ip', 3600, 5, max_bytes=1 << 20)")
    for worker in (parent, child):
        assert worker.do("audit.series.count('spam', '192.0.2.7', 0, 4)") == 3


def test_a_closing_owner_is_not_counted_twice_while_others_inherit(place, state, monkeypatch):
    """His counts go before his lock does."""
    seen = []
    forget = StateStore.forget

    def look_first(store: StateStore) -> None:
        seen.append((len(owner_files()), [lock_is_held(path) for path in state.glob("*.lock")]))
        forget(store)

    monkeypatch.setattr(StateStore, "forget", look_first)
    with InboundAudit(shared=SHARED, capacity=1 << 24, state=state) as audit:
        audit.series.define("spam", "ip", 3600, 5, persist=True, max_bytes=1 << 20)
        audit.series.add("spam", "192.0.2.7")
        assert len(owner_files()) == 1
    assert seen == [(0, [True])]
    assert [lock_is_held(path) for path in state.glob("*.lock")] == [False]


def lock_is_held(path: Path) -> bool:
    with open(path, "rb") as file:
        return owner_file.has_owner(file.fileno())


def test_a_directory_that_another_process_makes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes start together, and each finds that nothing is there yet."""
    make = os.mkdir

    def make_after_others(path: str, mode: int) -> None:
        if not os.path.isdir(os.path.dirname(path)):
            raise FileNotFoundError(path)
        make(path, mode)
        if path.endswith("above"):
            make(os.path.join(path, "state"), mode)

    monkeypatch.setattr(os, "mkdir", make_after_others)
    StateDirectory(tmp_path / "above" / "state").close()


def test_a_lock_that_fails_once_is_taken_at_the_next_save(
    state: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with counting(state, clock) as kept:
        kept.add(count=3)

        def fail(fd: int) -> bool:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        with monkeypatch.context() as patch:
            patch.setattr("inbound_audit.shared.owner_file.lock", fail)
            with pytest.raises(OSError, match=os.strerror(errno.ENOLCK)):
                kept.store.save()
        kept.store.save()
        assert len(snapshots_of(state)) == 1
    with counting(state, clock) as again:
        assert again.count() == 3


def test_a_log_is_not_loaded_before_its_snapshot_is_adopted(
    state: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = Counting(state, clock, log=True)
    dead.add(count=3)
    dead.store.save()
    dead.add(count=4)
    dead.die()
    with monkeypatch.context() as patch:

        def fail(*arguments: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        patch.setattr("inbound_audit.persist.claims.load", fail)
        heir = Counting(state, clock)
        with pytest.raises(SharedStateError, match=os.strerror(errno.EIO)):
            heir.store.known(NAME)
    assert list(heir.store.known(NAME).values()) == [1]
    assert heir.count() == 3
    heir.end()


def test_a_descriptor_whose_file_cannot_be_asked_for_its_state_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_file(tmp_path, os.O_RDONLY)
    before = len(os.listdir("/proc/self/fd"))

    def fail(fd: int) -> os.stat_result:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("os.fstat", fail)
        assert opened.is_ours
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            open_file(tmp_path, os.O_RDONLY)
    assert len(os.listdir("/proc/self/fd")) == before
    opened.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1
