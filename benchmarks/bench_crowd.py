"""What many processes of one audit, and many audits of one process, take until all are there, by their number."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from benchmarks.measure import summary
from benchmarks.scale import AUDITS, PROCESSES

if not sys.platform.startswith("linux"):
    pytest.skip("shared mode is for Linux", allow_module_level=True)

from benchmarks.crowd import many_audits, many_processes


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="inbound_audit-bench-") as directory:
        monkeypatch.setenv("INBOUND_AUDIT_SHM", directory)
        yield


def test_processes_of_one_audit(once: Callable[..., Any], report: Callable[..., None]) -> None:
    """Each number is measured; the last is held against the bar."""
    taken = once(lambda: {n: many_processes(n) for n in PROCESSES})
    details = {f"{n} processes": seconds for n, (seconds, _) in taken.items()}
    details |= {f"{n} processes, of a processor": used for n, (_, used) in taken.items()}
    report("crowd-processes", summary([taken[PROCESSES[-1]][0]]), details, "seconds")


def test_audits_of_one_process(once: Callable[..., Any], report: Callable[..., None]) -> None:
    taken = once(lambda: {n: many_audits(n) for n in AUDITS})
    details = {f"{n} audits": row.seconds for n, row in taken.items()}
    details |= {f"{n} audits, MiB": row.resident / (1 << 20) for n, row in taken.items()}
    details["threads"] = float(max(row.threads for row in taken.values()))
    report("crowd-audits", summary([taken[AUDITS[-1]].seconds]), details, "seconds, or as said")
