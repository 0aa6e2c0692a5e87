"""What can come next in a line that is being typed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from inbound_audit.cli.console import grammar
from inbound_audit.cli.console.commands import SYNTAXES
from inbound_audit.cli.console.desk import KINDS, Desk
from inbound_audit.cli.console.grammar import WrongSyntax
from inbound_audit.cli.console.values import ORDERS


class Completions(Completer):
    """The words of the grammar, and of values those that the audit has."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._paths = PathCompleter(expanduser=False)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        line = document.text_before_cursor
        word = "" if not line or line[-1].isspace() else line.split()[-1]
        try:
            before = grammar.split(line[: len(line) - len(word)])
        except WrongSyntax:  # within quotation marks
            return
        offered: dict[str, str] = {}
        for _, item, values in grammar.expected(before, SYNTAXES):
            if item == "FILE":
                path = Document(word)
                yield from self._paths.get_completions(path, complete_event)
            for text, about in self._offers(item, values):
                offered.setdefault(text, about)
        for text, about in offered.items():
            if text.startswith(word.lower() if text.islower() else word):
                yield Completion(text, -len(word), display_meta=about)

    def _offers(self, item: str, values: dict[str, Any]) -> Iterable[tuple[str, str]]:
        if not grammar.is_value(item):
            return [(item, "")]
        known: dict[str, Callable[[], Iterable[tuple[str, str]]]] = {
            "SERIES": self._series,
            "PARAMETERS": lambda: self._parameters(str(values.get("SERIES", ""))),
            "NODE": lambda: [(str(owner.pid), f"owner {owner.id}") for owner in self._desk.owners],
            "ORDER": lambda: [(order, "") for order in ORDERS],
            "COMMAND": lambda: [(start, "") for start in {grammar.bare(one.words)[0] for one in SYNTAXES}],
        }
        return known[item]() if item in known else ()

    def _series(self) -> list[tuple[str, str]]:
        series = [(one.name, f"series {one.interval},{one.num_windows}") for one in self._windows("series")]
        return series + [(kind, "monitors") for kind in KINDS if self._windows(kind)]

    def _parameters(self, series: str) -> list[tuple[str, str]]:
        found = self._windows(series) if series in KINDS else self._windows("series")
        return [
            (f"{one.interval},{one.num_windows}", f"{one.num_windows} windows of {one.interval} s")
            for one in found
            if series in KINDS or one.name == series
        ]

    def _windows(self, scope: str) -> list[Any]:
        return [one for one in self._desk.windows if one.scope == scope]
