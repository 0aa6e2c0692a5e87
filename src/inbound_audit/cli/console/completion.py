"""What can come next in a line that is being typed."""

from __future__ import annotations

from collections.abc import Iterator

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from inbound_audit._ipcount import MONITOR_KINDS
from inbound_audit.cli.console import grammar
from inbound_audit.cli.console.context import ConsoleContext
from inbound_audit.cli.console.grammar import USAGE, WrongSyntax
from inbound_audit.cli.console.values import ORDERS


class Completions(Completer):
    """The keywords of the grammar, and of values those that the audit has."""

    def __init__(self, context: ConsoleContext) -> None:
        self._context = context
        self._paths = PathCompleter(expanduser=False)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        line = document.text_before_cursor
        word = "" if not line or line[-1].isspace() else line.split()[-1]
        try:
            keywords, values, series = grammar.expected(grammar.split(line[: len(line) - len(word)]))
        except WrongSyntax:  # within quotation marks
            return
        if "FILE" in values:
            yield from self._paths.get_completions(Document(word), complete_event)
        offered = dict.fromkeys(keywords, "")
        for value in values:
            offered |= self._known(value, series)
        for text, about in offered.items():
            if text.startswith(word.lower() if text.islower() else word):
                yield Completion(text, -len(word), display_meta=about)

    def _known(self, value: str, series: str) -> dict[str, str]:
        """The values of that kind, each with a note."""
        there = self._context.all_series
        if value in ("SERIES", "NAME"):
            return {one.label: "monitors" if one.scope in MONITOR_KINDS else f"series {one.title}" for one in there}
        if value == "PARAMETERS":
            of = [one for one in there if one.label == series]
            return {f"{one.interval},{one.num_windows}": f"{one.num_windows} windows of {one.interval} s" for one in of}
        if value == "NODE":
            nodes = {node.name: f"node, {node.state}" for node in self._context.view.nodes}
            return nodes | {str(owner.pid): f"owner {owner.id}" for owner in self._context.owners}
        if value == "COMMAND":
            return {usage.removeprefix("inbound_audit ").split()[0]: "" for usage in USAGE.values()}
        return dict.fromkeys({"COLUMN": ORDERS, "PREFIX": ("inbound_audit",)}.get(value, ()), "")
