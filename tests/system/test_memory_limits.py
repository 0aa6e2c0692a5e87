"""What is too large for the address space of a process is an error, and something smaller works afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.memory


GREEDY = """
import resource
from inbound_audit._ipcount import SeriesStore
from inbound_audit import InboundAudit
from inbound_audit.errors import CapacityError
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
audit = InboundAudit(capacity=1 << 26)
for _ in range(5):
    try:
        audit.series.define("s", "cidr", 10, 1000, max_bytes=1 << 40)
    except CapacityError:
        continue
    raise AssertionError("there is no such room")
audit.series.define("s", "cidr", 10, 1000, max_bytes=1000 << 15)
audit.series.add("s", "192.0.2.7")
assert audit.series.count("s", "192.0.2.7") == 1
SeriesStore(audit).check()
"""


def test_a_series_that_is_too_large_leaves_room_for_a_smaller_one():
    subprocess.run([sys.executable, "-c", GREEDY], check=True)


def test_a_capacity_that_the_system_has_not():
    """RLIMIT_AS stands for a container's limit: asking for more is an error that says so, and smaller ones work."""
    script = """
import resource
from inbound_audit._ipcount import SeriesStore
from inbound_audit import InboundAudit
from inbound_audit.errors import CapacityError
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
try:
    InboundAudit(capacity=4 << 30).listener()
except CapacityError as error:
    assert "address space" in str(error), error
else:
    raise AssertionError("no error")
with InboundAudit(capacity=1 << 20) as audit, audit.listener().session("192.0.2.7") as ac:
    print(ac.inbound_session_count())
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("1\n", "")


GATE = """
import resource, socket
from inbound_audit import InboundAudit, Limits
from inbound_audit.listeners.gate import Gate
kept = []
with InboundAudit(capacity=1 << 22) as audit, socket.create_server(("127.0.0.1", 0)) as listening:
    with Gate(audit.listener(), Limits({"/32": 0}), [listening], threads=4) as gate:
        held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held, resource.RLIM_INFINITY))
        try:
            while True:  # what is free in the heap, too
                kept.append(bytearray(1 << 17))
        except MemoryError:
            pass
        try:
            gate._note_decisions()
        except MemoryError:
            pass
        else:
            raise AssertionError("there is no such room")
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        gate._note_decisions()
        for _ in range(9):
            with socket.create_connection(listening.getsockname()) as peer:
                assert peer.recv(100).startswith(b"421 ")
        found, lost = gate._take_decisions(9)
        assert (len(found), lost) == (9, 0), (found, lost)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux")
def test_a_gate_that_had_no_room_for_decisions_notes_them_all_later():
    subprocess.run([sys.executable, "-c", GATE], check=True)
