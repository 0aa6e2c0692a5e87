"""Texts of a script: how they are written, and what is expanded in them."""

from __future__ import annotations

import re
from typing import NamedTuple, TypeAlias

_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_EXPANDED = re.compile(r"\$\{(?P<variable>[A-Za-z_][A-Za-z0-9_]*)\}|%\{(?P<macro>[^{}\n]+)\}")


class Expansion(NamedTuple):
    """``${name}``, or of a macro ``%{name}``; `written` is the whole."""

    written: str
    name: str
    macro: bool


Part: TypeAlias = str | Expansion


def unquote(written: str) -> str:
    """The text that a quoted string means. A backslash stands for the character after it."""
    return _ESCAPE.sub(r"\1", written[1:-1])


def unstuff(written: str) -> str:
    """The text that a multi-line ``text:`` means: from the second line to the one with a single dot (RFC 5228, 2.4.2).

    A line that begins with a dot was written with one more, as in SMTP.
    """
    lines = written.split("\n")[1:-1]
    return "".join((line[1:] if line.startswith(".") else line) + "\n" for line in lines)


def parts(text: str) -> list[Part]:
    """A text cut into constant parts and expansions. What only looks like an expansion is constant."""
    found: list[Part] = []
    start = 0
    for match in _EXPANDED.finditer(text):
        found.append(text[start : match.start()])
        macro = match["macro"]
        found.append(Expansion(match[0], match["variable"].lower() if macro is None else macro, macro is not None))
        start = match.end()
    found.append(text[start:])
    return [part for part in found if part]
