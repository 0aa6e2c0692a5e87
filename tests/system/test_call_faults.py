"""Every call to the system fails once: the scenarios of `tests.support.fault_scenarios`.

The quick form takes a sample of each scenario's calls; `make faults` takes every one of them.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.support.fault_scenarios import SCENARIOS
from tests.support.faults import environment
from tests.support.forking import UNDER_ASAN
from tests.support.sharing import FULL

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the library is preloaded as Linux does it"),
    pytest.mark.skipif(UNDER_ASAN, reason="AddressSanitizer stands before the C library itself"),
    pytest.mark.timeout(7200 if FULL else 600),
]

QUICK_CASES = 40


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_lost_when_a_call_fails(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "tests.support.faults", name, "full" if FULL else str(QUICK_CASES)]
    done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    failures = result.pop("failures")
    if FULL:
        with capsys.disabled():
            print(f"\n    {result}", end=" ")
    assert failures == [], "\n\n".join(failures[:10])
    assert result["faults"] > QUICK_CASES / 2
