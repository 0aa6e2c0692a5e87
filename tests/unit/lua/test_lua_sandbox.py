"""What a script can't do: reach Python, FFI, files, processes or bytecode; run for ever; bring the process down."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from tests.support.lua_support import KINDS, Bench, Kind, bench_of
from tests.support.timing import Clock

from inbound_audit.errors import PolicyError
from inbound_audit.lua import world
from inbound_audit.ration import Ration

ROOMS = sorted((Path(world.__file__).parent).glob("*.lua"))


@pytest.mark.parametrize(
    "expression",
    [
        "python", "jit", "io", "newproxy", "dofile", "loadfile", "gcinfo", "os.exit", "os.execute", "os.remove",
        "os.rename", "os.tmpname", "os.getenv", "os.setlocale", "string.dump", "('').dump", "debug.getregistry",
        "debug.sethook", "debug.getinfo", "debug.setmetatable", "debug.getupvalue", "package.loadlib", "package.cpath",
        "package.loaders", "package.loaded.ffi", "package.loaded.jit", "package.loaded.python", "package.loaded.io",
        "package.preload.ffi", "getfenv(0).python", "getfenv(1).python", "getfenv(print).python", "_G.python",
        "getfenv(ac.inbound_session_count).python", "getfenv(require).debug.getinfo", "table.new",
    ],
)  # fmt: skip
def test_what_is_not_there(bench: Bench, expression: str) -> None:
    assert bench.say(expression) == "nil"


@pytest.mark.parametrize(
    "module", ["ffi", "jit", "python", "io", "bit.x", "jit.util", "string.buffer", "table.new", "lupa"]
)
def test_modules_that_require_does_not_find(bench: Bench, module: str) -> None:
    assert f"module '{module}' not found: no file" in bench.fails(f"require '{module}'")


WALK = """
    local seen, found = {}, {}
    local function note(what, path) found[#found + 1] = what .. " " .. path end
    local function visit(value, path)
        local kind = type(value)
        if kind == "userdata" and value ~= ac then note(kind, path) end
        if kind ~= "table" and kind ~= "function" and kind ~= "userdata" and kind ~= "thread" or seen[value] then
            return
        end
        seen[value] = true
        local metatable = getmetatable(value)
        if metatable then visit(metatable, path .. ".metatable") end
        if kind == "function" then
            local environment = getfenv(value)
            if environment ~= _G then note("environment", path) end
            if value ~= mine and pcall(setfenv, value, {}) then note("setfenv", path) end
        elseif kind == "table" then
            for key, inner in next, value do
                visit(key, path .. ".key")
                visit(inner, path .. "." .. tostring(key))
            end
        end
    end
    visit(_G, "_G")
    visit(ac, "ac")
    visit(vctx, "vctx")
    for _, name in ipairs({"inbound_session_count", "esmtp_capability_add", "remote_addr", "conn_id"}) do
        visit(ac[name], "ac." .. name)
    end
    visit(getmetatable(""), "strings")
    visit(coroutine.create(function() end), "thread")
    vctx:set_code(250, table.concat(found, ", "))
"""


def test_nothing_foreign_is_reachable(bench: Bench) -> None:
    """Walks everything that a script can get hold of: no userdata but ac, no environment but the script's own."""
    policy = bench.policy(f"local mod = {{}}\nfunction mod.validate_connect(self, ac, vctx)\n{WALK}\nend\n"
                          "mine = mod.validate_connect\nmsys.registerModule('m', mod)")  # fmt: skip
    verdict = policy.validate_connect(bench.session())
    assert policy.errors == 0, policy.last_error
    assert verdict.text == ""


@pytest.mark.parametrize("body", [
    "setfenv(0, {})", "setfenv(print, {})", "setfenv(require, {})", "setfenv(ac.inbound_session_count, {})",
])  # fmt: skip
def test_environments_that_cannot_be_changed(bench: Bench, body: str) -> None:
    assert "'setfenv' cannot change the environment" in bench.fails(body)


def test_environments_of_ones_own(bench: Bench) -> None:
    assert bench.say("(function() setfenv(1, {x = 5}) return x end)()") == "5"
    assert bench.say("setfenv(function() return x end, {x = 6})()") == "6"
    assert bench.say("getfenv() == _G and getfenv(1) == _G and getfenv(0) == _G and getfenv(print) == _G") == "true"
    assert bench.say("(function() local e = {e = 1} local g = getfenv setfenv(1, e) return g(1) == e end)()") == "true"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("getmetatable('').__index = {}", "attempt to index"),
        ("getmetatable(ac).__index = {}", "attempt to index"),
        ("getmetatable(vctx).__index = {}", "attempt to index"),
        ("setmetatable(ac, {})", "table expected"),
        ("setmetatable(vctx, {})", "protected metatable"),
        ("ac.tree = 1", "an accept construct is read-only; can't set tree"),
        ("ac.conn_id = 1", "read-only"),
        ("ac[0] = 1", "read-only"),
        ("return 1 + ac()", "call"),
        ("local x = ac + 1", "attempt to perform arithmetic"),
        ("local x = ac < ac", "attempt to compare"),
        ("local x = #ac", "attempt to get length"),
        ("local x = ac .. 'x'", "attempt to concatenate"),
        ("local x = ac.nosuch()", "nosuch"),
        ("ac:inbound_session_count(('x'):rep(2^17))", "xxx"),
    ],
)
def test_nothing_can_be_done_to_an_accept_construct(bench: Bench, body: str, message: str) -> None:
    assert message in bench.fails(body)


def test_an_accept_construct_shows_no_memory(bench: Bench) -> None:
    for name in ("tree", "hi", "lo", "open", "pad", "epoch", "_", "0", "__index"):
        assert bench.say(f"ac['{name}']") == "nil"
    assert bench.say("ac[0]") == "nil"
    assert bench.say("type(ac)") == "userdata"
    assert bench.say("tostring(ac)").endswith(" from 192.0.2.7:25")
    assert bench.say("ac == ac and ac ~= nil and ac ~= 1 and ac ~= {}") == "true"


@pytest.mark.parametrize("body", [
    "while true do end",
    "repeat until false",
    "for i = 1, math.huge do end",
    "local function f() return f() end f()",
    "while true do pcall(function() end) end",
    "pcall(function() while true do end end) while true do end",
    "local f f = function() pcall(f) return f() end f()",
    "coroutine.wrap(function() while true do end end)()",
    "assert(loadstring('while true do end'))()",
    "('x'):rep(1000):gsub('.', function() while true do end end)",
    "local t = setmetatable({}, {__index = function(t, k) while true do end end}) return t.x",
    "table.sort({1, 2, 3}, function() while true do end end)",
])  # fmt: skip
def test_an_endless_loop_ends(bench: Bench, body: str) -> None:
    policy = bench.hook(body, max_steps=20_000)
    assert policy.validate_connect(bench.session())
    assert policy.errors == 1
    assert policy.last_error is not None
    assert "more than 20000 steps" in policy.last_error
    assert policy.last_error.startswith(("policy.lua:", '[string "while true'))


@pytest.mark.parametrize("kind", [KINDS["luajit-ffi"], KINDS["luajit20-ffi"]], ids=["luajit-ffi", "luajit20-ffi"])
def test_an_endless_goto_ends(tmp_path: Path, kind: Kind) -> None:
    for bench in bench_of(tmp_path, kind):
        assert "more than 500 steps" in bench.fails("local goto_ = 1 ::again:: goto again", max_steps=500)


def test_each_hook_has_steps_of_its_own(bench: Bench) -> None:
    policy = bench.hook("for i = 1, 900 do end", max_steps=1000)
    for _ in range(5):
        policy.validate_connect(bench.session())
    assert policy.errors == 0


def test_endless_recursion_and_memory_end(bench: Bench) -> None:
    assert "stack overflow" in bench.fails("local function f() return 1 + f() end f()")
    if bench.kind.lua != "luajit20":
        grow = "held = held or {} for i = 1, 1e6 do held[#held + 1] = ('x'):rep(1000) .. i end"
        assert "not enough memory" in bench.fails(grow, max_memory=16 << 20)


def test_memory_that_is_held_is_an_error_and_no_crash(bench: Bench) -> None:
    """A script that sits on all the memory there is: every further hook fails, and none takes the process down."""
    if bench.kind.lua == "luajit20":
        pytest.skip("LuaJIT 2.0 has no bound on its memory")
    policy = bench.policy(
        """
        local mod, held = {}, {}
        local function fill()
            for size = 16, 0, -1 do
                pcall(function() while true do held[#held + 1] = ("x"):rep(2 ^ size) .. #held end end)
            end
        end
        function mod:validate_connect(ac, vctx) fill() end
        function mod:validate_ehlo(text, ac, vctx) held[#held + 1] = text end
        msys.registerModule("m", mod)
        """,
        max_memory=8 << 20,
        max_steps=10**7,
    )
    ac = bench.session()
    policy.validate_connect(ac)
    for length in (1, 100, 100_000):
        assert policy.validate_ehlo(ac, "x" * length)
    policy.end_session(ac)
    assert policy.errors >= 3
    assert policy.last_error == "not enough memory"


def test_no_finalizer_of_a_script_ever_runs(bench: Bench) -> None:
    """In Lua 5.1 an error in one would come out of whatever call allocates next, outside of any pcall."""
    assert bench.say("getmetatable(setmetatable({}, {__gc = function() error('boom') end})).__gc ~= nil") == "true"
    policy = bench.hook(
        "for i = 1, 100 do setmetatable({}, {__gc = function() error('boom') end}) end collectgarbage()"
    )
    policy.validate_connect(bench.session())
    assert policy.errors == 0


def test_bytecode_is_refused(bench: Bench) -> None:
    assert bench.say("select(2, loadstring('\\27LJ\\2'))") == "bytecode is not allowed"
    piecewise = "local pieces = {'', 'Lua', '\\27'}"
    assert (
        bench.say("select(2, load(function() return table.remove(pieces) end))", piecewise) == "bytecode is not allowed"
    )
    bench.write("bin.lua", "\x1bLJ")
    assert "bin.lua: is Lua bytecode" in bench.fails("require 'bin'")


def test_the_collector_stays_on(bench: Bench) -> None:
    for option in ("stop", "restart", "setpause", "setstepmul", "isrunning"):
        assert "only 'collect', 'count' and 'step'" in bench.fails(f"collectgarbage('{option}', 1)")
    assert float(bench.say("collectgarbage('count')")) > 10
    assert bench.say("collectgarbage() and collectgarbage('step') ~= nil") == "true"


def test_changing_the_libraries_changes_nothing_below(bench: Bench) -> None:
    """Scripts may replace what they see; the bridge has taken what it needs."""
    policy = bench.policy(
        """
        for _, library in ipairs({string, table, math}) do
            for name in pairs(library) do library[name] = function() error("replaced " .. name) end end
        end
        local mod, keep = {}, {registerModule = msys.registerModule}
        function mod:validate_connect(ac, vctx)
            vctx:set(1, "k", 5)
            if ac:inbound_session_count("/24") ~= 1 then vctx:disconnect(421, "no") end
            ac:esmtp_capability_add("SIZE")
            return vctx:disconnect("450 " .. msys.expandMacro("%{i} %{vctx_conn:k}"), "later")
        end
        for name in pairs(_G) do if name ~= "msys" and name ~= "_G" then _G[name] = nil end end
        keep.registerModule("m", mod)
        """
    )
    ac = bench.session()
    verdict = policy.validate_connect(ac)
    assert policy.errors == 0, policy.last_error
    assert (verdict.code, verdict.text) == (450, "192.0.2.7 5 later")
    assert policy.capabilities(ac) == (("SIZE",), ())


def test_hostile_globals_do_not_reach_the_host(bench: Bench) -> None:
    """lupa looks a global up before every call; a script's globals are others."""
    policy = bench.policy(
        """
        debug = setmetatable({}, {__index = function() error("reached") end})
        setmetatable(_G, {__index = function(_, name) error("no global " .. tostring(name)) end})
        msys.registerModule("m", {validate_connect = function(self, ac, vctx) vctx:set_code(250, "fine") end})
        """
    )
    assert policy.validate_connect(bench.session()).text == "fine"


@pytest.mark.parametrize("room", ROOMS, ids=lambda path: path.stem)
def test_no_room_reads_a_global_later(room: Path) -> None:
    """After the boot the globals are empty, so only the outermost function of a room may read one."""
    lua = import_module("lupa.luajit21").LuaRuntime()
    lister = lua.execute(
        """
        local util = require("jit.util")
        local function opcode(source, at) return util.funcbc(loadstring(source), at) % 256 end
        local GET, SET = opcode("return foo", 1), opcode("foo = 1", 2)
        local found = {}
        local function walk(f, depth)
            local pc = 1
            while true do
                local instruction = util.funcbc(f, pc)
                if not instruction then break end
                local op = instruction % 256
                if depth > 0 and (op == GET or op == SET) then found[#found + 1] = util.funcinfo(f, pc).loc end
                pc = pc + 1
            end
            for i = -1, -200, -1 do
                local constant = util.funck(f, i)
                if constant == nil then break end
                if type(constant) == "proto" then walk(constant, depth + 1) end
            end
        end
        return function(source, name) walk(assert(loadstring(source, name)), 0) return table.concat(found, " ") end
        """
    )
    assert lister(room.read_text(), "=" + room.name) == ""
    assert lister("local x = 1 function f() return y end", "=bad") == "bad:1"


def test_guarded_functions_do_what_they_did(bench: Bench) -> None:
    assert bench.say("('a-b'):gsub('%w', string.upper)") == "A-B"
    assert bench.say("select(2, ('aaa'):gsub('a', {a = 'b'}, 2))") == "2"
    assert bench.say("select('#', coroutine.resume(coroutine.create(function(...) return ... end), 1, nil))") == "3"
    counting = "local next = coroutine.wrap(function(a) local b = coroutine.yield(a + 1) coroutine.yield(b * 2) end)"
    assert bench.say("next(1) .. ' ' .. next(10)", counting) == "2 20"
    assert bench.say("select(2, unpack({1, 2, 3}))") == "2"
    assert bench.say("select('#', unpack({}, 1, 3))") == "3"
    assert bench.say("('x'):rep(5000):find(('x'):rep(4000), 1, true)") == "1"
    assert bench.say("string.format('%5.1f|%s|%q', 1.25, 7, 'a')") == '  1.2|7|"a"'
    assert bench.fails("('x'):gsub('%', '')").startswith("policy.lua:3: ")
    assert bench.fails("('x'):gsub('x', function() error('inner') end)") == "policy.lua:3: inner"
    assert bench.fails("coroutine.wrap(function() error('inner') end)()") == "policy.lua:3: inner"
    assert bench.fails("string.format('%d', 'x')").startswith("policy.lua:3: bad argument #2 to 'format' (")
    caught = "local n = 0 for i = 1, 200 do if not pcall(string.gsub, 'x', 'x', error) then n = n + 1 end end"
    assert bench.say("n", caught) == "200"


# ---- steps and time: what a hook has used up it can't have again


@pytest.mark.parametrize(
    "body",
    [
        "pcall(function() while true do end end) return 1",
        "xpcall(function() while true do end end, function() end) return 1",
        "coroutine.resume(coroutine.create(function() while true do end end)) return 1",
        "pcall(coroutine.wrap(function() while true do end end)) return 1",
        "pcall(string.gsub, 'x', 'x', function() while true do end end) return 1",
        "pcall(table.sort, {1, 2}, function() while true do end end) return 1",
        "pcall(loadstring('while true do end')) return 1",
        "local function f() pcall(f) pcall(f) end f() return 1",
    ],
)
def test_nothing_catches_the_end_of_a_hook(bench: Bench, body: str) -> None:
    for options, bound in (
        ({"max_steps": 5000}, "max_steps"),
        ({"max_hook_ms": 1, "max_steps": 10**12}, "max_hook_ms"),
    ):
        policy = bench.hook(body, on_error="refuse", **options)
        assert not policy.validate_connect(bench.session())
        assert str(policy.last_error).endswith(f"in one hook; {bound} bounds them")
        assert ":1: " in str(policy.last_error) or "policy.lua:3: " in str(policy.last_error)


def test_time_begins_anew_with_each_hook(bench: Bench) -> None:
    policy = bench.hook("if ac.remote_ip == '192.0.2.1' then while true do end end", max_hook_ms=1, on_error="refuse")
    policy._ration = Ration(1, Clock())  # so much is never used up here
    for _ in range(3):
        assert not policy.validate_connect(bench.session("192.0.2.1"))
        assert policy.validate_connect(bench.session("192.0.2.2"))


@pytest.mark.parametrize("bound", ["max_hook_ms", "max_steps"])
@pytest.mark.parametrize("value", [0, -1, 1.5, None, True, "50"])
def test_a_bound_that_is_no_number_is_refused(bench_of_first_kind: Bench, bound: str, value: object) -> None:
    with pytest.raises(PolicyError, match=f"{bound} .*: expected a whole number from 1"):
        bench_of_first_kind.hook("", **{bound: value})


@pytest.mark.parametrize(
    ("call", "message"),
    {
        "string.sub()": "bad argument #1 to 'sub' (",
        "string.upper({})": "bad argument #1 to 'upper' (",
        "string.char(999)": "bad argument #1 to 'char' (",
        "string.rep()": "bad argument #1 to 'rep' (",
        "tonumber()": "bad argument #1 to 'tonumber' (",
        "tonumber('1', 99)": "bad argument #2 to 'tonumber' (",
        "next(1)": "bad argument #1 to 'next' (",
        "select(0)": "bad argument #1 to 'select' (",
        "table.insert(1, 2)": "bad argument #1 to 'insert' (",
        "table.remove(1)": "bad argument #1 to 'remove' (",
        "table.concat(1)": "bad argument #1 to 'concat' (",
    }.items(),
)
def test_a_wrong_argument_is_an_error_at_the_scripts_line(bench: Bench, call: str, message: str) -> None:
    assert bench.fails(call).startswith(f"policy.lua:3: {message}")


def test_a_traceback_is_made_of_a_message_alone(bench: Bench) -> None:
    """Lua 5.1 itself appends all arguments: of many long texts it makes one before a bound of texts can be asked."""
    error = bench.fails("local t = {} for i = 1, 250 do t[i] = ('x'):rep(2^17) end debug.traceback(unpack(t))")
    assert "debug.traceback: more than 3 arguments" in error
    assert bench.say("debug.traceback('words', 1):match('^words%s+stack traceback:') ~= nil") == "true"


def test_print_shows_each_of_many_words(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert bench.say("(print(1, nil, 'x', nil))") == "nil"
    assert "1\tnil\tx\tnil" in caplog.text
