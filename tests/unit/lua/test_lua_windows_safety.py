"""What a script can pass to the functions of windows, in compiled loops and in threads: an answer each time."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.lua_support import KINDS, Bench, Kind
from tests.support.lua_windows import (
    DEFINE,
    ECHO,
    TEXTS,
    Timed,
    ask,
    literal,
    timed,
)

from inbound_audit import LuaPolicy, Session
from inbound_audit.policy.verdict import ACCEPT, Verdict


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Timed]:
    yield from timed(tmp_path, request.param)


# ---- speed, and what it may not change


def test_loops_that_are_compiled(bench: Timed) -> None:
    """LuaJIT compiles these; the sums are those of Python."""
    policy = bench.policy(
        f"""{DEFINE}
        local mod = {{}}
        function mod:validate_connect(ac, vctx)
            kept = kept or ac
            local sum = 0
            for i = 1, 3000 do
                msys.audit_series.add("s", {{count = i % 7 - 3 ~= 0 and i % 7 - 3 or 1}})
                msys.audit_series.add("s", "192.0.2." .. i % 50)
                msys.audit_series.add("s", kept)
                msys.audit_series.add("t", {{key = "k" .. i % 10, count = 2}})
                sum = sum + msys.audit_series.count("s", "/24") + msys.audit.connections("300,6", "/24")
                if i % 500 == 0 then msys.audit_series.remove_item("s", "192.0.2.49") end
            end
            vctx:set_code(250, tostring(sum))
        end
        msys.registerModule("m", mod)
        """
    )
    bench.session("192.0.2.200")
    assert policy.validate_connect(bench.session("192.0.2.100")) is not ACCEPT
    verdict = policy.validate_connect(bench.session("192.0.2.7"))
    assert policy.errors == 0, policy.last_error
    counts, total = dict.fromkeys(range(256), 0), 0
    for peer, connections in ((100, 2), (7, 3)):
        total = 0
        for i in range(1, 3001):
            counts[peer] += i % 7 - 3 or 1
            counts[i % 50] += 1
            counts[100] += 1
            total += sum(counts.values()) + connections
            if i % 500 == 0:
                counts[49] = 0
    assert verdict.text == lua_number(total)
    assert {n: bench.audit.series.count("s", f"192.0.2.{n}") for n in counts} == counts
    assert [bench.audit.series.count("t", f"k{n}") for n in range(10)] == [1200] * 10


def lua_number(value: int) -> str:
    return f"{value:.14g}"


def test_threads_count_at_once(bench: Timed) -> None:
    """Lua in several threads and Python beside it, on one series; nothing is lost, and the Python clock is asked."""
    policy = bench.policy(
        f"""{DEFINE}
        local mod = {{}}
        function mod:validate_connect(ac, vctx)
            for i = 1, 20 do
                msys.audit_series.add("s", {{count = i % 2 == 0 and -1 or 2}})
                msys.audit_series.add("t", ac.remote_ip)
                if msys.audit.connections("300,6", "/24") < 1 then error("no connection") end
            end
        end
        msys.registerModule("m", mod)
        """
    )

    def work(number: int) -> None:
        for i in range(60):
            with bench.listener.session(f"192.0.2.{number}") as ac:
                policy.validate_connect(ac)
                bench.audit.series.add("s", ac, -1 if i % 2 else 1)

    bench.audit.series.define("s", "cidr", 300, 6)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert policy.errors == 0, policy.last_error
    assert [bench.audit.series.count("s", f"192.0.2.{n}") for n in range(5)] == [600] * 5
    assert [bench.audit.series.count("t", f"192.0.2.{n}") for n in range(5)] == [1200] * 5
    assert bench.audit.connections("300,6", "192.0.2.0/24") == 300
    bench.audit._check_windows()


def test_policies_that_define_are_collected(bench: Timed) -> None:
    policy = bench.policy(ECHO)
    ask(policy, bench.session(), 'msys.audit_series.add("s", {count = -1})')
    bench.policies.clear()
    gone = weakref.ref(policy)
    del policy
    gc.collect()
    assert gone() is None


# ---- what a script can pass

# Every value in every place of every function. What is told is the same through FFI and without it.
HOSTILE = """
    local endless = setmetatable({}, {__index = function(t, k) return t[k .. "x"] end})
    local raising = setmetatable({}, {__index = function() error("from __index") end})
    local shapeless = setmetatable({}, {__tostring = function() return {} end})
    local inherited = setmetatable({}, {__index = {key = "192.0.2.9", count = -2, startv = 0, endv = 1, cidr = "/24"}})
    local yielding = setmetatable({}, {__index = function() coroutine.yield() end})
    local values = {
        false, true, 0, -0, 1, -1, 0.5, 0/0, 1/0, -1/0, 1e308, -1e308, 2^31, 2^32, 2^53, 2^63, -2^63, 2^64,
        "", "s", "t", "x", "300,6", "300,6\\0", "/24", "192.0.2.7", "192.0.2.7\\0", "\\255\\0\\254", ("x"):rep(5000),
        ("9"):rep(400), "0x10", "1e3", "nan", "inf", {}, {key = {}}, {key = 0/0, count = {}}, {startv = 1e300},
        {startv = -2^63, endv = 2^63}, {cidr = {}}, {count = 2^63}, endless, raising, shapeless, {key = shapeless},
        {count = shapeless}, {startv = shapeless}, inherited, yielding, print, coroutine.create(print), vctx, ac, kept,
        {key = ac}, {key = kept, count = -1}, msys, string,
    }
    local names = {}
    for _, name in ipairs({"connections", "connection", "receptions", "rejections"}) do
        names[#names + 1] = {name, msys.audit[name], {"300,6", "/24"}}
    end
    names[#names + 1] = {"add", msys.audit_series.add, {"s", "192.0.2.9"}}
    names[#names + 1] = {"add text", msys.audit_series.add, {"t", "x"}}
    names[#names + 1] = {"count", msys.audit_series.count, {"s", "/24"}}
    names[#names + 1] = {"remove_item", msys.audit_series.remove_item, {"s", "192.0.2.9"}}
    names[#names + 1] = {"define", msys.audit_series.define, {"d", "cidr", 60, 6, {}}}
    local function tell(ok, answer)
        local kind = type(answer)
        local words = (kind == "string" or kind == "number") and tostring(answer) or kind
        words = words:gsub("0x%x+", "ADDRESS"):gsub("builtin#%d+", "ADDRESS"):gsub("%-nan", "nan"):sub(1, 300)
        out[#out + 1] = tostring(ok) .. " " .. words
    end
    out = {}
    for _, case in ipairs(names) do
        for place = 1, #case[3] do
            for i, value in ipairs(values) do
                local arguments = {unpack(case[3])}
                arguments[place] = value
                out[#out + 1] = case[1] .. " " .. place .. " " .. i
                tell(pcall(case[2], unpack(arguments, 1, #case[3])))
            end
            local arguments = {unpack(case[3])}
            arguments[place] = nil
            tell(pcall(case[2], unpack(arguments, 1, #case[3])))
        end
        tell(pcall(case[2]))
        tell(pcall(case[2], case[3][1], setmetatable({}, {__index = function() case[2](case[3][1]) end})))
        tell(coroutine.wrap(function() return pcall(case[2], unpack(case[3])) end)())
    end
"""


def hostile(directory: Path, kind: Kind) -> list[str]:
    """What a process of its own is told, in a thread whose stack is smaller than that of the first."""
    script = directory / "hostile.lua"
    body = HOSTILE + "\n for i = 1, #out do print(out[i]) end"
    script.write_text(
        DEFINE + "\nlocal mod = {}\nfunction mod:validate_ehlo(text, ac, vctx) kept = ac end\n"
        f"function mod:validate_connect(ac, vctx)\n{body}\nend\nmsys.registerModule('m', mod)"
    )
    program = f"""
        import logging, sys, threading
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
        threading.stack_size(1 << 20)
        from inbound_audit import InboundAudit, LuaPolicy
        def work():
            with InboundAudit(monitors=["300,6"], clock=lambda: 1e9) as audit:
                policy = LuaPolicy({str(script)!r}, lua={kind.lua!r}, ffi={kind.ffi})
                with audit.listener().session("192.0.2.8") as old:
                    policy.validate_ehlo(old, "x")
                policy.validate_connect(audit.listener().session("192.0.2.7"))
                assert policy.errors == 0, policy.last_error
                audit._check_windows()
                print("survived")
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    """
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    lines = result.stdout.splitlines()
    assert lines[-1:] == ["survived"], (lines[-3:], result.returncode, result.stderr)
    return lines


def test_whatever_a_script_passes_is_an_answer(tmp_path: Path) -> None:
    by_ffi, portable = (hostile(tmp_path, KINDS[name]) for name in ("luajit-ffi", "luajit-portable"))
    assert by_ffi == portable
    assert sum("true" in line for line in by_ffi) > 100
    assert sum("false" in line for line in by_ffi) > 300


@pytest.mark.parametrize("name", ["luajit20-ffi", "lua51"])
def test_whatever_a_script_passes_to_another_lua_is_an_answer(tmp_path: Path, name: str) -> None:
    assert len(hostile(tmp_path, KINDS[name])) > 500


HUGE = [
    "ac:inbound_session_count(huge)", "ac:inbound_session_count('/24', huge)", "msys.audit.connections(huge)",
    "msys.audit.connections('300,6', huge)", "msys.audit_series.add('s', huge)", "msys.audit_series.add(huge)",
    "msys.audit_series.count('t', huge)", "msys.audit_series.remove_item('s', huge)", "msys.cidr.query('l', huge)",
    "msys.audit_series.define(huge, huge, huge, huge)", "loadstring('return [[' .. huge .. ']]')",
]  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_a_text_that_leaves_no_room_for_its_error(tmp_path: Path, name: str) -> None:
    """In a process of its own: handing back words for which there is no memory would end it, or stop it for ever."""
    (tmp_path / "l.txt").write_text("192.0.2.0/24\n")
    bodies = "\n".join(f"function(ac, huge) local n = {call} end," for call in HUGE)
    script = tmp_path / "huge.lua"
    script.write_text(
        f"""{DEFINE}
        msys.cidr.define("l", {{type = "rbldnsd", source = "l.txt"}})
        local mod, bodies = {{}}, {{{bodies}}}
        function mod:validate_ehlo(name, ac, vctx)
            bodies[tonumber(name)](ac, ("x"):rep(6e6))
        end
        function mod:validate_connect(ac, vctx) vctx:set_code(250, tostring(ac:inbound_session_count("/24"))) end
        msys.registerModule("m", mod)
        """
    )
    program = f"""
        import logging
        logging.disable()
        from inbound_audit import InboundAudit, LuaPolicy
        with InboundAudit() as audit, audit.listener().session("192.0.2.7") as ac:
            policy = LuaPolicy({str(script)!r}, lua={KINDS[name].lua!r}, ffi={KINDS[name].ffi}, max_memory=1 << 24)
            for number in range({len(HUGE)}):
                print(number + 1, flush=True)
                policy.validate_ehlo(ac, str(number + 1))
                assert policy.validate_connect(ac).text == "1"
            print("survived")
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=100, check=False
    )
    reached = result.stdout.split()[-1]
    assert reached == "survived", f"{HUGE[int(reached) - 1]}: {result.returncode} {result.stderr}"


VALUES = st.one_of(
    st.none(), st.integers(-(2**33), 2**33), st.floats(), st.sampled_from(TEXTS), st.text(max_size=6),
    st.sampled_from(["s", "t", "/24", "192.0.2.7", "192.0.2.0/24", "300,6"]),
)  # fmt: skip


def number_literal(value: object) -> str:
    if isinstance(value, float):
        return "(0/0)" if value != value else f"({value!r})".replace("inf", "1/0")
    return f"({value})" if isinstance(value, int) else literal(value)


@given(name=st.sampled_from(["s", "t"]), key=VALUES, count=VALUES, startv=VALUES, endv=VALUES)
def test_ffi_and_portable_say_the_same(
    pair: tuple[LuaPolicy, LuaPolicy, Session, Session],
    name: str,
    key: object,
    count: object,
    startv: object,
    endv: object,
) -> None:
    by_ffi, portable, ac, twin = pair
    options = ", ".join(
        f"{option} = {number_literal(value)}"
        for option, value in (("key", key), ("cidr", key), ("count", count), ("startv", startv), ("endv", endv))
    )
    for call in (f'audit_series.add("{name}", ', f'audit_series.count("{name}", ', 'audit.connections("300,6", '):
        expression = f"msys.{call}{{{options}}})"
        assert told(by_ffi, ac, expression) == told(portable, twin, expression)


def told(policy: LuaPolicy, ac: Session, expression: str) -> Verdict:
    verdict = policy.validate_ehlo(ac, expression)
    assert policy.errors == 0, policy.last_error
    return verdict


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LuaPolicy, LuaPolicy, Session, Session]]:
    benches = [
        Bench(tmp_path_factory.mktemp(name), KINDS[name], monitors=["300,6"], clock=lambda: 1e9)
        for name in ("luajit-ffi", "luajit-portable")
    ]
    by_ffi, portable = (bench.policy(ECHO) for bench in benches)
    yield by_ffi, portable, benches[0].session("192.0.2.7"), benches[1].session("192.0.2.7")
    for bench in benches:
        bench.close()
