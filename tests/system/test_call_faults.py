"""Every call to the system fails once: the scenarios of `tests.support.fault_scenarios` and `agent_scenarios`.

The quick form takes a sample of each scenario's calls; `make faults` takes every one of them.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.support import agent_scenarios, redis_server
from tests.support.fault_scenarios import SCENARIOS
from tests.support.faults import environment
from tests.support.forking import UNDER_ASAN
from tests.support.sharing import FULL

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the library is preloaded as Linux does it"),
    pytest.mark.skipif(UNDER_ASAN, reason="AddressSanitizer stands before the C library itself"),
    pytest.mark.timeout(7200 if FULL else 600),
]

ALL_SCENARIOS = SCENARIOS | agent_scenarios.SCENARIOS


@pytest.mark.parametrize("name", ALL_SCENARIOS)
def test_nothing_is_lost_when_a_call_fails(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "agent" and redis_server.PROGRAM is None:
        pytest.skip("needs redis-server (Debian: redis-server)")
    quick_cases = ALL_SCENARIOS[name].quick_cases
    command = [sys.executable, "-m", "tests.support.faults", name, "full" if FULL else str(quick_cases)]
    done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    failures = result.pop("failures")
    if FULL:
        with capsys.disabled():
            print(f"\n    {result}", end=" ")
    assert failures == [], "\n\n".join(failures[:10])
    # The sample is taken from the calls of one run; another run may make fewer of those that depend on the time.
    assert result["faults"] > quick_cases / 4
