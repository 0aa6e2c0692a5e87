"""A million opens and closes leave nothing behind; each script runs in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROLOGUE = """
import gc, os, random, tracemalloc
from inbound_audit._ipcount import SeriesStore
from inbound_audit import InboundAudit, Limits, PrefixCounter

def resident():
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def life(work, rounds, slack):
    work()  # what is kept for good is kept by now
    before = resident()
    for _ in range(rounds):
        work()
        gc.collect()  # when the collector runs by itself differs between releases of Python
    grown = resident() - before
    assert grown < slack, f"{grown} bytes more"
"""

SCRIPTS = {
    "a million sessions": """
audit = InboundAudit()
listener = audit.listener()
rng = random.Random(1)
hosts = [f"10.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(256)}" for _ in range(50_000)]
hosts += [f"2001:db8:{rng.randrange(65536):x}::{rng.randrange(65536):x}" for _ in range(50_000)]
def work():
    for session in [listener.session(host) for host in hosts]:
        session.close()
life(work, 10, 2 << 20)
assert audit.total() == 0
listener._check()
""",
    "refused, moved, asked wrongly": """
audit = InboundAudit()
listener = audit.listener()
limits = Limits({"/32": 0})
def work():
    for i in range(20_000):
        with listener.session(("192.0.2.7", i)) as ac:
            limits.validate_connect(ac)
            ac.rebind("2001:db8::7")
            try:
                ac.inbound_session_count("nonsense")
            except ValueError:
                pass
            str(ac), ac.remote_addr, ac.local_addr
life(work, 10, 2 << 20)
""",
    "audits and counters": """
def work():
    for _ in range(100):
        audit = InboundAudit()
        with audit.listener().session("192.0.2.7"):
            audit.top(), audit.tree()
        audit.close()
        counter = PrefixCounter()
        counter.add_many(bytes(4000))
        list(counter)
        counter.count_many(bytes(4000))
life(work, 20, 2 << 20)
""",
    "windows that turn": """
seconds = [0.0]
audit = InboundAudit(monitors=["10,3", "60,2"], clock=lambda: seconds[0])
audit.series.define("s", "ip", 10, 3)
audit.series.define("t", "string", 7, 2)
listener = audit.listener()
rng = random.Random(2)
def work():
    for i in range(5_000):
        with listener.session(rng.randbytes(16 if i % 2 else 4)) as ac:
            ac.record_reception()
            audit.series.add("s", ac, rng.choice((1, -1)))
            audit.series.add("t", str(rng.random()))
            audit.connections("10,3", "/24,/56", 0, 2, ac=ac)
            audit.sliding_average("receptions", 1, ac=ac)
        if i % 500 == 0:
            seconds[0] += 5
    SeriesStore(audit).rows("series", "s", 10, 3, 0, 2)
    try:
        audit.series.count("s", "nonsense")
    except ValueError:
        pass
life(work, 12, 2 << 20)
SeriesStore(audit).check()
""",
    "more hosts than a window may have": """
audit = InboundAudit(monitors=["1000000000,1"], monitor_bytes=1 << 20)
audit.series.define("s", "ip", 1_000_000_000, 1, max_bytes=1 << 20)
audit.series.define("h", "ip", 1_000_000_000, 1, max_hosts=1000)
listener = audit.listener()
rng = random.Random(3)
def work():
    for _ in range(20_000):
        packed = rng.randbytes(16)
        listener.session(packed).close()
        audit.series.add("s", packed)
        audit.series.add("h", packed, rng.choice((2, -1)))
work()
life(work, 10, 2 << 20)
assert audit.uncounted == 0
SeriesStore(audit).check()
""",
    "series without end": """
def work():
    for i in range(30):
        audit = InboundAudit(monitors=["300,6"])
        audit.series.define("s", interval=60, num_windows=12)
        audit.series.define("t", "string", 60, 12)
        for n in (1, -2):
            audit.series.add("s", "192.0.2.7", n)
            audit.series.add("t", "text", n)
        audit.series.remove_item("s", "192.0.2.7")
        audit.series.folded("s"), audit.series.names, SeriesStore(audit).known
        audit.close()
life(work, 20, 2 << 20)
""",
    "Python's own memory": """
audit = InboundAudit(monitors=["300,6"])
audit.series.define("s", interval=10, num_windows=3)
listener = audit.listener()
def work():
    for i in range(10_000):
        listener.session("192.0.2.7").close()
        audit.inbound_session_count("192.0.2.0/24")
        audit.series.add("s", "192.0.2.7")
        audit.series.count("s", "192.0.2.0/24", 0, 2)
work()
tracemalloc.start()
work()
before = tracemalloc.take_snapshot()
for _ in range(10):
    work()
grown = sum(row.size_diff for row in tracemalloc.take_snapshot().compare_to(before, "filename"))
assert grown < 50_000, grown
""",
}


@pytest.mark.memory
@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_nothing_is_left(script):
    run = subprocess.run([sys.executable, "-c", PROLOGUE + script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
