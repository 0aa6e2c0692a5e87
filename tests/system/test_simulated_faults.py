"""Simulated clusters with seeded faults, the long form: a million steps in all, under `make faults`."""

from __future__ import annotations

import pytest
from tests.support.cluster_simulation import Simulation
from tests.support.sharing import FULL


@pytest.mark.parametrize("seed", range(100, 110 if FULL else 101))
def test_after_quiet_every_view_is_the_truth_in_the_long_run(seed: int) -> None:
    Simulation(seed).run(100_000 if FULL else 4_000)
