"""`inbound-audit watch` on a terminal: what it costs while no key is pressed, and how long a key takes."""

from __future__ import annotations

import itertools
import select
import sys
import tempfile
from collections.abc import Callable, Iterator
from random import Random
from statistics import median
from time import perf_counter
from typing import Any

import pytest
from tests.support.terminals import Terminal

from benchmarks.measure import processor_s, summary
from benchmarks.scale import QUICK
from benchmarks.workloads import WORKLOADS
from inbound_audit import InboundAudit, Session
from inbound_audit.shared.places import ROOT_VARIABLE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")

SESSIONS, ROWS, CHANGES = 100_000, 1_000, 200
"""Open sessions, prefixes of a look, and sessions that end for others in each second of the busy part."""
ADDRESSES = WORKLOADS["random"].texts(SESSIONS)
PERIOD_S = 5.0
PERIODS, ROUNDS, KEYS = (2, 1, 100) if QUICK else (8, 5, 100)
DOWN, UP = b"\x1b[B", b"\x1b[A"
CURSOR = ">"
"""The table writes it where the cursor has gone, and nothing else on the screen has it."""

Once = Callable[..., Any]
Report = Callable[..., None]


@pytest.fixture(scope="module")
def sessions() -> Iterator[list[Session]]:
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm") as root, pytest.MonkeyPatch.context() as patch:
        patch.setenv(ROOT_VARIABLE, root)
        with InboundAudit(shared="mail", capacity=1 << 26, monitors=["60,60"]) as audit:
            listener = audit.listener()
            found = [listener.session(address) for address in ADDRESSES]
            yield found
            for session in found:
                session.close()


@pytest.fixture
def terminal(sessions: list[Session]) -> Iterator[Terminal]:
    """One that shows the rows, and has read all keys before."""
    with Terminal("watch", "mail", "--rows", str(ROWS), "--interval", "1s", rows=40) as terminal:
        terminal.shows("0.0.0.0/0")
        share_of(terminal, lambda: None)
        yield terminal


def share_of(terminal: Terminal, work: Callable[[], object]) -> float:
    """How much of a processor it takes in a period, in which `work` is done twenty times a second."""
    before, began = processor_s(terminal.process.pid), perf_counter()
    while perf_counter() - began < PERIOD_S:
        select.select([terminal.leader], [], [], 0.05)
        assert terminal.read()
        work()
    return (processor_s(terminal.process.pid) - before) / (perf_counter() - began)


def test_idle(terminal: Terminal, sessions: list[Session], once: Once, report: Report) -> None:
    draw = Random(7)

    def change() -> None:
        for _ in range(CHANGES // 20):
            place = draw.randrange(SESSIONS)
            sessions[place].rebind(ADDRESSES[draw.randrange(SESSIONS)])

    still = once(lambda: [share_of(terminal, lambda: None) for _ in range(PERIODS)])
    busy = [share_of(terminal, change) for _ in range(PERIODS)]
    details = {f"while {CHANGES} sessions a second come and go": summary(busy).value}
    report("watch-idle", summary(still), details, "processors")


def test_a_key(terminal: Terminal, once: Once, report: Report) -> None:
    """Down and up by turns, each when what the one before has done is on the terminal."""

    def milliseconds(key: bytes) -> float:
        terminal.shown = ""
        began = perf_counter()
        terminal.type(key)
        while CURSOR not in terminal.shown:
            select.select([terminal.leader], [], [], 1.0)
            assert terminal.read()
        return 1000 * (perf_counter() - began)

    took = once(lambda: [[milliseconds(UP if at % 2 else DOWN) for at in range(KEYS)] for _ in range(ROUNDS)])
    details = {"median": median(itertools.chain(*took))}
    report("watch-key", summary([sorted(one)[-2] for one in took]), details, "milliseconds")
