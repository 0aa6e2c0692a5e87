"""What many audits in a process, and many processes of an audit, cost. Run it alone: `python -m benchmarks.crowd`.

Prints two tables: n processes that are forked at once and join one audit, and n audits in one process. `bench_crowd`
holds the largest numbers against their bars.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import tempfile
import threading
import time
from typing import NamedTuple

from benchmarks.resident import resident
from benchmarks.scale import AUDITS, PROCESSES
from inbound_audit import InboundAudit

CAPACITY = 1 << 24


class Audits(NamedTuple):
    """Seconds to make them; descriptors and threads of the process; bytes that its resident set grew by."""

    seconds: float
    descriptors: int
    threads: int
    resident: int


def many_audits(n: int) -> Audits:
    before = resident()
    began = time.monotonic()
    audits = [InboundAudit(shared=f"audit-{number}", capacity=CAPACITY) for number in range(n)]
    for audit in audits:
        audit.listener()
    took = time.monotonic() - began
    row = Audits(took, len(os.listdir("/proc/self/fd")), threading.active_count(), resident() - before)
    for audit in audits:
        audit.close()
    return row


def many_processes(n: int) -> tuple[float, float]:
    """Seconds until all have joined and see one another, and seconds of processor time of all."""
    joined, end = os.pipe(), os.pipe()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    pids = [os.fork() or _join(joined[1], end) for _ in range(n)]
    for _ in pids:
        os.read(joined[0], 1)
    with InboundAudit(shared="crowd", capacity=CAPACITY) as audit:
        while audit.total() < n:
            time.sleep(0.01)
        took = time.monotonic() - began
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    for fd in (*joined, *end):
        os.close(fd)
    return took, used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime


def _join(joined: int, end: tuple[int, int]) -> int:
    """In the child, which never returns, and ends with its parent."""
    try:
        os.close(end[1])
        audit = InboundAudit(shared="crowd", capacity=CAPACITY)
        session = audit.listener().session("192.0.2.7")
        os.write(joined, b"x")
        os.read(end[0], 1)
        session.close()
    finally:
        os._exit(1)


def main() -> None:
    root = tempfile.mkdtemp(dir="/dev/shm")
    os.environ["INBOUND_AUDIT_SHM"] = root
    try:
        print("| processes of an audit | seconds until all have joined | processor seconds of all |\n|---|---|---|")
        for n in PROCESSES:
            seconds, used = many_processes(n)
            print(f"| {n} | {seconds:.1f} | {used:.1f} |", flush=True)
        print("\n| audits in a process | seconds | descriptors | threads | MiB |\n|---|---|---|---|---|")
        for n in AUDITS:
            row = many_audits(n)
            print(f"| {n} | {row.seconds:.1f} | {row.descriptors} | {row.threads} | {row.resident >> 20} |", flush=True)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
