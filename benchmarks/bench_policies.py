"""What a policy costs a session: `Limits`, a Lua policy, the same in Sieve, and one count from Lua."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns, sleep, time
from typing import Any

import pytest

from benchmarks.bench_counts import FLOOR, RANDOM, open_sessions
from benchmarks.measure import Batch, Race, timed
from benchmarks.scale import ROUNDS
from inbound_audit import InboundAudit, Limits, Session
from inbound_audit.listeners import Guard

THREE_LIMITS = """
require("msys.core")
local mod = {}
local limits = { { "/32", 10 }, { "/24", 100 }, { "/0", 20000 } }
function mod:validate_connect(ac, vctx)
  for i = 1, 3 do
    if ac:inbound_session_count(limits[i][1]) > limits[i][2] then
      return vctx:disconnect(421, "connection limit exceeded")
    end
  end
  return msys.core.VALIDATE_CONT
end
msys.registerModule("three_limits", mod)
"""

THREE_LIMITS_IN_SIEVE = """
($host) = audit_service "SMTP" "/32";
if ec_test :value "gt" :comparator "i;ascii-numeric" "${host}" "10" {
  ec_disconnect 421 "connection limit exceeded";
}
($network) = audit_service "SMTP" "/24";
if ec_test :value "gt" :comparator "i;ascii-numeric" "${network}" "100" {
  ec_disconnect 421 "connection limit exceeded";
}
($all) = audit_service "SMTP" "/0";
if ec_test :value "gt" :comparator "i;ascii-numeric" "${all}" "20000" {
  ec_disconnect 421 "connection limit exceeded";
}
"""

# The loop runs inside of a hook, so what is measured is a count from Lua and not the way into Lua.
COUNTS_IN_A_HOOK = """
require("msys.core")
local mod = {}
function mod:validate_connect(ac, vctx)
  for i = 1, %d do
    ac:inbound_session_count("/24")
  end
  return msys.core.VALIDATE_CONT
end
msys.registerModule("counts", mod)
"""
LOOP = 20_000

WINDOW_S = 4
"""Of a limit over time: longer than it is measured, and short enough to wait for two."""

# Patterns of an ordinary policy on names that clients give themselves; the same loop runs without a policy.
PATTERNS_IN_A_LOOP = """
  local names = {"mail-7.dyn.customers.example.net", "h1.example.org", "a.dyn.example.com", "x-1-2-3-4.dyn.example"}
  local n = 0
  for i = 1, %d do
    local name = names[i %% 4 + 1]
    if name:find("[dy]n") then n = n + #name:match("^[%%w-]+%%.(.+)$") end
  end
"""
PATTERNS_IN_A_HOOK = f"""
local mod = {{}}
function mod:validate_connect(ac, vctx){PATTERNS_IN_A_LOOP}end
msys.registerModule("patterns", mod)
"""
PYTHON_LOOP = "function(ac, n) for i = 1, n do ac.inbound_session_count('/24') end end"


@pytest.fixture
def lua_policy(tmp_path: Path) -> Callable[[str], Any]:
    """Makes a LuaPolicy of a script. It has to have LuaJIT's FFI: without it the bars mean nothing."""
    policies = pytest.importorskip("inbound_audit.lua.policy")

    def make(script: str) -> Any:
        path = tmp_path / "policy.lua"
        path.write_text(script)
        policy = policies.LuaPolicy(path, on_error="refuse")
        if not policy.ffi:
            pytest.skip(f"{policy.implementation} has no FFI")
        return policy

    return make


def same_lua() -> Any:
    """A bare state of the Lua that policies run in."""
    from inbound_audit.lua.world import import_lua

    return import_lua(None).LuaRuntime()


def a_thousand(sessions: list[Session]) -> list[Session]:
    return random.Random(6).choices(sessions, k=5_000)


def test_limits(floor: Callable[[], Any], hold: Callable[..., None]) -> None:
    limits = Limits({"/32": 10, "/24": 100, "/0": 20000})
    with open_sessions(RANDOM.texts(1_000)) as (_, _, sessions):
        assert all(map(limits.validate_connect, sessions))
        asked = a_thousand(sessions)
        subjects = {
            "floor": timed(FLOOR, asked, floor=floor()),
            "Limits": timed("limits.validate_connect(x)", asked, limits=limits),
        }
        hold("limits", Race(subjects), "Limits", "floor", ROUNDS)


def test_limit_over_time(hold: Callable[..., None]) -> None:
    """Each host has an event in both windows, and an open session."""
    open_now, over_time = Limits({"/24": 100}), Limits({"/24": f"100/{WINDOW_S}s"})
    with InboundAudit(monitors=[f"{WINDOW_S},2"]) as audit:
        listener = audit.listener("SMTP")
        sessions: list[Session] = []
        for _ in range(2):
            for session in sessions:
                session.close()
            sleep(WINDOW_S - time() % WINDOW_S + 0.1)
            sessions = [listener.session(text) for text in RANDOM.texts(1_000)]
        assert all(map(over_time.validate_connect, sessions))
        asked = a_thousand(sessions)
        subjects = {
            "open sessions": timed("limits.validate_connect(x)", asked, limits=open_now),
            "over time": timed("limits.validate_connect(x)", asked, limits=over_time),
        }
        hold("limit-over-time", Race(subjects), "over time", "open sessions", ROUNDS)
        for session in sessions:
            session.close()


def test_lua_policy(lua_policy: Callable[[str], Any], hold: Callable[..., None]) -> None:
    policy = lua_policy(THREE_LIMITS)
    with open_sessions(RANDOM.texts(1_000)) as (_, _, sessions):
        assert all(map(policy.validate_connect, sessions))
        asked = a_thousand(sessions)
        subjects = {
            "empty Lua function": timed("empty()", asked, empty=same_lua().eval("function() end")),
            "LuaPolicy": timed("policy.validate_connect(x)", asked, policy=policy),
        }
        hold("lua-policy", Race(subjects), "LuaPolicy", "empty Lua function", ROUNDS)
        assert policy.errors == 0


def test_sieve_policy(lua_policy: Callable[[str], Any], tmp_path: Path, hold: Callable[..., None]) -> None:
    policies = pytest.importorskip("inbound_audit.sieve.policy")
    path = tmp_path / "policy.sieve"
    path.write_text(THREE_LIMITS_IN_SIEVE)
    sieve, lua = policies.SievePolicy(path, on_error="refuse"), lua_policy(THREE_LIMITS)
    with open_sessions(RANDOM.texts(1_000)) as (_, _, sessions):
        assert all(map(sieve.validate_connect, sessions))
        assert all(map(lua.validate_connect, sessions))
        asked = a_thousand(sessions)
        subjects = {
            "LuaPolicy": timed("policy.validate_connect(x)", asked, policy=lua),
            "SievePolicy": timed("policy.validate_connect(x)", asked, policy=sieve),
        }
        hold("sieve", Race(subjects), "SievePolicy", "LuaPolicy", ROUNDS)
        assert sieve.errors == lua.errors == 0


# Under attack a refusal is the hot path. The last of three limits is over, so that both outcomes count three times.


@contextmanager
def outcomes(accepts: Any, refuses: Any) -> Iterator[Race]:
    with open_sessions(RANDOM.texts(1_000)) as (_, _, sessions):
        assert all(map(accepts.validate_connect, sessions))
        assert not any(map(refuses.validate_connect, sessions))
        asked = a_thousand(sessions)
        policies = {"accepts": accepts, "refuses": refuses}
        yield Race({name: timed("policy.validate_connect(x)", asked, policy=one) for name, one in policies.items()})


def over(script: str) -> str:
    """The script with a last limit that every session is over."""
    assert "20000" in script
    return script.replace("20000", "0")


def test_limits_refused(hold: Callable[..., None]) -> None:
    limits = [Limits({"/32": 10, "/24": 100, "/0": maximum}) for maximum in (20_000, 0)]
    with outcomes(*limits) as race:
        hold("limits-refused", race, "refuses", "accepts", ROUNDS)


def test_lua_refused(lua_policy: Callable[[str], Any], hold: Callable[..., None]) -> None:
    policies = [lua_policy(script) for script in (THREE_LIMITS, over(THREE_LIMITS))]
    with outcomes(*policies) as race:
        hold("lua-refused", race, "refuses", "accepts", ROUNDS)
    assert not any(policy.errors for policy in policies)


def test_sieve_refused(tmp_path: Path, hold: Callable[..., None]) -> None:
    policies = pytest.importorskip("inbound_audit.sieve.policy")
    made = []
    for script in (THREE_LIMITS_IN_SIEVE, over(THREE_LIMITS_IN_SIEVE)):
        path = tmp_path / f"{len(made)}.sieve"
        path.write_text(script)
        made.append(policies.SievePolicy(path, on_error="accept" if made else "refuse"))
    with outcomes(*made) as race:
        hold("sieve-refused", race, "refuses", "accepts", ROUNDS)
    assert not any(policy.errors for policy in made)


def test_guard_refused(hold: Callable[..., None]) -> None:
    with open_sessions(RANDOM.texts(1_000)) as (_, listener, _):
        guards = [Guard(listener, Limits({"/32": 10, "/24": 100, "/0": maximum})) for maximum in (20_000, 0)]
        clients = RANDOM.texts(5_000)
        subjects = {
            name: timed("guard.admit(x).close()", clients, guard=guard)
            for name, guard in zip(("accepts", "refuses"), guards, strict=True)
        }
        hold("guard-refused", Race(subjects), "refuses", "accepts", ROUNDS)
        assert guards[0].refused == guards[1].accepted == 0


def test_count_from_lua(lua_policy: Callable[[str], Any], hold: Callable[..., None]) -> None:
    policy = lua_policy(COUNTS_IN_A_HOOK % LOOP)
    through_lupa = same_lua().eval(PYTHON_LOOP)
    with open_sessions(RANDOM.texts(1_000)) as (_, _, sessions):
        subjects = {
            "on a Python object": loop_of(LOOP // 20, lambda n: through_lupa(sessions[0], n)),
            "on ac": loop_of(LOOP, lambda _: policy.validate_connect(sessions[0])),
        }
        hold("lua-count", Race(subjects), "on a Python object", "on ac", ROUNDS)
        assert policy.errors == 0


def test_patterns_in_lua(lua_policy: Callable[[str], Any], hold: Callable[..., None]) -> None:
    policy = lua_policy(PATTERNS_IN_A_HOOK % LOOP)
    bare = same_lua().eval(f"function(){PATTERNS_IN_A_LOOP % LOOP}end")
    with open_sessions(RANDOM.texts(1_000)) as (_, _, sessions):
        subjects = {
            "bare LuaJIT": loop_of(LOOP, lambda _: bare()),
            "in a hook": loop_of(LOOP, lambda _: policy.validate_connect(sessions[0])),
        }
        hold("lua-patterns", Race(subjects), "in a hook", "bare LuaJIT", ROUNDS)
        assert policy.errors == 0


def loop_of(calls: int, run: Callable[[int], object]) -> Batch:
    """A batch whose loop is not Python's: `run` makes that many calls."""

    def batch() -> float:
        started = perf_counter_ns()
        run(calls)
        return (perf_counter_ns() - started) / calls

    return batch
