"""Textual applications in tests: what they show as lines of text, kept beside the tests, and waits for them."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.support.waiting import PATIENCE
from textual import events
from textual.app import App
from textual.pilot import Pilot
from textual.strip import Strip

REWRITE = "INBOUND_AUDIT_REWRITE_SCREENS"
"""Set in the environment: screens that are kept are written anew. `git diff` shows what has become of them."""


def strips_of(app: App[Any]) -> list[Strip]:
    """The lines of the screen, with their styles."""
    return app.screen._compositor.render_strips()


def screen_of(app: App[Any]) -> str:
    """The characters of the screen, without the blanks at the ends of its lines."""
    return "".join(f"{strip.text.rstrip()}\n" for strip in strips_of(app))


def drive(app: App[Any], steps: Callable[[Pilot[Any]], Awaitable[None]], size: tuple[int, int] = (80, 24)) -> None:
    """Runs an application without a terminal, and the steps of a test in it."""

    async def run() -> None:
        async with app.run_test(size=size, notifications=True) as pilot:
            await steps(pilot)

    asyncio.run(run())


async def comes(pilot: Pilot[Any], condition: Callable[[], object], what: str = "the condition") -> None:
    """Waits until a condition holds, as `eventually` does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come to hold:\n{screen_of(pilot.app)}"
        await pilot.pause(0.05)


async def shows(pilot: Pilot[Any], words: str) -> None:
    """Waits until these words are on the screen."""
    await comes(pilot, lambda: words in screen_of(pilot.app), repr(words))


async def shows_what_is_kept(pilot: Pilot[Any], kept: Path) -> None:
    """Waits until the screen is the one that is kept."""
    if REWRITE in os.environ:
        await pilot.pause(1.0)
        await asyncio.to_thread(kept.write_text, screen_of(pilot.app), encoding="utf-8")
    lines = await asyncio.to_thread(kept.read_text, encoding="utf-8")

    polls = itertools.count(1)

    def is_drawn() -> bool:
        if (
            next(polls) % 20 == 0
        ):  # below a dialog lies what was drawn when it was opened, if that was before anything was
            pilot.app.refresh()
        return screen_of(pilot.app) == lines

    await comes(pilot, is_drawn, f"the screen that {REWRITE}=1 writes to {kept.name}")


LETTERS = {
    "question_mark": "?",
    "space": " ",
    "slash": "/",
    "full_stop": ".",
    "colon": ":",
    "minus": "-",
    "left_square_bracket": "[",
}
NAMES = {letter: name for name, letter in LETTERS.items()}


ROUNDS = 4
"""So often every queue is seen empty before a key has done what it does: a message goes from widget to widget."""


async def press(pilot: Pilot[Any], *keys: str) -> None:
    """Presses keys by their names, each when the one before has been answered, but for what threads do.

    `Pilot.press` waits until the processor rests, up to a second, which it does not while a thread looks all the time.
    """
    app = pilot.app
    for key in keys:
        app.post_message(events.Key(key, LETTERS.get(key, key if len(key) == 1 else None)))
        empty = 0
        while empty < ROUNDS:
            await asyncio.sleep(0)
            pumps = (app, app.screen, *app.screen.walk_children())
            empty = 0 if any(pump.message_queue_size for pump in pumps) else empty + 1
        await pilot.pause(0)


async def types(pilot: Pilot[Any], text: str) -> None:
    """Types text into what has the focus."""
    await press(pilot, *(NAMES.get(letter, letter) for letter in text))
