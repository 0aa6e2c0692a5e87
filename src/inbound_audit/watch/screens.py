"""Questions and lists over the whole screen. Each gives its answer to who has pushed it; Escape gives none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import ClassVar, Generic, NamedTuple, TypeVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, DataTable, Input, Static

from inbound_audit._ipcount import parse_duration
from inbound_audit.errors import InboundAuditError, plain
from inbound_audit.overrides import Decision
from inbound_audit.overrides.entry import MAX_WHY, made_by

Answer = TypeVar("Answer")

DEFAULT_TIME, MAX_TIME = "1h", 40
"""For how long an override holds, and characters of such a text."""


class Terms(NamedTuple):
    """For how many seconds an override holds (None: until it is lifted), and why."""

    for_s: float | None
    why: str


class Dialog(ModalScreen[Answer], Generic[Answer]):
    """A box in the middle of the screen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel"),
        Binding("ctrl+c", "app.quit", "Quit", priority=True),  # before what copies in a line of text
    ]
    DEFAULT_CSS = """
    Dialog { align: center middle; }
    Dialog > .box {
        width: 76; max-width: 100%; height: auto; max-height: 100%; overflow-y: auto; scrollbar-size-vertical: 1;
        border: round $primary; padding: 0 1; background: $surface;
    }
    Dialog Horizontal { height: auto; }
    Dialog Button { margin: 0 2 0 0; }
    Dialog .title { text-style: bold; }
    Dialog .complaint { text-style: bold; color: $error; }
    Dialog DataTable { height: auto; max-height: 60vh; scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0; }
    """

    def on_mount(self) -> None:
        self.call_after_refresh(self._show_focused)

    def _show_focused(self) -> None:
        """On a low terminal, as soon as the heights of all are known."""
        if self.focused is not None:
            self.focused.scroll_visible(animate=False)

    def action_cancel(self) -> None:
        self.dismiss(None)


class Confirm(Dialog[bool]):
    """A question with yes and no."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("y", "yes", "Yes"), Binding("n", "cancel", "No")]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(self._question, markup=False)
            with Horizontal():
                yield Button("No (n)", id="no", compact=True)
                yield Button("Yes (y)", id="yes", compact=True)

    def action_yes(self) -> None:
        self.dismiss(True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(True if event.button.id == "yes" else None)


class AskTerms(Dialog[Terms | None]):
    """For how long, and why, a prefix is to be denied or allowed."""

    def __init__(self, action: str, prefix: str) -> None:
        super().__init__()
        self._action, self._prefix = action, prefix

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(f"{self._action.capitalize()} {self._prefix}", classes="title", markup=False)
            yield Static("For how long: 30m, 1h or 7d; empty: until it is lifted", markup=False)
            yield Input(DEFAULT_TIME, id="time", max_length=MAX_TIME, compact=True)
            yield Static("Why", markup=False)
            yield Input(id="why", max_length=MAX_WHY, compact=True)
            yield Static(classes="complaint", markup=False)
            with Horizontal():
                yield Button(self._action.capitalize(), id="yes", compact=True)
                yield Button("Cancel", id="no", compact=True)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.focus_next()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "no":
            self.dismiss(None)
            return
        text = self.query_one("#time", Input).value.strip()
        try:
            for_s = float(parse_duration(text)) if text else None
            if for_s is not None and not 0 < for_s < math.inf:
                raise ValueError(f"{text!r}: write a time above 0, such as 30m, 1h or 7d")
        except (ValueError, InboundAuditError) as error:
            self.query_one(".complaint", Static).update(str(error))
            self.query_one("#time", Input).focus()
            return
        self.dismiss(Terms(for_s, self.query_one("#why", Input).value.strip()))


class AskText(Dialog[str | None]):
    """One line of text."""

    def __init__(self, title: str, value: str) -> None:
        super().__init__()
        self._title, self._value = title, value

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(self._title, classes="title", markup=False)
            yield Input(self._value, compact=True)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip() or None)


class Choose(Dialog[int | None]):
    """One of several texts: its position."""

    def __init__(self, title: str, texts: Iterable[str], chosen: int = 0) -> None:
        super().__init__()
        self._title, self._texts, self._chosen = title, list(texts), chosen

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(self._title, classes="title", markup=False)
            table: DataTable[Text] = DataTable(cursor_type="row", show_header=False)
            table.add_column("")
            for text in self._texts:
                table.add_row(Text(text))
            table.move_cursor(row=self._chosen)
            yield table

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        self.dismiss(event.cursor_row)


class Overrides(Dialog[str | None]):
    """The overrides that hold. The answer: which prefix is to be lifted."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("u", "lift", "Lift")]

    def __init__(self, decisions: Sequence[Decision]) -> None:
        super().__init__()
        self._decisions = decisions

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static("Overrides: u or Enter lifts one, Escape goes back", classes="title", markup=False)
            if not self._decisions:
                yield Static("There is none.", markup=False)
                return
            table: DataTable[Text] = DataTable(cursor_type="row")
            for title in ("what", "prefix", "until", "why", "by"):
                table.add_column(Text(title))
            for one in self._decisions:
                until = "it is lifted" if one.until is None else _time(one.until)
                cells = (one.action, one.prefix, until, one.why, made_by(one.by, one.node))
                table.add_row(*(Text(plain(cell)) for cell in cells))
            yield table

    def action_lift(self) -> None:
        if self._decisions:
            self.dismiss(self._decisions[self.query_one(DataTable).cursor_row].prefix)

    def on_data_table_row_selected(self) -> None:
        self.action_lift()


class Help(Dialog[None]):
    """Lines to be read."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("question_mark,q", "cancel", "Close")]

    def __init__(self, lines: Iterable[str]) -> None:
        super().__init__()
        self._lines = list(lines)

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="box"):
            yield Static("\n".join(self._lines), markup=False)


def _time(seconds: float) -> str:
    """By the zone of this machine."""
    try:
        return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return "the end of time"
