"""What a guarded SMTP listener costs against aiosmtpd alone, and what a second worker gives: connections a second."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from benchmarks.client import MESSAGE, QUIT, drive
from benchmarks.mail import Server, Workers, connections_a_second, serving, working
from benchmarks.measure import Race, quiet, summary
from benchmarks.scale import QUICK, SMTP_BLOCKS, SMTP_CONNECTIONS, SMTP_ROUNDS

pytest.importorskip("aiosmtpd")

DIALOGUES = {"a message": MESSAGE, "QUIT at once": QUIT}
WORKERS_ROUNDS = 4 if QUICK else 30
WORKERS_CONNECTIONS = {"a message": 600, "QUIT at once": 1500}
"""In a batch, for each worker: a third of a second, however many there are."""
IN_FLIGHT_EACH = 256
"""Connections at a time. The system deals them out by chance, and no worker must run out of them in a batch."""

SATURATED = 0.8
"""Of one processor: a worker that is less busy waits for its clients, and two of them would only wait less."""
OTHERS_MOST = 0.2
"""Processors that anything else may take: more, and the figure tells of that and not of workers."""


def block() -> tuple[Race, dict[str, float]]:
    """The rounds of one server process, and the processor time of a connection of each kind, in microseconds."""
    used: dict[str, list[float]] = {"bare": [], "guarded": []}

    def batch(server: Server, name: str, port: int) -> Callable[[], float]:
        def measured() -> float:
            before = server.processor_time()
            rate = connections_a_second(port, SMTP_CONNECTIONS)
            used[name].append((server.processor_time() - before) / SMTP_CONNECTIONS * 1e6)
            return rate

        return measured

    with serving() as server, quiet():
        race = Race({"bare": batch(server, "bare", server.bare), "guarded": batch(server, "guarded", server.guarded)})
        race.warm_up()
        for _ in range(SMTP_ROUNDS):
            race.round()
        counted = server.stop()
    assert counted == {"accepted": SMTP_CONNECTIONS * (SMTP_ROUNDS + 1), "refused": 0}
    return race, {name: median(taken[1:]) for name, taken in used.items()}


def test_smtp(once: Callable[..., Any], report: Callable[..., None]) -> None:
    """Several server processes in turn: how one happens to lie in memory is worth a percent or two."""
    blocks = once(lambda: [block() for _ in range(SMTP_BLOCKS)])
    ratios = [taken["guarded"] / taken["bare"] for race, _ in blocks for taken in race.rounds]
    rates = {name: median(race.medians()[name] for race, _ in blocks) for name in ("bare", "guarded")}
    used = {f"{name}, µs of processor each": median(taken[name] for _, taken in blocks) for name in rates}
    report("smtp", summary(ratios), rates | used, "connections a second")


# ---- workers


class Batch:
    """One dialogue with one server: connections a second, and notes of who used the processors meanwhile."""

    def __init__(self, server: Workers, dialogue: str, processors: Collection[int]) -> None:
        self._server, self._dialogue, self._processors = server, dialogue, processors
        self._number = WORKERS_CONNECTIONS[dialogue] * len(server)
        self._in_flight = IN_FLIGHT_EACH * len(server)
        self.made = 0
        self.server_used: list[float] = []  # seconds of processor time, a connection
        self.client_used: list[float] = []
        self.others: list[float] = []  # processors that were busy with anything else

    def __call__(self) -> float:
        server_before, all_before = self._server.processor_time(), busy(self._processors)
        driven = drive(self._server.port, self._number, self._in_flight, DIALOGUES[self._dialogue])
        server_used = self._server.processor_time() - server_before
        made = driven.made
        others = busy(self._processors) - all_before - server_used - driven.used * made
        self.made += made
        self.server_used.append(server_used / made)
        self.client_used.append(driven.used)
        self.others.append(others / made * driven.rate)
        return driven.rate


def busy(processors: Collection[int]) -> float:
    """Seconds that these processors have worked so far, what a hypervisor took from them included."""
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in {f"cpu{number}" for number in processors}:
            user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def confined(processors: Collection[int]) -> Iterator[None]:
    """This process, and those that it starts, run on these processors alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def workers_race(processors: Collection[int]) -> tuple[Race, dict[str, Batch]]:
    with confined(processors), working(1) as one, working(2) as two, quiet():
        batches = {
            f"{label}, {dialogue}": Batch(server, dialogue, processors)
            for dialogue in DIALOGUES
            for label, server in (("1 worker", one), ("2 workers", two))
        }
        race = Race(batches)
        race.warm_up()
        for _ in range(WORKERS_ROUNDS):
            race.round()
        counted = [server.stop() for server in (one, two)]
    assert sum(each["accepted"] for each in counted) == sum(batch.made for batch in batches.values())
    assert all(each["refused"] == 0 for each in counted)
    return race, batches


@pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")
def test_smtp_workers(once: Callable[..., Any], report: Callable[..., None]) -> None:
    """Two workers against one, on two processors of which the client needs a part: it is native, see `client`.

    A connection is one that workers are there for: EHLO, MAIL, RCPT, DATA with a short message, QUIT. That of the row
    `smtp` (the banner and QUIT) shows best what a guard costs, and workers least: much of it is the opening and closing
    of a TCP connection, in which the client has a larger share. It is reported beside the other, and so is
    the processor time of a connection on both sides.

    One worker leaves a processor to the client and to whatever else the machine does, two leave none: that counts
    against them alone. So the half of the rounds is taken in which there was least of anything else. Nothing is
    reported where even that was much, nor where the single worker was not busy all the time.
    """
    processors = sorted(os.sched_getaffinity(0))[:2]
    if len(processors) < 2:
        pytest.skip("there is one processor")
    race, batches = once(lambda: workers_race(processors))
    others = [max(each) for each in zip(*(batch.others[1:] for batch in batches.values()), strict=True)]
    calm = sorted(range(WORKERS_ROUNDS), key=others.__getitem__)[: WORKERS_ROUNDS // 2]

    def over_calm(values: Sequence[float]) -> float:
        return median(values[number] for number in calm)

    alone = "1 worker, a message"
    worked = over_calm([rates[alone] for rates in race.rounds]) * over_calm(batches[alone].server_used[1:])
    if over_calm(others) > OTHERS_MOST:
        pytest.skip(f"the machine does other things: they take {over_calm(others):.1f} processors")
    if worked + over_calm(others) < SATURATED:
        pytest.skip(f"the server does not limit: its only worker was busy {worked:.0%} of the time")

    def ratios(dialogue: str) -> list[float]:
        taken = (race.rounds[number] for number in calm)
        return [rates[f"2 workers, {dialogue}"] / rates[f"1 worker, {dialogue}"] for rates in taken]

    details = {}
    for name, batch in batches.items():
        details[name] = over_calm([rates[name] for rates in race.rounds])
        details[f"{name}, µs of processor each"] = over_calm(batch.server_used[1:]) * 1e6
        details[f"{name}, µs of the client each"] = over_calm(batch.client_used[1:]) * 1e6
    details["2 workers against 1, QUIT at once"] = median(ratios("QUIT at once"))
    details["processors busy with anything else"] = over_calm(others)
    report("smtp-workers", summary(ratios("a message")), details, "connections a second")
