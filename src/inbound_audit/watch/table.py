"""The table of prefixes: a row per line of a `RowTree`, with its counts before it.

Textual's `Tree` has no columns and its `DataTable` no nesting, and both keep objects for each row, which the next look
would replace. Here a line is drawn when it is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

from rich.segment import Segment
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from inbound_audit.feed import Look
from inbound_audit.watch.tree import Line, Row, RowTree


class Column(NamedTuple):
    """`name`: one of `ORDERS`. `text`: what a row has there."""

    name: str
    width: int
    text: Callable[[Row], str]


COLUMNS = (
    Column("count", 8, lambda row: f"{row.count:,}"),
    Column("share", 8, lambda row: f"{row.share:.1%}"),
    Column("change", 8, lambda row: f"{row.change:+,}" if row.change else ""),
    Column("refused", 9, lambda row: f"{row.refused:,}" if row.refused else ""),
)
DISPENSABLE = ("share", "change", "refused")
"""Left out where there is no room, the first one first, but not what rows are sorted by."""

PREFIX_WIDTH = 24
"""Cells for prefixes, at least."""

CLOSED, OPENED, NEITHER = "▶ ", "▼ ", "  "
CURSOR = ">"
MARKS = {"deny": " denied", "allow": " allowed"}


class PrefixTable(ScrollView, can_focus=True):
    """The rows of a look. The row under the cursor stays under it, whatever the next look has."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "Up", show=False),
        Binding("down", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "A screen up", show=False),
        Binding("pagedown", "page(1)", "A screen down", show=False),
        Binding("home", "to(0)", "To the first row", show=False),
        Binding("end", "to(-1)", "To the last row", show=False),
        Binding("right", "open", "Open what is inside", show=False),
        Binding("left", "close", "Close, or go to the row around it", show=False),
        Binding("space,enter", "open_or_close", "Open or close", show=False),
        Binding("plus", "open_inside", "Open all inside", show=False),
        Binding("minus", "close_inside", "Close all inside", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"prefixes--title", "prefixes--cursor"}
    DEFAULT_CSS = """
    PrefixTable {
        overflow-x: hidden;
        scrollbar-size-vertical: 1;
        & > .prefixes--title { text-style: bold underline; }
        & > .prefixes--cursor { text-style: reverse; }
    }
    """

    class Selected(Message):
        """The cursor is at another prefix; None: there is no row."""

        def __init__(self, prefix: str | None) -> None:
            self.prefix = prefix
            super().__init__()

    def __init__(self) -> None:
        super().__init__(id="prefixes")
        self.rows = RowTree()
        self.selected: str | None = None
        self._lines: list[Line] = []
        self._cursor = 0
        self._marks: dict[str, str] = {}

    # ---- what it shows

    def show(self, look: Look) -> None:
        """Draws what has changed since the last one. O(rows x log rows) if anything has, else O(rows)."""
        marks = {decision.prefix: MARKS[decision.action] for decision in look.decisions}
        if self.rows.take(look) or marks != self._marks:
            self._marks, before = marks, self._marks
            self.rebuild(all=marks != before)

    def rebuild(self, *, all: bool = True) -> None:
        """The lines anew, after a change of `rows`. `all`: every line is drawn again."""
        before, offset = self._lines, self.scroll_offset.y
        self._lines = self.rows.lines()
        prefixes = [line.row.prefix for line in self._lines]
        at = prefixes.index(self.selected) if self.selected in prefixes else min(self._cursor, len(prefixes) - 1)
        moved, self._cursor = at - self._cursor, max(0, at)
        self.virtual_size = Size(self.size.width, len(self._lines) + 1)
        if moved and offset:
            self.scroll_to(y=offset + moved, animate=False, immediate=True)
        self._keep_in_view()
        self._select()
        if all or moved or len(before) != len(self._lines):
            self.refresh()
            return
        for y in range(offset, min(offset + self.size.height, len(self._lines))):
            if before[y] != self._lines[y]:
                self._draw(y)

    def go_to(self, prefix: str) -> None:
        """The cursor to a row that is shown."""
        self._move_to(next(at for at, line in enumerate(self._lines) if line.row.prefix == prefix))

    def render_line(self, y: int) -> Strip:
        style = self.rich_style
        columns = self._columns()
        if y == 0:
            return self._title(columns).adjust_cell_length(self.size.width, style)
        at = y - 1 + self.scroll_offset.y
        if at >= len(self._lines):
            return Strip.blank(self.size.width, style)
        line, is_cursor = self._lines[at], at == self._cursor
        if is_cursor:
            style += self.get_component_rich_style("prefixes--cursor", partial=True)
        row = line.row
        numbers = "".join(f"{column.text(row):>{column.width}}" for column in columns)
        icon = NEITHER if line.is_open is None else OPENED if line.is_open else CLOSED
        prefix = f" {' ' * line.depth}{icon}{row.prefix}{self._marks.get(row.prefix, '')}"
        room = self.size.width - len(numbers) - 1
        prefix = prefix if len(prefix) <= room else f"{prefix[: room - 1]}…"
        strip = Strip([Segment((CURSOR if is_cursor else " ") + numbers + prefix, style)])
        return strip.adjust_cell_length(self.size.width, style)

    def _title(self, columns: list[Column]) -> Strip:
        names = "".join(f"{self._heading_of(column.name):>{column.width}}" for column in columns)
        style = self.rich_style + self.get_component_rich_style("prefixes--title", partial=True)
        return Strip([Segment(f" {names}   {self._heading_of('prefix')}", style)])

    def _heading_of(self, name: str) -> str:
        return name + ("▲" if name == "prefix" else "▼") * (name == self.rows.order)

    def _columns(self) -> list[Column]:
        columns = list(COLUMNS)
        for name in DISPENSABLE:
            if self.size.width - sum(column.width for column in columns) >= PREFIX_WIDTH:
                break
            columns = [column for column in columns if column.name != name or name == self.rows.order]
        return columns

    def _draw(self, at: int) -> None:
        self.refresh(Region(0, at + 1 - self.scroll_offset.y, self.size.width, 1))

    def on_resize(self) -> None:
        self.virtual_size = Size(self.size.width, len(self._lines) + 1)
        self._keep_in_view()

    # ---- the cursor

    def _select(self) -> None:
        prefix = self._lines[self._cursor].row.prefix if self._lines else None
        if prefix != self.selected:
            self.selected = prefix
            self.post_message(self.Selected(prefix))

    def _move_to(self, at: int) -> None:
        before, self._cursor = self._cursor, max(0, min(at, len(self._lines) - 1))
        self._draw(before)
        self._draw(self._cursor)
        self._select()
        self._keep_in_view()

    def _keep_in_view(self) -> None:
        height, offset = max(1, self.size.height - 1), self.scroll_offset.y
        wanted = min(max(offset, self._cursor - height + 1), self._cursor)
        if wanted != offset:
            self.scroll_to(y=wanted, animate=False, immediate=True)

    def action_move(self, by: int) -> None:
        self._move_to(self._cursor + by)

    def action_page(self, by: int) -> None:
        self._move_to(self._cursor + by * max(1, self.size.height - 2))

    def action_to(self, at: int) -> None:
        self._move_to(at if at >= 0 else len(self._lines) - 1)

    # ---- opened and closed

    def action_open(self) -> None:
        if self.selected is not None:
            self.rows.open(self.selected)
            self.rebuild()

    def action_close(self) -> None:
        if self.selected is None:
            return
        line = self._lines[self._cursor]
        if line.is_open:
            self.rows.close(line.row.prefix)
            self.rebuild()
            return
        around = (at for at in range(self._cursor, -1, -1) if self._lines[at].depth < line.depth)
        self._move_to(next(around, self._cursor))

    def action_open_or_close(self) -> None:
        if self.selected is not None and self._lines[self._cursor].is_open is not None:
            change = self.rows.close if self._lines[self._cursor].is_open else self.rows.open
            change(self.selected)
            self.rebuild()

    def action_open_inside(self) -> None:
        if self.selected is not None:
            self.rows.open_inside(self.selected)
            self.rebuild()

    def action_close_inside(self) -> None:
        if self.selected is not None:
            self.rows.close_inside(self.selected)
            self.rebuild()

    def on_click(self, event: events.Click) -> None:
        at = event.y - 1 + self.scroll_offset.y
        if event.y and at < len(self._lines):
            was_there = at == self._cursor
            self._move_to(at)
            if was_there:
                self.action_open_or_close()
