"""How a result gets from a race into .bench/results.json: as the `extra_info` of one benchmark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.bars import Bar, load_bars
from benchmarks.floor import load_floor
from benchmarks.measure import Batch, Race, Ratio, quiet, summary
from benchmarks.scale import ROUNDS

MINUTES_MOST = 10


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(60 * MINUTES_MOST))


@pytest.fixture(scope="session")
def bars() -> dict[str, Bar]:
    return load_bars()


@pytest.fixture(scope="session")
def floor() -> Callable[[], Any]:
    """The class whose empty method is the unit of most bars."""
    made: Callable[[], Any] = load_floor().Floor
    return made


@pytest.fixture
def run(benchmark: Any) -> Callable[[Race, int], None]:
    """Runs a race: a round that does not count, then so many that do. What pytest-benchmark times is a whole round."""

    def run(race: Race, rounds: int) -> None:
        with quiet():
            race.warm_up()
            benchmark.pedantic(race.round, setup=race.prepare, rounds=rounds)

    return run


@pytest.fixture
def report(benchmark: Any, bars: dict[str, Bar]) -> Callable[..., None]:
    """Notes the figure for a bar, and what it was made of: named figures in some unit."""

    def report(key: str, ratio: Ratio, details: dict[str, float], unit: str) -> None:
        bar = bars[key]
        benchmark.group = "bars"
        benchmark.extra_info.update(
            kind="bar", key=key, value=ratio.value, low=ratio.low, high=ratio.high, bar=str(bar),
            ok=bar.holds(ratio.value), details=details, unit=unit,
        )  # fmt: skip

    return report


@pytest.fixture
def hold(run: Callable[[Race, int], None], report: Callable[..., None]) -> Callable[..., None]:
    """Runs a race and reports one subject's batches over another's for a bar."""

    def hold(key: str, race: Race, subject: str, to: str, rounds: int) -> None:
        run(race, rounds)
        report(key, race.ratio(subject, to), race.medians(), "ns a call")

    return hold


@pytest.fixture
def note(run: Callable[..., None], report: Callable[..., None]) -> Callable[[str, Batch, str], None]:
    """Measures one subject alone, for a bar that is no ratio."""

    def note(key: str, batch: Batch, unit: str) -> None:
        race = Race({key: batch})
        run(race, ROUNDS)
        report(key, summary([taken[key] for taken in race.rounds]), race.medians(), unit)

    return note


@pytest.fixture
def once(benchmark: Any) -> Callable[[Callable[[], Any]], Any]:
    """Calls a function once, under the runner: for figures that are no times."""
    return lambda function: benchmark.pedantic(function, rounds=1)
