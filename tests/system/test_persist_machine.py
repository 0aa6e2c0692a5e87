"""Kept series against a model: processes that begin, count, save, end and are killed, in any order.

What a process has saved is what is left of it when it is killed, and all that it has counted when it ends. Whoever
keeps the series next, or looks around first, counts it; no other process does.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from tests.support.keeping import Clock, Counting, files_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="keeping series needs Linux")

WINDOWS, INTERVAL = 4, 60
KEYS = ["192.0.2.7", "192.0.2.9", "198.51.100.1", "2001:db8::7", "2001:db8:1::1"]


class Process:
    """One that counts, and the model of it: net counts by number of the window and key."""

    def __init__(self, counting: Counting) -> None:
        self.counting = counting
        self.live: Counter[tuple[int, str]] = Counter()
        self.saved: Counter[tuple[int, str]] = Counter()

    def inherit(self, left: Counter[tuple[int, str]]) -> None:
        plus(self.live, left)
        left.clear()
        self.saved = Counter(self.live)


def plus(sum: Counter[tuple[int, str]], more: Counter[tuple[int, str]]) -> None:
    for where, count in more.items():
        sum[where] += count  # `update` would, but a Counter's + leaves out what is negative


class KeptSeries(RuleBasedStateMachine):
    processes = Bundle("processes")

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="state-", dir="/dev/shm"))
        self.clock = Clock()
        self.alive: list[Process] = []
        self.left: Counter[tuple[int, str]] = Counter()  # in the files of those that have gone

    @property
    def now(self) -> int:
        return int(self.clock.now) // INTERVAL

    @rule(target=processes)
    def begin(self):
        if len(self.alive) == 4:
            return multiple()
        process = Process(Counting(self.directory, self.clock, interval=INTERVAL, windows=WINDOWS, max_bytes=1 << 20))
        process.inherit(self.left)
        self.alive.append(process)
        return process

    @rule(process=processes, key=st.sampled_from(KEYS), count=st.sampled_from([1, 2, 300, -1, -2, -300]))
    def add(self, process, key, count):
        process.counting.add(key, count)
        process.live[self.now, key] += count

    @rule(process=processes, key=st.sampled_from(KEYS))
    def remove(self, process, key):
        process.counting.series.remove_item(process.counting.name, key)
        for where in process.live:
            if where[1] == key and where[0] > self.now - WINDOWS:
                process.live[where] = 0

    @rule(windows=st.sampled_from([0.3, 1, 1, 2, WINDOWS]))
    def time_passes(self, windows):
        self.clock.now += windows * INTERVAL

    @rule(process=processes)
    def save(self, process):
        process.counting.store.save()
        process.saved = Counter(process.live)

    @rule(process=processes)
    def run_once(self, process):
        process.counting.store.run_once()
        process.inherit(self.left)

    @rule(process=consumes(processes))
    def end(self, process):
        process.counting.end()
        self.alive.remove(process)
        plus(self.left, process.live)

    @rule(process=consumes(processes))
    def die(self, process):
        process.counting.die()
        self.alive.remove(process)
        plus(self.left, process.saved)

    @invariant()
    def counts_are_those_of_the_model(self):
        for process in self.alive:
            for key in KEYS:
                expected = [process.live[self.now - window, key] for window in range(WINDOWS)]
                assert process.counting.by_window(key) == expected, key

    def teardown(self):
        for process in list(self.alive):
            self.end(process)
        last = self.begin()
        self.counts_are_those_of_the_model()
        last.counting.store.run_once()
        assert len(files_of(self.directory)) in (0, 1, 2)  # its own alone
        last.counting.end()
        shutil.rmtree(self.directory)


TestKeptSeries = KeptSeries.TestCase
