"""What commands write: rows with a coloured count, text that the encoding has, JSON in pieces, a progress bar."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from inbound_audit.cli.prefixes import Row, with_depths
from inbound_audit.errors import plain as plain

if TYPE_CHECKING:
    from rich.text import Text

WIDTH, GAP = 7, " " * 25


class Output:
    """Standard output: in colour if it is a terminal and NO_COLOR is not set. Methods raise OSError."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console()
        # rich needs 20 microseconds to format a row, and a tree may have a million rows: the colour is formatted once.
        with self.console.capture() as captured:
            self.console.print("@", style="cyan", end="")
        self._before, _, self._after = captured.get().partition("@")

    def paint(self, count: str) -> str:
        """A count in its colour."""
        return f"{self._before}{count}{self._after}"

    def reference_rows(self, rows: Iterable[Row]) -> Iterator[str]:
        """``     31                         10.0.0.0/8``: the row of the reference's console."""
        return (f"{self.paint(f'{count:{WIDTH}d}')}{GAP}{prefix}\n" for count, prefix in rows)

    def tree_rows(self, rows: Iterable[Row]) -> Iterator[str]:
        """The rows of a tree, each prefix indented below the prefix that holds it. O(rows)."""
        for depth, (count, prefix) in with_depths(rows):
            yield f"{self.paint(f'{count:{WIDTH}d}')}  {'  ' * depth}{prefix}\n"

    def write(self, pieces: Iterable[str]) -> None:
        """Writes text; a letter that the encoding of standard output does not have becomes an escape."""
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.writelines(piece.encode(encoding, "backslashreplace").decode(encoding) for piece in pieces)
        sys.stdout.flush()

    def write_text(self, text: Text) -> None:
        """Writes a text of rich's, however wide."""
        # Without the detour rich ends the program when the reader of a pipe has left.
        with self.console.capture() as captured:
            self.console.print(text, soft_wrap=True)
        self.write([captured.get()])


def as_objects(rows: Iterable[Row]) -> Iterator[dict[str, object]]:
    """Rows for JSON."""
    return ({"prefix": prefix, "count": count} for count, prefix in rows)


def json_pieces(about: Mapping[str, object], name: str, objects: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """One JSON object in a line, in pieces: `about`, and a list of objects under `name`, of which there may be many."""
    yield json.dumps(dict(about)).removesuffix("}") + f', "{name}": ['
    between = ""
    for one in objects:
        yield between + json.dumps(one)
        between = ", "
    yield "]}\n"


def listing(names: list[str]) -> str:
    """At most ten names in a line."""
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def plural(number: int, noun: str) -> str:
    """``1 process``, ``2 processes``."""
    return f"{number} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


@contextlib.contextmanager
def progress(label: str, *, total: float | None = None, shown: bool = True) -> Iterator[Callable[..., None]]:
    """A bar on standard error, if that is a terminal. The block gets a function that takes `total`, `completed` or
    `advance`, and `lines`."""
    if not (shown and sys.stderr is not None and sys.stderr.isatty()):
        yield lambda **fields: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[lines]:,} lines"),
        TaskProgressColumn(show_speed=False), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total, lines=0)

        def update(**fields: Any) -> None:
            bar.update(task, **fields)

        yield update
