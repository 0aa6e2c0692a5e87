"""Many clients of `inbound-audit web` at once, and one among them that reads nothing."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest
from tests.support.pages import Copy, WebServer, events_of

from inbound_audit import InboundAudit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")

FAST = ("--interval", "0.1s")
ADDRESSES = [f"198.18.{number >> 8}.{number & 255}" for number in range(400)]
LOOKS = 40


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
        slow = events_of(held.enter_context(server.opened("/api/events")))
        others = [(held.enter_context(server.events()), Copy()) for _ in range(20)]
        for _ in range(LOOKS):  # in each of them every row differs
            with contextlib.ExitStack() as more:
                for events, copy in others:
                    copy.take(next(events))
                for address in ADDRESSES:
                    more.enter_context(listener.session(address))
                others[0][1].take(next(others[0][0]))
        least = min(copy.look["id"] for _, copy in others)
        assert least >= LOOKS - 1
        late, got = Copy(), 0
        while not late.look or late.look["id"] < least:
            late.take(next(slow))
            got += 1
        assert got <= LOOKS * 3 // 4


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
