"""A session opens, is counted over the cluster and ends without a system call, whatever the agent of its host does.

The main thread of a process is traced. Locks of the interpreter are left out: another thread of the process, which
looks for new processes, takes them at times of its own.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.agent_hosts import Host, hosts_of
from tests.support.command_line import environment
from tests.support.forking import UNDER_ASAN
from tests.support.redis_server import RedisServer
from tests.support.waiting import PATIENCE, eventually

pytest.importorskip("redis")
pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="shared mode needs Linux")]

STRACE = shutil.which("strace")
SESSIONS = 1000
WORKER = f"""
import gc, os, sys
from inbound_audit import InboundAudit

listener = InboundAudit(shared="mail").listener()

def work():
    for at in range({SESSIONS}):
        session = listener.session("192.0.2.7")
        counted = session.inbound_session_count("/24", "inbound_cidr")
        session.close()
    return counted

work()
gc.freeze()
gc.disable()
print(0, flush=True)
while sys.stdin.readline():
    os.access("/begin", os.F_OK)
    counted = work()
    os.access("/end", os.F_OK)
    print(counted, flush=True)
"""
CALL = re.compile(r"^(\w+)\((.*)", re.MULTILINE)
LEFT_OUT = {"futex", *(("mmap", "munmap", "madvise") if UNDER_ASAN else ())}
"""A sanitizer's allocator asks for memory at times of its own."""


class Traced:
    """A process of a host that opens, counts and closes SESSIONS sessions on order, and what its main thread calls."""

    def __init__(self, host: Host, place: Path) -> None:
        self._trace = place / "trace"
        command = [str(STRACE), "-o", str(self._trace), sys.executable, "-c", WORKER]
        where = {**environment(), "INBOUND_AUDIT_SHM": host.directory}
        self._process = subprocess.Popen(
            command, env=where, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "0\n":
            pytest.skip(f"no process can be traced here: {self._process.communicate()[1].strip()[-200:]}")

    def counted(self) -> int:
        """What the last of the sessions has counted."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def counts(self, sessions: int) -> None:
        """Waits until it counts so many."""
        eventually(lambda: self.counted() == sessions, f"{sessions} are counted")

    def end(self) -> list[list[str]]:
        """What was called between the begin and the end of each order."""
        self._process.communicate(timeout=PATIENCE)
        orders: list[list[str]] = []
        inside = False
        for name, arguments in CALL.findall(self._trace.read_text()):
            if arguments.startswith(('"/begin"', '"/end"')):
                inside = arguments.startswith('"/begin"')
                orders += [[]] if inside else []
            elif inside and name not in LEFT_OUT:
                orders[-1].append(name)
        return orders

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as running:
        yield running


@pytest.mark.skipif(STRACE is None, reason="needs strace (Debian: strace)")
def test_no_session_makes_a_system_call_whatever_the_agent_does(server: RedisServer, tmp_path: Path) -> None:
    with ExitStack() as at_end:
        here, there = at_end.enter_context(hosts_of(2, server))
        traced = Traced(here, tmp_path)
        at_end.callback(traced.close)
        traced.counts(1)  # without an agent
        audit = at_end.enter_context(there.audit())
        for number in range(3):
            at_end.enter_context(audit.listener().session(f"192.0.2.{number}"))
        here.start()
        there.start()
        traced.counts(4)
        server.kill()
        traced.counts(1)  # while the engine is dead
        server.start()
        traced.counts(4)
        here.agent.send_signal(signal.SIGSTOP)
        traced.counts(4)
        here.agent.kill()
        traced.counts(1)
        orders = traced.end()
        assert len(orders) >= 6
        assert [calls for calls in orders if calls] == []
