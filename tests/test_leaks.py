"""A million opens and closes leave nothing behind; each script runs in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROLOGUE = """
import gc, os, random, tracemalloc
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
    "Python's own memory": """
audit = InboundAudit()
listener = audit.listener()
def work():
    for i in range(10_000):
        listener.session("192.0.2.7").close()
        audit.inbound_session_count("192.0.2.0/24")
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
