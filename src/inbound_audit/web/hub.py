"""Looks for all clients: one walk per look and distinct source, encoded once, whatever the number of clients.

A client takes the newest look whenever it is ready for one. It gets what has changed if it had the look before that,
and otherwise the whole look. So nothing is kept for a client, and a slow one holds up no other.

All of it runs in one event loop. What blocks (looks, files of overrides) runs in the threads of the hub.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from inbound_audit.errors import InboundAuditError, cause_of
from inbound_audit.feed import Feed, Source
from inbound_audit.web.changes import change_between

MAX_CLIENTS = 256
MAX_SOURCES = 16
"""Distinct pairs of a source and a number of rows that are looked at."""
MAX_CALLS = 32
"""Calls that may wait for a thread."""
THREADS, LOOKING = 4, 2
"""Threads, and how many of them are for looks alone."""
BEAT_S = 15.0
"""Seconds of silence after which a client gets a comment, so that it notices a dead connection."""

BEAT = b": still here\n\n"
FAILED = "the server failed; its log says why"

logger = logging.getLogger("inbound_audit.web")

_T = TypeVar("_T")


class Busy(Exception):
    """There are more clients, sources or calls than are served at once."""


class Gone(Exception):
    """The audit can't be read now, and why."""


@dataclass(frozen=True)
class Frame:
    """What the clients of a source are to see from one moment on. `number` counts them."""

    number: int
    json: bytes
    """The look, or the error."""
    look: dict[str, Any] | None = None
    change: bytes | None = None
    """An event for a client that had the frame before. None: it gets the whole."""
    error: Exception | None = None
    """Why there is no look: Gone, or ValueError if the audit has no such source."""

    def check(self) -> None:
        """Raises the error, if there is one: the same for each client, without what earlier ones have added to it."""
        if self.error is not None:
            raise self.error.with_traceback(None)

    def whole(self, may_change: bool, interval_s: float) -> bytes:
        """An event for any client."""
        if self.look is None:
            return _event("gone", self.json)
        more = {"id": self.number, "may_change": may_change, "interval": interval_s}
        return _event("look", self.json[:-1] + b"," + _encoded(more)[1:])


def _encoded(members: dict[str, Any]) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode()


def _event(name: str, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


class Hub:
    """Looks at the audit of a feed every `interval_s` seconds, while a client listens. `open_feed` opens it when it is
    needed first; it raises SharedStateError while there is no such audit.

    A look that takes longer than half of the interval is followed by as much rest as it took.

    Lock rule: `_opening` is held while the feed is opened. All else belongs to the event loop.
    """

    def __init__(self, open_feed: Callable[[], Feed], interval_s: float, executor: Executor | None = None) -> None:
        self.interval_s = interval_s
        self.looks = 0
        """How many have been taken."""
        self.clients = 0
        self._open_feed = open_feed
        self._opening = threading.Lock()
        self._feed: Feed | None = None
        self._threads = ThreadPoolExecutor(THREADS, "inbound_audit-web") if executor is None else executor
        self._channels: dict[tuple[Source, int], _Channel] = {}
        self._calls = 0
        self._turns = asyncio.Semaphore(THREADS - LOOKING)
        self.ended = False

    def feed(self) -> Feed:
        """Opens the feed, once. May block; any thread may call it. Raises SharedStateError."""
        with self._opening:
            if self._feed is None:
                self._feed = self._open_feed()
            return self._feed

    @contextlib.asynccontextmanager
    async def client(self, source: Source, rows: int) -> AsyncIterator[Client]:
        """A client of the pictures of that source with so many rows. Raises Busy, Gone."""
        if self.ended:
            raise Gone("the server stops")
        if self.clients >= MAX_CLIENTS:
            raise Busy(f"{MAX_CLIENTS} clients are served, and no more at once; try again later")
        channel = self._channel(source, rows)
        self.clients += 1
        channel.clients += 1
        channel.begin()
        try:
            yield Client(channel)
        finally:
            channel.clients -= 1
            self.clients -= 1

    async def look(self, source: Source, rows: int) -> bytes:
        """One look, as JSON, that is not older than the interval. Raises Busy, Gone, ValueError."""
        async with self.client(source, rows) as client:
            frame = await client.frame()
        frame.check()
        return frame.json

    async def call(self, function: Callable[[Feed], _T]) -> _T:
        """Calls a function that may block, with the feed. Raises Busy, and what the function raises."""
        if self._calls >= MAX_CALLS:
            raise Busy("too many requests wait; try again later")
        self._calls += 1
        try:
            async with self._turns:
                return await self.in_thread(lambda: function(self.feed()))
        finally:
            self._calls -= 1

    async def change(self, function: Callable[[Feed], _T]) -> _T:
        """As `call`; its clients then see at once what it has changed."""
        changed = await self.call(function)
        for channel in self._channels.values():
            channel.look_again()
        return changed

    async def in_thread(self, function: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    def end(self) -> None:
        """All clients come to their end, and no other one begins. Idempotent."""
        self.ended = True
        for channel in self._channels.values():
            channel.end()

    def close(self) -> None:
        """Waits for calls that run, and closes the feed. To be called when the event loop has ended."""
        self._threads.shutdown(cancel_futures=True)
        if self._feed is not None:
            self._feed.close()

    def _channel(self, source: Source, rows: int) -> _Channel:
        channel = self._channels.get((source, rows))
        if channel is None:
            if len(self._channels) >= MAX_SOURCES:
                self._make_room()
            channel = self._channels[source, rows] = _Channel(self, source, rows)
        return channel

    def _make_room(self) -> None:
        for key, channel in self._channels.items():
            if not channel.clients:
                channel.end()
                del self._channels[key]
                return
        raise Busy(f"{MAX_SOURCES} different pictures are drawn, and no more at once; try again later")

    def _take(self, source: Source, rows: int, before: Frame | None) -> Frame:
        """The frame after another one; the same if the audit is still gone. Runs in a thread."""
        number = before.number + 1 if before is not None else 0
        try:
            look = self.feed().look(source, rows).as_json()
        except (InboundAuditError, OSError, ValueError) as error:
            why = cause_of(error) if isinstance(error, OSError) else str(error)
            return _gone(ValueError(why) if isinstance(error, ValueError) else Gone(why), before)
        change = None
        if before is not None and before.look is not None:
            numbers = {"id": number, "from": before.number}
            change = _event("change", _encoded(numbers | change_between(before.look, look)))
        return Frame(number, _encoded(look), look, change)


def _gone(error: Exception, before: Frame | None) -> Frame:
    json = _encoded({"error": str(error)})
    if before is not None and before.json == json:
        return before
    return Frame(before.number + 1 if before is not None else 0, json, error=error)


class _Channel:
    """The pictures of one source with so many rows, and who looks at them."""

    def __init__(self, hub: Hub, source: Source, rows: int) -> None:
        self.clients = 0
        self.frame: Frame | None = None
        self.news = asyncio.Event()
        """Set when there is a new frame, and now and then without one, and then replaced; set for good at the end."""
        self._hub, self._source, self._rows = hub, source, rows
        self._task: asyncio.Task[None] | None = None
        self._again = asyncio.Event()

    @property
    def ended(self) -> bool:
        return self._hub.ended

    @property
    def interval_s(self) -> float:
        return self._hub.interval_s

    def begin(self) -> None:
        if self._task is None and not self.ended:
            self.frame = None  # the one that was taken for earlier clients is old
            self._task = asyncio.create_task(self._run())

    def look_again(self) -> None:
        self._again.set()

    def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self.news.set()

    async def _run(self) -> None:
        clock, pause_s = asyncio.get_running_loop().time, self._hub.interval_s
        try:
            while self.clients:
                began = clock()
                self._again.clear()
                await self._look()
                took = clock() - began
                await self._pause(max(pause_s - took, took))
        finally:
            self._task = None

    async def _pause(self, rest_s: float) -> None:
        """Until it is time for the next look, or that is wanted at once."""
        while rest_s > 0:
            part_s = min(rest_s, BEAT_S)
            try:
                await asyncio.wait_for(self._again.wait(), part_s)
            except asyncio.TimeoutError:
                rest_s -= part_s
                if rest_s > 0:
                    self._wake()
            else:
                return

    def _wake(self) -> None:
        news, self.news = self.news, asyncio.Event()
        news.set()

    async def _look(self) -> None:
        before, hub = self.frame, self._hub
        try:
            frame = await hub.in_thread(lambda: hub._take(self._source, self._rows, before))
        except Exception:
            logger.exception("no look at %s", self._source)
            frame = _gone(Gone(FAILED), before)
        hub.looks += 1
        self.frame = frame
        self._wake()


class Client:
    """One that looks; it is to be used by one task."""

    def __init__(self, channel: _Channel) -> None:
        self._channel = channel
        self._had: Frame | None = None

    async def frame(self) -> Frame:
        """The newest one that this client has not had. Raises Gone at the end of the hub."""
        while (found := await self._next()) is None:
            pass
        return found

    async def _next(self) -> Frame | None:
        """As `frame`; None if there was none for a while."""
        if self._channel.frame is self._had:
            await self._channel.news.wait()
        if self._channel.ended:
            raise Gone("the server stops")
        if self._channel.frame is self._had:
            return None
        self._had = self._channel.frame
        return self._had

    async def events(self, may_change: bool) -> AsyncIterator[bytes]:
        """The events of a stream from the first frame on, as fast as they are taken: a client that has missed some
        gets one for them all. Ends with the hub."""
        before = None
        with contextlib.suppress(Gone):
            frame: Frame | None = self._had or await self.frame()
            while True:
                if frame is None:
                    yield BEAT
                else:
                    follows = before is not None and before.number == frame.number - 1
                    whole = not follows or frame.change is None
                    yield frame.whole(may_change, self._channel.interval_s) if whole else frame.change or b""
                    before = frame
                frame = await self._next()
