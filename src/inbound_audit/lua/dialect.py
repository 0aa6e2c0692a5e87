"""The Lua that policies are written in, rewritten as Lua 5.1 line for line.

The reference's dialect adds ``!=`` beside ``~=``, the operators ``& | ^^ << >> ~`` and ``\\`` for integer division
(`operators` says how they bind). Nothing else is changed, every token stays on its line, and what the Lua compiler then
says about a script is what it would have said about the original.

The rewritten chunk also weighs the texts that ``..`` makes, and counts its steps: a call that is cheap to compile
stands at the start of each function and each loop's body and before each ``goto``, so that an endless loop ends in an
error. (A count hook would not do: LuaJIT's compiled code never calls hooks, and without the compiler a count from Lua
takes fifteen times as long.) A call that is returned is no tail call, so that an error in it has its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from inbound_audit.lua.operators import Operation

# Local names of the chunk around a script; the leading "ia__" avoids the names of a script.
STEP, BITS, TEXT, ALL = "ia__step", "ia__bits", "ia__text", "ia__all"

BINARY = {"&": "band", "|": "bor", "^^": "bxor", "<<": "lshift", ">>": "rshift", "\\": "idiv"}
UNARY = {"~": "bnot"}

LONG_TEXT = 4096  # bytes, as in steps.lua

_TOKEN = re.compile(
    r"""
      (?P<space>   \s+ | --\[(?P<c>=*)\[.*?(?:\](?P=c)\]|\Z) | --[^\n]* )
    | (?P<string>  \[(?P<s>=*)\[.*?(?:\](?P=s)\]|\Z)
                 | "(?:\\z\s*|\\\r\n|\\.|[^"\\\n])*"? | '(?:\\z\s*|\\\r\n|\\.|[^'\\\n])*'? )
    | (?P<number>  (?: 0[xX][\da-fA-F.]*(?:[pP][+-]?\d+)? | (?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)? ) [uUlLiI]* )
    | (?P<name>    [A-Za-z_\x80-\xff][\w\x80-\xff]* )
    | (?P<sign>    \.\.\.? | [=~!<>]= | << | >> | \^\^ | :: | . )
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)


class DialectError(Exception):
    """A script that is not Lua even in the dialect; the message begins with the line number."""


class Token(NamedTuple):
    """A piece of source: `kind` is one of space (comments too), string, number, name and sign."""

    kind: str
    text: str
    line: int


class Translation(NamedTuple):
    """`plain` is the script as Lua 5.1, to be compiled for its errors. `counted` is the chunk to run: called with the
    function that counts a step, the table of bit operators, the function that weighs a text and one that returns its
    arguments, it returns the script as a function.
    `has_long_text`: a constant is longer than LONG_TEXT."""

    plain: str
    counted: str
    has_long_text: bool


def tokenize(source: str) -> list[Token]:
    """All of `source`, piece by piece; an unfinished string ends with its line or the script. O(length)."""
    tokens, line = [], 1
    for match in _TOKEN.finditer(source):
        text = match.group()
        tokens.append(Token(str(match.lastgroup), text, line))
        line += text.count("\n")
    return tokens


def translate(source: str) -> Translation:
    """The script as Lua 5.1, plain and counted. `source` holds a byte a character, so that any encoding survives.

    Raises DialectError when a bit operator lacks an operand.
    """
    from inbound_audit.lua.operators import operations

    tokens = tokenize("--" + source if source.startswith("#") else source)
    texts = ["~=" if token.text == "!=" else token.text for token in tokens]
    found = operations(tokens)
    plain = _rewritten(tokens, texts, [each for each in found if tokens[each.operator].text not in ("..", "return")])
    for at in _steps(tokens):
        texts[at] = f"{STEP}(); {texts[at]}" if texts[at] == "goto" else f"{texts[at]} {STEP}();"
    counted = _rewritten(tokens, texts, found)
    return Translation(
        plain,
        f"local {STEP}, {BITS}, {TEXT}, {ALL} = ...; return function(...) {counted}\nend",
        any(token.kind == "string" and len(token.text) > LONG_TEXT for token in tokens),
    )


def _rewritten(tokens: list[Token], texts: list[str], found: list[Operation]) -> str:
    """Makes ``a & b`` a call ``band(a, b)``, and ``a .. b`` and what is returned the argument of a call.

    Operations come innermost first, so that outer calls go around inner ones.
    """
    texts, before, after = list(texts), [""] * len(tokens), [""] * len(tokens)
    for operator, first, last in found:
        sign = tokens[operator].text
        if sign in ("..", "return"):
            function = TEXT if sign == ".." else ALL
        elif operator == first:
            function, texts[operator] = f"{BITS}.{UNARY[sign]}", ""
        else:
            function, texts[operator] = f"{BITS}.{BINARY[sign]}", ","
        before[first] = f"{function}({before[first]}"
        after[last] += ")"
    return "".join(piece for pieces in zip(before, texts, after, strict=True) for piece in pieces)


def _steps(tokens: list[Token]) -> Iterable[int]:
    """The tokens beside which a step is counted: ``do`` and ``repeat``, the end of a parameter list, ``goto``."""
    code = [at for at, token in enumerate(tokens) if token.kind != "space"]
    in_parameters = False
    for number, at in enumerate(code):
        kind, text, _ = tokens[at]
        if kind == "name" and text in ("do", "repeat"):
            yield at
        elif kind == "name" and text == "function":
            in_parameters = True
        elif in_parameters and text == ")":
            in_parameters = False
            yield at
        elif text == "goto" and _jumps([tokens[i] for i in code[max(number - 1, 0) : number + 2]]):
            yield at


def _jumps(around: list[Token]) -> bool:
    """Whether ``goto`` is the statement and not, as Lua 5.1 allows, a name: only the statement is followed by a name.

    `around` is the token before, ``goto`` itself and the one after, as far as there are such."""
    first, last = around[0], around[-1]
    return last.kind == "name" and last.text != "goto" and first.text not in (".", ":", "function", "local")
