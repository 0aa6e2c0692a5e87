"""Many clients of `inbound-audit web` at once, and one among them that reads nothing."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from tests.support.pages import Copy, Event, WebServer, events_of

from inbound_audit import InboundAudit
from inbound_audit.web.server import STALL_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")

FAST = ("--interval", "0.1s")
ADDRESSES = [f"198.18.{number >> 8}.{number & 255}" for number in range(400)]
LOOKS = 12
"""Twice as many are large."""


def test_a_client_that_reads_nothing_holds_up_no_other_and_is_kept_nothing_for(place: Path, tmp_path: Path) -> None:
    """A Unix socket holds few bytes, so that it is full soon."""
    with (
        InboundAudit(shared="mail") as audit,
        WebServer(*FAST, listen=f"unix:{tmp_path}/web") as server,
        contextlib.ExitStack() as held,
    ):
        listener = audit.listener()
        for address in ADDRESSES:
            held.enter_context(listener.session(address))
        begun = time.monotonic()
        slow = events_of(held.enter_context(server.opened("/api/events")))
        others = [(held.enter_context(server.events()), Copy()) for _ in range(20)]
        for events, copy in others:
            copy.take(next(events))
        for _ in range(LOOKS):
            with contextlib.ExitStack() as more:
                for address in ADDRESSES:
                    more.enter_context(listener.session(address))
                newest = take_until(2 * len(ADDRESSES), *others[0])
                for events, copy in others[1:]:
                    while copy.look["id"] < newest:
                        copy.take(next(events))
            take_until(len(ADDRESSES), *others[0])
        newest = others[0][1].look["id"]
        seen = [next(slow)]
        while seen[-1][1]["id"] < newest:
            if (event := next(slow, None)) is None:  # it was cut off: on a machine that takes so long for the looks
                assert time.monotonic() - begun > STALL_S
                return
            seen.append(event)
        missed = [after[1]["id"] - before[1]["id"] - 1 for before, after in pairwise(seen)]
        assert sum(missed) > LOOKS / 2
        assert all((after[0] == "look") == (number > 0) for number, after in zip(missed, seen[1:], strict=True))


def take_until(total: int, events: Iterator[Event], copy: Copy) -> int:
    """Takes events until so many sessions are open. Returns the number of that look."""
    while copy.look["total"] != total:
        copy.take(next(events))
    return int(copy.look["id"])


def test_a_hundred_clients_see_the_same_looks(place: Path) -> None:
    with InboundAudit(shared="mail") as audit, WebServer(*FAST) as server, contextlib.ExitStack() as held:
        held.enter_context(audit.listener().session("192.0.2.7"))
        clients = [held.enter_context(server.events()) for _ in range(100)]
        seen: dict[int, set[float]] = {}
        for _ in range(3):
            for events in clients:
                _, look = next(events)
                seen.setdefault(look["id"], set()).add(look["time"])
        assert all(len(times) == 1 for times in seen.values())
