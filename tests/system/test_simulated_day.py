"""tools/simulated_day.py: what it opens, what it has refused and why, and that it is the same each time."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.support.waiting import PATIENCE, eventually

from inbound_audit.feed import Feed, Source

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")

TOOL = Path(__file__).parents[2] / "tools" / "simulated_day.py"
ARGUMENTS = ("--until", "13", "--once", "--sessions", "3000")


def play(*arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(TOOL), *ARGUMENTS, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_same_day_from_the_same_seed(place: Path) -> None:
    lines = play()
    assert [line.split()[0] for line in lines] == ["12:00", "13:00"]
    assert play() == lines


def test_who_is_there_at_the_busiest_hour(place: Path) -> None:
    held = subprocess.Popen([sys.executable, str(TOOL), *ARGUMENTS, "--hold"], stdout=subprocess.PIPE, text=True)
    try:
        assert held.stdout is not None
        assert any(line.startswith("held") for line in held.stdout)
        with Feed("day") as feed:
            crowds = {"198.51.100.0/24": 300, "203.0.113.16/28": 142, "2001:db8::/32": 375, "192.0.2.0/24": 0}
            eventually(lambda: {prefix: feed.look(Source(within=prefix)).picture.total for prefix in crowds} == crowds)
            assert feed.look().picture.total > 1500

            def most_are_of_the_botnet() -> bool:
                by = Counter((refusal.by, refusal.prefix) for refusal in feed.look().refusals)
                crowd, scan = by["limit", "198.51.100.0/24"], by["limit", "2001:db8::/32"]
                return crowd > by["override", "192.0.2.0/24"] and scan > 0

            eventually(most_are_of_the_botnet, "refusals as the day goes on")
    finally:
        held.terminate()
        held.communicate()
    assert held.returncode == 0
