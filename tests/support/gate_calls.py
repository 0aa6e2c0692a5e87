"""Calls of a gate to the system that fail: scripts of a process which has the library of faults."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.faults import environment
from tests.support.forking import UNDER_ASAN
from tests.support.waiting import PATIENCE

MARKS = [
    pytest.mark.system,
    pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux"),
    pytest.mark.skipif(UNDER_ASAN, reason="AddressSanitizer stands before the C library itself"),
]

BEGIN = f"""
import contextlib, faulthandler, json, os, socket
faulthandler.dump_traceback_later({2 * PATIENCE}, exit=True)
from tests.support.faults import ERRORS, Case, Library
from tests.support.gates import connect, descriptors, end, said, take_all, works
from tests.support.waiting import eventually
from inbound_audit import InboundAudit, Limits
from inbound_audit.listeners.gate import Gate

library = Library()
library.watch("/dev/shm/nothing")  # sockets matter, too
audit = InboundAudit(capacity=1 << 22)
listener = audit.listener("SMTP")
limits = Limits({{"/32": 1}})
"""


def outcome(script: str) -> Any:
    """What the script prints as JSON at its end. It begins with BEGIN."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + script],
        cwd=Path(__file__).parents[2],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
