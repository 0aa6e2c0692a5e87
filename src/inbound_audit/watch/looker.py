"""The thread that looks: an audit may be slow to read, and the screen never waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Condition

from textual.message import Message

from inbound_audit.errors import InboundAuditError, cause_of
from inbound_audit.feed import Feed, Look, Source
from inbound_audit.feed.look import NO_HISTORY, History


class Seen(Message):
    """A look; `history` is of the prefix that was wanted, None without one."""

    def __init__(self, look: Look, prefix: str | None, history: History) -> None:
        self.look, self.prefix, self.history = look, prefix, history
        super().__init__()


class SeenHistory(Message):
    """The history of another prefix, between two looks."""

    def __init__(self, prefix: str, history: History) -> None:
        self.prefix, self.history = prefix, history
        super().__init__()


class Unseen(Message):
    """There was no look: a sentence says why. The thread tries again."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__()


class Looker:
    """Takes a look every `interval_s` seconds, one at a time, and posts what it has seen: `Seen`, `SeenHistory` or
    `Unseen`. After each it waits for `handled`, so that a slow terminal, whose application is late, gets fewer looks
    and no queue of them.

    Lock rule: `_changed` for all members. It is not held while the thread looks.
    """

    def __init__(
        self, feed: Feed, post: Callable[[Message], object], source: Source, rows: int, interval_s: float
    ) -> None:
        self._feed, self._post, self._rows, self._interval_s = feed, post, rows, interval_s
        self._changed = Condition()
        self._source = source
        self._prefix: str | None = None
        self._is_due = True
        self._wants_history = False
        self._is_posted = False
        self._ended = False

    # ---- called by the application

    def look_at(self, source: Source) -> None:
        """At once."""
        with self._changed:
            self._source, self._is_due = source, True
            self._changed.notify()

    def look_now(self) -> None:
        self.look_at(self._source)

    def follow(self, prefix: str | None) -> None:
        """Of which prefix the history is wanted from now on."""
        with self._changed:
            self._prefix, self._wants_history = prefix, prefix is not None
            self._changed.notify()

    def handled(self) -> None:
        """The application has changed its widgets by what was posted last, and draws them when it is idle."""
        with self._changed:
            self._is_posted = False
            self._changed.notify()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()

    # ---- the thread

    def run(self) -> None:
        """Until `end`."""
        next_at = time.monotonic()
        while True:
            with self._changed:
                while not self._ended and (
                    self._is_posted or not (self._is_due or self._wants_history or time.monotonic() >= next_at)
                ):
                    self._changed.wait(None if self._is_posted else max(0.0, next_at - time.monotonic()))
                if self._ended:
                    return
                whole = self._is_due or time.monotonic() >= next_at
                source, prefix = self._source, self._prefix
                self._is_due = self._wants_history = False
                self._is_posted = True
            if whole:
                next_at = time.monotonic() + self._interval_s
            self._post(self._see(source, prefix, whole))

    def _see(self, source: Source, prefix: str | None, whole: bool) -> Message:
        try:
            look = self._feed.look(source, self._rows) if whole else None
            history = NO_HISTORY if prefix is None else self._feed.history(prefix)
        except InboundAuditError as error:
            return Unseen(str(error))
        except OSError as error:
            return Unseen(cause_of(error))
        if look is not None:
            return Seen(look, prefix, history)
        assert prefix is not None
        return SeenHistory(prefix, history)
