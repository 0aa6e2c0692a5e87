"""`serialize`: a line for each change, read back so that no line counts twice."""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import random
import resource
import signal
import struct
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support import keeping
from tests.support.keeping import ALL6, BEGIN, NAME, Clock, Counting, counting, fork_to, in_a_child, read, snapshots_of
from tests.support.sharing import FULL, rounds
from tests.support.waiting import end_of

from inbound_audit._ipcount import SeriesStore
from inbound_audit.errors import cause_of
from inbound_audit.persist import Entry, change_log, marks, persisted_series, read_log
from inbound_audit.persist.format import Mark

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="logs of series need Linux"),
    pytest.mark.timeout(600 if FULL else 300),
]


state, clock = keeping.state, keeping.clock  # fixtures


@pytest.fixture
def path(state) -> Path:
    return state / f"{NAME}.log"


def load(kept: Counting, path: Path) -> int:
    """What the console's `load` does: each line that is not known is added to the window of its time. How many."""
    with kept.store.loading():
        entries = list(read_log(path, kept.store.known(kept.name)))
        for entry in entries:
            if entry.by is not None:
                kept.audit.series.add_at(kept.name, entry.key, entry.by, entry.microseconds)
        last: dict[int, int] = {}
        for entry in entries:
            last[entry.log] = max(entry.sequence, last.get(entry.log, 0))
        kept.store.note_loaded(kept.name, last)
    return len(entries)


# ---- lines


def test_each_change_is_a_line(state, clock, path):
    with counting(state, clock, log=True) as kept:
        kept.add("192.0.2.7", 3)
        clock.now += 1.5
        kept.add("2001:db8::7", -2)
        kept.series.remove_item(NAME, "192.0.2.7")
        first, *_ = rows = list(read_log(path))
        when = int(BEGIN * 1e6)
        assert rows == [
            Entry(first.log, 1, when, 3, "192.0.2.7", 1),
            Entry(first.log, 2, when + 1_500_000, -2, "2001:db8::7", 2),
            Entry(first.log, 3, when + 1_500_000, None, "192.0.2.7", 3),
        ]
        assert path.read_text().splitlines()[0] == f"{first.log:016x} 1 {when} 3 192.0.2.7"
        assert path.stat().st_mode & 0o777 == 0o600


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=50), max_size=5))
def test_texts_and_back(state, clock, keys):
    with counting(state, clock, type="string", keep=False, log=True) as kept:
        for key in keys:
            kept.add(key)
        assert [entry.key for entry in read_log(state / f"{NAME}.log")] == keys
    (state / f"{NAME}.log").unlink()


def test_the_longest_line_is_read(state, clock, path):
    key = "é" * 2048
    with counting(state, clock, type="string", log=True) as kept:
        kept.add(key, -(2**32 - 1))
    (entry,) = read_log(path)
    assert (entry.key, entry.by) == (key, -(2**32 - 1))
    assert path.stat().st_size <= change_log.MAX_LINE


def test_processes_write_into_one_log(state, clock, path):
    with counting(state, clock, log=True) as first, counting(state, clock, log=True) as second:
        threads = [
            threading.Thread(target=lambda kept=kept: [kept.add(f"192.0.2.{i % 200}") for i in range(500)])
            for kept in (first, second)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        entries = list(read_log(path))
    by_log: dict[int, list[int]] = {}
    for entry in entries:
        by_log.setdefault(entry.log, []).append(entry.sequence)
    assert list(by_log.values()) == [list(range(1, 501))] * 2


GOOD = "1f0c44d29b07aa13 42 1795572000123456 1 192.0.2.7\n"
NEXT = "1f0c44d29b07aa13 43 1795572000123457 -1 2001:db8::7\n"


def read_and_reported(path: Path, data: str | bytes) -> tuple[list[int], list[tuple[int, str]]]:
    """Numbers of the lines that were read, and the reasons for the others."""
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    reported: list[tuple[int, str]] = []
    return [entry.line for entry in read_log(path, broken=lambda *what: reported.append(what))], reported


def test_a_last_line_without_its_end_is_left_out(path):
    for size in range(len(NEXT)):
        assert read_and_reported(path, GOOD + NEXT[:size]) == ([1], [])


def test_a_cut_off_line_does_not_take_the_next_one_with_it(path):
    """There was no room for all of it; when there was, somebody wrote the next line right behind it."""
    for size in range(1, len(GOOD) - 1):
        read, reported = read_and_reported(path, GOOD[:size] + NEXT + GOOD)
        assert read == [1, 2]
        assert reported == [(1, "a line that was cut off stands before another")]
    path.write_text(GOOD[:-1] + NEXT)
    (entry,) = read_log(path, broken=lambda *_: None)
    assert (entry.sequence, entry.key) == (43, "2001:db8::7")


@pytest.mark.parametrize(
    "line",
    [
        "hello",
        "1F0C44D29B07AA13 42 1795572000123456 1 192.0.2.7",
        "1f0c44d29b07aa13 0 1795572000123456 1 192.0.2.7",
        "1f0c44d29b07aa13 42 1795572000123456 0 192.0.2.7",
        "1f0c44d29b07aa13 42 1795572000123456 +1 192.0.2.7",
        "1f0c44d29b07aa13 42 1795572000123456 removed 192.0.2.7",
        "1f0c44d29b07aa13 42 1795572000123456 1 192.0.2.7 more",
        "1f0c44d29b07aa13 42 1795572000123456 1 a%2",
        "1f0c44d29b07aa13 42 1795572000123456 1\t192.0.2.7",
        "1f0c44d29b07aa13 99999999999999999999 1795572000123456 1 192.0.2.7",
    ],
)
def test_a_broken_line_is_reported_with_its_number(path, line, caplog):
    assert read_and_reported(path, f"{GOOD}\n{line}\n{NEXT}") == ([1, 4], [(3, "is not a line of a change log")])
    assert [entry.line for entry in read_log(path)] == [1, 4]
    assert [record.getMessage() for record in caplog.records] == [f"{path}:3: is not a line of a change log"]


def test_a_key_in_another_encoding_is_reported(path):
    assert read_and_reported(path, GOOD.replace("192.0.2.7", "%FF") + NEXT) == ([2], [(1, "its key is no UTF-8")])


def test_a_line_without_end_is_not_held_in_memory(path):
    long = b"x" * (5 * change_log.MAX_LINE)
    data = GOOD.encode() + long + b"\n" + NEXT.encode()
    assert read_and_reported(path, data) == ([1, 3], [(2, "is too long for a line of a log")])
    assert read_and_reported(path, GOOD.encode() + long) == ([1], [])
    assert read_and_reported(path, bytes(range(256)) * 500 + b"\n" + GOOD.encode())[0]


@given(st.binary(max_size=400))
def test_any_bytes_are_read(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.log"
    lines, reported = read_and_reported(path, data + b"\n" + GOOD.encode())
    assert lines[-1:] == [data.count(b"\n") + 2]
    assert len(lines) + len(reported) >= sum(map(bool, data.split(b"\n")))


def test_entries_after_marks(path):
    other = GOOD.replace("1f0c44d29b07aa13", "00000000000000aa")
    path.write_text(GOOD + NEXT + other)
    known = {0x1F0C44D29B07AA13: 42}
    assert [(entry.log, entry.sequence) for entry in read_log(path, known)] == [(0x1F0C44D29B07AA13, 43), (0xAA, 42)]
    assert list(read_log(path, {0x1F0C44D29B07AA13: 43, 0xAA: marks.EVERY})) == []


def test_a_log_that_is_not_there(path):
    with pytest.raises(FileNotFoundError):
        list(read_log(path))


@pytest.mark.parametrize("with_reader", [False, True])
def test_a_pipe_in_place_of_a_log_is_not_waited_for(state, clock, path, caplog, with_reader):
    """Without a reader an open for writing would wait for ever, and with one the lines would go to it."""
    with counting(state, clock, log=True) as kept:
        path.rename(f"{path}.1")
        os.mkfifo(path)
        with contextlib.ExitStack() as undo:
            if with_reader:
                undo.callback(os.close, os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            kept.store.run_once()
            kept.add("192.0.2.7")
        assert kept.count() == 1
        with pytest.raises(OSError, match="not a regular file"):
            list(read_log(path))
        path.unlink()
        kept.store.run_once()
        kept.add("192.0.2.8")
        kept.store.run_once()
        assert [entry.key for entry in read_log(path)] == ["192.0.2.8"]
    assert any(path.name in record.getMessage() for record in caplog.records)


# ---- rotation


def test_a_log_that_was_renamed_is_followed(state, clock, path):
    with counting(state, clock, log=True) as kept:
        kept.add("192.0.2.1")
        path.rename(f"{path}.1")
        kept.add("192.0.2.2")  # into the old one, until the next check
        kept.store.run_once()
        kept.add("192.0.2.3")
        kept.store.run_once()
        kept.add("192.0.2.4")
        assert [entry.key[-1] for entry in read_log(f"{path}.1")] == ["1", "2"]
        assert [(entry.key[-1], entry.sequence) for entry in read_log(path)] == [("3", 3), ("4", 4)]
        path.unlink()
        kept.store.run_once()
        kept.add("192.0.2.5")
        assert [entry.key[-1] for entry in read_log(path)] == ["5"]


def test_no_line_is_lost_or_written_twice_while_a_log_is_rotated(state, clock, path):
    turns = rounds(15, 50)
    with counting(state, clock, log=True) as kept:
        end = threading.Event()

        def churn() -> None:
            while not end.is_set():
                kept.add()

        churner = threading.Thread(target=churn)
        churner.start()
        for n in range(turns):
            path.rename(f"{path}.{n}")
            kept.store.run_once()
        end.set()
        churner.join()
        written = SeriesStore(kept.audit).logged(NAME)[0]
    files = [*(Path(f"{path}.{n}") for n in range(turns)), path]
    assert [entry.sequence for file in files for entry in read_log(file)] == list(range(1, written + 1))


def test_a_log_that_is_copied_and_cut(state, clock, path):
    with counting(state, clock, log=True) as kept:
        kept.add("192.0.2.1")
        os.truncate(path, 0)
        kept.store.run_once()
        kept.add("192.0.2.2")
        assert [entry.key for entry in read_log(path)] == ["192.0.2.2"]


def test_lines_that_cannot_be_written_are_reported(state, clock, path, caplog):
    with counting(state, clock, log=True) as kept:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            kept.add("192.0.2.1")
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
            kept.add("192.0.2.2")
            kept.add("192.0.2.3")
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            kept.store.run_once()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        kept.add("192.0.2.4")
        assert kept.count() == 4
        kept.store.run_once()
    reported = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert reported == [
        f"{state}: 2 lines of the log of '{NAME}' could not be written: {cause_of(errno.EFBIG)}; it is tried again"
    ]
    assert [entry.key for entry in read_log(path, broken=lambda *_: None)] == ["192.0.2.1", "192.0.2.4"]


# ---- loaded again


def test_a_restart_and_a_load_count_nothing_twice(state, clock, path):
    with counting(state, clock, log=True) as first:
        first.add("192.0.2.7", 3)
        assert load(first, path) == 0  # our own lines
        assert first.count() == 3
    with counting(state, clock, log=True) as second:
        assert load(second, path) == 0
        second.add("192.0.2.7", 4)
        assert load(second, path) == 0
    with counting(state, clock, log=True) as third:
        for _ in range(3):
            assert load(third, path) == 0
        assert third.count() == 7


def test_what_a_killed_process_had_not_saved_is_loaded_once(state, clock, path):
    first = Counting(state, clock, log=True)
    first.add("192.0.2.7", 3)
    first.store.save()
    clock.now += 300
    first.add("192.0.2.7", 40)
    first.die()
    with counting(state, clock, log=True) as second:
        assert second.by_window() == [0, 3, 0, 0, 0, 0]
        second.add("192.0.2.7", 500)
        assert load(second, path) == 1
        assert load(second, path) == 0
        assert second.by_window() == [540, 3, 0, 0, 0, 0]
    with counting(state, clock, log=True) as third:
        assert load(third, path) == 0
        assert third.by_window() == [540, 3, 0, 0, 0, 0]


def test_a_load_that_was_not_saved_is_loaded_again(state, clock, path):
    """The counts and how far they go are in one file: they are lost together."""
    path.write_text(GOOD.replace("1795572000123456", str(int(clock.now * 1e6))))
    first = Counting(state, clock)
    assert load(first, path) == 1
    first.die()
    second = Counting(state, clock)
    assert (second.count(), load(second, path), second.count()) == (0, 1, 1)
    second.store.save()
    second.die()
    with counting(state, clock) as third:
        assert (third.count(), load(third, path), third.count()) == (1, 0, 1)


def test_marks_are_inherited_by_the_living(state, clock, path):
    first, second = Counting(state, clock, log=True), Counting(state, clock, log=True)
    first.add("192.0.2.7", 3)
    second.add("192.0.2.7", 20)
    first.store.save()
    first.add("192.0.2.7", 100)
    first.die()
    second.store.run_once()
    assert second.count() == 23
    assert load(second, path) == 1
    assert second.count() == 123
    second.end()


def test_only_logged(state, clock, path):
    """A series that is not persisted is loaded from the beginning, and then no more."""
    with counting(state, clock, keep=False, log=True) as first:
        first.add("192.0.2.7", 3)
    with counting(state, clock, keep=False, log=True) as second:
        assert (second.count(), load(second, path), load(second, path), second.count()) == (0, 1, 0, 3)


def test_lines_out_of_view_are_not_counted(state, clock, path):
    with counting(state, clock, keep=False, log=True) as first:
        first.add("192.0.2.7", 3)
        clock.now += 1500
        first.add("192.0.2.7", 4)
    clock.now += 300
    with counting(state, clock, keep=False, log=True) as second:
        assert (load(second, path), second.by_window()) == (2, [0, 4, 0, 0, 0, 0])


def test_a_forked_child_writes_under_its_own_id(state, clock, path):
    with counting(state, clock, log=True) as kept:
        kept.add("192.0.2.1")

        def child() -> None:
            kept.add("192.0.2.2")
            kept.store.save()
            kept.add("192.0.2.3")
            assert kept.store.known(NAME) == {entries()[1].log: marks.EVERY}

        def entries() -> list[Entry]:
            return list(read_log(path))

        assert in_a_child(child) == 0
        kept.add("192.0.2.4")
        rows = entries()
        assert [(entry.key[-1], entry.sequence) for entry in rows] == [("1", 1), ("2", 1), ("3", 2), ("4", 2)]
        assert rows[0].log == rows[3].log != rows[1].log == rows[2].log
        kept.store.run_once()
        assert kept.count() == 3
        assert load(kept, path) == 1
        assert kept.count() == 4


def test_a_child_knows_nothing_of_what_its_parent_has_loaded(state, clock, path):
    """Those counts are not in its files: when both have ended, the lines are loaded again, or are not lost."""
    path.write_text(GOOD.replace("1795572000123456", str(int(clock.now * 1e6))))
    parent = Counting(state, clock)
    assert load(parent, path) == 1

    def child() -> None:
        parent.add("192.0.2.9", 40)
        parent.store.save()

    assert in_a_child(child) == 0
    parent.die()  # had not saved
    with counting(state, clock) as again:
        assert (again.count(), load(again, path), again.count()) == (40, 1, 41)


def test_the_mark_of_a_snapshot_taken_beside_threads_that_add(state, clock, path, monkeypatch):
    """One that no line came into is taken if there is any; else the mark is behind all that may be in it."""
    with counting(state, clock, log=True) as kept:
        kept.add("192.0.2.7", 3)
        newest, windows, before, after = SeriesStore(kept.audit).dump_logged(NAME)
        assert (before, after) == (1, 1)
        answers = [(newest, [], 5, 9), (newest, windows, 9, 9), (newest, [], 9, 12)]
        fake = SimpleNamespace(dump_logged=lambda name: answers.pop(0))
        monkeypatch.setattr(persisted_series, "SeriesStore", lambda audit: fake)
        kept.store.save()
        snapshot = read(snapshots_of(state)[0])
        assert [mark.sequence for mark in snapshot.marks] == [9]
        assert len(snapshot.windows) == 1
        fake.dump_logged = lambda name: (newest, windows, 12, 15)
        kept.store.save()
        assert [mark.sequence for mark in read(snapshots_of(state)[0]).marks] == [15]
        monkeypatch.undo()
        assert kept.store.known(NAME)


def test_marks_are_forgotten_when_their_lines_are_out_of_view():
    known = marks.Marks()
    known.note({1: 5})
    assert known.at(100, 6) == (Mark(1, 5, 100),)
    known.adopt([Mark(2, 7, 103), Mark(1, 4, 103)])
    known.note({1: 3})
    assert known.at(106, 6) == (Mark(1, 5, 100), Mark(2, 7, 103))
    assert known.at(107, 6) == (Mark(2, 7, 103),)
    assert known.sequences == {2: 7}


def add_for_ever(state: Path, shared: mmap.mmap, seed: int) -> None:
    """Adds, and saves now and then, both at the same time."""
    with counting(state, Clock(), log=True) as kept:
        end = threading.Event()

        def save() -> None:
            rng = random.Random(seed)
            while not end.is_set():
                kept.store.save()
                time.sleep(rng.random() * 0.01)

        threading.Thread(target=save, daemon=True).start()
        n = struct.unpack("=Q", shared[:])[0]
        while True:
            kept.add(f"2001:db8::{n % 3000:x}")
            n += 1
            shared[:] = struct.pack("=Q", n)


def test_killed_while_it_adds_and_saves(state, clock, path, capsys):
    """Snapshots that were taken beside adding threads say which lines are in them: none is counted twice afterwards.

    A line that was written while windows were read may be lost, when the process is killed before the next save; the
    marks err on this side.
    """
    shared = mmap.mmap(-1, 8)
    lost = written = 0
    rng = random.Random(7)
    for turn in range(rounds(8, 100)):
        pid = fork_to(lambda: add_for_ever(state, shared, turn))  # noqa: B023
        time.sleep(rng.random() * 0.15)
        os.kill(pid, signal.SIGKILL)
        assert end_of(pid) == -signal.SIGKILL
        with counting(state, clock, log=True) as kept:
            load(kept, path)
            written += sum(entry.by or 0 for entry in read_log(path))
            assert written - struct.unpack("=Q", shared[:])[0] in range(turn + 2)  # one in each process was on its way
            assert lost <= written - kept.count(ALL6)
            assert load(kept, path) == 0
            lost = written - kept.count(ALL6)
            os.truncate(path, 0)
    if FULL:
        with capsys.disabled():
            print(f"\n    {lost} of {written} lines were lost", end=" ")
