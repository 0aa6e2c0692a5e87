"""Each call to the system that a gate makes fails once: it does not begin, and says why; or it goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.faults import environment
from tests.support.forking import UNDER_ASAN
from tests.support.waiting import PATIENCE

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux"),
    pytest.mark.skipif(UNDER_ASAN, reason="AddressSanitizer stands before the C library itself"),
]

SCRIPT = """
import faulthandler, json, os, socket, sys
faulthandler.dump_traceback_later(PATIENCE, exit=True)
from tests.support.faults import ERRORS, Case, Library
from tests.support.gates import connect, descriptors, end, said
from tests.support.waiting import eventually
from inbound_audit import InboundAudit, Limits
from inbound_audit.listeners.gate import Gate

library = Library()
library.watch("/dev/shm/nothing")  # sockets matter, too
audit = InboundAudit(capacity=1 << 22)
listener = audit.listener("SMTP")
limits = Limits({"/32": 1})

def works(gate, listening):
    "One peer is let in, and one is refused."
    with connect(listening.getsockname()[1]) as first:
        taken = gate.get(60)
        with connect(listening.getsockname()[1]) as second:
            assert said(second).startswith(b"421"), (gate.opened, gate.left)
        assert len(taken) == 1, (taken, gate.opened, gate.left)
        end(taken)

def begin(case):
    "Whether the fault happened while a gate was opened or while it was closed."
    before, tasks = descriptors(), len(os.listdir("/proc/self/task"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        library.arm(case)
        try:
            with Gate(listener, limits, [listening], threads=2) as gate:
                works(gate, listening)
        except (OSError, RuntimeError) as error:
            assert case.cause.lower() in str(error).lower(), (case, error)
        hit = library.disarm()
    assert descriptors() <= before and audit.total() == 0, case
    eventually(lambda: len(os.listdir("/proc/self/task")) <= tasks, "that the system lists no thread that has ended")
    return hit

done = {}
for call in ("dup", "stat", "sockopt", "thread", "socket"):
    for what in ERRORS[call].split():
        n = 1
        while begin(Case(call, n, what)):
            n += 1
        done[call] = n - 1

# What a thread asks each second about its sockets.
for what in ERRORS["stat"].split():
    with socket.create_server(("127.0.0.1", 0)) as listening, Gate(listener, limits, [listening]) as gate:
        library.arm(Case("stat", 1, what))
        eventually(lambda: library.seen().get("stat", 0) > 2, "a check that fails, and the next")
        library.disarm()
        assert gate.left == 0
        works(gate, listening)
print(json.dumps(done))
"""


def test_each_call_of_a_gate_fails_once() -> None:
    command = [sys.executable, "-c", SCRIPT.replace("PATIENCE", str(2 * PATIENCE))]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    calls = json.loads(done.stdout)
    assert calls["dup"] >= 1
    assert calls["thread"] == 2
    assert calls["stat"] >= 1
