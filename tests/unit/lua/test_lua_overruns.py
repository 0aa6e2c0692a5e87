"""Hooks that use up their time again and again: beyond a share of the time they are not run, and others are."""

from __future__ import annotations

import logging

import pytest
from tests.support.lua_support import Bench
from tests.support.timing import Clock

from inbound_audit import LuaPolicy
from inbound_audit.policy.base import SUSPENDED
from inbound_audit.policy.message import Message
from inbound_audit.policy.verdict import LOCAL_ERROR, UNAVAILABLE
from inbound_audit.ration import Ration

MESSAGE = Message("a", ["b"], 1)

POLICY = """
local mod, runs = {}, {connect = 0, mailfrom = 0, dealloc = 0}
local function forever() while true do end end
function mod:validate_connect(ac, vctx)
    runs.connect = runs.connect + 1
    vctx:set(msys.core.VCTX_CONN, "x", "y")
    forever()
end
function mod:validate_ehlo(text, ac, vctx)
    vctx:set_code(250, runs.connect .. " " .. runs.mailfrom .. " " .. runs.dealloc)
end
function mod:validate_mailfrom(text, ac, vctx)
    runs.mailfrom = runs.mailfrom + 1
    if text == "bad" then error("bad") end
    if text == "worst" then pcall(forever) forever() end
    vctx:set(msys.core.VCTX_MESS, "seen", text)
end
function mod:validate_rcptto(message, text, ac, vctx)
    local sender, seen = vctx:get(msys.core.VCTX_MESS, "mailfrom_string"), vctx:get(msys.core.VCTX_MESS, "seen")
    vctx:set_code(250, sender .. " " .. tostring(seen))
end
function mod:validate_dealloc()
    runs.dealloc = runs.dealloc + 1
    forever()
end
msys.registerModule("m", mod)
"""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def policy(bench: Bench, clock: Clock) -> LuaPolicy:
    """A policy whose overruns take a second of the ration each, and the ration is a second."""
    made = bench.policy(POLICY, max_steps=1000, on_error="refuse")
    made._ration = Second(1, clock)
    return made


class Second(Ration):
    def spend(self, seconds: float) -> None:
        super().spend(1 if seconds else 0)


def test_a_hook_that_always_uses_up_its_time_is_not_always_run(
    bench: Bench, policy: LuaPolicy, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    runs = []
    for _ in range(12):
        assert policy.validate_connect(bench.session()) is UNAVAILABLE
        runs.append(policy.validate_ehlo(bench.session(), "x").text.split()[0])
        clock.step(0.5)
    assert "".join(runs) == "122223333444"
    assert policy.errors_by_hook == {"validate_connect": 12}
    written = [message for message in caplog.messages if SUSPENDED in message]
    assert written == [f"{policy.path}: validate_connect failed: {SUSPENDED}"]


def test_other_hooks_are_run(bench: Bench, policy: LuaPolicy) -> None:
    """And a hook that was not run leaves nothing of the message before."""
    ac = bench.session()
    for _ in range(3):
        policy.validate_connect(ac)
    assert policy.validate_ehlo(ac, "x").text == "1 0 0"
    assert policy.validate_mailfrom(ac, "first")
    assert policy.validate_rcptto(ac, "r", MESSAGE).text == "first first"
    assert policy.validate_mailfrom(ac, "worst") is LOCAL_ERROR  # this one has not overrun yet
    assert policy.validate_mailfrom(ac, "second") is LOCAL_ERROR
    assert policy.validate_rcptto(ac, "r", MESSAGE).text == "second nil"
    assert policy.validate_ehlo(ac, "x").text == "1 2 0"


def test_sessions_end_although_their_hooks_are_not_run(bench: Bench, policy: LuaPolicy) -> None:
    sessions = [bench.session() for _ in range(5)]
    for ac in sessions:
        policy.validate_connect(ac)
    for ac in sessions:
        policy.end_session(ac)
    assert policy.sessions == 0
    assert policy.errors_by_hook == {"validate_connect": 5, "end_session": 1}  # no hook has seen the others


def test_an_error_is_no_overrun(bench: Bench, policy: LuaPolicy) -> None:
    ac = bench.session()
    for _ in range(9):
        policy.validate_mailfrom(ac, "bad")
    assert str(policy.last_error).endswith("bad")
    assert policy.validate_ehlo(ac, "x").text == "0 9 0"


def test_a_script_that_has_no_memory_left_is_an_overrun(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    policy = bench.hook(
        "local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(1e5) .. i end", max_memory=8 << 20, max_steps=10**9
    )
    if bench.kind.lua == "luajit20":
        pytest.skip("has no bound of memory")
    policy._ration = policy._world.ration = Second(1, Clock())
    errors = set()
    for _ in range(5):
        policy.validate_connect(bench.session())
        errors.add(str(policy.last_error).partition(": ")[2] or policy.last_error)
    assert errors == {"not enough memory", SUSPENDED}
