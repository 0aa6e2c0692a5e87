"""What the screen of `inbound-audit watch` shows, character by character."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.looks import FakeFeed, full_look, look_of, refusal
from tests.support.screens import comes, drive, press, screen_of, shows, shows_what_is_kept, strips_of, types
from textual.pilot import Pilot

from inbound_audit.feed.look import LimitRow, ProcessRow
from inbound_audit.overrides import Decision
from inbound_audit.watch.app import THEMES, WatchApp

KEPT = Path(__file__).with_name("watch_screens")

SIZES = {"usual": (80, 24), "wide": (120, 40), "narrow-low": (60, 20), "narrow-high": (60, 40)}
DIALOGS = {"d": "deny", "l": "overrides", "m": "sources", "question_mark": "help"}


def colours_of(app: WatchApp) -> set[int | None]:
    """The numbers of the colours on the screen; None: one of 16 million."""
    styles = [segment.style for strip in strips_of(app) for segment in strip if segment.style]
    colours = [colour for style in styles for colour in (style.color, style.bgcolor) if colour is not None]
    return {colour.number for colour in colours if not colour.is_default}


def reversed_text(app: WatchApp) -> str:
    """What the top screen shows with its colours exchanged: where the focus is."""
    texts = [segment.text for strip in strips_of(app) for segment in strip if segment.style and segment.style.reverse]
    return "".join(text for text in texts if not text.startswith(">"))


def test_every_screen_in_every_size_and_theme() -> None:
    """In one application, since each costs a second: nothing is said by colour alone, and 16 colours are enough."""
    app = WatchApp(FakeFeed(full_look()), interval_s=60)

    async def steps(pilot: Pilot[None]) -> None:
        await shows(pilot, "198.51.100.128/25")
        await press(pilot, "down", "down")
        for name, size in SIZES.items():
            await pilot.resize_terminal(*size)
            await shows_what_is_kept(pilot, KEPT / f"{name}.txt")
        await pilot.resize_terminal(*SIZES["usual"])
        for theme in THEMES:
            await comes(pilot, lambda theme=theme: app.theme == theme)
            await shows_what_is_kept(pilot, KEPT / "usual.txt")
            few = theme.startswith("ansi")
            await comes(pilot, lambda few=few: (colours_of(app) <= set(range(16))) == few, f"the colours of {theme}")
            await press(pilot, "t")
        assert app.theme == THEMES[0]
        for key, name in DIALOGS.items():
            await press(pilot, key)
            await shows_what_is_kept(pilot, KEPT / f"{name}.txt")
            await press(pilot, "escape")
        await press(pilot, "slash")
        await types(pilot, "203.")
        await shows_what_is_kept(pilot, KEPT / "filter.txt")

    drive(app, steps)


def test_without_colours_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = WatchApp(FakeFeed(full_look()), interval_s=60)

    async def steps(pilot: Pilot[None]) -> None:
        await shows(pilot, "198.51.100.128/25")
        await press(pilot, "d")
        await shows(pilot, "Deny 0.0.0.0/0")
        assert colours_of(app) == set()
        await press(pilot, "tab", "tab")
        await comes(pilot, lambda: "Deny" in reversed_text(app))
        await press(pilot, "escape", "l")
        await shows(pilot, "root@mx1")
        await comes(pilot, lambda: "203.0.113.7/32" in reversed_text(app))
        await press(pilot, "escape", "m")
        await shows(pilot, "What is looked at")
        await comes(pilot, lambda: "open SMTP sessions" in reversed_text(app))

    drive(app, steps)


HOSTILE = "[red]x[/red]\x1b[2J\x07"
SHOWN = "[red]x[/red]\\x1b[2J\\x07"


def test_what_others_wrote_is_shown_as_text() -> None:
    """Neither markup nor an escape sequence of it is obeyed."""
    look = look_of(
        limits=(LimitRow(HOSTILE, "SMTP", None, 1, 2, False),),
        refusals=(refusal(HOSTILE, 1, limit=HOSTILE, prefix=None),),
        processes=(ProcessRow(1, 1.0, 0, HOSTILE),),
        decisions=(Decision("10.0.0.0/8", "deny", None, HOSTILE, 0.0, HOSTILE, HOSTILE),),
        notes=(HOSTILE,),
    )
    app = WatchApp(feed := FakeFeed(look), interval_s=0.2)

    async def steps(pilot: Pilot[None]) -> None:
        await shows(pilot, SHOWN)
        await shows(pilot, "10.0.0.0/8 denied")
        await press(pilot, "l")
        await shows(pilot, "deny  10.0.0.0/8  it is lifted")
        await press(pilot, "escape", "slash")
        await types(pilot, "[red]")
        await shows(pilot, "filter [red]")
        await press(pilot, "escape")
        feed.shown = HOSTILE
        await shows(pilot, f"{SHOWN}: waiting")
        app._say(HOSTILE)
        await comes(pilot, lambda: screen_of(app).count(SHOWN) >= 6)
        assert not any("\x1b" in strip.text or "\x07" in strip.text for strip in strips_of(app))

    drive(app, steps, (160, 60))
