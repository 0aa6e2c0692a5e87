"""A replay of a log of ten million lines: its time and its memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from benchmarks.measure import summary
from benchmarks.replaying import measured
from benchmarks.scale import REPLAY_LINES

if not sys.platform.startswith("linux"):
    pytest.skip("the memory of a process is read on Linux", allow_module_level=True)


@cache
def replayed() -> dict[str, Any]:
    """Once for both rows."""
    found = measured(REPLAY_LINES)
    assert found["lines"] == REPLAY_LINES
    return found


def test_time(once: Callable[..., Any], report: Callable[..., None]) -> None:
    found = once(replayed)
    details = {name: float(found[name]) for name in ("lines", "connections", "clients")}
    details["seconds of a processor"] = found["processor"]
    report("replay-time", summary([found["seconds"]]), details, "as said")


def test_memory(once: Callable[..., Any], report: Callable[..., None]) -> None:
    mebibytes = once(replayed)["resident"] / (1 << 20)
    report("replay-memory", summary([mebibytes]), {"all of the process": mebibytes}, "MiB")
