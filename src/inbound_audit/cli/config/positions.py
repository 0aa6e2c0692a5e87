"""The line of each key and of each value of a list in a text of TOML, which no library gives."""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections import Counter
from typing import Any

Path = tuple[str | int, ...]
"""Names of keys, and numbers from 0 on of values of lists."""

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?""""{0,2}' r"|'''.*?''''{0,2}" r'|"(?:\\.|[^"\\])*"' r"|'[^']*'"  # strings
    r"|\#[^\n]*|\n|[\[\]{}=,]|[^\s\#\"'\[\]{}=,]+",
    re.DOTALL,
)  # fmt: skip
_END_OF_VALUE = frozenset("\n,]}")


def parse(text: str) -> dict[str, Any]:
    """Raises ValueError, RecursionError."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    table: dict[str, Any] = tomllib.loads(text)
    return table


def lines_of(text: str) -> dict[Path, int]:
    """The lines, from 1 on, at which keys and values begin. `text` has been parsed before: it is TOML. O(text)."""
    return _Scan(text).lines


def path_of(key: str) -> tuple[str, ...]:
    """``serve . "a.b"`` as ``("serve", "a.b")``: a key by its text."""
    value: Any = parse(f"{key} = 0")
    found = []
    while isinstance(value, dict):
        ((name, value),) = value.items()
        found.append(name)
    return tuple(found)


class _Scan:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [found for found in _TOKEN.finditer(text) if not found[0].startswith("#")]
        self._at = 0
        self._ends = [found.start() for found in re.finditer("\n", text)]
        self._elements: Counter[Path] = Counter()  # of lists of tables
        self.lines: dict[Path, int] = {}
        self._document()

    @property
    def _next(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    def _accept(self, *tokens: str) -> bool:
        """Whether the next token is one of these, which is then taken."""
        found = self._next in tokens and self._next != ""
        self._at += found
        return found

    def _begins_statement(self) -> bool:
        self._skip_lines()
        return self._next != ""

    def _skip_lines(self) -> None:
        while self._accept("\n"):
            pass

    def _mark(self, path: Path, token: int) -> None:
        self.lines.setdefault(path, bisect_right(self._ends, self._tokens[token].start() - 1) + 1)

    def _document(self) -> None:
        table: Path = ()
        while self._begins_statement():
            if self._accept("["):
                many = self._accept("[")
                table = self._table("]", many)
                self._accept("]")
                self._accept("]")
            else:
                self._pair(table)

    def _table(self, end: str, many: bool) -> Path:
        """The path of a table by its header; each name on the way has its first line."""
        begin, names = self._at, self._key(end)
        path: Path = ()
        for number, name in enumerate(names):
            path = (*path, name)
            self._mark(path, begin)
            if many and number == len(names) - 1:
                self._elements[path] += 1
            if path in self._elements:
                path = (*path, self._elements[path] - 1)
                self._mark(path, begin)
        return path

    def _key(self, end: str) -> tuple[str, ...]:
        begin = self._tokens[self._at].start()
        while self._next != end:
            self._at += 1
        return path_of(self._text[begin : self._tokens[self._at].start()])

    def _pair(self, table: Path) -> None:
        begin, path = self._at, table
        for name in self._key("="):
            path = (*path, name)
            self._mark(path, begin)
        self._accept("=")
        self._value(path)

    def _value(self, path: Path) -> None:
        self._mark(path, self._at)
        if self._accept("["):
            number = 0
            while not self._end_of_list("]"):
                self._value((*path, number))
                number += 1
        elif self._accept("{"):
            while not self._end_of_list("}"):
                self._pair(path)
        else:
            while self._next and self._next not in _END_OF_VALUE:
                self._at += 1

    def _end_of_list(self, end: str) -> bool:
        self._skip_lines()
        self._accept(",")
        self._skip_lines()
        return self._accept(end)
