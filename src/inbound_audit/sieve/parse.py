"""A script's text as a tree. Errors name the line, the column, and what was expected there.

The grammar is that of RFC 5228 with the reference's assignments, variables and elements, for lark's LALR parser. As in
the RFC it knows no command by name: which ones there are, and what they take, is not its business. An element has no
blank before its bracket, unlike a variable that a list follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from inbound_audit.process import ProcessLock
from inbound_audit.sieve import tree
from inbound_audit.sieve.tree import At, ScriptError

try:
    from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedToken, v_args
except ModuleNotFoundError as error:  # an extra, like the libraries of the listeners
    words = "SievePolicy needs lark, a parser library: pip install 'inbound-audit[sieve]'"
    raise ModuleNotFoundError(words, name="lark") from error

GRAMMAR = r"""
start: statement*

?statement: command | assignment | unpacking
command: call (";" | block)
block: "{" statement* "}"
assignment: VARIABLE "=" (value | call) ";"
unpacking: "(" VARIABLE ("," VARIABLE)* ")" "=" (value | call) ";"

call: NAME (value | tag)* tests?
tests: call | "(" call ("," call)* ")"

?value: scalar | items
?scalar: text | number | variable | element
items: "[" scalar ("," scalar)* "]"
element: ELEMENT (text | number | variable) "]"
number: NUMBER
variable: VARIABLE
tag: TAG
text: QUOTED | MULTILINE

NAME: /[A-Za-z_][A-Za-z0-9_]*/
TAG: /:[A-Za-z_][A-Za-z0-9_]*/
VARIABLE: /\$[A-Za-z_][A-Za-z0-9_]*/
ELEMENT.1: /\$[A-Za-z_][A-Za-z0-9_]*\[/
NUMBER: /-?[0-9]+(?:\.[0-9]+)?[KMGkmg]?(?![A-Za-z0-9_.])/
QUOTED: /"[^"\\]*(?:\\(?s:.)[^"\\]*)*"/
MULTILINE.2: /(?i:text):[ \t]*(?:\#[^\n]*)?\n(?:[^\n]*\n)*?\.[ \t]*(?=\n|\Z)/

COMMENT: /\#[^\n]*|\/\*(?s:.)*?\*\//
BLANK: /[ \t\r\n\f]+/
%ignore COMMENT
%ignore BLANK
"""

# What errors call the terminals that are neither punctuation nor called by their own name.
WORDS = {"$END": "the end of the script", "ELEMENT": "an element", "QUOTED": "a text", "MULTILINE": "a text"}

MAX_DEPTH = 64
"""How deep tests and blocks may be nested; RFC 5228 (2.10.3) requires at least 15."""
MAX_NUMBER = (1 << 63) - 1
MAX_DIGITS = 40

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_MAX_EXPECTED = 3  # a longer list of what could stand there does not help
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_one_at_a_time = ProcessLock()  # lark makes its scanners while it scans for the first time


def decode(raw: bytes) -> str:
    """The text of a script: UTF-8, with or without a byte order mark; its lines end with a line feed.

    Raises ScriptError where it is not UTF-8 or has a NUL, which Sieve does not allow (RFC 5228, 2.1).
    """
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ScriptError(_place(raw[: error.start].decode("utf-8")), "is not UTF-8") from None
    if "\0" in text:
        raise ScriptError(_place(text[: text.index("\0")]), "a NUL character")
    return text.replace("\r\n", "\n")


def _place(before: str) -> At:
    """Where the character stands that comes after `before`."""
    return At(before.count("\n") + 1, len(before) - before.rfind("\n"))


def parse(text: str) -> tuple[tree.Statement, ...]:
    """The statements of a script. Raises ScriptError. O(text)."""
    with _one_at_a_time:
        try:
            statements: tuple[tree.Statement, ...] = _parser().parse(text)  # type: ignore[assignment]
        except UnexpectedToken as error:
            raise _out_of_place(error) from None
        except UnexpectedCharacters as error:
            raise _unreadable(text, error) from None
    return statements


@lru_cache(maxsize=1)
def _parser() -> Lark:
    # The tree is made while the text is read: nothing walks down into it, however deep it is.
    return Lark(GRAMMAR, parser="lalr", maybe_placeholders=False, transformer=_Builder())


@v_args(inline=True)
class _Builder(Transformer[Token, Any]):
    """What becomes of each rule of the grammar."""

    def start(self, *statements: tree.Statement) -> tuple[tree.Statement, ...]:
        return statements

    block = tests = start

    def command(self, call: tree.Call, block: tuple[tree.Statement, ...] | None = None) -> tree.Command:
        depth = call.depth - 1  # that of its tests
        if block is not None:
            depth = max(depth, _depth(block[0].at if block else call.at, block))
        return tree.Command(call.at, call.name, call, block, depth)

    def assignment(self, variable: Token, value: tree.Value | tree.Call) -> tree.Assignment:
        return tree.Assignment(_at(variable), (variable[1:].lower(),), False, value)

    def unpacking(self, *parts: Any) -> tree.Assignment:
        *variables, value = parts
        return tree.Assignment(_at(variables[0]), tuple(name[1:].lower() for name in variables), True, value)

    def call(self, name: Token, *rest: Any) -> tree.Call:
        tests = rest[-1] if rest and type(rest[-1]) is tuple else ()
        arguments = rest[: len(rest) - bool(tests)]
        return tree.Call(_at(name), name.lower(), arguments, tests, _depth(_at(name), tests))

    def items(self, *members: Any) -> tree.Items:
        return tree.Items(members[0].at, members)

    def element(self, name: Token, key: Any) -> tree.Element:
        return tree.Element(_at(name), name[1:-1].lower(), key)

    def number(self, written: Token) -> tree.Number:
        digits = written.rstrip("KMGkmg")
        if len(digits.lstrip("-0")) <= MAX_DIGITS:  # int() raises for many thousands of digits
            number = (float(digits) if "." in digits else int(digits)) * _UNITS.get(written[-1].upper(), 1)
            if abs(number) <= MAX_NUMBER:
                return tree.Number(_at(written), number)
        raise ScriptError(_at(written), f"a number beyond {MAX_NUMBER}")

    def variable(self, written: Token) -> tree.Variable:
        return tree.Variable(_at(written), written[1:].lower())

    def tag(self, written: Token) -> tree.Tag:
        return tree.Tag(_at(written), written[1:].lower())

    def text(self, written: Token) -> tree.Text:
        """In quotes a backslash stands for the character after it.

        A multi-line text goes from the second line to the one with a single dot (RFC 5228, 2.4.2). A line of it that
        begins with a dot was written with one more, as in SMTP.
        """
        if written.type == "QUOTED":
            return tree.Text(_at(written), _ESCAPE.sub(r"\1", written[1:-1]))
        lines = written.split("\n")[1:-1]
        return tree.Text(_at(written), "".join(line.removeprefix(".") + "\n" for line in lines))


def _at(token: Token) -> At:
    return At(token.line or 1, token.column or 1)


def _depth(at: At, within: Iterable[tree.Call | tree.Statement]) -> int:
    """How deep tests and blocks stand in what begins at a place and has `within` in it. Raises ScriptError."""
    depth = 1 + max((part.depth for part in within), default=0)
    if depth > MAX_DEPTH:
        raise ScriptError(at, f"tests or blocks are nested more than {MAX_DEPTH} deep")
    return depth


def _out_of_place(error: UnexpectedToken) -> ScriptError:
    token = error.token
    expected = sorted(set(map(_word, error.accepts or error.expected)))
    wanted = ""
    if len(expected) <= _MAX_EXPECTED:
        wanted = f"; expected {' or '.join(expected)}"
    elif "';'" in expected:
        wanted = "; is a ';' missing?"
    if token.type == "$END":
        return ScriptError(At(token.end_line or 1, token.end_column or 1), f"the script ends too early{wanted}")
    shown = token if len(token) <= 40 else f"{token[:40]}..."
    return ScriptError(_at(token), f"unexpected {str(shown)!r}{wanted}")


def _word(terminal: str) -> str:
    patterns = {known.name: known.pattern for known in _parser().terminals if known.pattern.type == "str"}
    return f"'{patterns[terminal].value}'" if terminal in patterns else WORDS.get(terminal, f"a {terminal.lower()}")


def _unreadable(text: str, error: UnexpectedCharacters) -> ScriptError:
    before, rest = text[: error.pos_in_stream], text[error.pos_in_stream :]
    message = f"unexpected character {rest[:1]!r}"
    if rest.startswith('"'):
        message = "a text that is not closed"
    elif rest.startswith("/*"):
        message = "a comment that is not closed"
    elif rest.startswith(":") and before.lower().endswith("text"):
        message = "a multi-line text that is not closed by a line with a single dot"
    elif rest.lstrip("-")[:1].isdigit():
        message = "a number that runs into a name"
    return ScriptError(At(error.line, error.column), message)
