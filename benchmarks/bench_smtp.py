"""What a guarded SMTP listener costs: connections a second with `Limits` on, against aiosmtpd alone."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import pytest

from benchmarks.mail import Server, connections_a_second, serving
from benchmarks.measure import Race, quiet, summary
from benchmarks.scale import SMTP_BLOCKS, SMTP_CONNECTIONS, SMTP_ROUNDS

pytest.importorskip("aiosmtpd")


def block() -> tuple[Race, dict[str, float]]:
    """The rounds of one server process, and the processor time of a connection of each kind, in microseconds."""
    used: dict[str, list[float]] = {"bare": [], "guarded": []}

    def batch(server: Server, name: str, port: int) -> Callable[[], float]:
        def measured() -> float:
            before = server.processor_time()
            rate = connections_a_second(port, SMTP_CONNECTIONS)
            used[name].append((server.processor_time() - before) / SMTP_CONNECTIONS * 1e6)
            return rate

        return measured

    with serving() as server, quiet():
        race = Race({"bare": batch(server, "bare", server.bare), "guarded": batch(server, "guarded", server.guarded)})
        race.warm_up()
        for _ in range(SMTP_ROUNDS):
            race.round()
        counted = server.stop()
    assert counted == {"accepted": SMTP_CONNECTIONS * (SMTP_ROUNDS + 1), "refused": 0}
    return race, {name: median(taken[1:]) for name, taken in used.items()}


def test_smtp(once: Callable[..., Any], report: Callable[..., None]) -> None:
    """Several server processes in turn: how one happens to lie in memory is worth a percent or two."""
    blocks = once(lambda: [block() for _ in range(SMTP_BLOCKS)])
    ratios = [taken["guarded"] / taken["bare"] for race, _ in blocks for taken in race.rounds]
    rates = {name: median(race.medians()[name] for race, _ in blocks) for name in ("bare", "guarded")}
    used = {f"{name}, µs of processor each": median(taken[name] for _, taken in blocks) for name in rates}
    report("smtp", summary(ratios), rates | used, "connections a second")
