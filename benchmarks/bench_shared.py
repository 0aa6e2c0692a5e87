"""Counts that processes share: what the others' trees cost a query, and what a file costs who opens sessions."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from time import perf_counter_ns
from typing import Any

import pytest
from prometheus_client import generate_latest

from benchmarks.bench_counts import COUNT, new_texts
from benchmarks.measure import Batch, Race, timed
from benchmarks.scale import ROUNDS
from benchmarks.workloads import WORKLOADS
from inbound_audit import InboundAudit
from inbound_audit.feed import Feed
from inbound_audit.metrics.figures import SharedAudit
from inbound_audit.metrics.prometheus import registry_of
from inbound_audit.shared import View

if not sys.platform.startswith("linux"):
    pytest.skip("shared mode is for Linux", allow_module_level=True)

RANDOM = WORKLOADS["random"]
SESSIONS = 1_000
PEER = "192.0.2.7"

# An owner is an owner wherever it lives: one process can be as many as are wanted.
CROWD = """
import random, sys
from inbound_audit import InboundAudit, Limits
from inbound_audit.listeners import Guard
draw = random.Random(7)
kept = []
for argument in sys.argv[1:]:
    name, owners, sessions = argument.split(":")
    for _ in range(int(owners)):
        audit = InboundAudit(shared=name)
        listener = audit.listener()
        kept.append((audit, Guard(listener, Limits())))
        kept.append([listener.session(draw.randbytes(4)) for _ in range(int(sessions))])
print("ready", flush=True)
sys.stdin.read()
"""

# Opens and closes at a given rate while a byte says so: 1,000 updates, then a rest until the next are due.
BUSY = """
import itertools, random, select, sys, time
from inbound_audit import InboundAudit
listener = InboundAudit(shared=sys.argv[1]).listener()
draw = random.Random(8)
hosts = itertools.cycle([draw.randbytes(4) for _ in range(50_000)])
busy, done, pause = False, 0, 1_000 / int(sys.argv[2])
print("ready", flush=True)
while True:
    if select.select([sys.stdin], [], [], 0 if busy else None)[0]:
        order = sys.stdin.buffer.read1(1)
        if not order:
            break
        busy = order == b"1"
        print(done, flush=True)
        due = time.monotonic()
        continue
    for _ in range(500):
        listener.session(next(hosts)).close()
    done += 1_000
    due += pause
    time.sleep(max(0, due - time.monotonic()))
"""
UPDATES = 200_000

# Scrapes an audit, or draws pictures of it, ten times a second while a byte says so.
READING = """
import select, sys
from prometheus_client import generate_latest
from inbound_audit.metrics.figures import SharedAudit
from inbound_audit.metrics.prometheus import registry_of
from inbound_audit.shared import View
what, name = sys.argv[1:]
if what == "scrape":
    registry = registry_of([SharedAudit(name)])
    read = lambda: generate_latest(registry)
else:
    view = View(name)
    read = lambda: view.picture(1_000)
busy, done = False, 0
print("ready", flush=True)
while True:
    if select.select([sys.stdin], [], [], 0.1 if busy else None)[0]:
        order = sys.stdin.buffer.read1(1)
        if not order:
            break
        busy = order == b"1"
        print(done, flush=True)
        continue
    read()
    done += 1
"""


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="inbound_audit-bench-") as directory:
        monkeypatch.setenv("INBOUND_AUDIT_SHM", directory)
        yield


@contextmanager
def beside(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that has said that it is ready; it ends when its standard input does."""
    with subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.parametrize(("key", "owners"), [("owners-8", 8), ("owners-64", 64)])
def test_count_over_owners(key: str, owners: int, hold: Callable[..., None]) -> None:
    with ExitStack() as held:
        held.enter_context(beside(CROWD, f"many:{owners - 1}:{SESSIONS}"))
        subjects: dict[str, Batch] = {}
        for name in ("alone", "many"):
            listener = held.enter_context(InboundAudit(shared=name)).listener()
            subjects[name] = timed(COUNT, [listener.session(address) for address in RANDOM.texts(SESSIONS)])
        with View("many") as view:
            assert len(view.owners) == owners
        hold(key, Race(subjects), "many", "alone", ROUNDS)


def test_a_scrape(note: Callable[[str, Batch, str], None]) -> None:
    """One worker has all sessions; the first scrape attaches its file, and is not timed."""
    with beside(CROWD, "scraped:1:1000000"), closing(SharedAudit("scraped")) as audit:
        registry = registry_of([audit])

        def scrape() -> float:
            started = perf_counter_ns()
            text = generate_latest(registry)
            took = (perf_counter_ns() - started) / 1e6
            assert b'service="SMTP"} 1e+06' in text
            return took

        note("scrape", scrape, "ms")


@pytest.mark.parametrize(("key", "owners"), [("picture", 1), ("picture-64", 64)])
def test_a_picture_from_outside(key: str, owners: int, note: Callable[[str, Batch, str], None]) -> None:
    """1,000,000 sessions in all; the file of each owner is attached before."""
    with beside(CROWD, f"drawn:{owners}:{1_000_000 // owners}"), View("drawn") as view:

        def draw() -> float:
            started = perf_counter_ns()
            drawn = view.picture(1_000)
            took = (perf_counter_ns() - started) / 1e6
            assert len(drawn.rows) >= 999
            assert drawn.total == 1_000_000 // owners * owners
            return took

        note(key, draw, "ms")


@pytest.mark.parametrize(("key", "owners"), [("look", 1), ("look-64", 64)])
def test_a_look_from_outside(key: str, owners: int, note: Callable[[str, Batch, str], None]) -> None:
    """1,000,000 sessions in all, random hosts: as many prefixes as can be are alike. Of the stock limits."""
    with beside(CROWD, f"seen:{owners}:{1_000_000 // owners}"), Feed("seen") as feed:
        feed.look()

        def look() -> float:
            started = perf_counter_ns()
            seen = feed.look()
            took = (perf_counter_ns() - started) / 1e6
            assert len(seen.picture.rows) >= 999
            assert len(seen.limits) == 3
            return took

        note(key, look, "ms")


def test_open_and_close_in_a_file(hold: Callable[..., None]) -> None:
    fresh: list[str] = []
    draw = random.Random(6)
    with InboundAudit() as private, InboundAudit(shared="mine") as shared:
        listeners = {"private": private.listener(), "shared": shared.listener()}
        addresses = RANDOM.texts(100_000)
        kept = [listener.session(address) for listener in listeners.values() for address in addresses]
        subjects = {
            name: timed("listener.session(x).close()", fresh, listener=listener) for name, listener in listeners.items()
        }

        def prepare() -> None:
            fresh[:] = new_texts(draw, 5_000)

        hold("shared-open-close", Race(subjects, prepare), "shared", "private", ROUNDS)
        for session in kept:
            session.close()


def idle_and_busy(other: subprocess.Popen[str], batch: Batch) -> tuple[Race, Callable[[], int]]:
    """A batch while another process rests and while it works; and how much that has done."""
    writing: Any = other.stdin
    answers: Any = other.stdout
    done = 0

    def reported(order: str) -> Batch:
        def measured() -> float:
            nonlocal done
            writing.write(order)
            writing.flush()
            done = int(answers.readline())
            return batch()

        return measured

    return Race({"idle": reported("0"), "busy": reported("1")}), lambda: done


def test_a_count_beside_a_busy_process(hold: Callable[..., None]) -> None:
    with beside(BUSY, "busy", str(UPDATES)) as other, InboundAudit(shared="busy") as audit:
        session = audit.listener().session(PEER)
        race, done = idle_and_busy(other, timed(COUNT, [session] * 100_000))
        hold("beside-busy", race, "busy", "idle", ROUNDS)
        assert done()


@pytest.mark.parametrize(("key", "what"), [("beside-scrape", "scrape"), ("beside-picture", "picture")])
def test_open_and_close_beside_one_who_reads(key: str, what: str, hold: Callable[..., None]) -> None:
    """As long as some reads take: a batch is a second and more."""
    with InboundAudit(shared=what) as audit:
        listener = audit.listener()
        kept = [listener.session(address) for address in RANDOM.texts(1_000_000)]
        fresh = new_texts(random.Random(6), 500_000)
        with beside(READING, what, what) as other:
            race, done = idle_and_busy(other, timed("listener.session(x).close()", fresh, listener=listener))
            hold(key, race, "busy", "idle", ROUNDS)
            assert done()
        for session in kept:
            session.close()
