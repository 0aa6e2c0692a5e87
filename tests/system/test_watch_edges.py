"""`inbound-audit watch` where it is hard: a terminal of 20 x 5, Ctrl-C anywhere, long texts, an audit that goes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from tests.support.looks import FakeFeed, full_look
from tests.support.screens import comes, drive, press, screen_of, shows
from textual import events
from textual.pilot import Pilot

from inbound_audit import InboundAudit
from inbound_audit.feed import Feed
from inbound_audit.watch.app import WatchApp

MUCH = "much " * 50_000


@pytest.mark.parametrize("key", ["slash", "d", "m"])
def test_ctrl_c_ends_it_whatever_is_open(key: str) -> None:
    app = WatchApp(FakeFeed(full_look()), interval_s=60)

    async def steps(pilot: Pilot[None]) -> None:
        await comes(pilot, lambda: app._table.selected is not None)
        before = app.focused
        await press(pilot, key)
        await comes(pilot, lambda: app.focused not in (None, before))
        await press(pilot, "ctrl+c")
        await comes(pilot, lambda: not app.is_running)

    drive(app, steps)
    assert app.return_code == 0


def test_on_a_low_and_narrow_terminal_what_has_the_focus_is_seen() -> None:
    app = WatchApp(feed := FakeFeed(full_look()), interval_s=0.2)

    async def steps(pilot: Pilot[None]) -> None:
        await comes(pilot, lambda: app._table.selected is not None)
        await press(pilot, "d")
        await shows(pilot, "1h")
        await press(pilot, "tab", "tab")
        await comes(pilot, lambda: " Deny" in screen_of(app) and "1h" not in screen_of(app))
        await press(pilot, "escape", "e")
        await shows(pilot, "T120000.json")
        await press(pilot, "escape", "l")
        await shows(pilot, "deny  203.0.11")
        await press(pilot, "escape", "m")
        await shows(pilot, "open SMTP")
        await press(pilot, *["down"] * 3)
        await shows(pilot, "open inbound_")
        await press(pilot, "escape", "question_mark")
        await shows(pilot, "↑")
        await press(pilot, "escape")
        feed.shown = MUCH[:600]
        await shows(pilot, "much")
        assert "count▼" in screen_of(app)

    drive(app, steps, (20, 5))


def test_a_text_of_any_length_leaves_the_rest_of_the_screen_as_it_is() -> None:
    app = WatchApp(FakeFeed(full_look()), interval_s=60)

    async def steps(pilot: Pilot[None]) -> None:
        await shows(pilot, "198.51.100.0/24")
        for key in ("slash", "g"):
            await press(pilot, key)
            app.screen.post_message(events.Paste(MUCH))
            await press(pilot, "enter")
            assert "much" not in screen_of(app)
        app._say(MUCH)
        await shows(pilot, "much much…")
        assert "198.51.100.0/24" in screen_of(app)

    drive(app, steps)


@pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")
def test_an_audit_that_goes_while_a_question_is_open_is_said_and_ends_nothing(place: Path) -> None:
    with (
        InboundAudit(shared="mail", capacity=1 << 22) as audit,
        audit.listener().session("192.0.2.7"),
        Feed("mail") as feed,
    ):
        app = WatchApp(feed, interval_s=0.2)
        (directory,) = place.iterdir()

        async def steps(pilot: Pilot[None]) -> None:
            await shows(pilot, "192.0.2.7/32")
            for said in ("192.0.2.7/32 is denied", "192.0.2.7/32 is denied", "no process is attached"):
                await press(pilot, "d")
                await shows(pilot, "For how long")
                if said.startswith("no"):
                    audit.close()
                    shutil.rmtree(directory)
                await press(pilot, "tab", "tab", "enter")
                await shows(pilot, said)
            await shows(pilot, "what you see is old")

        drive(app, steps, (100, 40))
