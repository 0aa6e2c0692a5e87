"""`audit_decision`: what an override says about the connecting IP, and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.sieve_support import Bench, bench_of


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from bench_of(tmp_path)


def test_a_script_asks_what_an_override_says(bench: Bench) -> None:
    def says(remote: str) -> str:
        return bench.say('"<${action}> <${why}>"', "($action, $why) = audit_decision;", remote)

    assert says("192.0.2.7") == "<> <>"
    bench.audit.deny("192.0.2.0/24", why="a flood")
    bench.audit.allow("192.0.2.7")
    assert says("192.0.2.7") == "<allow> <>"
    assert says("::ffff:192.0.2.9") == "<deny> <a flood>"
    assert says("2001:db8::1") == "<> <>"
    bench.audit.deny("2001:db8::/32", why="no ${action} here")
    assert says("2001:db8::1") == "<deny> <no ${action} here>"
    bench.audit.lift("192.0.2.7")
    assert says("192.0.2.7") == "<deny> <a flood>"


def test_it_takes_no_argument(bench: Bench) -> None:
    assert "audit_decision" in bench.refuses('$found = audit_decision "192.0.2.7";')
