"""What a command of the console returns, and how it is written: as text for people and scripts, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from inbound_audit.cli.output import Output, json_pieces

ResultRow = tuple[Any, ...]
Paint = Callable[[str], str]


class Result(NamedTuple):
    """Rows with names for their columns, how a row is written as text, and what JSON says about all of them.

    `text` gets the row and a function that colours a count; `heading` is a line before the rows.
    """

    about: Mapping[str, object]
    columns: tuple[str, ...]
    rows: Iterable[ResultRow]
    text: Callable[[ResultRow, Paint], str]
    heading: str | None = None


class ResultWriter:
    """Writes results to standard output. Raises OSError."""

    def __init__(self, output: Output, *, as_json: bool) -> None:
        self._output = output
        self.as_json = as_json

    def write(self, result: Result) -> None:
        self._output.write(self._as_json(result) if self.as_json else self._as_text(result))

    def write_error(self, command: str, text: str) -> None:
        """In JSON every line that was read has its line in the output."""
        if self.as_json:
            self._output.write([json.dumps({"command": command, "error": text}) + "\n"])

    def _as_json(self, result: Result) -> Iterator[str]:
        objects = (dict(zip(result.columns, row, strict=True)) for row in result.rows)
        return json_pieces(result.about, "rows", objects)

    def _as_text(self, result: Result) -> Iterator[str]:
        if result.heading is not None:
            yield f"{result.heading}\n"
        for row in result.rows:
            yield f"{result.text(row, self._output.paint)}\n"
