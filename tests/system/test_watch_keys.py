"""What the keys of `inbound-audit watch` do, at a shared audit."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.looks import COUNTS, FakeFeed, full_look, look_of
from tests.support.screens import NAMES, comes, drive, press, screen_of, shows, types
from textual import events
from textual.pilot import Pilot

from inbound_audit import InboundAudit
from inbound_audit.feed import Feed, Source
from inbound_audit.feed.look import History
from inbound_audit.watch.app import WatchApp

shared = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")
WINDOW = 1 << 29
"""Seconds: no window turns while a test runs."""


@pytest.fixture
def audit(place: Path) -> Iterator[InboundAudit]:
    """An audit with sessions, and a monitor that has rejections."""
    with InboundAudit(shared="mail", capacity=1 << 22, monitors=(f"{WINDOW},2",)) as audit:
        listener = audit.listener()
        kept = [listener.session(f"192.0.2.{host}") for host in (7, 7, 7, 8)]
        kept += [listener.session("127.0.0.1"), listener.session("2001:db8::7"), audit.listener("IMAP").session("::1")]
        kept[0].record_rejection(2)
        yield audit
        for session in kept:
            session.close()


@shared
def test_a_prefix_is_denied_allowed_and_lifted(
    audit: InboundAudit,
) -> None:
    with Feed("mail") as feed:
        app = WatchApp(feed, interval_s=60)

        async def has_focus(pilot: Pilot[None], widget: str) -> None:
            def can_be_pressed() -> bool:  # a button takes no key for a moment after it was pressed
                found = app.focused
                return found is not None and found.id == widget and not found.has_class("-active")

            await comes(pilot, can_be_pressed, f"the focus of {widget}")

        async def enter_in(pilot: Pilot[None], *widgets: str) -> None:
            for widget in widgets:
                await has_focus(pilot, widget)
                await press(pilot, "enter")

        async def deny_own(pilot: Pilot[None], answer: str) -> None:
            await press(pilot, "d")
            await enter_in(pilot, "time", "why", "yes")
            await shows(pilot, "holds this machine's own addresses. Deny them, too?")
            await press(pilot, answer)

        async def steps(pilot: Pilot[None]) -> None:
            await shows(pilot, "192.0.2.7/32")
            await press(pilot, "g")
            await types(pilot, "192.0.2.7")
            await press(pilot, "enter", "d")
            await shows(pilot, "Deny 192.0.2.7/32")
            await has_focus(pilot, "time")
            await press(pilot, *["backspace"] * 2)
            await types(pilot, "x")
            await enter_in(pilot, "time", "why", "yes")
            await shows(pilot, "'x': is not a duration")
            await has_focus(pilot, "time")
            await press(pilot, "backspace")
            await types(pilot, "2h")
            await enter_in(pilot, "time")
            await has_focus(pilot, "why")
            await types(pilot, "a test")
            assert audit.decisions() == []
            await enter_in(pilot, "why", "yes")
            await shows(pilot, "192.0.2.7/32 denied")
            await comes(pilot, audit.decisions)  # of a scan
            (decision,) = audit.decisions()
            assert (decision.prefix, decision.action, decision.why) == ("192.0.2.7/32", "deny", "a test")
            assert decision.until is not None
            assert round(decision.until - decision.since) == 7200

            await press(pilot, "a")
            await enter_in(pilot, "time", "why", "yes")
            await shows(pilot, "192.0.2.7/32 allowed")
            await comes(pilot, lambda: [decision.action for decision in audit.decisions()] == ["allow"])

            await press(pilot, "l")
            await shows(pilot, "allow  192.0.2.7/32")
            await press(pilot, "u")
            await shows(pilot, "Lift the override of 192.0.2.7/32?")
            await press(pilot, "n")
            await shows(pilot, "allow  192.0.2.7/32")
            await press(pilot, "u", "y")
            await shows(pilot, "192.0.2.7/32 is lifted")
            await comes(pilot, lambda: audit.decisions() == [])
            await comes(pilot, lambda: " allowed" not in app._table.render_line(1).text)
            await press(pilot, "u", "y")
            await shows(pilot, "192.0.2.7/32 has no override of its own")

            await press(pilot, "g")
            await types(pilot, "127.0.0.1")
            await press(pilot, "enter")
            for answer in ("n", "escape"):
                await deny_own(pilot, answer)
                assert audit.decisions() == []
            await deny_own(pilot, "y")
            await shows(pilot, "127.0.0.1/32 denied")

        drive(app, steps, (100, 30))


@shared
def test_the_audit_goes_and_comes_back(place: Path) -> None:
    with InboundAudit(shared="mail", capacity=1 << 22) as audit, audit.listener().session("192.0.2.7"):
        feed = Feed("mail")
        app = WatchApp(feed, interval_s=0.2)

        async def steps(pilot: Pilot[None]) -> None:
            await shows(pilot, "192.0.2.7/32")
            audit.close()
            await shows(pilot, "no process is attached")
            await shows(pilot, "192.0.2.7/32")
            with InboundAudit(shared="mail", capacity=1 << 22) as again, again.listener().session("192.0.2.9"):
                await shows(pilot, "192.0.2.9/32")
                await comes(pilot, lambda: "is attached" not in screen_of(pilot.app))

        with feed:
            drive(app, steps)


def test_the_cursor_and_what_is_open_stay_over_the_next_look() -> None:
    app = WatchApp(feed := FakeFeed(look_of()), interval_s=0.2)

    async def steps(pilot: Pilot[None]) -> None:
        await shows(pilot, "198.51.100.128/25")
        await press(pilot, "g")
        await types(pilot, "203.0.113.7")
        await press(pilot, "enter")
        assert app._table.selected == "203.0.113.7/32"
        feed.shown = look_of({
            **COUNTS, "203.0.113.0/24": (1900, 1888, 9), "203.0.113.7/32": (1, -10, 9), "203.0.113.9/32": (1899, 0, 0)
        })  # fmt: skip
        await shows(pilot, "1,899")
        assert app._table.selected == "203.0.113.7/32"
        await shows(pilot, ">       1     -10        9     203.0.113.7/32")
        await press(pilot, "left")
        assert app._table.selected == "203.0.113.0/24"
        await press(pilot, "left")
        await comes(pilot, lambda: "203.0.113.7/32" not in screen_of(app))
        feed.shown = look_of({"9.0.0.0/8": (5, 1, 0)})
        await shows(pilot, "9.0.0.0/8")
        assert app._table.selected == "9.0.0.0/8"
        feed.shown = look_of({})
        await comes(pilot, lambda: app._table.selected is None)
        await press(pilot, "d", "u", "left", "right", "space", "plus", "down", "end")
        feed.shown = look_of()
        await shows(pilot, ">   1,042")

    drive(app, steps)


def test_a_row_below_the_first_screen_stays_on_its_line() -> None:
    counts = {f"10.0.{third}.0/24": (1000 - third, 0, 0) for third in range(100)}
    app = WatchApp(feed := FakeFeed(look_of(counts)), interval_s=0.2)

    async def steps(pilot: Pilot[None]) -> None:
        await shows(pilot, "10.0.9.0/24")
        await press(pilot, "end", *["up"] * 5)
        assert app._table.selected == "10.0.94.0/24"
        await shows(pilot, "\n>     906")
        line = screen_of(app).splitlines().index(next(one for one in screen_of(app).splitlines() if one[:1] == ">"))
        feed.shown = look_of({"9.0.0.0/8": (9999, 0, 0), "9.1.0.0/16": (1, 0, 0), **counts})
        await comes(pilot, lambda: len(app._table.rows.lines()) > 100)
        await comes(pilot, lambda: screen_of(app).splitlines()[line].startswith(">     906"))
        await press(pilot, "home")
        await shows(pilot, ">   9,999")

    drive(app, steps)


def test_sources_orders_and_lengths() -> None:
    app = WatchApp(feed := FakeFeed(full_look()), interval_s=60)

    async def steps(pilot: Pilot[None]) -> None:
        await shows(pilot, "open SMTP sessions: 1,162")
        await press(pilot, "s")
        await shows(pilot, "open IMAP default sessions")
        await press(pilot, "S", "S")
        await shows(pilot, "open IMAP sessions")
        await press(pilot, "m")
        await shows(pilot, "What is looked at")
        await press(pilot, *["down"] * 8, "enter")
        await shows(pilot, "rejections in 60,5")
        assert feed.sources[-1] == Source(monitor="60,5", kind="rejections", endv=4)
        await press(pilot, "3")
        await shows(pilot, "change▼")
        await press(pilot, "o")
        await shows(pilot, "refused▼")
        await press(pilot, "o")
        await shows(pilot, "prefix▲")
        await press(pilot, "z", "home", "plus")
        await shows(pilot, "192.0.0.0/4")
        await press(pilot, "minus")
        await comes(pilot, lambda: "192.0.0.0/4" not in screen_of(app))
        await press(pilot, "tab", "slash")
        await comes(pilot, lambda: app.focused is app._line)

    drive(app, steps)


def test_what_is_typed_ahead_behind_a_key_goes_where_the_key_leads() -> None:
    app = WatchApp(FakeFeed(full_look()), interval_s=60)

    async def steps(pilot: Pilot[None]) -> None:
        await shows(pilot, "open SMTP sessions")
        for letter in "g2001:db8:2::":
            app.post_message(events.Key(NAMES.get(letter, letter), letter))
        await press(pilot, "enter")
        await comes(pilot, lambda: app._table.selected == "2001:db8:2::/64")
        assert "count▼" in screen_of(app)
        assert "Deny 2001" not in screen_of(app)

    drive(app, steps)


def test_a_prefix_that_cannot_be_gone_to_is_said() -> None:
    app = WatchApp(FakeFeed(full_look()), interval_s=60)

    async def steps(pilot: Pilot[None]) -> None:
        await shows(pilot, "open SMTP sessions")
        for text, answer in (("300.1.1.1", "'300.1.1.1': "), ("3fff::1", "3fff::1: nothing is counted there")):
            await press(pilot, "g")
            await types(pilot, text)
            await press(pilot, "enter")
            await shows(pilot, answer)
        await press(pilot, "slash")
        await types(pilot, "2001")
        await shows(pilot, "filter 2001")
        await press(pilot, "enter", "up")
        await comes(pilot, lambda: "203.0.113.0/24" not in screen_of(app).splitlines()[3])
        await press(pilot, "escape")
        await comes(pilot, lambda: "filter" not in screen_of(app).splitlines()[0])

    drive(app, steps, (120, 40))


def test_what_is_seen_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    look, rows = full_look(), tmp_path / "rows.csv"
    app = WatchApp(FakeFeed(look), interval_s=60)

    async def export(pilot: Pilot[None], name: str) -> None:
        await press(pilot, "e")
        await shows(pilot, "Export to a .json or .csv file")
        await press(pilot, "ctrl+u")
        await types(pilot, name)
        await press(pilot, "enter")

    async def steps(pilot: Pilot[None]) -> None:
        await shows(pilot, "open SMTP sessions")
        await press(pilot, "e")
        await shows(pilot, "mail-20261128T120000.json")
        await press(pilot, "enter")
        await shows(pilot, "mail-20261128T120000.json is written")
        await export(pilot, "rows.csv")
        await shows(pilot, "rows.csv is written")
        rows.write_text("precious")
        await export(pilot, "rows.csv")
        await shows(pilot, "rows.csv exists. Replace it?")
        await press(pilot, "n")
        await pilot.pause(0)
        assert rows.read_text() == "precious"
        await export(pilot, "rows.csv")
        await shows(pilot, "rows.csv exists. Replace it?")
        await press(pilot, "y")
        await comes(pilot, lambda: rows.read_text().count("\n") == 1 + len(COUNTS))
        await export(pilot, "rows.xls")
        await shows(pilot, "'rows.xls': write a name")
        await export(pilot, "no/such/place.csv")
        await shows(pilot, "No such file or directory")

    drive(app, steps, (100, 40))
    assert json.loads(Path("mail-20261128T120000.json").read_text()) == json.loads(json.dumps(look.as_json()))
    exported = list(csv.DictReader(rows.read_text().splitlines()))
    assert list(exported[5].values()) == ["198.51.100.0/24", "1000", "0.860585", "20", "31"]
    assert exported[10]["change"] == ""


def test_without_a_monitor_the_totals_that_were_seen_are_drawn() -> None:
    app = WatchApp(FakeFeed(look_of()), interval_s=0.2)

    async def steps(pilot: Pilot[None]) -> None:
        await shows(pilot, "All, since this began")
        await shows(pilot, "open     1,162 ████")

    drive(app, steps)


def test_the_history_of_the_prefix_under_the_cursor_comes_between_two_looks() -> None:
    class Following(FakeFeed):
        def history(self, prefix: str) -> History:
            return History(60, (1, 77 if prefix == "0.0.0.0/0" else 88), (0, 0))

    app = WatchApp(feed := Following(full_look()), interval_s=600)

    async def steps(pilot: Pilot[None]) -> None:
        await shows(pilot, "opened      77")
        looks = len(feed.sources)
        await press(pilot, "down")
        await shows(pilot, "opened      88")
        assert app._table.selected == "198.51.100.0/24"
        assert str(app._side.of_one.render()).startswith("198.51.100.0/24\n")
        assert len(feed.sources) == looks

    drive(app, steps)


def test_the_page_has_each_key() -> None:
    page = (Path(__file__).parents[2] / "docs" / "howto" / "watch.md").read_text()
    for keys, what in WatchApp(FakeFeed(full_look())).key_table():
        assert f"| `{keys}` | {what} |\n" in page


def test_the_page_has_the_screen() -> None:
    page = (Path(__file__).parents[2] / "docs" / "howto" / "watch.md").read_text()
    assert (Path(__file__).with_name("watch_screens") / "usual.txt").read_text() in page
