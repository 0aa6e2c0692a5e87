"""Series of windows: adding to one, counting over many, turning to the next, and a bound that is held."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns, time
from typing import Any

import pytest

from benchmarks.bench_counts import RANDOM, new_texts, open_sessions
from benchmarks.bench_policies import loop_of
from benchmarks.measure import Race, quiet, summary, timed
from benchmarks.rotating import measured
from benchmarks.scale import QUICK, ROUNDS
from inbound_audit import InboundAudit, _ipcount

HOSTS = 100_000
LONG = 1 << 20
"""Seconds of a window that does not end while it is measured."""


@contextmanager
def filled(windows: int, hosts: int = HOSTS) -> Iterator[InboundAudit]:
    """An audit with a series "s" whose windows have so many hosts each, by the system's clock."""
    with InboundAudit() as audit:
        audit.series.define("s", "ip", LONG, windows)
        now = int(time())
        for v in range(windows):
            for address in packed(f"window {v}", hosts):
                audit.series.add_at("s", address, 1, (now - v * LONG) * 1_000_000)
        assert all(audit.series.count("s", "0.0.0.0/0", v) == hosts for v in range(windows))
        yield audit


def packed(seed: str, hosts: int) -> list[bytes]:
    draw = random.Random(seed)
    return [draw.randbytes(4) for _ in range(hosts)]


# ---- adding


def test_adding_to_a_series(hold: Callable[..., None]) -> None:
    """What either keeps goes into a list; it is taken away again between the rounds."""
    fresh: list[str] = []
    kept: list[Any] = []
    draw = random.Random(12)
    with open_sessions(RANDOM.texts(HOSTS)) as (_, listener, _), filled(1) as audit:

        def prepare() -> None:
            for session in kept:
                if session is not None:
                    session.close()
            for text in fresh:
                audit.series.remove_item("s", text)
            kept.clear()
            fresh[:] = new_texts(draw, 5_000)

        subjects = {
            "open a session": timed("keep(listener.session(x))", fresh, keep=kept.append, listener=listener),
            "add": timed('keep(audit.series.add("s", x))', fresh, keep=kept.append, audit=audit),
        }
        hold("series-add", Race(subjects, prepare), "add", "open a session", ROUNDS)
        prepare()


# ---- counting


def test_counting_over_twelve_windows(hold: Callable[..., None]) -> None:
    """Prefixes that were not asked for before, of all lengths, other ones for each of the two."""
    one: list[str] = []
    twelve: list[str] = []
    draw = random.Random(13)

    def prepare() -> None:
        for texts in (one, twelve):
            texts[:] = [f"{text}/{draw.randint(8, 32)}" for text in new_texts(draw, 5_000)]

    with filled(12) as audit:
        subjects = {
            "one": timed('audit.series.count("s", x)', one, audit=audit),
            "twelve": timed('audit.series.count("s", x, 0, 11)', twelve, audit=audit),
        }
        hold("range-12", Race(subjects, prepare), "twelve", "one", ROUNDS)


# ---- turning

AROUND = 1_000
TURNS = 5 if QUICK else 15


def longest_add(audit: InboundAudit, addresses: list[bytes]) -> float:
    """Microseconds of the slowest of some adds, each timed by itself."""
    add, clock, most = audit.series.add, perf_counter_ns, 0
    for address in addresses:
        started = clock()
        add("s", address)
        most = max(most, clock() - started)
    return most / 1000


def pauses(hosts: int) -> tuple[list[float], list[float]]:
    """The longest of the adds before each turn, and of those after it. The window that expires has so many hosts.

    A ring of one window: the turn empties the very tree that was filled.
    """
    seconds = [0.0]
    before, after = [], []
    full = packed("full", hosts)
    with InboundAudit(clock=lambda: seconds[0]) as audit:
        audit.series.define("s", "ip", 10, 1)
        for turn in range(TURNS):
            for address in full:
                audit.series.add("s", address)
            fresh = packed(f"turn {turn}", 2 * AROUND)
            with quiet():
                before.append(longest_add(audit, fresh[:AROUND]))
                seconds[0] += 10
                after.append(longest_add(audit, fresh[AROUND:]))
            assert audit.series.count("s", "0.0.0.0/0") == AROUND
    return before, after


def test_turning_to_the_next_window(once: Callable[..., Any], report: Callable[..., None]) -> None:
    """A pause that the turn makes comes with every turn, and what the machine does meanwhile does not: the median over
    the turns is held, and beside it stands what the same shows where nothing turns."""
    sizes = (100_000,) if QUICK else (100_000, 1_000_000)
    seen = once(lambda: {size: pauses(size) for size in sizes})
    details = {}
    for size, (before, after) in seen.items():
        details[f"{size:,} hosts, before the turn"] = statistics.median(before)
        details[f"{size:,} hosts, after it"] = statistics.median(after)
    worst = max(seen.values(), key=lambda both: statistics.median(both[1]))
    report("turn", summary(worst[1]), details, "microseconds, longest of 1,000 adds")


# ---- a bound


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell the resident set")
def test_rotating_addresses(once: Callable[..., Any], report: Callable[..., None]) -> None:
    took = once(lambda: measured(1_000_000 if QUICK else 10_000_000))
    assert took["wrong"] == []
    figures = {name: took[name] / 2**20 for name in ("resident", "memory")}
    figures |= {"prefixes of /48 and shorter, all exact": took["prefixes"], "hosts left": took["hosts"]}
    report("rotating-rss", summary([figures["resident"]]), figures, "MiB, or as said")


# ---- from Lua

ADDS = """
local cdef, address, handle = ...
local ffi = require("ffi")
ffi.cdef(cdef)
local add = ffi.cast("int64_t (*)(const void *, const char *, size_t, const char *, size_t, int64_t)", address)
local ac = ffi.cast("const ia_ac *", handle)
return function(texts, size, n)
    for i = 1, n do
        local key = texts[i]
        if add(ac, "s", 1, key, #key, 1) ~= 0 then error("not added") end
    end
end
"""
LOOP = 20_000


def test_adding_from_lua(hold: Callable[..., None]) -> None:
    """The texts are Lua's own, in a table of its own: what is measured is the call."""
    luajit = pytest.importorskip("lupa.luajit21")
    runtime = luajit.LuaRuntime()
    texts = new_texts(random.Random(15), LOOP)
    with filled(1) as audit, audit.listener().session("192.0.2.7") as ac:
        address = _ipcount.lua_abi()["ia_series_add"]
        add = runtime.execute(ADDS, _ipcount.LUA_CDEF, float(address), float(ac._handle))
        table = runtime.table_from(texts)
        subjects = {
            "Python": timed('audit.series.add("s", x)', texts, audit=audit),
            "LuaJIT": loop_of(LOOP, lambda n: add(table, len(texts), n)),
        }
        hold("lua-add", Race(subjects), "LuaJIT", "Python", ROUNDS)
