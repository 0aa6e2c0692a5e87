"""No script holds a listener up: whatever a hook calls, with whatever arguments, it ends in an error of its bounds."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.support.lua_support import KINDS
from tests.support.sharing import FULL

# A hook that does one thing for ever, and catches every error that can be caught. `f` is the function, `ways` are its
# arguments. What takes long to make is made while the policy is loaded.
SCRIPT = """
A = ("a"):rep(2^18 - 16)
DIGITS, BRACKETS, MACROS = ("1"):rep(2^18 - 16), ("("):rep(2^18), ("%{"):rep(2^17)
BIG, TEXTS, EMPTIED, DEEP = {}, {}, {}, {}
for i = 1, 1e5 do BIG[i] = i % 7 EMPTIED[i .. "x"] = i end
for i = 1, 1e5 do EMPTIED[i .. "x"] = nil end
for i = 1, 1e4 do TEXTS[i] = A DEEP = {DEEP} end
local function long() return A end
local function wrong() return true end
local SHOWN = setmetatable({}, {__tostring = long})

function ways_of(ac, vctx)
    local many = {unpack(TEXTS, 1, 250)}
    return {
        {}, {A}, {BIG}, {TEXTS}, {EMPTIED}, {DEEP}, {SHOWN}, {wrong}, {2^53}, {-2^53}, {A, A}, {A, A .. "b"},
        {A:sub(2), A:sub(3, 2^17) .. "b", 1, true}, {A, "b", -1, true},
        {A, ".-.-.-.-b"}, {A, "(.-)(.-)(.-)b", "%1"}, {A, ("a?"):rep(25) .. "b"}, {BRACKETS, "%b()", ""},
        {A, "(a*)%1%1b"}, {A, "%f[b].-c"}, {A, "[" .. ("a-a"):rep(90) .. "]-b"}, {A, ".", A}, {A, ".", long},
        {A, ".", {a = A}}, {A, "", A}, {A, "a", ("%0"):rep(400)}, {A, "(a?)*b"}, {A, "^(a|a)*(a|aa)+$b"},
        {A, 2^31 - 1}, {A, 2^53}, {"", 2^31 - 1}, {"", 2^53, A}, {A, 1, 2^31 - 1}, {A, 1, -1}, {DIGITS}, {DIGITS, 36},
        {DIGITS .. "x"}, {("%99d"):rep(200), unpack(BIG, 1, 200)}, {("%q"):rep(250), unpack(many)},
        {("%s"):rep(250), unpack(many)}, {("%s"):rep(2000), unpack(TEXTS, 1, 2000)}, {("%c"):rep(1e4)},
        {MACROS}, {BIG, 2^53, 1}, {BIG, 2^31 - 1, 1}, {BIG, -2^31, 1}, {BIG, 1, 0}, {BIG, 1}, {{}, 2^53, 1},
        {{}, -2^53, 1}, {BIG, A}, {BIG, A, 1, 2^31}, {TEXTS, A}, {TEXTS, ""}, {{}, A, 1, 2^31}, {BIG, wrong},
        {BIG, math.abs}, {BIG, tostring}, {BIG, function(a, b) return a > b end}, {BIG, 1, 2^31 - 1},
        {BIG, -2^31, 2^31 - 1, 1}, {BIG, 1, 1e5, 2}, {"#", unpack(BIG, 1, 7000)}, {unpack(BIG, 1, 7000)},
        {unpack(many)}, {os.clock}, {wrong, wrong}, {wrong, A}, {long, long}, {coroutine.create(wrong)},
        {"x", {type = A}}, {"x", BIG}, {A, {type = "empty"}}, {"l"}, {"l", A}, {A, "text", 60, 6, BIG},
        {"s", {key = A, count = 1}}, {"s", ac}, {"s", {key = ac, startv = 0, endv = 2^53}}, {"300,6"},
        {"300,6", {cidr = "/0", startv = 0, endv = 5}}, {A, {startv = 0, endv = 2^53}}, {"/24", "SMTP"},
        {ac}, {ac, A}, {("%s"):rep(200), SHOWN, SHOWN, unpack(many)},
        {ac, BIG}, {ac, "/24", A},
        {vctx}, {vctx, 1, A, A}, {vctx, 1, A}, {vctx, 421, A}, {vctx, A, A},
        {vctx, A}, {vctx, BIG}, {vctx, TEXTS}, {vctx, {honor_whitelist = BIG}}, {vctx, 2, tostring(math.random()), A},
        {A .. "m"}, {A:sub(1, 7000), "((x{1,100}){1,10})*y", "x"}, {("a"):rep(8000), "(a*)*b", ("$0"):rep(400)},
        {("m"):rep(255)}, {"l", {type = "rbldnsd", source = ("a/"):rep(2048)}}, {"l", {type = "rbldnsd", source = "."}},
        {"return 1" .. (" + 1"):rep(2000)}, {"x = '" .. ("\\\\z "):rep(2000)}, {("["):rep(8000)}, {("a.b{"):rep(2000)},
    }
end

-- Every function that a script can reach, by its name.
functions = {}
local seen = {}
for _, t in ipairs({_G, package.loaded, functions, BIG, TEXTS, EMPTIED, DEEP}) do seen[t] = true end
local function collect(t, name)
    for key, value in pairs(t) do
        local path = name .. tostring(key)
        if type(value) == "function" and path ~= "ways_of" then
            functions[path] = value
        elseif type(value) == "table" and not seen[value] then
            seen[value] = true
            collect(value, path .. ".")
        end
    end
end
for _, name in ipairs({"bit", "string.buffer", "ffi", "jit", "table.new", "table.clear", "io", "debug"}) do
    pcall(require, name)
end
collect(_G, "")
for _, name in ipairs({"inbound_session_count", "pbp_inbound_session_count_service", "esmtp_capability_add"}) do
    functions["ac:" .. name] = function(ac, ...) return ac[name](ac, ...) end
end
for _, name in ipairs({
    "set", "get", "exists", "set_code", "pbp_action", "disconnect", "tarpit", "recipient_list",
}) do
    functions["vctx:" .. name] = function(vctx, ...) return vctx[name](vctx, ...) end
end

-- What is no function, and uses of functions that are worse than any arguments.
statements = {
    ["a text that grows"] = function() local s = "x" while true do s = s .. s end end,
    ["long texts"] = function() while true do local s = A:sub(1, 2^17) .. "x" end end,
    ["many long texts"] = function() while true do local t = {A .. "1", A .. "2", A .. "3"} end end,
    ["digits"] = function() local s = DIGITS while true do local n = s + 0 end end,
    ["texts that are compared"] = function() local a, b = A .. "a", A .. "b" while true do local x = a < b end end,
    ["first keys"] = function() while true do next(EMPTIED) end end,
    ["loops over nothing"] = function() while true do for _ in pairs(EMPTIED) do end end end,
    ["a table that grows"] = function() local t = {} while true do t[#t + 1] = t end end,
    ["tables"] = function() local t = {} while true do t = {t, t, t, t} end end,
    ["values"] = function(ac, vctx) for i = 1, 1e9 do vctx:set(1, "x" .. i % 1000, i) end end,
    ["series"] = function(ac) for i = 1, 1e9 do msys.audit_series.add("s", {key = "k" .. i}) end end,
    ["counts"] = function(ac) while true do ac:inbound_session_count("/0") end end,
    ["parts in a row"] = loadstring(
        "while true do " .. ("A:upper() A:sub(2) A:reverse() A:byte(1, 7000) "):rep(200) .. "end"),
    ["numbers in a row"] = loadstring("while true do " .. ("tonumber(DIGITS) "):rep(500) .. "end"),
    ["keys in a row"] = loadstring("while true do " .. ("next(EMPTIED) "):rep(500) .. "end"),
    ["results in a row"] = loadstring("while true do " .. ("select(2, unpack(BIG, 1, 7000)) "):rep(500) .. "end"),
    ["characters in a row"] = loadstring(
        "local t = {unpack(BIG, 1, 7000)} while true do " .. ("string.char(unpack(t)) "):rep(500) .. "end"),
    ["matches in a row"] = loadstring(
        "local s = ('x'):rep(4000) while true do " .. ("s:gsub('x', 'y') s:find('y') s:match('y') "):rep(150) .. "end"),
    ["dates in a row"] = loadstring(
        "local f = ('%c'):rep(400) while true do " .. ("os.date(f) "):rep(500) .. "end"),
    ["messages in a row"] = loadstring("while true do " .. ("debug.traceback(A) "):rep(500) .. "end"),
    ["long sums"] = loadstring(
        "local function f() return " .. ("A .. "):rep(150) .. "A end while true do pcall(f) end"),
    ["goto"] = loadstring("local function f() return f() end f()"),
    ["pcall"] = function() local function f() pcall(f) pcall(f) pcall(f) end f() end,
    ["many pcalls"] = loadstring("local function f() " .. ("pcall(f) "):rep(500) .. "end f()"),
    ["xpcall"] = function() local function f() xpcall(f, f) xpcall(f, f) end f() end,
    ["coroutines"] = function()
        local function f() coroutine.resume(coroutine.create(f)) coroutine.resume(coroutine.create(f)) end f()
    end,
    ["wraps"] = function() local function f() pcall(coroutine.wrap(f)) pcall(coroutine.wrap(f)) end f() end,
    ["replacements"] = function() local function f(s) s:gsub(".", f) end f(A) end,
    ["modules"] = function() package.path = ("a/?;"):rep(100) while true do pcall(require, "x") end end,
    ["deep modules"] = function() package.path = ("a/"):rep(2000) .. "?" while true do pcall(require, "x") end end,
    ["lists"] = function()
        local options = {type = "rbldnsd", source = "worst.lua"}
        while true do pcall(msys.cidr.define, "list", options) pcall(msys.cidr.reload, "list") end
    end,
    ["memory"] = function()
        while true do pcall(function() local t = {} while true do t[#t + 1] = A .. #t end end) end
    end,
    ["the dots"] = function()
        local s = ("."):rep(500) .. "y" while true do s:match("^(.-)%.(.-)%.(.-)%.(.-)%.x$") end
    end,
}

local function call(f, way)
    return f(unpack(way, 1, table.maxn(way)))
end

msys.audit_series.define("s", "string", 60, 6)
msys.cidr.define("l", "empty")
local mod, ways = {}, nil
local AC, VCTX = {}, {} -- stand for what a hook gets
function mod:init()
    ways = ways_of(AC, VCTX)
end
function mod:validate_connect(ac, vctx)
    for i = 1, #ways do
        for place = 1, 2 do
            local given = ways[i][place]
            ways[i][place] = given == AC and ac or given == VCTX and vctx or given
        end
    end
    vctx:set_code(250, #ways)
end
function mod:validate_ehlo(text, ac, vctx) -- for ever, from the arguments of a number on
    local name, first = text:match("^(.*) (.*)$")
    local f = functions[name]
    if statements[name] then
        while true do pcall(statements[name], ac, vctx) end
    end
    for i = first, 2^53 do
        pcall(call, f, ways[i % #ways + 1])
    end
end
function mod:validate_mailfrom(text) -- once
    local name, number = text:match("^(.*) (.*)$")
    pcall(call, functions[name], ways[tonumber(number)])
end
function mod:validate_rcptto() end
msys.registerModule("m", mod)
local function names(t)
    local list = {}
    for name in pairs(t) do list[#list + 1] = name end
    return table.concat(list, "|")
end
print("names " .. names(functions) .. "||" .. names(statements))
"""

PROGRAM = """
    import logging, random, sys, time
    messages = []
    class Keep(logging.Handler):
        def emit(self, record):
            text = record.getMessage()
            messages.append(text) if "names " in text else None
    logger = logging.getLogger("inbound_audit.lua")
    logger.addHandler(Keep())
    logger.propagate = False
    logging.getLogger("inbound_audit.address_lists").setLevel(logging.CRITICAL)
    from inbound_audit import InboundAudit, LuaPolicy
    from inbound_audit.policy.message import Message
    from inbound_audit.lua import world
    from inbound_audit.ration import Ration
    room = world.room
    def patient_room(name):  # the script has as long to load as a busy machine needs
        text = room(name)
        assert name != "steps" or text.count(b"START_FACTOR = 100 ") == 1
        return text.replace(b"START_FACTOR = 100 ", b"START_FACTOR = 1e5 ")
    world.room = patient_room
    def made():
        logger.setLevel(logging.INFO)
        policy = LuaPolicy({path!r}, lua={lua!r}, ffi={ffi}, audit=audit, on_error="refuse", max_hook_ms=10)
        logger.setLevel(logging.CRITICAL)
        policy._ration = Ration(1e9)  # each hook is run, whatever those before have taken
        return policy
    full, chance = {full}, random.Random({lua!r})
    with InboundAudit(monitors=["300,6"]) as audit:
        policy = made()
        functions, statements = (text.split("|") for text in messages[0].partition("names ")[2].split("||"))
        for number, name in enumerate(sorted(functions + statements)):
            print(name, flush=True)
            if full:
                policy.close()
                policy = made()
            with audit.listener().session("192.0.2.7") as ac:
                longest, slowest, ways = 0, 0, range(1, int(policy.validate_connect(ac).text) + 1)
                for way in ways if full else chance.sample(ways, 1):
                    if name in functions:
                        began = time.thread_time()
                        policy.validate_mailfrom(ac, f"{{name}} {{way}}")
                        longest, slowest = max((longest, slowest), (time.thread_time() - began, way))
                began = time.thread_time()
                assert not policy.validate_ehlo(ac, f"{{name}} {{chance.choice(ways)}}"), name
                error, held = policy.last_error, time.thread_time() - began
                assert policy.validate_rcptto(ac, "x", Message("x", ["x"], 1)), policy.last_error
            figures = f"{{held * 1000:.0f}} ms, arguments {{slowest}}: {{longest * 1000:.0f}} ms"
            print(f"    {{figures}}: {{error[:200]}}", flush=True)
        policy.close()
    print("survived")
"""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", KINDS)
def test_every_function_with_the_worst_arguments_known(tmp_path: Path, name: str) -> None:
    """In a process of its own: what hangs is killed, and the test names it. `make faults` tries each function with all
    arguments once, and not only with some."""
    path, kind = tmp_path / "worst.lua", KINDS[name]
    path.write_text(SCRIPT)
    program = textwrap.dedent(PROGRAM.format(path=str(path), lua=kind.lua, ffi=kind.ffi, full=FULL))
    with (tmp_path / "output").open("w+") as output:
        try:
            code = subprocess.run(
                [sys.executable, "-c", program], stdout=output, stderr=subprocess.STDOUT, timeout=3000, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
        output.seek(0)
        lines = output.read().splitlines()
    assert code == 0, lines[-8:]
    assert lines[-1] == "survived"
    reached = dict(zip(lines[0:-1:2], lines[1::2], strict=True))
    assert {"string.find", "table.insert", "msys.pcre.match", "vctx:set", "the dots", "pcall"} <= reached.keys()
    bounds = ("max_hook_ms bounds them", "max_steps bounds them")
    assert {key: line for key, line in reached.items() if not line.endswith(bounds)} == {}
    assert {key: line for key, line in reached.items() if "worst.lua:" not in line and "[string" not in line} == {}
