"""A script's text as a tree. Errors name the line, the column, and what was expected there."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from inbound_audit.process import ProcessLock
from inbound_audit.sieve.faults import At, ScriptError
from inbound_audit.sieve.grammar import GRAMMAR, WORDS
from inbound_audit.sieve.texts import unquote, unstuff
from inbound_audit.sieve.tree import (
    Assignment,
    Block,
    Call,
    Command,
    Element,
    Items,
    Number,
    Statement,
    Tag,
    Text,
    Variable,
)

try:
    from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedToken
except ModuleNotFoundError as error:  # an extra, like the libraries of the listeners
    words = "SievePolicy needs lark, a parser library: pip install 'inbound-audit[sieve]'"
    raise ModuleNotFoundError(words, name="lark") from error

MAX_DEPTH = 64
"""How deep tests and blocks may be nested; RFC 5228 (2.10.3) requires at least 15."""
MAX_NUMBER = (1 << 63) - 1
MAX_DIGITS = 40

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_MAX_EXPECTED = 3  # a longer list of what could stand there does not help
_one_at_a_time = ProcessLock()  # lark makes its scanners while it scans for the first time


def parse(text: str) -> tuple[Statement, ...]:
    """The statements of a script. Raises ScriptError. O(text)."""
    with _one_at_a_time:
        try:
            statements: tuple[Statement, ...] = _parser().parse(text)  # type: ignore[assignment]
        except UnexpectedToken as error:
            raise _out_of_place(error) from None
        except UnexpectedCharacters as error:
            raise _unreadable(text, error) from None
    return statements


@lru_cache(maxsize=1)
def _parser() -> Lark:
    # The tree is made while the text is read: nothing walks down into it, however deep it is.
    return Lark(GRAMMAR, parser="lalr", maybe_placeholders=False, transformer=_Builder())


class _Builder(Transformer[Token, Any]):
    """What becomes of each rule of the grammar."""

    def start(self, statements: list[Statement]) -> tuple[Statement, ...]:
        return tuple(statements)

    def command(self, children: list[Any]) -> Command:
        call, block = [*children, None][:2]
        return Command(call, block)

    def block(self, statements: list[Statement]) -> Block:
        depth = 1 + max(map(_depth, statements), default=0)
        if depth > MAX_DEPTH:
            raise _too_deep(statements[0].at)
        return Block(tuple(statements), depth)

    def assignment(self, children: list[Any]) -> Assignment:
        variable, value = children
        return Assignment(_at(variable), (variable[1:].lower(),), False, value)

    def unpacking(self, children: list[Any]) -> Assignment:
        *variables, value = children
        return Assignment(_at(variables[0]), tuple(name[1:].lower() for name in variables), True, value)

    def call(self, children: list[Any]) -> Call:
        name, *rest = children
        tests = rest.pop() if rest and type(rest[-1]) is list else []
        depth = 1 + max((test.depth for test in tests), default=0)
        if depth > MAX_DEPTH:
            raise _too_deep(_at(name))
        return Call(_at(name), name.lower(), tuple(rest), tuple(tests), depth)

    def tests(self, calls: list[Call]) -> list[Call]:
        return calls

    def items(self, members: list[Any]) -> Items:
        return Items(members[0].at, tuple(members))

    def element(self, children: list[Any]) -> Element:
        name, key = children
        return Element(_at(name), name[1:-1].lower(), key)

    def number(self, children: list[Token]) -> Number:
        (written,) = children
        unit = _UNITS.get(written[-1].upper(), 1)
        digits = written.rstrip("KMGkmg")
        # Its length first: int() raises for a number of many thousands of digits.
        if len(digits.lstrip("-0")) <= MAX_DIGITS:  # int() raises for many thousands of digits
            number = (float(digits) if "." in digits else int(digits)) * unit
            if abs(number) <= MAX_NUMBER:
                return Number(_at(written), number)
        raise ScriptError(_at(written), f"a number beyond {MAX_NUMBER}")

    def variable(self, children: list[Token]) -> Variable:
        return Variable(_at(children[0]), children[0][1:].lower())

    def tag(self, children: list[Token]) -> Tag:
        return Tag(_at(children[0]), children[0][1:].lower())

    def text(self, children: list[Token]) -> Text:
        (written,) = children
        meant = unquote(written) if written.type == "QUOTED" else unstuff(written)
        return Text(_at(written), meant)


def _at(token: Token) -> At:
    return At(token.line or 1, token.column or 1)


def _depth(statement: Statement) -> int:
    if isinstance(statement, Assignment):
        return 0
    tests = max((test.depth for test in statement.call.tests), default=0)
    return max(tests, statement.block.depth if statement.block else 0)


def _too_deep(at: At) -> ScriptError:
    return ScriptError(at, f"tests or blocks are nested more than {MAX_DEPTH} deep")


def _out_of_place(error: UnexpectedToken) -> ScriptError:
    token = error.token
    expected = sorted({WORDS.get(name, name) for name in error.accepts or error.expected})
    wanted = ""
    if len(expected) <= _MAX_EXPECTED:
        wanted = f"; expected {' or '.join(expected)}"
    elif WORDS["SEMICOLON"] in expected:
        wanted = "; is a ';' missing?"
    if token.type == "$END":
        return ScriptError(At(token.end_line or 1, token.end_column or 1), f"the script ends too early{wanted}")
    shown = token if len(token) <= 40 else f"{token[:40]}..."
    return ScriptError(_at(token), f"unexpected {str(shown)!r}{wanted}")


def _unreadable(text: str, error: UnexpectedCharacters) -> ScriptError:
    at, rest = At(error.line, error.column), text[error.pos_in_stream :]
    if rest.startswith('"'):
        return ScriptError(at, "a text that is not closed")
    if rest.startswith("/*"):
        return ScriptError(at, "a comment that is not closed")
    if rest.startswith(":") and text[: error.pos_in_stream].lower().endswith("text"):
        return ScriptError(at, "a multi-line text that is not closed by a line with a single dot")
    if rest.lstrip("-")[:1].isdigit():
        return ScriptError(at, "a number that runs into a name")
    return ScriptError(at, f"unexpected character {rest[:1]!r}")
