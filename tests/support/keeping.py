"""What the tests of kept series have in common: audits that keep series in a directory, and processes that die."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.waiting import PATIENCE, end_of

from inbound_audit import InboundAudit
from inbound_audit.persist import StateStore, format, names

NAME = "failures"
ALL4, ALL6 = "0.0.0.0/0", "::/0"
BEGIN = 1_795_572_000.0  # a multiple of 300


class Clock:
    """Seconds that the test moves."""

    def __init__(self, now: float = BEGIN) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def state() -> Iterator[Path]:
    """An empty state directory, in memory."""
    path = Path(tempfile.mkdtemp(prefix="state-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Counting:
    """An audit that keeps one series. Its store does nothing by itself: `attend` is what its thread would do."""

    def __init__(
        self,
        directory: Path,
        clock: Clock,
        *,
        name: str = NAME,
        type: str = "ip",
        interval: int = 300,
        windows: int = 6,
        keep: bool = True,
        log: bool = False,
        **options: int,
    ) -> None:
        self.name, self.windows = name, windows
        self.audit = InboundAudit(clock=clock)
        self.series = self.audit.series
        self.definition = self.series.define(name, type, interval, windows, **options)
        self.store = StateStore(self.audit, str(directory))
        if keep:
            self.store.keep(*self.definition[:4])
        if log:
            self.store.log(self.definition.name)

    @property
    def id(self) -> str:
        assert self.store._locks
        return self.store._locks.id

    def add(self, key: str = "192.0.2.7", count: int = 1) -> None:
        self.series.add(self.name, key, count)

    def count(self, key: str = ALL4, first: int = 0, last: int | None = None) -> int:
        return self.series.count(self.name, key, first, self.windows - 1 if last is None else last)

    def by_window(self, key: str = ALL4) -> list[int]:
        return [self.count(key, window, window) for window in range(self.windows)]

    def end(self) -> None:
        """As a process that exits."""
        self.store.leave()
        self.store.forget()
        self.audit.close()

    def die(self) -> None:
        """As a process that is killed: nothing more is saved, and its lock is let go."""
        self.store.forget()
        self.audit.close()


@contextlib.contextmanager
def counting(directory: Path, clock: Clock, **options: object) -> Iterator[Counting]:
    made = Counting(directory, clock, **options)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.end()


def files_of(directory: Path) -> list[str]:
    """All but logs."""
    return sorted(path.name for path in directory.iterdir() if path.suffix != ".log")


def snapshots_of(directory: Path, name: str = NAME) -> list[Path]:
    return sorted(directory.glob(f"{names.encoded(name)}.*.series"))


def read(path: Path) -> format.Snapshot:
    return format.decode(path.read_bytes())


def fork_to(job: Callable[[], object]) -> int:
    """A fork of this process that does a job, and ends: with 0, or with 70 when the job raised. Its process id."""
    gc.collect()  # what the parent no longer holds is not the child's to let go of
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            signal.alarm(int(2 * PATIENCE))
            job()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def in_a_child(job: Callable[[], object]) -> int:
    return end_of(fork_to(job))


STEPS = ("open", "write", "fsync", "rename", "unlink", "link", "close", "stat", "listdir")
"""What this package asks of the system."""


@contextlib.contextmanager
def dying_at(step: int) -> Iterator[list[str]]:
    """The process ends with 9 before its call to the system with that number, from 0. Answers the calls so far."""
    made: list[str] = []
    real = {name: getattr(os, name) for name in STEPS}

    def wrap(name: str) -> Callable[..., object]:
        def call(*args: object, **named: object) -> object:
            if len(made) == step:
                os._exit(9)
            made.append(name)
            return real[name](*args, **named)

        return call

    for name in STEPS:
        setattr(os, name, wrap(name))
    try:
        yield made
    finally:
        for name, function in real.items():
            setattr(os, name, function)
