"""The reference's Lua as Lua 5.1: tokens, operators, lines, steps."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.lua_support import KINDS, Bench

from inbound_audit.lua.dialect import BINARY, UNARY, DialectError, tokenize, translate
from inbound_audit.lua.operators import operations


def plain(source: str) -> str:
    return translate(source).plain.replace("ia__bits.", "")


UNTOUCHED = [
    'x = "a != b & c"',
    "x = 'it\\'s != | ~ \\\\'",
    "x = [[ != ]] y = [==[ ]] & ]==]",
    "-- a != b & c\nx = 1",
    "--[[ a != b\n & c ]] x = 1",
    "--[==[ ]] != ]==] x = 1",
    'x = "line\\\n!= more"',
    'x = "\\z   \n  != more"',
    "--[[ never closed !=",
    "x = a ~= b",
    "t = {[1] = 2; 'x', ...}",
    "goto done ::done::",
    "x = 0xFFp-2 + 1e5 + .5 + 3. + 42LL",
    "",
]


@pytest.mark.parametrize("source", UNTOUCHED)
def test_what_is_lua_stays_as_it_is(source: str) -> None:
    assert translate(source).plain == source


REWRITTEN = {
    "if a != b then": "if a ~= b then",
    "x = a & b": "x = band(a , b)",
    "x = a | b & c": "x = bor(a , band(b , c))",
    "x = a & b | c": "x = bor(band(a , b) , c)",
    "x = a & b & c": "x = band(band(a , b) , c)",
    "x = a ^^ b | c": "x = bor(bxor(a , b) , c)",
    "x = ~a": "x = bnot(a)",
    "x = ~~a": "x = bnot(bnot(a))",
    "x = -~a": "x = -bnot(a)",
    "x = ~-a": "x = bnot(-a)",
    "x = a & ~b": "x = band(a , bnot(b))",
    "x = ~a ^ 2": "x = bnot(a ^ 2)",
    "x = a \\ b": "x = idiv(a , b)",
    "x = a + b \\ c": "x = a + idiv(b , c)",
    "x = a * b \\ c * d": "x = idiv(a * b , c) * d",
    "if f & 4 != 0 then": "if band(f , 4) ~= 0 then",
    "if f & 4 ~= 0 and g then": "if band(f , 4) ~= 0 and g then",
    "x = a + 1 << b - 1": "x = lshift(a + 1 , b - 1)",
    "x = a .. b << c": "x = lshift(a .. b , c)",
    "x = a << b << c": "x = lshift(lshift(a , b) , c)",
    "x = not a & b": "x = band(not a , b)",
    "x = a or b & c": "x = a or band(b , c)",
    "x = 2 ^ -a & b": "x = band(2 ^ -a , b)",
    "x = f(a & b, c | d)[e & f].g": "x = f(band(a , b), bor(c , d))[band(e , f)].g",
    "x = t.a:m(1) & #s": "x = band(t.a:m(1) , #s)",
    "x = t.a:m{1} & t.a:m'1' & f[[1]]": "x = band(band(t.a:m{1} , t.a:m'1') , f[[1]])",
    "x = {a & b; c = d | e, [f & 1] = ~g}": "x = {band(a , b); c = bor(d , e), [band(f , 1)] = bnot(g)}",
    "x = (a | b) & c": "x = band((bor(a , b)) , c)",
    "x = a & 1 y = b": "x = band(a , 1) y = b",
    "x = a\n& b": "x = band(a\n, b)",
    "return a & b, c": "return band(a , b), c",
    "local x, y = a & b, 3": "local x, y = band(a , b), 3",
    "for i = a & b, c | d do end": "for i = band(a , b), bor(c , d) do end",
    "repeat until a & b x = 1": "repeat until band(a , b) x = 1",
    "x = function(a, b) return a & b end": "x = function(a, b) return band(a , b) end",
    "function t.f:g(a) (h or k)(a & 1) end": "function t.f:g(a) (h or k)(band(a , 1)) end",
    "x = a & --[[ why | ]] b": "x = band(a , --[[ why | ]] b)",
    "x = '1' & \"2\" & ...": "x = band(band('1' , \"2\") , ...)",
    "t[a & 1] = b": "t[band(a , 1)] = b",
}


@pytest.mark.parametrize("source", REWRITTEN)
def test_the_extent_of_operands(source: str) -> None:
    assert plain(source) == REWRITTEN[source]


def test_a_long_chain_of_texts_is_put_together_in_parts(bench: Bench) -> None:
    """Each part is weighed, and its place in the chain is as before."""
    chain = " .. ".join(f"a{number} + {number}" for number in range(100))
    counted = translate(f"return {chain}").counted
    assert [counted.count("ia__text(a"), counted.count(" ia__text(a16"), counted.count("))))))")] == [7, 1, 1]
    values = "local " + ", ".join(f"a{number}" for number in range(100)) + " = " + ", ".join(["1"] * 100)
    assert bench.say(chain, values) == "".join(str(number + 1) for number in range(100))


@pytest.mark.parametrize("source", REWRITTEN)
def test_every_operation_is_found_once(source: str) -> None:
    tokens = tokenize(source)
    signs = [at for at, t in enumerate(tokens) if t.kind == "sign" and t.text in {*BINARY, *UNARY}]
    found = operations(tokens)
    assert sorted(at for at, *_ in found if tokens[at].text not in ("..", "return")) == signs
    assert all(first <= operator <= last for operator, first, last in found)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\ny = & b", "2: unexpected symbol near '&'"),
        ("x = a |", "1: no operand after '|'"),
        ("x = a & * b", "1: no operand after '&'"),
        ("\n\nx = ~", "3: no operand after '~'"),
        ("x = " + "(" * 20_000 + "~1", "too many nested brackets"),
    ],
)
def test_an_operator_without_an_operand(source: str, message: str) -> None:
    with pytest.raises(DialectError, match=message.replace("|", "\\|")):
        translate(source)


@pytest.mark.parametrize("source", [*REWRITTEN, "x = 1 | a.b", "x = ~a:b()", "x = a.b[c] & d:e{} << f'g'"])
def test_a_script_that_ends_anywhere_is_rewritten_or_refused(source: str) -> None:
    for end in range(len(source)):
        try:
            assert plain(source[:end]).count("\n") == source.count("\n", 0, end)
        except DialectError as error:
            assert re.match(r"\d+: ", str(error))  # noqa: PT017  # either end is right


@given(st.text(alphabet="ab12 \n\"'[]=-~!&|^<>\\().:{},#\0\xff"))
def test_any_text_is_rewritten_or_refused(source: str) -> None:
    with contextlib.suppress(DialectError):
        assert translate(source).plain.count("\n") == source.count("\n")


@given(st.text(alphabet="ab12 \n\"'[]=-~!&|^<>\\().:{},#\0\xff"))
def test_tokens_are_the_source(source: str) -> None:
    tokens = tokenize(source)
    assert "".join(token.text for token in tokens) == source
    before = ""
    for token in tokens:
        assert token.line == 1 + before.count("\n")
        before += token.text


@given(st.text(alphabet="ab1 \n\"'[]=-~!&|()do", max_size=60))
def test_no_line_is_lost(source: str) -> None:
    try:
        translation = translate(source)
    except DialectError:
        return
    assert translation.plain.count("\n") == source.count("\n")
    assert translation.counted.count("\n") == source.count("\n") + 1


def test_where_steps_are_counted() -> None:
    counted = translate("while a do b() end repeat c() until d for i=1,2 do end do end").counted
    assert counted.count("ia__step();") == 4
    counted = translate("function f(a) return g end local h = function() goto x end t.goto = 1").counted
    assert "function f(a) ia__step(); return g end" in counted
    assert "function() ia__step(); ia__step(); goto x end" in counted
    assert "t.goto = 1" in counted
    assert "'do' \"repeat\"" in translate("f('do' \"repeat\")").counted


def test_a_first_line_for_the_shell_and_a_byte_order_mark(bench: Bench) -> None:
    path = bench.directory / "shell.lua"
    path.write_bytes(b"\xef\xbb\xbf#!/usr/bin/lua\nmsys.registerModule('m', {init = function() end})\nerror('here')")
    assert "shell.lua:3: here" in load_error(bench, path)


def load_error(bench: Bench, path: Path) -> str:
    from inbound_audit import LuaPolicy
    from inbound_audit.errors import PolicyError

    with pytest.raises(PolicyError) as caught:
        LuaPolicy(path, **bench.kind._asdict())
    return str(caught.value)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("x = 1\nif x != then end", "policy.lua:2: unexpected symbol near 'then'"),
        ("local x =\n\n& 3", "policy.lua:3: unexpected symbol near '&'"),
        ("if x then\n\nfoo(", "policy.lua:3: unexpected symbol near '<eof>'"),
        ("if x then\nfoo()\n", "policy.lua:3: 'end' expected (to close 'if' at line 1) near '<eof>'"),
        ("x = 1\nend", "policy.lua:2: '<eof>' expected near 'end'"),
        ("x = 'open\n", "policy.lua:1: unfinished string near ''open'"),
        ("x = 1 != 2\nerror('boom')", "policy.lua:2: boom"),
        ("local x = {} & 1", "policy.lua:1: table: 0x"),
    ],
)
def test_errors_are_those_of_the_script_as_written(bench: Bench, script: str, message: str) -> None:
    assert message in load_error(bench, bench.write("policy.lua", script))


# Lua's binary operators and Python's for the same numbers.
ORACLE = {
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^^": lambda a, b: a ^ b,
    "\\": lambda a, b: a // b,
}
WHOLE = st.integers(-(2**53) + 1, 2**53 - 1)


@pytest.fixture(scope="module")
def calculator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Evaluates an expression of the dialect; `%.0f` because Lua 5.1 shows large numbers rounded."""
    bench = Bench(tmp_path_factory.mktemp("calculator"), KINDS["luajit-ffi"])
    policy = bench.hook(
        "vctx:set_code(250, string.format('%.0f', assert(loadstring('return ' .. text))()))",
        "validate_ehlo(text, ac, vctx)",
    )
    session = bench.session()
    yield lambda expression: int(float(policy.validate_ehlo(session, expression).text))
    assert policy.errors == 0, policy.last_error
    bench.close()


@given(a=WHOLE, b=WHOLE, sign=st.sampled_from(sorted(ORACLE)))
def test_operators_compute_what_python_computes(calculator: Any, a: int, b: int, sign: str) -> None:
    if sign == "\\":
        a, b = a % 2**31, b % 2**21 + 1
    assert calculator(f"({a}) {sign} ({b})") == ORACLE[sign](a, b)


@given(a=st.integers(-(2**40), 2**40), n=st.integers(0, 12))
def test_shifts_and_complement(calculator: Any, a: int, n: int) -> None:
    assert calculator(f"({a}) << {n}") == a << n
    assert calculator(f"({a}) >> {n}") == a >> n
    assert calculator(f"~({a})") == ~a


@given(a=st.integers(0, 255), b=st.integers(0, 255), c=st.integers(0, 7), d=st.integers(1, 9))
def test_precedence_is_that_of_lua_5_3(calculator: Any, a: int, b: int, c: int, d: int) -> None:
    assert calculator(f"{a} | {b} ^^ {c} & {d} << 1 + {c}") == a | (b ^ (c & (d << (1 + c))))
    assert calculator(f"{a} & {b} == {c} and 1 or {d}") == (1 if (a & b) == c else d)
    assert calculator(f"{a} + {b} \\ {d} * 2 - 1") == a + (b // d) * 2 - 1
    assert calculator(f"-{a} \\ {d}") == math.floor(-a / d)


def test_operators_run_in_every_lua(bench: Bench) -> None:
    assert bench.say("192 << 24 | 2 << 8 | 7") == "3221225991"
    assert bench.say("-1 >> 1 & 0xFF ^^ 0x0F") == "240"
    assert bench.say("7 \\ 2 != 3") == "false"
    assert bench.say("'6' & 3") == "2"
    assert bench.say("5 & 3 == 1 and 'tight' or 'loose'") == "tight"
    assert bench.say("1 << 0 - 1") == "0"


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("1.5 & 1", "policy.lua:3: 1.5: is not a whole number"),
        ("2^53 | 0", "is not a whole number below 2^53"),
        ("{} | 1", "policy.lua:3: table: "),
        ("~nil", "policy.lua:3: nil: is not a whole number"),
        ("1 << 53", "policy.lua:3: 1 << 53: goes beyond 2^53"),
        ("1 \\ 0", "policy.lua:3: attempt to perform"),
        ("{} \\ 1", "policy.lua:3: attempt to divide"),
        ("0/0 & 1", "is not a whole number"),
        ("1 << 1/0", "is not a whole number"),
    ],
)
def test_operators_refuse_what_has_no_bits(bench: Bench, expression: str, message: str) -> None:
    assert message in bench.fails(f"local x = {expression}")


def test_a_required_file_and_a_loaded_string_are_translated_too(bench: Bench) -> None:
    bench.write("lib/flags.lua", "module('lib.flags', package.seeall)\nfunction has(x, bit) return x & bit != 0 end")
    assert bench.say("lib.flags.has(6, 4)", "require 'lib.flags'") == "true"
    assert bench.say("assert(loadstring('return 1 != 2'))()") == "true"
    assert bench.say("select(2, loadstring('return &', '@given'))") == "given:1: unexpected symbol near '&'"
    assert bench.say("select(2, loadstring('x = 1\\ny = ~'))") == "[string \"x = 1\"]:2: no operand after '~'"
