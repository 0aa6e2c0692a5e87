"""How hard a test tries: less in the quick profile of the inner loop, more in CI."""

from __future__ import annotations

import os

THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"


def effort(quick: int, thorough: int) -> int:
    """How many hosts, rounds or levels a test takes in each profile of Hypothesis (tests/conftest.py)."""
    return thorough if THOROUGH else quick
