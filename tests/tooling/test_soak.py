"""The short form of `make soak`: simulated traffic against a simple model, both in native code."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.effort import effort

pytestmark = pytest.mark.tooling

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def soak():
    build = [sys.executable, "tests/support/build_inner.py", "soak"]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return importlib.import_module("tests.support.soak")


@pytest.mark.parametrize("seed", range(effort(2, 4)))
def test_trees_and_series_count_as_the_model_does(soak, seed: int) -> None:
    traffic = soak.Traffic(seed)
    traffic.run(1_000_000)
    assert traffic.refused
    assert traffic.coarse


def test_a_session_that_is_lost_is_found(soak) -> None:
    """A step compares counts of random prefixes, so the difference is found soon, and at the end of a period surely."""
    traffic = soak.Traffic(7)
    traffic.run(1000)
    assert traffic.lose_a_session()
    with pytest.raises(AssertionError, match=r"step \d+: "):
        traffic.run(1_000_000)
