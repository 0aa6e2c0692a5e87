"""Windows that are changed without the GIL: LuaJIT adds and turns while Python does the same, asks, and forks."""

from __future__ import annotations

import pytest
from tests.support.sharing import rounds
from tests.support.threads import any_alive, beside, lua_adder

from inbound_audit import InboundAudit
from inbound_audit._ipcount import SeriesStore

luajit = pytest.importorskip("lupa.luajit21")

ADDERS = 3
STEADY = 7


@pytest.mark.parametrize("who", ["the system's clock", "a clock of Python's"])
@pytest.mark.parametrize("max_hosts", [None, 50])
def test_adding_without_the_gil_loses_nothing(who, max_hosts):
    """Also while windows turn and fold. A clock that is Python's is asked for before the lock is taken."""
    seconds = [0.0]
    clock = None if who == "the system's clock" else lambda: seconds[0]
    interval = 1 << 30 if clock is None else 1
    with InboundAudit(clock=clock) as audit, audit.listener().session("192.0.2.7") as ac:
        audit.series.define("s", "ip", interval, 500, max_hosts=max_hosts)
        audit.series.add("s", "192.0.2.7", -1)  # from now on there are trees for less
        times = 2000 if clock is None else rounds(60, 200)
        jobs = [
            lambda at=at: lua_adder(ac)("s", f"10.{at}.0.", 200, times, 2 + at)  # type: ignore[misc]
            for at in range(ADDERS)
        ]
        with beside(*jobs) as threads:
            turns = 0
            while any_alive(threads):
                audit.series.add("s", "2001:db8::1", 3)
                turns += 1
                if turns % 20 == 0 and seconds[0] < 400:
                    seconds[0] += 1
        SeriesStore(audit).check()
        assert audit.series.count("s", "2001:db8::/32", 0, 499) == 3 * turns
        for at in range(ADDERS):
            assert audit.series.count("s", "10.0.0.0/8", 0, 499) == 200 * sum(2 + at for at in range(ADDERS))
            if max_hosts is None:
                assert audit.series.count("s", f"10.{at}.0.0/24", 0, 499) == 200 * (2 + at)


def test_what_stands_still_is_counted_the_same_at_every_moment():
    """Readers take no lock: neither who adds beside a host, nor a turn, changes what they see of others."""
    seconds = [1000.0]
    with InboundAudit(clock=lambda: seconds[0]) as audit, audit.listener().session("192.0.2.7") as ac:
        audit.series.define("s", "ip", 1, 200)
        for _ in range(5):
            audit.series.add("s", "198.51.100.1", STEADY)
            audit.series.add("s", "198.51.100.2", -1)
            seconds[0] += 1
        seconds[0] -= 1
        jobs = [
            lambda at=at: lua_adder(ac)("s", f"10.{at}.0.", 200, rounds(150, 600), 1)  # type: ignore[misc]
            for at in range(ADDERS)
        ]
        asked = 0
        with beside(*jobs) as threads:
            while any_alive(threads):
                assert audit.series.count("s", "198.51.100.0/24", 0, 150) == 5 * (STEADY - 1)
                assert audit.series.count("s", "198.51.100.1", 0, 150) == 5 * STEADY
                assert 0 <= audit.series.count("s", "10.0.0.0/8", 0, 150) <= ADDERS * 200
                asked += 1
                if asked % 50 == 0 and seconds[0] < 1100:
                    seconds[0] += 1
        assert asked > 50
        SeriesStore(audit).check()
