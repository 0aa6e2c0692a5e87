"""A guard and HAProxy in front of the same server: connections and bytes per second of processor time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest

from benchmarks.flood_peers import program, versions
from benchmarks.forwarding import measure, ratios
from benchmarks.measure import summary
from benchmarks.scale import FORWARDED_CONNECTIONS, FORWARDED_MEGABYTES, FORWARDED_ROUNDS

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="a guard needs Linux"),
    pytest.mark.skipif(program("haproxy") is None, reason="HAProxy is not installed"),
]


@pytest.fixture(scope="module")
def costs() -> dict[str, dict[str, list[float]]]:
    return measure(FORWARDED_ROUNDS, FORWARDED_CONNECTIONS, FORWARDED_MEGABYTES)


@pytest.mark.parametrize(
    ("key", "what", "scale", "unit"),
    [
        ("guard-connections", "connections", 1e6, "µs of processor a connection"),
        ("guard-bytes", "bytes", 1e9, "s of processor a gigabyte"),
    ],
)
def test_a_guard_and_haproxy(
    key: str,
    what: str,
    scale: float,
    unit: str,
    once: Callable[..., Any],
    report: Callable[..., None],
    costs: dict[str, dict[str, list[float]]],
    benchmark: Any,
) -> None:
    once(lambda: None)
    medians = {name: median(found[what]) * scale for name, found in costs.items()}
    report(key, summary(ratios(costs, what)), medians, unit)
    benchmark.extra_info.update(versions=versions())
