"""The monitors that a script counts with: known when it is loaded, and checked against the audit then."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.lua_support import Bench
from tests.unit.cli.test_cli_parts import settings

from inbound_audit import InboundAudit, LuaPolicy, load_policy
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.service import parts
from inbound_audit.errors import PolicyError

EXAMPLE = Path(__file__).parents[3] / "examples" / "policies" / "frequency.lua"

SERVER = {"monitor": (), "monitor_bytes": 1 << 24, "capacity": 1 << 24, "on_error": "accept"}

HOOK = "msys.registerModule('m', {{validate_connect = function(self, ac, vctx) {} end}})"
NEEDS = {
    "direct": (HOOK.format("msys.audit.connections('300,6')"), ("300,6",)),
    "options": (HOOK.format("msys.audit.rejections('60,3', {startv = 0})"), ("60,3",)),
    "constant": ("local M = '5m,6' " + HOOK.format("return msys.audit.receptions(M)"), ("5m,6",)),
    "by name": ("local M = [[300,6]] " + HOOK.format("msys.audit['connections'](M)"), ()),
    "two": (HOOK.format("msys.audit.connections('300,6') msys.audit.connection('60,1')"), ("300,6", "60,1")),
    "asked for": ("msys.audit.define_monitor('300' .. ',6') " + HOOK.format(""), ("300,6",)),
    "in a comment": (HOOK.format("--[[ msys.audit.connections('300,6') ]]"), ()),
    "of nothing": (HOOK.format("local t = '300,6'"), ()),
    "of a series": (HOOK.format("msys.audit_series.count('300,6')"), ()),
    "no monitor": (HOOK.format("msys.audit.connections('0,6')"), ()),
}


@pytest.mark.parametrize(("script", "monitors"), NEEDS.values(), ids=NEEDS)
def test_what_a_script_needs_is_known(bench_of_first_kind: Bench, script: str, monitors: tuple[str, ...]) -> None:
    policy = bench_of_first_kind.policy(script)
    assert policy.needed_monitors == monitors
    path = bench_of_first_kind.directory / "policy.lua"
    for make in (LuaPolicy, load_policy):
        with InboundAudit(monitors=[*monitors, "7,7"]) as audit:
            make(path, audit=audit).close()
        if monitors:
            with InboundAudit(monitors=["7,7"]) as audit, pytest.raises(PolicyError) as caught:
                make(path, audit=audit)
            assert str(caught.value).endswith("start with " + " ".join(f"--monitor {text}" for text in monitors))


def test_modules_that_are_required_count(bench_of_first_kind: Bench) -> None:
    bench_of_first_kind.write("counting.lua", "return function() return msys.audit.connections('300,6') end")
    policy = bench_of_first_kind.policy("local count = require('counting') " + HOOK.format("count()"))
    assert policy.needed_monitors == ("300,6",)


def test_a_monitor_that_is_asked_for_is_one(bench_of_first_kind: Bench) -> None:
    for wrong in ("'0,6'", "'x'", "5", "nil", "{}"):
        assert "policy.lua:3: " in bench_of_first_kind.fails(f"msys.audit.define_monitor({wrong})")


def test_a_server_is_refused_without_the_monitor() -> None:
    wanted = pytest.raises(Failure, match=r"frequency\.lua: .*start with --monitor 300,6")
    with wanted, parts(settings(**SERVER, policy=str(EXAMPLE))) as (audit, policies):
        policies.make(audit)
    with parts(settings(**{**SERVER, "monitor": ("300,6",)}, policy=str(EXAMPLE))) as (audit, policies):
        policies.make(audit)


def test_a_server_makes_the_monitors_that_a_script_asks_for(tmp_path: Path) -> None:
    path = tmp_path / "policy.lua"
    path.write_text("local M = '300,6' msys.audit.define_monitor(M) " + HOOK.format("msys.audit.connections(M)"))
    for given, made in (((), ("300,6",)), (("60,1",), ("60,1", "300,6")), (("5m,6",), ("300,6",))):
        with parts(settings(**{**SERVER, "monitor": given}, policy=str(path))) as (audit, policies):
            assert audit.monitors == made
            policies.make(audit)
    path.write_text(path.read_text().replace("300,6", "60,2"))
    with parts(settings(**{**SERVER, "monitor": ("300,6",)}, policy=str(path))) as (audit, policies):
        path.write_text(path.read_text().replace("60,2", "60,3"))
        with pytest.raises(Failure, match="start with --monitor 60,3"):  # at a reload the audit is there already
            policies.make(audit)
