"""Patterns in bounded time: the matcher that counts its steps finds what the library finds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.support.lua_support import Bench

from inbound_audit.lua import world

# The room of patterns as if no text were short enough for the library, and each function beside the library's own.
COMPARE = b"""
local source = ...
local rooms = {steps = {count = function() end, pay = function() end, reserve = function() end,
    weigh = function() end, text = function(text) return text end, fail = error, MAX_TEXT = 2 ^ 18}}
local function room(name)
    rooms[name] = rooms[name] or assert(loadstring(source(name), "=" .. name))(room, {}, {})
    return rooms[name]
end
local ours = room("patterns")
local function all(find_next)
    local found = {}
    for a, b, c in find_next do
        found[#found + 1] = tostring(a) .. "," .. tostring(b) .. "," .. tostring(c)
    end
    return table.concat(found, ";")
end
local calls = {
    function(f, text, pattern) return f.find(text, pattern) end,
    function(f, text, pattern) return f.find(text, pattern, -3) end,
    function(f, text, pattern) return f.find(text, pattern, 2, true) end,
    function(f, text, pattern) return f.match(text, pattern) end,
    function(f, text, pattern) return f.match(text, pattern, 3) end,
    function(f, text, pattern) return all(f.gmatch(text, pattern)) end,
    function(f, text, pattern) return f.gsub(text, pattern, "<%0>") end,
    function(f, text, pattern) return f.gsub(text, pattern, "%1%%", 2) end,
    function(f, text, pattern) return f.gsub(text, pattern, {a = "A", b = false}) end,
    function(f, text, pattern) return f.gsub(text, pattern, function(x, y) return y end) end,
    function(f, text, pattern) return f.gsub(text, pattern, 7) end,
}
-- The library finds what is malformed in a pattern once it comes there.
local function is_malformed(message)
    for _, word in ipairs({"malformed", "missing", "unfinished", "unbalanced", "invalid"}) do
        if string.find(message, word, 1, true) then
            return true
        end
    end
end
local function shown(ok, ...)
    if not ok then
        return is_malformed(...) and "malformed" or "an error"
    end
    local values = {...}
    for i = 1, select("#", ...) do
        values[i] = tostring(values[i])
    end
    return table.concat(values, "|")
end
return function(text, pattern)
    for i = 1, #calls do
        local a, b = shown(pcall(calls[i], ours, text, pattern)), shown(pcall(calls[i], string, text, pattern))
        if a ~= b and a ~= "malformed" and b ~= "malformed" then
            return i .. ": " .. a .. " and not " .. b
        end
    end
end
"""


def compare(lua: str) -> Any:
    def source(name: bytes) -> bytes:
        return world.room(name.decode()).replace(b"SOON, LATER = 1e4, 1e6", b"SOON, LATER = -1, -1")

    assert source(b"patterns") != world.room("patterns")
    return world.import_lua(lua).LuaRuntime(encoding=None).execute(COMPARE, source)


COMPARED = {lua: compare(lua) for lua in ("luajit21", "lua51")}
PIECES = [
    "a", "b", ".", "%a", "%d", "%.", "[ab]", "[^a]", "[a-c]", "[%w_]", "[]a]", "[^]]", "(", ")", "()", "*", "+", "-",
    "?", "^", "$", "%b()", "%bab", "%f[%a]", "%f[b]", "%1", "%2", "%", "[", "(a*)", "(.-)", "(b?)", "x", "1", "%s",
    "%W",
]  # fmt: skip


@pytest.mark.parametrize("lua", COMPARED)
@settings(max_examples=300)
@example("", "")
@example("aab", "(a*)(b)")
@example("a.b.c", "^(.-)%.(.-)%.c$")
@example("((a)b)", "%b()")
@example("abab", "(ab)%1")
@example("THE (quick) fox", "%f[%a]%a+%f[%A]")
@example("hello", "")
@example("abc", "()b()")
@example("1", "()%1")
@example("aXb", "^a.b$")
@example("a^b$", "a^b$")
@example("a-b", "[a-]-[b-]")
@given(st.text("abx1.() _", max_size=9), st.lists(st.sampled_from(PIECES), max_size=6).map("".join))
def test_the_matcher_finds_what_the_library_finds(lua: str, text: str, pattern: str) -> None:
    assert COMPARED[lua](text.encode(), pattern.encode()) is None


def test_long_texts_are_matched(bench: Bench) -> None:
    assert bench.say("('x y  z '):rep(1500):gsub('%s+', ' '):len()") == "9000"
    assert bench.say("select(2, ('ab'):rep(4000):gsub('a(.)', {b = 'c'}))") == "4000"
    assert bench.say("('a'):rep(5000):find('^(a*)b?$')") == "1"
    assert bench.say("('.'):rep(500):match('^(.-)%.(.-)%.(.-)%.(.-)%.$')") == ""
    assert bench.say("#(('a'):rep(8000) .. 'b'):match('.-b')") == "8001"


def test_errors_of_the_matcher_name_script_and_line(bench: Bench) -> None:
    text = "('a'):rep(60000)"
    for pattern, message in {
        "(.-)(.-)(.-)[": "malformed pattern (missing ']')",
        "(.-)(.-)%9": "invalid capture index",
    }.items():
        assert bench.fails(f"return {text}:gsub('{pattern}', '')") == f"policy.lua:3: {message}"
    assert bench.fails(f"return {text}:gsub('a-.-x?', {{}}, {{}})").startswith("policy.lua:3: ")
    assert bench.fails("return ('a'):rep(2^18 + 1)") == "policy.lua:3: a text of a policy has at most 262144 bytes"
    assert bench.fails("local s = ('a'):rep(2^18) s = s .. 'b'") == (
        "policy.lua:3: a text of a policy has at most 262144 bytes"
    )
