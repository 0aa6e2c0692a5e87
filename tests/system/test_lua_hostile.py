"""Hostile policies, each in a process of its own: a script ends in a value or an error, and the process lives."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.lua_support import KINDS, Bench, Kind, bench_of
from tests.support.lua_windows import DEFINE


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    yield from bench_of(tmp_path, request.param)


def test_an_interpreter_that_exits_with_policies_alive(tmp_path: Path) -> None:
    """No order of tear-down crashes: policies, sessions and audits left to the end of the process, and a cycle."""
    (tmp_path / "p.lua").write_text(
        "local mod = {} function mod:validate_connect(ac) kept = ac self.x = 1 end msys.registerModule('m', mod)"
    )
    program = f"""
        import warnings
        warnings.simplefilter("ignore")
        from inbound_audit import InboundAudit, LuaPolicy
        from inbound_audit._ipcount import SeriesStore
        audit = InboundAudit()
        keep = []
        for kind in {[tuple(kind) for kind in KINDS.values()]!r}:
            policy = LuaPolicy({str(tmp_path / "p.lua")!r}, lua=kind[0], ffi=kind[1])
            session = audit.listener().session("2001:db8::7")
            assert policy.validate_connect(session)
            policy.itself = policy
            keep.append((policy, session))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=200, check=False
    )
    assert result.returncode == 0, result.stderr


# Each ends in an error or an answer; without the sandbox most of them end the process in one Lua or another.
HARSH = [
    "local n = 300000 return string.find(('a'):rep(n), ('a?'):rep(n))",
    "local function f() return coroutine.wrap(f)() end f()",
    "local function f() return 1 + coroutine.wrap(f)() end f()",
    "local function f() return coroutine.resume(coroutine.create(f)) end f()",
    "local function f(s) return (s:gsub('.', f)) end f('x')",
    "local m = {} local t = setmetatable({}, m) m.__index = function() return (('x'):gsub('.', t)) end return t.x",
    "local m = {} local t = setmetatable({}, m) m.__tostring = function() return ('%s'):format(t) end print(t)",
    "local m = {} local t = setmetatable({}, m) m.__tostring = function() return 1 .. tostring(t) end print(t)",
    "local m = {} local t = setmetatable({}, m) m.__index = function(t, k) return 1 + t[k] end return t.x",
    "local m = {} local t = setmetatable({}, m) m.__concat = function() return 'x' .. (t .. 'y') end return t .. 'x'",
    "local function c() table.sort({1, 2, 3}, c) end table.sort({1, 2, 3}, c)",
    "local function h(e) error(e) end xpcall(function() error('x') end, h)",
    "local function f() return pcall(f) end f()",
    "pcall(unpack, {}, -2^31, 2^31 - 1) pcall(unpack, {}, 2^31 - 2, 2^31 - 1) unpack({}, 1, 1e8)",
    "loadstring('return ' .. ('('):rep(1e5) .. '1' .. (')'):rep(1e5))",
    "loadstring('return ' .. ('('):rep(1e5) .. '1 & 1')",
    "loadstring('return ' .. ('{'):rep(1e5))",
    "loadstring(('a.'):rep(1e5) .. 'b = 1 | 2')",
    "loadstring('return ' .. ('~'):rep(1e5) .. '1')",
    "string.format('%' .. ('0'):rep(4e5) .. 'd', 1)",
    "string.rep('x', 2^40)",
    "table.concat({}, 'x', 1, 2^31)",
    "local co co = coroutine.wrap(function() return co() end) co()",
    "require(('x'):rep(1e5))",
    "package.loaded = nil require('x')",
    "package.path = {} require('x')",
    "package.preload.x = require('msys').core require('x')",
    "msys.cidr.define('l', {type = 'rbldnsd', source = '/dev/zero\\0x'})",
    "msys.cidr.query(('x'):rep(1e6))",
    "vctx:set_code(250, ('x'):rep(1e7))",
    "debug.traceback(1, 2, 3) debug.traceback(coroutine.create(print), 'x')",
    "error(setmetatable({}, {__tostring = function() error('y') end}))",
    "local m, d = {}, msys.dumper.Dumper local t = setmetatable({}, m) "
    "m.__tostring = function() return d({[t] = 1, [{}] = 2}) end d({[t] = 1, [{}] = 2})",
    "local t = {} for i = 1, 1e5 do t = {t} end msys.dumper.Dumper(t)",
    "msys.pcre.match(('x'):rep(8e3), ('('):rep(900))",
    "msys.pcre.match(('x'):rep(8e3), ('(x*)'):rep(30) .. 'y')",
    "msys.pcre.match(('x'):rep(8e3), '((x{1,100}){1,10})*y')",
    "msys.pcre.split(('x'):rep(8e3), '')",
    "msys.pcre.split(('x'):rep(1e6), 'x')",
    "msys.pcre.replace(('x'):rep(8e3), 'x', ('y'):rep(1e3))",
    "msys.pcre.replace(('x'):rep(8e3), '(x)|(y)', ('$2'):rep(500))",
    "msys.expandMacro(('%{spfv1:lr-}'):rep(1e5))",
    "for i = 1, 1e4 do msys.audit.define_monitor('300,6') end",
    "print(setmetatable({}, {__tostring = function() return {} end}))",
    "for i = 1, 1000 do coroutine.wrap(function() coroutine.yield() end)() end",
    "getfenv(50)",
    "setfenv(50, {})",
    "module('_G')",
    "module()",
]


def test_a_harsh_script_ends_in_an_answer(bench: Bench, tmp_path: Path) -> None:
    """In a process of its own, and in a thread, whose stack is smaller than that of the first."""
    bodies = "\n".join(f"function(self, ac, vctx) {body} end," for body in HARSH)
    path = bench.write(
        "harsh.lua",
        "local bodies = {" + bodies + "}\n"
        "msys.registerModule('m', {validate_ehlo = function(self, text, ac, vctx)\n"
        "return bodies[tonumber(text)](self, ac, vctx) end})",
    )
    program = f"""
        import logging, threading
        logging.disable()
        threading.stack_size(1 << 20)
        from inbound_audit import InboundAudit, LuaPolicy
        from inbound_audit._ipcount import SeriesStore
        def work():
            audit = InboundAudit()
            for number in range(1, {len(HARSH) + 1}):
                policy = LuaPolicy({str(path)!r}, lua={bench.kind.lua!r}, ffi={bench.kind.ffi}, max_steps=300000)
                with audit.listener().session("2001:db8::7") as ac:
                    print(number, flush=True)
                    policy.validate_ehlo(ac, str(number))
                    assert policy.validate_connect(ac)
            print("survived")
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=200, check=False
    )
    reached = result.stdout.split()[-1]
    assert reached == "survived", f"{HARSH[int(reached) - 1]}: {result.returncode} {result.stderr}"


# Every value in every place of every function. The message is the same through FFI and without it.
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
        words = words:match("stack overflow") or words  -- a compiled trace does not say where
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
    """The output of a process of its own, in a thread whose stack is smaller than that of the first."""
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
        from inbound_audit._ipcount import SeriesStore
        def work():
            with InboundAudit(monitors=["300,6"], clock=lambda: 1e9) as audit:
                policy = LuaPolicy({str(script)!r}, lua={kind.lua!r}, ffi={kind.ffi}, max_hook_ms=10**6)
                with audit.listener().session("192.0.2.8") as old:
                    policy.validate_ehlo(old, "x")
                policy.validate_connect(audit.listener().session("192.0.2.7"))
                assert policy.errors == 0, policy.last_error
                SeriesStore(audit).check()
                print("survived")
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    """
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
        capture_output=True, text=True, timeout=200, check=False,
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
        from inbound_audit._ipcount import SeriesStore
        with InboundAudit() as audit, audit.listener().session("192.0.2.7") as ac:
            policy = LuaPolicy({str(script)!r}, lua={KINDS[name].lua!r}, ffi={KINDS[name].ffi}, max_memory=1 << 24)
            for number in range({len(HUGE)}):
                print(number + 1, flush=True)
                policy.validate_ehlo(ac, str(number + 1))
                assert policy.validate_connect(ac).text == "1"
            print("survived")
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=200, check=False
    )
    reached = result.stdout.split()[-1]
    assert reached == "survived", f"{HUGE[int(reached) - 1]}: {result.returncode} {result.stderr}"


START = """
import sys
from inbound_audit import InboundAudit, LuaPolicy
from inbound_audit.errors import PolicyError
try:
    policy = LuaPolicy(sys.argv[1], lua=sys.argv[2], max_memory=int(sys.argv[3]))
except PolicyError as error:
    print(error)
else:
    with InboundAudit() as audit, audit.listener().session("192.0.2.7") as ac:
        for _ in range(3):
            policy.validate_connect(ac)
            policy.validate_ehlo(ac, "x" * 1000)
    print("loaded")
"""
SIZES = [1, 5000, 50_000, 100_000, 300_000, (2 << 20) - 1, 2 << 20, 3 << 20, 8 << 20]


@pytest.mark.parametrize("lua", ["luajit21", "lua51"])
def test_memory_that_does_not_suffice_for_a_start_is_an_error(tmp_path: Path, lua: str) -> None:
    """Whatever the bound and the script's size are: Lua itself would end the process."""
    hook = "msys.registerModule('m', {validate_connect = function() end})"
    for length in (0, 500_000, 1_500_000, 3_000_000):
        path = tmp_path / f"p{length}.lua"
        path.write_text(hook + "\n--" + "x" * length + "\nlocal t = [[" + "y" * length + "]]")
        for size in SIZES:
            command = [sys.executable, "-c", START, str(path), lua, str(size)]
            result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            assert (length, size, result.returncode, result.stderr) == (length, size, 0, "")
            if size < 2 << 20:
                assert "expected a whole number from 2097152" in result.stdout
            elif length == 0:
                assert result.stdout == "loaded\n"
