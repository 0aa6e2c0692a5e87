"""What a hundred hostile peers take of `inbound-audit serve`: its memory, and the time of a good client."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from benchmarks.hostile import banner_time, resident, worst_policy
from benchmarks.mail import ROOT, working
from benchmarks.measure import summary
from benchmarks.scale import HOSTILE_S

PEERS = 100
GIVEN_BACK_S = 30.0
"""Seconds after which the memory of ended sessions has been given back."""
MESSAGE_MEMORY = 256 << 20
MIB = 1 << 20
LIMIT = ("--limit", "/32=1000")


@dataclass
class Siege:
    """Bytes of all processes of the server before, at the most and afterwards; seconds until each banner."""

    before: int
    most: int
    after: int
    banners: list[float]


def written(authority: Any, path: str) -> str:
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
    return path


@functools.cache
def besieged(workers: int, *options: str) -> Siege:
    trustme = pytest.importorskip("trustme")
    with (
        tempfile.NamedTemporaryFile(suffix=".pem") as certificate,
        working(workers, *options, "--tls-cert", written(trustme.CA(), certificate.name)) as server,
    ):
        banner_time(server.port)
        before = most = resident(server.pids)
        banners = []
        command = [sys.executable, "-m", "benchmarks.hostile", str(server.port), str(PEERS), str(HOSTILE_S)]
        with subprocess.Popen(command, cwd=ROOT) as hostile:
            while hostile.poll() is None:
                banners.append(banner_time(server.port))
                most = max(most, resident(server.pids))
                time.sleep(0.05)
        time.sleep(GIVEN_BACK_S)
        return Siege(before, most, resident(server.pids), banners)


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read as Linux has it")
def test_memory_under_hostile_peers(once: Callable[..., Any], report: Callable[..., None]) -> None:
    """Each kind of `hostile`, all at once. The message memory is a bound of its own, and not in the figure."""
    siege = once(lambda: besieged(1, *LIMIT))
    figures = {"before": siege.before, "at the most": siege.most, "afterwards": siege.after}
    details = {name: value / MIB for name, value in figures.items()}
    report("hostile-memory", summary([max(0, siege.most - MESSAGE_MEMORY) / MIB]), details, "MiB")


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read as Linux has it")
def test_memory_after_hostile_peers(once: Callable[..., Any], report: Callable[..., None]) -> None:
    siege = once(lambda: besieged(1, *LIMIT))
    report("hostile-afterwards", summary([max(0, siege.after - siege.before) / MIB]), {}, "MiB")


@pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")
def test_banner_under_hostile_peers(once: Callable[..., Any], report: Callable[..., None]) -> None:
    """The longest wait of a good client with two workers. Whatever else the machine does counts against them."""
    siege = once(lambda: besieged(2, *LIMIT))
    report("hostile-banner", summary([max(siege.banners)]), details_of(siege.banners), "seconds")


@pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")
def test_banner_under_the_worst_script(once: Callable[..., Any], report: Callable[..., None]) -> None:
    """The same with a policy whose every hook is the worst known script. Raises if a worker is lost."""
    with worst_policy() as path:
        siege = once(lambda: besieged(2, "--policy", path))
    report("hostile-script", summary([max(siege.banners)]), details_of(siege.banners), "seconds")


def details_of(banners: list[float]) -> dict[str, float]:
    waits = sorted(banners)
    return {"median": waits[len(waits) // 2], "longest": waits[-1], "processors": float(os.cpu_count() or 1)}
