"""Ratios that mean something on a machine that does other things too.

A single call measured alone reads the clock more than the call, so calls come in batches. Two batches measured a
second apart differ by whatever the machine did meanwhile, so the subjects take turns: A B C, then C B A, and so on.
A ratio is that of two batches of one round, and the answer is the median over the rounds. The collector is off while
a batch runs, as it would fall on one subject and not on the other.
"""

from __future__ import annotations

import gc
import os
import statistics
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any

Batch = Callable[[], float]
"""Runs some calls and returns what one of them took, in nanoseconds."""


def timed(statement: str, over: Sequence[object], **names: object) -> Batch:
    """A batch that executes `statement` for each `x` in `over`, with `names` as its local variables.

    Every batch is compiled for itself: CPython specializes code for the types that it meets, and two subjects that
    shared a loop would undo each other's. `over` is read again in each batch, so its content may be replaced.
    """
    parameters = ", ".join(f"{name}={name}" for name in ("over", "clock", *names))
    source = f"""
        def batch({parameters}):
            started = clock()
            for x in over:
                {statement}
            return (clock() - started) / len(over)
    """
    scope: dict[str, Any] = {**names, "over": over, "clock": perf_counter_ns}
    exec(textwrap.dedent(source), scope)  # the only way to a loop of its own for each subject
    batch: Batch = scope["batch"]
    return batch


@dataclass(frozen=True)
class Ratio:
    """The median and the quartiles of one subject's batches over another's, round by round."""

    value: float
    low: float
    high: float


def summary(samples: Sequence[float]) -> Ratio:
    """Median and quartiles. Raises ValueError when there are no samples."""
    if not samples:
        raise ValueError("nothing was measured")
    if len(samples) == 1:
        return Ratio(samples[0], samples[0], samples[0])
    low, value, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Ratio(value, low, high)


def processor_s(pid: int) -> float:
    """Seconds of processor time that a process has used, in hundredths. Linux only."""
    used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection inside, and what exists already is never looked at again by one."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


class Race:
    """Subjects that are measured in turn. `prepare`, if there is one, runs before each round, unmeasured."""

    def __init__(self, subjects: Mapping[str, Batch], prepare: Callable[[], object] | None = None) -> None:
        self.subjects = dict(subjects)
        self.rounds: list[dict[str, float]] = []
        self._prepare = prepare

    def prepare(self) -> None:
        if self._prepare is not None:
            self._prepare()

    def round(self) -> None:
        """One batch of each subject, every other time in the opposite order."""
        order = list(self.subjects)
        if len(self.rounds) % 2:
            order.reverse()
        self.rounds.append({name: self.subjects[name]() for name in order})

    def warm_up(self) -> None:
        """A round that does not count: caches, specialized code, LuaJIT's traces."""
        self.prepare()
        self.round()
        self.rounds.clear()

    def ratio(self, subject: str, to: str) -> Ratio:
        return summary([taken[subject] / taken[to] for taken in self.rounds])

    def fastest(self) -> dict[str, float]:
        """Nanoseconds a call of each subject, undisturbed: for a figure that is compared with nothing."""
        return {name: min(taken[name] for taken in self.rounds) for name in self.subjects}

    def medians(self) -> dict[str, float]:
        """Nanoseconds a call of each subject."""
        return {name: statistics.median(taken[name] for taken in self.rounds) for name in self.subjects}
