"""Windows that are changed without the GIL: LuaJIT adds and turns while Python does the same, asks, and forks."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.support.sharing import rounds

from inbound_audit import InboundAudit, Session, _ipcount

luajit = pytest.importorskip("lupa.luajit21")

ADDERS = 3
STEADY = 7

# Adds `n` to each of some hosts, all of them `rounds` times, and takes all but the last round away again.
LUA_ADDER = """
local cdef, add, handle = ...
local ffi = require("ffi")
ffi.cdef(cdef)
add = ffi.cast("ia_series_add_fn", add)
local ac = ffi.cast("const ia_ac *", handle)
return function(name, prefix, hosts, rounds, n)
    local function change(by)
        for i = 1, hosts do
            local key = prefix .. (i % 256)
            local code = add(ac, name, #name, key, #key, by)
            if code ~= 0 then error("code " .. tonumber(code)) end
        end
    end
    for round = 1, rounds do
        change(n)
        if round < rounds then change(-n) end
    end
end
"""


def lua_adder(session: Session) -> Callable[[str, str, int, int, int], None]:
    """One that runs without the GIL, but for what its clock needs."""
    add = float(_ipcount.lua_abi()["ia_series_add"])
    return luajit.LuaRuntime().execute(LUA_ADDER, _ipcount.LUA_CDEF, add, float(session._handle))


@contextmanager
def beside(*jobs: Callable[[], None]) -> Iterator[list[threading.Thread]]:
    """Runs them in threads; when the block is over they have ended, and their errors are raised here."""
    errors: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        for thread in threads:
            thread.join()
    assert errors == []


def running(threads: list[threading.Thread]) -> bool:
    return any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("who", ["the system's clock", "a clock of Python's"])
@pytest.mark.parametrize("max_hosts", [None, 50])
def test_who_adds_without_the_gil_loses_nothing(who, max_hosts):
    """Also while windows turn and fold. A clock that is Python's is asked for before the lock is taken."""
    seconds = [0.0]
    clock = None if who == "the system's clock" else lambda: seconds[0]
    interval = 1 << 30 if clock is None else 1
    with InboundAudit(clock=clock) as audit, audit.listener().session("192.0.2.7") as ac:
        audit.series.define("s", "cidr", interval, 500, max_hosts=max_hosts)
        audit.series.add("s", "192.0.2.7", -1)  # from now on there are trees for less
        times = 2000 if clock is None else rounds(60, 200)
        jobs = [
            lambda at=at: lua_adder(ac)("s", f"10.{at}.0.", 200, times, 2 + at)  # type: ignore[misc]
            for at in range(ADDERS)
        ]
        with beside(*jobs) as threads:
            turns = 0
            while running(threads):
                audit.series.add("s", "2001:db8::1", 3)
                turns += 1
                if turns % 20 == 0 and seconds[0] < 400:
                    seconds[0] += 1
        audit._check_windows()
        assert audit.series.count("s", "2001:db8::/32", 0, 499) == 3 * turns
        for at in range(ADDERS):
            assert audit.series.count("s", "10.0.0.0/8", 0, 499) == 200 * sum(2 + at for at in range(ADDERS))
            if max_hosts is None:
                assert audit.series.count("s", f"10.{at}.0.0/24", 0, 499) == 200 * (2 + at)


def test_what_stands_still_is_counted_the_same_at_every_moment():
    """Readers take no lock: neither who adds beside a host, nor a turn, changes what they see of others."""
    seconds = [1000.0]
    with InboundAudit(clock=lambda: seconds[0]) as audit, audit.listener().session("192.0.2.7") as ac:
        audit.series.define("s", "cidr", 1, 200)
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
            while running(threads):
                assert audit.series.count("s", "198.51.100.0/24", 0, 150) == 5 * (STEADY - 1)
                assert audit.series.count("s", "198.51.100.1", 0, 150) == 5 * STEADY
                assert 0 <= audit.series.count("s", "10.0.0.0/8", 0, 150) <= ADDERS * 200
                asked += 1
                if asked % 50 == 0 and seconds[0] < 1100:
                    seconds[0] += 1
        assert asked > 50
        audit._check_windows()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_forked_in_the_middle_of_a_change():
    """The child's windows are empty and sound, whatever another thread was doing, and its locks are free."""
    with InboundAudit(monitors=["1000000000,2"]) as audit, audit.listener().session("192.0.2.7") as ac:
        audit.series.define("s", "cidr", 1 << 30, 2, max_hosts=100)
        audit.series.add("s", "192.0.2.7", -1)
        jobs = [
            lambda at=at: lua_adder(ac)("s", f"10.{at}.0.", 256, 2000, 1)  # type: ignore[misc]
            for at in range(ADDERS)
        ]
        with beside(*jobs) as threads:
            forks = 0
            while running(threads) and forks < 25:
                pid = os.fork()
                if pid == 0:
                    status = 1
                    with contextlib.suppress(BaseException):
                        signal.alarm(20)
                        assert audit.series.count("s", "0.0.0.0/0", 0, 1) == 0
                        audit._check_windows()
                        for i in range(300):
                            audit.series.add("s", bytes((10, 0, i >> 8, i & 255)), 2)
                        audit.series.add("s", "192.0.2.8", -2)
                        audit.listener().session("192.0.2.9").close()
                        audit._check_windows()
                        assert audit.series.count("s", "0.0.0.0/0") == 598
                        assert audit.connections(0, "0.0.0.0/0") == 1
                        status = 0
                    os._exit(status)
                assert os.waitpid(pid, 0)[1] == 0
                forks += 1
        assert forks > 3
        audit._check_windows()
        assert audit.series.count("s", "0.0.0.0/0") == 256 * ADDERS - 1
