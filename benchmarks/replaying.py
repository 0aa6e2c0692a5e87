"""How long `inbound-audit replay` takes for a log, and what memory: `python -m benchmarks.replaying LINES`.

The log has connects and disconnects of 500 processes of Postfix in turn, from random addresses of which one in eight
is IPv6: nearly each one is a client of its own. Prints a JSON object: `seconds`, `processor` (seconds), `resident` (the
most bytes in memory), and what the command found of `lines` and `connections`.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

PROCESSES = 500
LIMITS = ("/32,/64=10", "/24,/48=100", "/0=20000")
MINUTES_MOST = 8
START = 1_793_491_200
LINES_PER_S = 200


def log_lines(lines: int) -> Iterator[str]:
    draw = random.Random(21)
    busy: list[str | None] = [None] * PROCESSES
    stamp = ""
    for number in range(lines):
        if number % LINES_PER_S == 0:
            stamp = time.strftime("%b %e %H:%M:%S", time.gmtime(START + number // LINES_PER_S))
        pid = draw.randrange(PROCESSES)
        address = busy[pid]
        if address is None:
            bits = draw.getrandbits(128)
            busy[pid] = address = str(IPv6Address(bits) if bits % 8 == 0 else IPv4Address(bits & 0xFFFFFFFF))
            yield f"{stamp} mx1 postfix/smtpd[{pid}]: connect from unknown[{address}]\n"
        else:
            busy[pid] = None
            yield f"{stamp} mx1 postfix/smtpd[{pid}]: disconnect from unknown[{address}] ehlo=1 quit=1 commands=2\n"


def peak() -> int:
    """The most bytes of this process that were in memory at once."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def replay(path: str) -> dict[str, float]:
    """In this process, which should have done nothing else."""
    from inbound_audit.cli import run

    limits = [word for limit in LIMITS for word in ("--limit", limit)]
    written = io.StringIO()
    began = time.monotonic()
    with contextlib.redirect_stdout(written):
        status = run(["replay", path, "--json", "--year", "2026", *limits])
    seconds = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    found = json.loads(written.getvalue())
    assert status == 0, found
    return {
        "seconds": seconds, "processor": used.ru_utime + used.ru_stime, "resident": peak(),
        "lines": found["lines"], "connections": found["connections"], "clients": found["hosts"],
    }  # fmt: skip


def measured(lines: int) -> dict[str, Any]:
    """Replays a log of so many lines in a process of its own. Raises subprocess.SubprocessError when that fails."""
    with tempfile.NamedTemporaryFile("w", suffix=".log") as log:
        log.writelines(log_lines(lines))
        log.flush()
        command = [sys.executable, "-m", "benchmarks.replaying", log.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60 * MINUTES_MOST)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    (what,) = sys.argv[1:]
    print(json.dumps(measured(int(what)) if what.isdigit() else replay(what)))
