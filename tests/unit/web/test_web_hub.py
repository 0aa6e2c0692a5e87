"""One walk per look and source for all clients, and what a client gets that is slower than the looks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Executor, Future
from itertools import pairwise
from typing import Any

import pytest
from tests.support.pages import Copy, Event, events_of
from tests.support.simulated_loop import AtOnce, SimulatedLoop, simulate

from inbound_audit.errors import MonitorError, SharedStateError
from inbound_audit.feed import OPEN, Source
from inbound_audit.web.hub import (
    BEAT,
    BEAT_S,
    LOOKING,
    MAX_CALLS,
    MAX_CLIENTS,
    MAX_SOURCES,
    THREADS,
    Busy,
    Gone,
    Hub,
)

TABLES = dict.fromkeys(
    ("listeners", "monitors", "series", "limits", "refusals", "processes", "nodes", "decisions", "history", "notes"), ()
)


class FakeFeed:
    """Counts its looks; the number of the look is the total, and the count of its only row."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.looks: list[tuple[Source, int]] = []
        self.error: Exception | None = None
        self.takes_s = 0.0
        self._loop = loop

    def look(self, source: Source, rows: int) -> FakeFeed:
        self.looks.append((source, rows))
        self._loop.now += self.takes_s
        if self.error is not None:
            raise self.error
        return self

    def as_json(self) -> dict[str, Any]:
        number = len(self.looks)
        return {**TABLES, "time": self._loop.now, "total": number, "rows": [("192.0.2.0/24", number, 1, 0)]}

    def close(self) -> None:
        pass


Test = Callable[[SimulatedLoop, FakeFeed, Hub], Coroutine[Any, Any, None]]


def with_hub(test: Test, *, interval_s: float = 1.0, executor: Executor | None = None) -> None:
    """Runs it with a hub over a fake feed, in simulated time."""

    async def main(loop: SimulatedLoop) -> None:
        feed = FakeFeed(loop)
        open_feed: Any = lambda: feed  # noqa: E731
        with contextlib.closing(Hub(open_feed, interval_s, AtOnce() if executor is None else executor)) as hub:
            await test(loop, feed, hub)
            hub.end()

    simulate(main)


async def event_of(events: AsyncIterator[bytes]) -> Event:
    return next(events_of(iter((await events.__anext__()).splitlines(keepends=True))))


def test_a_hundred_clients_cost_one_walk_a_picture() -> None:
    async def test(loop: SimulatedLoop, feed: FakeFeed, hub: Hub) -> None:
        async def client() -> list[bytes]:
            async with hub.client(OPEN, 50) as one:
                events = one.events(may_change=False)
                return [await events.__anext__() for _ in range(10)]

        seen = await asyncio.gather(*(client() for _ in range(100)))
        assert feed.looks == [(OPEN, 50)] * 10
        assert hub.looks == 10
        assert all(events == seen[0] for events in seen)
        assert all(b"event: change" in event for event in seen[0][1:])

    with_hub(test)


def test_without_clients_no_look_is_taken() -> None:
    async def test(loop: SimulatedLoop, feed: FakeFeed, hub: Hub) -> None:
        await asyncio.sleep(100)
        assert not feed.looks
        async with hub.client(OPEN, 50) as client:
            await client.frame()
        before = loop.now
        await asyncio.sleep(100)
        assert len(feed.looks) == 1
        assert loop.now - before == pytest.approx(100)

    with_hub(test)


def test_a_client_that_missed_looks_gets_the_newest_whole_one() -> None:
    async def test(loop: SimulatedLoop, feed: FakeFeed, hub: Hub) -> None:
        async with hub.client(OPEN, 50) as client, hub.client(OPEN, 50) as other:
            slow, current, copy = client.events(may_change=True), other.events(may_change=True), Copy()
            copy.take(await event_of(slow))
            copy.take(await event_of(slow))
            assert (copy.look["id"], copy.look["may_change"]) == (1, True)
            names = [(await event_of(current))[0] for _ in range(12)]
            assert names == ["look"] + ["change"] * 11
            name, data = await event_of(slow)
            assert (name, data["id"], data["total"]) == ("look", 12, 13)
            assert (await event_of(slow))[0] == "change"

    with_hub(test)


def test_clients_that_come_within_the_interval_see_the_same_look() -> None:
    async def test(loop: SimulatedLoop, feed: FakeFeed, hub: Hub) -> None:
        first = await hub.look(OPEN, 50)
        await asyncio.sleep(0.9)
        assert await hub.look(OPEN, 50) == first
        assert len(feed.looks) == 1
        await asyncio.sleep(0.2)
        assert json.loads(await hub.look(OPEN, 50))["total"] == 2

    with_hub(test)


def test_looks_that_take_long_leave_as_much_rest() -> None:
    async def test(loop: SimulatedLoop, feed: FakeFeed, hub: Hub) -> None:
        feed.takes_s = 3.0
        async with hub.client(OPEN, 50) as client:
            times = [json.loads((await client.frame()).json)["time"] for _ in range(4)]
        assert [after - before for before, after in pairwise(times)] == pytest.approx([6.0] * 3)

    with_hub(test)


def test_after_a_change_clients_do_not_wait_for_the_next_look() -> None:
    async def test(loop: SimulatedLoop, feed: FakeFeed, hub: Hub) -> None:
        async with hub.client(OPEN, 50) as client:
            await client.frame()
            before = loop.now
            assert await hub.change(lambda found: found is feed)
            assert (await client.frame()).number == 1
            assert loop.now == before
            await client.frame()
            assert loop.now == pytest.approx(before + 60)

    with_hub(test, interval_s=60.0)


def test_a_client_beyond_the_bound_is_refused() -> None:
    async def test(loop: SimulatedLoop, feed: FakeFeed, hub: Hub) -> None:
        async with contextlib.AsyncExitStack() as held:
            for _ in range(MAX_CLIENTS):
                await held.enter_async_context(hub.client(OPEN, 50))
            with pytest.raises(Busy, match=f"{MAX_CLIENTS} clients"):
                await held.enter_async_context(hub.client(OPEN, 50))
        assert await hub.look(OPEN, 50)
        assert hub.clients == 0

    with_hub(test)


def test_a_source_beyond_the_bound_is_refused_while_the_others_are_looked_at() -> None:
    async def test(loop: SimulatedLoop, feed: FakeFeed, hub: Hub) -> None:
        async with contextlib.AsyncExitStack() as held:
            for rows in range(2, MAX_SOURCES + 1):
                await held.enter_async_context(hub.client(OPEN, rows))
            for rows in range(100, 120):  # looked at once each: they take one another's place
                await hub.look(OPEN, rows)
            await held.enter_async_context(hub.client(OPEN, 200))
            with pytest.raises(Busy, match=f"{MAX_SOURCES} different"):
                await hub.look(OPEN, 201)
            await hub.look(OPEN, 200)

    with_hub(test)


def test_an_audit_that_is_gone_is_said_once_and_a_look_follows() -> None:
    async def test(loop: SimulatedLoop, feed: FakeFeed, hub: Hub) -> None:
        async with hub.client(OPEN, 50) as client:
            events = client.events(may_change=False)
            assert (await event_of(events))[0] == "look"
            feed.error = SharedStateError("'mail': no such audit")
            assert await event_of(events) == ("gone", {"error": "'mail': no such audit"})
            assert await events.__anext__() == BEAT
            with pytest.raises(Gone, match="no such audit"):
                await hub.look(OPEN, 50)
            loop.call_later(10, setattr, feed, "error", None)
            while (event := await events.__anext__()) == BEAT:
                pass
            assert event.startswith(b"event: look")
            assert (await event_of(events))[0] == "change"
            assert len(feed.looks) > 10

    with_hub(test)


def test_an_error_that_many_requests_get_keeps_none_of_them() -> None:
    async def test(loop: SimulatedLoop, feed: FakeFeed, hub: Hub) -> None:
        feed.error = SharedStateError("'mail': no such audit")
        depths = set()
        async with hub.client(OPEN, 50) as client:
            await client.frame()
            for _ in range(3):
                with pytest.raises(Gone) as raised:
                    await hub.look(OPEN, 50)
                depths.add(len(list(traceback.walk_tb(raised.value.__traceback__))))
        assert len(depths) == 1

    with_hub(test)


def test_a_source_that_the_audit_does_not_have_is_the_mistake_of_the_client() -> None:
    async def test(loop: SimulatedLoop, feed: FakeFeed, hub: Hub) -> None:
        feed.error = MonitorError("'60,5': no such monitor")
        with pytest.raises(ValueError, match="no such monitor"):
            await hub.look(Source(monitor="60,5"), 50)

    with_hub(test)


def test_a_fault_in_a_look_is_logged_and_the_next_one_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    async def test(loop: SimulatedLoop, feed: FakeFeed, hub: Hub) -> None:
        feed.error = ZeroDivisionError()
        async with hub.client(OPEN, 50) as client:
            events = client.events(may_change=False)
            assert await event_of(events) == ("gone", {"error": "the server failed; its log says why"})
            feed.error = None
            assert (await event_of(events))[0] == "look"

    with_hub(test)
    assert "ZeroDivisionError" in caplog.text


def test_a_silent_stream_has_comments() -> None:
    async def test(loop: SimulatedLoop, feed: FakeFeed, hub: Hub) -> None:
        async with hub.client(OPEN, 50) as client:
            events = client.events(may_change=False)
            before = loop.now
            kinds = [await events.__anext__() for _ in range(4)]
            assert kinds[1:] == [BEAT] * 3
            assert loop.now - before == pytest.approx(3 * BEAT_S)
            assert await event_of(events)

    with_hub(test, interval_s=50.0)


def test_the_end_of_the_hub_ends_all_streams() -> None:
    async def test(loop: SimulatedLoop, feed: FakeFeed, hub: Hub) -> None:
        async with hub.client(OPEN, 50) as client, hub.client(OPEN, 60) as waiting:
            events = client.events(may_change=False)
            await events.__anext__()
            loop.call_later(5.5, hub.end)
            rest = [event async for event in events]
            assert len(rest) == 5
            assert [event async for event in waiting.events(may_change=False)] == []
        for rows in (50, 70):  # of a picture that was looked at, and of another one
            with pytest.raises(Gone, match="stops"):
                await hub.look(OPEN, rows)

    with_hub(test)


class Never(AtOnce):
    """Calls nothing, until it is asked to."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
        future: Future[Any] = Future()
        self.waiting.append(lambda: future.set_result(function()))
        return future


def test_calls_beyond_the_bound_are_refused() -> None:
    threads = Never()

    async def test(loop: SimulatedLoop, feed: FakeFeed, hub: Hub) -> None:
        calls = [asyncio.create_task(hub.call(id)) for _ in range(MAX_CALLS)]
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await hub.call(id)
        while not all(call.done() for call in calls):
            assert len(threads.waiting) <= THREADS - LOOKING  # however many wait, looks have threads
            while threads.waiting:
                threads.waiting.pop()()
            await asyncio.sleep(0)
        assert await asyncio.gather(*calls) == [id(feed)] * MAX_CALLS
        call = asyncio.create_task(hub.call(id))
        await asyncio.sleep(0)
        threads.waiting.pop()()
        assert await call == id(feed)

    with_hub(test, executor=threads)
