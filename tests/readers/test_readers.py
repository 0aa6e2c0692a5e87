"""Readers beside a writer that stands still, and over bytes that are damaged: they answer, and do not wait or crash.

The arena is reached through its address, as another process would reach it through a mapping: `ia_ac.tree` points to
the tree, in which the arena's base stands behind two words.
"""

from __future__ import annotations

import ctypes
import random
import subprocess
import sys

import pytest
from tests.support.threads import lua_reader

from inbound_audit import InboundAudit


def arena_base(session) -> int:
    tree = ctypes.c_uint64.from_address(session._handle + 8).value
    return ctypes.c_uint64.from_address(tree + 16).value


@pytest.fixture
def crowd():
    with InboundAudit() as audit:
        listener = audit.listener()
        rng = random.Random(4)
        hosts = [f"10.{rng.randrange(4)}.{rng.randrange(9)}.{rng.randrange(256)}" for _ in range(2000)]
        hosts += [f"2001:db8:{rng.randrange(9):x}::{rng.randrange(999):x}" for _ in range(2000)]
        sessions = [listener.session(host) for host in hosts]
        yield audit, sessions
    sessions.clear()


def test_a_stopped_writer_in_mid_update_delays_no_reader(crowd):
    """`seq` stays odd, as a stopped writer leaves it: everything is answered, and right, for the tree is sound."""
    audit, sessions = crowd
    ask = sessions[0].inbound_session_count
    expected = [ask("/0"), ask("/16"), audit.total(), audit.tree(), audit.top(5)]
    seq = ctypes.c_uint64.from_address(arena_base(sessions[0]))
    seq.value += 1
    try:
        assert [ask("/0"), ask("/16"), audit.total(), audit.tree(), audit.top(5)] == expected
        assert lua_reader(sessions[0])("10.0.0.0/8", 2000, 100) == (2000, 2000, 0)
    finally:
        seq.value += 1
    sessions[0].listener._check()


DAMAGE = """
import ctypes, random, sys
from inbound_audit import InboundAudit
seed = int(sys.argv[1])
rng = random.Random(seed)
audit = InboundAudit()
listener = audit.listener()
sessions = [listener.session(rng.randbytes(rng.choice((4, 16)))) for _ in range(300)]
sessions += [listener.session(f"10.1.{i % 3}.{i % 256}") for i in range(900)]
sessions += [listener.session(f"2001:db8::{i % 3}:{i:x}") for i in range(900)]
tree = ctypes.c_uint64.from_address(sessions[0]._handle + 8).value
base = ctypes.c_uint64.from_address(tree + 16).value
whole = (ctypes.c_ubyte * listener.memory).from_address(base)
intact = bytes(whole)
asked, found = 0, set()
for _ in range(150):
    for _ in range(rng.choice((1, 3, 50))):
        at = rng.choice((rng.randrange(8, 40), rng.randrange(4096, len(intact))))
        whole[at] = rng.choice((rng.randrange(256), whole[at] ^ 1 << rng.randrange(8), 255, 0))
    for session in rng.sample(sessions, 25):
        for cidr in ("/0", "/7", "/16", "/20", "/24", "/31", "/32"):
            asked += session.inbound_session_count(cidr) >= 0
    audit.top(5), audit.top(5, prefixlen=(24, 64)), audit.total()
    if rng.random() < 0.2:
        whole[:] = intact
    try:
        listener._check()
    except AssertionError as fault:
        found.add(str(fault))
whole[:] = intact
assert asked == 150 * 25 * 7, asked
assert len(found) > 3, found
listener._check()
audit.close()
"""


@pytest.mark.parametrize("seed", range(4))
def test_damaged_bytes_crash_no_process(seed):
    run = subprocess.run(
        [sys.executable, "-c", DAMAGE, str(seed)], capture_output=True, text=True, check=False, timeout=200
    )
    assert (run.returncode, run.stderr) == (0, "")
