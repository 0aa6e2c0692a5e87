"""The application: what its keys do, and where what the thread has seen is drawn."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import deque
from datetime import datetime
from typing import ClassVar

from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Footer, Input, Static

from inbound_audit.errors import InboundAuditError, cause_of, plain
from inbound_audit.feed import OPEN, Feed, Look, Source
from inbound_audit.feed.look import NO_HISTORY
from inbound_audit.overrides.entry import holds_own_addresses
from inbound_audit.picture import ROWS
from inbound_audit.watch import export
from inbound_audit.watch.looker import Looker, Seen, SeenHistory, Unseen
from inbound_audit.watch.panels import Side, of_lines
from inbound_audit.watch.screens import AskTerms, AskText, Choose, Confirm, Help, Overrides
from inbound_audit.watch.sources import sources_of, title_of
from inbound_audit.watch.table import PrefixTable
from inbound_audit.watch.tree import ORDERS

THEMES = ("ansi-dark", "ansi-light", "textual-dark", "textual-light")
"""The first two have the terminal's own 16 colours."""

MAX_TOTALS = 120
"""Of the looks whose totals are kept for a curve, where no monitor is."""

MAX_TEXT, MAX_SAID = 100, 300
"""Characters of a prefix or a filter, and of what is said for a moment."""

FILTER, GO_TO = "Filter: a part of a prefix, or a prefix to see what is inside", "Go to: an address or a prefix"


class WatchApp(App[None]):
    """A look at an audit every `interval_s` seconds, until q. Closing the feed is up to the caller."""

    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (70, "-usual"), (110, "-wide")]  # noqa: RUF012  so typed
    VERTICAL_BREAKPOINTS = [(0, "-low"), (36, "-high")]  # noqa: RUF012
    CSS = """
    #status, #line { height: 1; }
    #banner { height: auto; max-height: 2; text-style: bold reverse; }
    #body { height: 1fr; }
    #prefixes { width: 1fr; }
    #side { width: 29; padding: 0 0 0 1; scrollbar-size-vertical: 1; scrollbar-gutter: stable; }
    .-wide #side { width: 48; }
    .-narrow #side { display: none; }
    .-narrow.-high #body { layout: vertical; }
    .-narrow.-high #side { display: block; width: 100%; height: 14; }
    Minutes, Panel { margin: 0 0 1 0; text-wrap: nowrap; text-overflow: ellipsis; }
    #notes { text-wrap: wrap; }
    DataTable:nocolor > .datatable--cursor { text-style: reverse; }
    Button:nocolor:focus { text-style: reverse; }
    Input:nocolor > .input--cursor { text-style: reverse; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "quit", "Quit"),
        Binding("question_mark", "help", "Help", tooltip="What the keys do"),
        Binding(
            "slash", "filter", "Filter", priority=True, tooltip="Filter: a part of a prefix, or what is inside one"
        ),
        Binding("g", "go_to", "Go to", priority=True, tooltip="Go to an address or a prefix"),
        Binding("s", "next_source(1)", "Source", tooltip="The next source: open sessions, monitors, series"),
        Binding("o", "next_order", "Order", tooltip="The next order"),
        Binding("d", "change('deny')", "Deny", tooltip="Deny the prefix under the cursor"),
        Binding("l", "overrides", "Overrides", tooltip="List the overrides; lift some"),
        Binding("e", "export", "Export", tooltip="Export what is seen: JSON or CSV"),
        Binding("a", "change('allow')", "Allow", show=False, tooltip="Allow the prefix under the cursor"),
        Binding("u", "lift", "Lift", show=False, tooltip="Lift the override of the prefix under the cursor"),
        Binding("m", "source", "Sources", show=False, tooltip="Choose a source from all"),
        Binding("S", "next_source(-1)", "Source before", show=False, tooltip="The source before"),
        *(
            Binding(str(number), f"order('{name}')", f"By {name}", show=False, tooltip=f"Sort by {name}")
            for number, name in enumerate(ORDERS, 1)
        ),
        Binding("z", "every_length", "All lengths", show=False, tooltip="Show prefixes of every length, or the usual"),
        Binding("t", "theme", "Theme", show=False, tooltip="The next theme: dark or light, 16 colours or more"),
        Binding("escape", "drop", "Back", show=False, tooltip="Drop the filter"),
    ]

    def __init__(self, feed: Feed, source: Source = OPEN, *, rows: int = ROWS, interval_s: float = 1.0) -> None:
        # Without colours the filter that takes them all away has to be chosen now; the theme comes later.
        super().__init__(ansi_color=True if "NO_COLOR" in os.environ else None)
        self._feed = feed
        self._looker = Looker(feed, self.post_message, source, rows, interval_s)
        self._source = source
        self._look: Look | None = None
        self._totals: deque[int] = deque(maxlen=MAX_TOTALS)
        # A query would look for them in the screen of a question, as long as one is open.
        self._status = Static(id="status", markup=False)
        self._banner = Static(id="banner", markup=False)
        self._table = PrefixTable()
        self._side = Side(id="side")
        self._line = Input(id="line", max_length=MAX_TEXT, compact=True)

    def compose(self) -> ComposeResult:
        yield self._status
        yield self._banner
        with Horizontal(id="body"):
            yield self._table
            yield self._side
        yield self._line
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self.theme = THEMES[0]
        self._banner.display = False
        self._line.display = False
        self._table.focus()
        if threading.current_thread() is threading.main_thread():  # TERM leaves the terminal as it was
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.exit)
        self.run_worker(self._looker.run, thread=True)

    def on_unmount(self) -> None:
        self._looker.end()

    # ---- what was seen

    def on_seen(self, event: Seen) -> None:
        if event.look.source == self._source:
            self._look = event.look
            self._say_gone("" if event.look.processes else f"no process is attached to {plain(event.look.audit)}")
            self._totals.append(event.look.picture.total)
            self._table.show(event.look)
            self._side.show(event.look)
            self._side.of_all.show(_span_of(event.look), event.look.history, tuple(self._totals))
            self._side.of_one.show(event.prefix or "", event.history)
            self._show_status()
        self._looker.handled()

    def on_seen_history(self, event: SeenHistory) -> None:
        if event.prefix == self._table.selected:
            self._side.of_one.show(event.prefix, event.history)
        self._looker.handled()

    def on_unseen(self, event: Unseen) -> None:
        self._say_gone(f"{event.why}: waiting for it, what you see is old")
        self._looker.handled()

    def _say_gone(self, why: str) -> None:
        self._banner.display = bool(why)
        if why:
            self._banner.update(plain(why))

    def _show_status(self) -> None:
        if self._look is not None:
            rows = self._table.rows
            words = [
                plain(self._look.audit),
                f"{plain(title_of(self._source))}: {self._look.picture.total:,}",
                f"{datetime.fromtimestamp(self._look.time):%H:%M:%S}",
                f"filter {plain(rows.words)}" * bool(rows.words),
                "every length" * rows.every_length,
            ]
            self._status.update(of_lines("  ".join(filter(None, words)), ()), layout=False)

    def on_prefix_table_selected(self, event: PrefixTable.Selected) -> None:
        self._looker.follow(event.prefix)
        if event.prefix is None:
            self._side.of_one.show("", NO_HISTORY)

    # ---- what is looked at

    def _look_at(self, source: Source) -> None:
        self._source = source
        self._totals.clear()
        self._table.rows.begin()
        self._looker.look_at(source)

    def action_next_source(self, by: int) -> None:
        if self._look is not None:
            found = sources_of(self._look)
            at = found.index(self._source if self._source in found else self._look.source)
            self._look_at(found[(at + by) % len(found)])

    @work
    async def action_source(self) -> None:
        if self._look is not None:
            found = sources_of(self._look)
            texts = [plain(title_of(source)) for source in found]
            chosen = await self.push_screen_wait(Choose("What is looked at", texts, found.index(self._look.source)))
            if chosen is not None:
                self._look_at(found[chosen])

    def action_order(self, name: str) -> None:
        self._table.rows.order = name
        self._table.rebuild()

    def action_next_order(self) -> None:
        self.action_order(ORDERS[(ORDERS.index(self._table.rows.order) + 1) % len(ORDERS)])

    def action_every_length(self) -> None:
        self._table.rows.every_length = not self._table.rows.every_length
        self._table.rebuild()
        self._show_status()

    def action_theme(self) -> None:
        self.theme = THEMES[(THEMES.index(self.theme) + 1) % len(THEMES)]

    # ---- the line below

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The two keys that open the line come before what has the focus, so that letters typed behind them go into the
        line, and are no keys that deny or sort. In a line or a question they are letters."""
        return action not in ("filter", "go_to") or self.focused is self._table

    def _ask(self, what: str, value: str) -> None:
        self._line.placeholder, self._line.value = what, value
        self._line.display = True
        self.screen.set_focus(self._line)

    def action_filter(self) -> None:
        self._ask(FILTER, self._table.rows.words)

    def action_go_to(self) -> None:
        self._ask(GO_TO, "")

    def action_drop(self) -> None:
        if not self._line.display or self._line.placeholder == FILTER:
            self._filter("")
        self._leave_line()

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input is self._line and self._line.display and self._line.placeholder == FILTER:
            self._filter(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.input is self._line:
            if self._line.placeholder == GO_TO and event.value.strip():
                self._go_to(event.value.strip())
            self._leave_line()

    def _leave_line(self) -> None:
        self._line.display = False
        self._table.focus()

    def _filter(self, words: str) -> None:
        if words != self._table.rows.words:
            self._table.rows.words = words
            self._table.rebuild()
            self._show_status()

    def _go_to(self, text: str) -> None:
        try:
            found = self._table.rows.reveal(text)
        except InboundAuditError as error:
            self._say(str(error), failed=True)
            return
        if found is None:
            self._say(f"{text}: nothing is counted there", failed=True)
            return
        self._table.rebuild()
        self._table.go_to(found)
        self._show_status()

    # ---- overrides

    @work
    async def action_change(self, action: str) -> None:
        prefix = self._table.selected
        if prefix is None:
            return
        terms = await self.push_screen_wait(AskTerms(action, prefix))
        if terms is None:
            return
        warning = ""
        if action == "deny" and holds_own_addresses(prefix):
            warning = f"{prefix} holds this machine's own addresses. Deny them, too?"
        elif action == "allow" and prefix.endswith("/0"):
            warning = f"{prefix} is every address. Let them all in?"
        if not warning or await self.push_screen_wait(Confirm(warning)):
            await self._change(action, prefix, terms.for_s, terms.why)

    @work
    async def action_lift(self) -> None:
        prefix = self._table.selected
        if prefix is not None and await self.push_screen_wait(Confirm(f"Lift the override of {prefix}?")):
            await self._change("lift", prefix, None, "")

    @work
    async def action_overrides(self) -> None:
        while True:
            decisions = self._look.decisions if self._look is not None else ()
            prefix = await self.push_screen_wait(Overrides(decisions))
            if prefix is None:
                return
            if await self.push_screen_wait(Confirm(f"Lift the override of {prefix}?")):
                await self._change("lift", prefix, None, "")
                return

    async def _change(self, action: str, prefix: str, for_s: float | None, why: str) -> None:
        """In a thread: another process may hold the files."""
        try:
            changed = await asyncio.to_thread(self._feed.change, action, prefix, for_s, why)
        except (InboundAuditError, OSError) as error:
            self._say(cause_of(error) if isinstance(error, OSError) else str(error), failed=True)
            return
        said = {"deny": "denied", "allow": "allowed", "lift": "lifted"}[action]
        self._say(f"{prefix} is {said}" if changed else f"{prefix} has no override of its own", failed=not changed)
        self._looker.look_now()

    # ---- the rest

    @work
    async def action_export(self) -> None:
        look, rows = self._look, self._table.rows.matching()
        if look is None:
            return
        path = await self.push_screen_wait(AskText("Export to a .json or .csv file", export.default_name(look)))
        if path is None:
            return
        try:
            try:
                await asyncio.to_thread(export.write, path, look, rows)
            except FileExistsError:
                if not await self.push_screen_wait(Confirm(f"{plain(path)} exists. Replace it?")):
                    return
                await asyncio.to_thread(export.write, path, look, rows, replace=True)
        except (OSError, ValueError) as error:
            self._say(cause_of(error) if isinstance(error, OSError) else str(error), failed=True)
            return
        self._say(f"{path} is written")

    def action_help(self) -> None:
        self.push_screen(Help(f"{keys:12} {what}" for keys, what in self.key_table()))

    def key_table(self) -> list[tuple[str, str]]:
        """Each key, or keys, and what they do."""
        found = []
        for binding in (*PrefixTable.BINDINGS, *self.BINDINGS):
            assert isinstance(binding, Binding)
            names = [self.get_key_display(one) for one in Binding.make_bindings([binding])]
            found.append((" ".join(names), binding.tooltip or binding.description))
        return found

    def _say(self, text: str, *, failed: bool = False) -> None:
        text = plain(text)
        text = text if len(text) <= MAX_SAID else f"{text[: MAX_SAID - 1]}…"
        self.notify(text, severity="error" if failed else "information", markup=False)


def _span_of(look: Look) -> str:
    """``all, 5 x 60 s``."""
    windows = len(look.history.connections)
    return f"All, {windows} x {look.history.interval} s" if windows else "All, since this began"
