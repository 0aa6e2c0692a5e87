"""How many instructions the hot calls take: a figure that no neighbour on the machine can move.

    python -m benchmarks.instructions            a table; needs valgrind, and fails with a message without it

Each call is run in two loops of different length under valgrind; the difference of the two counts, divided by the
calls that the one made more, is a call with its share of Python's loop. Start-up and preparation cancel out. It counts
work and not waiting: a cache miss is one instruction.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.floor import load_floor
from benchmarks.measure import timed
from inbound_audit import InboundAudit, Limits

SHORT, LONG = 5_000, 55_000
MINUTES_MOST = 5


def subjects() -> dict[str, Callable[[list[Any]], Callable[[], float]]]:
    """Makers of the loops by name; each takes a list of open sessions. The listener of the sessions is theirs."""
    floor, limits = load_floor().Floor(), Limits({"/32": 10, "/24": 100, "/0": 20000})
    refuses = Limits({"/32": 10, "/24": 100, "/0": 0})

    def texts(sessions: list[Any]) -> list[str]:
        return [f"{address}/{8 + at % 25}" for at, address in enumerate(addresses(9, len(sessions)))]

    return {
        "floor": lambda s: timed('floor.inbound_session_count("/24")', s, floor=floor),
        'ac.inbound_session_count("/24")': lambda s: timed('x.inbound_session_count("/24")', s),
        "ac.inbound_session_count()": lambda s: timed("x.inbound_session_count()", s),
        "audit.inbound_session_count(text)": lambda s: timed(
            "audit.inbound_session_count(x)", texts(s), audit=s[0].listener.audit
        ),
        "open and close": lambda s: timed("listener.session(x).close()", addresses(9, len(s)), listener=s[0].listener),
        "audit.series.add(name, text)": lambda s: timed(
            'audit.series.add("s", x)', addresses(9, len(s)), audit=series_of(s[0].listener.audit)
        ),
        "audit.series.count(name, text)": lambda s: timed(
            'audit.series.count("s", x)', texts(s), audit=series_of(s[0].listener.audit)
        ),
        "Limits.validate_connect(ac)": lambda s: timed("limits.validate_connect(x)", s, limits=limits),
        "Limits.validate_connect(ac), refused": lambda s: timed("limits.validate_connect(x)", s, limits=refuses),
    }


def series_of(audit: InboundAudit) -> InboundAudit:
    """The audit, with as many hosts in a series as there are sessions, in a window that does not end meanwhile."""
    audit.series.define("s", "ip", 1 << 20, 6)
    for text in addresses(8, 1_000):
        audit.series.add("s", text)
    return audit


def addresses(seed: int, number: int) -> list[str]:
    draw = random.Random(seed)
    return [".".join(map(str, draw.randbytes(4))) for _ in range(number)]


def loop(name: str, calls: int) -> None:
    """What runs under valgrind: the same preparation whatever `calls` is, then so many calls."""
    with InboundAudit() as audit:
        listener = audit.listener("SMTP")
        sessions = [listener.session(text) for text in addresses(8, 1_000)]
        batch = subjects()[name](sessions)
        for _ in range(calls // len(sessions)):
            batch()
        for session in sessions:
            session.close()


def instructions(name: str, calls: int) -> int:
    """Of the whole process. Raises subprocess.SubprocessError when valgrind or the loop fails."""
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", sys.executable]
    command += ["-m", "benchmarks.instructions", name, str(calls)]
    root = Path(__file__).resolve().parents[1]
    # Another hash seed is another start-up, by millions of instructions.
    same = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        command, cwd=root, env=same, check=True, capture_output=True, text=True, timeout=60 * MINUTES_MOST
    )
    counted = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if counted is None:
        raise subprocess.SubprocessError(f"valgrind counted nothing: {done.stderr[-200:]}")
    return int(counted[1].replace(",", ""))


def main() -> int:
    if shutil.which("valgrind") is None:
        print("valgrind is not installed: no instructions are counted")
        return 0
    load_floor()  # compiled here, and not in one of the two processes that are compared
    for name in subjects():
        each = (instructions(name, LONG) - instructions(name, SHORT)) / (LONG - SHORT)
        print(f"{each:8.0f}  {name}", flush=True)
    return 0


if __name__ == "__main__":
    if len(sys.argv) == 3:
        loop(sys.argv[1], int(sys.argv[2]))
    else:
        sys.exit(main())
