"""How far the operands of the dialect's operators reach.

The reference does not say how ``& | ^^ << >> ~ \\`` bind; they bind as in Lua 5.3, where ``^^`` is written ``~`` and
``\\`` is written ``//``: tighter than comparisons (``flags & 4 != 0`` means what it says, other than in C), looser
than arithmetic and ``..``. From loose to tight::

    or   and   < > <= >= ~= != ==   |   ^^   &   << >>   ..   + -   * / \\ %   not # - ~ (before an operand)   ^

A whole grammar is not needed. In Lua an operand is followed by an operator, or by something that ends the expression;
so every run of operands and operators in a script is an expression (or the left side of an assignment, in which no
operator stands), and what lies in brackets is a sequence of such runs.
"""

from __future__ import annotations

from typing import NamedTuple

from inbound_audit.lua.dialect import BINARY, UNARY, DialectError, Token

# (how tightly it holds what is left of it, what is right of it); a smaller right one makes it right-associative.
_BINDING = {
    "or": (1, 1), "and": (2, 2),
    **dict.fromkeys(("<", ">", "<=", ">=", "~=", "!=", "=="), (3, 3)),
    "|": (4, 4), "^^": (5, 5), "&": (6, 6), "<<": (7, 7), ">>": (7, 7),
    "..": (9, 8), "+": (10, 10), "-": (10, 10), "*": (11, 11), "/": (11, 11), "\\": (11, 11), "%": (11, 11),
    "^": (14, 13),
}  # fmt: skip
_UNARY_BINDING = 12
_CHAIN = 16  # so many texts are put together at once, then they are weighed
_UNARY = ("not", "#", "-", "~")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_VALUES = ("nil", "true", "false")
_ENDS = ("end", "else", "elseif", "until", ";", "")  # after the last statement of a block
_KEYWORDS = frozenset((
    "and", "break", "do", "else", "elseif", "end", "for", "function", "goto", "if", "in", "local", "not", "or",
    "repeat", "return", "then", "until", "while",
))  # fmt: skip


class Operation(NamedTuple):
    """One use of one of the dialect's operators, a chain of ``..`` (of a long one its last part, too), or a call that
    is returned. Indices of tokens; `last` is inclusive."""

    operator: int
    first: int
    last: int


def operations(tokens: list[Token]) -> list[Operation]:
    """Every use of the dialect's operators and of ``..`` with the extent of its operands, inner ones before outer ones.

    Raises DialectError for an operator without an operand, or brackets nested beyond what Lua itself takes. O(tokens).
    """
    scan = _Scan(tokens)
    try:
        scan.sequence(None)
    except RecursionError:
        raise DialectError(f"{scan.line()}: too many nested brackets") from None
    return scan.found


class _Scan:
    """A cursor over the tokens other than space; `previous` is the one that was taken last."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.code = [at for at, token in enumerate(tokens) if token.kind != "space"]
        self.at = 0
        self.found: list[Operation] = []

    def text(self) -> str:
        """The token at the cursor, or "" at the end; a string is never taken for a sign."""
        if self.at >= len(self.code):
            return ""
        token = self.tokens[self.code[self.at]]
        return '"' if token.kind == "string" else token.text

    def kind(self) -> str:
        return self.tokens[self.code[self.at]].kind if self.at < len(self.code) else ""

    def line(self) -> int:
        return self.tokens[self.code[min(self.at, len(self.code) - 1)]].line

    def sequence(self, closing: str | None) -> None:
        """Runs, and what is between them, up to `closing` (taken too) or the end of the script."""
        while self.at < len(self.code):
            if self.text() == closing:
                self.at += 1
                return
            if self.starts():
                self.run(0)
            elif self.text() == "return" and self.kind() == "name":
                self.returned()
            elif self.text() in BINARY:
                raise DialectError(f"{self.line()}: unexpected symbol near {self.text()!r}")
            else:
                self.at += 1

    def returned(self) -> None:
        """What a function returns. A call of a method or a field is noted: as a tail call its place would be lost."""
        operator, first = self.at, self.at + 1
        self.at = first
        if self.starts():
            self.run(0)
            texts = [self.tokens[at].text for at in (*self.code[first : first + 2], self.code[self.at - 1])]
            by_name = self.tokens[self.code[first]].kind == "name" and texts[1] == "("
            if texts[-1] == ")" and self.text() in _ENDS and not by_name:
                self.note(operator, first)

    def starts(self) -> bool:
        """Whether an operand begins at the cursor."""
        kind, text = self.kind(), self.text()
        if kind == "name":
            return text == "not" or text not in _KEYWORDS
        return kind in ("string", "number") or text in ("(", "{", "...", "#", "-", "~")

    def run(self, binding: int, in_chain: int = 0) -> None:
        """An operand and all operators after it that bind more tightly; so many ``..`` of one chain are left of it."""
        first = self.at
        self.operand()
        while (sign := self.text()) in _BINDING and self.kind() != "string" and _BINDING[sign][0] > binding:
            operator = self.at
            self.right_side(_BINDING[sign][1], in_chain + 1 if sign == ".." else 0)
            if sign in BINARY or (sign == ".." and in_chain % _CHAIN == 0):
                self.note(operator, first)

    def right_side(self, binding: int, in_chain: int = 0) -> None:
        sign, line = self.text(), self.line()
        self.at += 1
        if self.starts():
            self.run(binding, in_chain)
        elif sign in BINARY or sign in UNARY:
            raise DialectError(f"{line}: no operand after {sign!r}")

    def operand(self) -> None:
        """One operand with its signs before it and its calls, indices and fields after it."""
        if self.text() in _UNARY:
            operator, sign = self.at, self.text()
            self.right_side(_UNARY_BINDING)
            if sign in UNARY:
                self.note(operator, operator)
            return
        callable_ = self.text() == "(" or (self.kind() == "name" and self.text() not in _VALUES)
        self.item()
        while callable_ and self.text() in (".", ":", "(", "[", "{", '"'):
            self.item()
            if self.tokens[self.code[self.at - 1]].text in (".", ":") and self.kind() == "name":
                self.at += 1

    def item(self) -> None:
        """One token, or a pair of brackets and what is in it."""
        opening = self.text()
        self.at += 1
        if opening in _CLOSING:
            self.sequence(_CLOSING[opening])

    def note(self, operator: int, first: int) -> None:
        self.found.append(Operation(self.code[operator], self.code[first], self.code[self.at - 1]))
