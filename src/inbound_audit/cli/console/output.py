"""What a command answers, as text for people and scripts, or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console

Row = tuple[Any, ...]


class Answer(NamedTuple):
    """Rows with names for their columns, how a row is written as text, and what is said about all of them.

    `text` gets the row and what to do with its count; `heading` is a line before them.
    """

    about: Mapping[str, object]
    columns: tuple[str, ...]
    rows: Iterable[Row]
    text: Callable[[Row, Callable[[str], str]], str]
    heading: str | None = None


class Writer:
    """Writes answers to standard output; in colour, if that is a terminal. Raises OSError."""

    def __init__(self, console: Console, *, as_json: bool) -> None:
        self.as_json = as_json
        # A row of rich's own costs 20 microseconds: the colour is asked for once.
        with console.capture() as captured:
            console.print("@", style="cyan", end="")
        self._before, _, self._after = captured.get().partition("@")
        self._encoding = sys.stdout.encoding or "utf-8"

    def write(self, answer: Answer) -> None:
        sys.stdout.writelines(map(self._encodable, _as_json(answer) if self.as_json else self._as_text(answer)))
        sys.stdout.flush()

    def write_error(self, command: str, text: str) -> None:
        """In JSON every line that was read has a line in the answer."""
        if self.as_json:
            sys.stdout.write(json.dumps({"command": command, "error": text}) + "\n")
            sys.stdout.flush()

    def _as_text(self, answer: Answer) -> Iterator[str]:
        if answer.heading is not None:
            yield f"{answer.heading}\n"
        for row in answer.rows:
            yield f"{answer.text(row, self._paint)}\n"

    def _paint(self, count: str) -> str:
        return f"{self._before}{count}{self._after}"

    def _encodable(self, text: str) -> str:
        return text.encode(self._encoding, "backslashreplace").decode(self._encoding)


def _as_json(answer: Answer) -> Iterator[str]:
    """One object in pieces: there may be a million rows."""
    yield json.dumps(dict(answer.about)).removesuffix("}") + ', "rows": ['
    between = ""
    for row in answer.rows:
        yield between + json.dumps(dict(zip(answer.columns, row, strict=True)))
        between = ", "
    yield "]}\n"


def plain(name: str) -> str:
    """A name that another process has chosen, without what a terminal would obey."""
    return name if name.isprintable() else ascii(name)[1:-1]
