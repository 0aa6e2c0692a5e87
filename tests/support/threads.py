"""Threads beside the test: Python's, and LuaJIT's, which count and add with the GIL released."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from inbound_audit import Session, _ipcount

luajit = pytest.importorskip("lupa.luajit21")


# Asks `rounds` times and answers the least and the most that was seen, and how often it was not `expected`.
LUA_READER = """
local cdef, address, handle = ...
local ffi = require("ffi")
ffi.cdef(cdef)
local count = ffi.cast("ia_session_count_fn", address)
local ac = ffi.cast("const ia_ac *", handle)
return function(cidr, expected, rounds)
    local least, most, other = math.huge, -math.huge, 0
    for _ = 1, rounds do
        local n = tonumber(count(ac, cidr, #cidr, nil, 0))
        if n < least then least = n end
        if n > most then most = n end
        if n ~= expected then other = other + 1 end
    end
    return least, most, other
end
"""


def lua_reader(session) -> Callable[[str, int, int], tuple[int, int, int]]:
    runtime = luajit.LuaRuntime(unpack_returned_tuples=True)
    address = _ipcount.lua_abi()["ia_session_count"]
    return runtime.execute(LUA_READER, _ipcount.LUA_CDEF, float(address), float(session._handle))


@contextmanager
def running(*jobs: Callable[[threading.Event], None]) -> Iterator[None]:
    """Runs each job in a thread of its own until the block ends; their errors are raised here."""
    stop, errors = threading.Event(), []

    def run(job):
        try:
            job(stop)
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors


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


def any_alive(threads: list[threading.Thread]) -> bool:
    return any(thread.is_alive() for thread in threads)
