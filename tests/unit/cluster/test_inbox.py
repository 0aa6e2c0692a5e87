"""The inbox of an agent: what waits in it, and for how long frames are handled before the node speaks again."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from inbound_audit.cluster import agent
from inbound_audit.cluster.agent import Agent, Inbox


def test_frames_that_take_long_wait_for_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = Inbox()
    heard: list[bytes] = []
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def hear(node: str, frame: bytes, at: float) -> None:
        nonlocal now
        heard.append(frame)
        now += 0.6 * agent.MAX_HANDLING_S

    for at in range(5):
        inbox.put("mx2", bytes([at]))
    stub = SimpleNamespace(_inbox=inbox, _receiver=SimpleNamespace(heard=hear))
    came_at = now
    for handled in (2, 4, 5):
        Agent._handle(stub, inbox.take(0.0))  # type: ignore[arg-type]
        assert heard == [bytes([at]) for at in range(handled)]
        assert inbox.since(now) == (came_at if handled < 5 else now)


def test_what_is_put_back_keeps_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "MAX_FRAMES", 3)
    inbox = Inbox()
    for at in range(3):
        inbox.put("mx2", bytes([at]))
    taken = inbox.take(0.0)
    inbox.put("mx3", b"new")
    inbox.put_back(taken)
    assert [frame for _, frame, _ in inbox.take(0.0)] == [b"\1", b"\2", b"new"]
    assert inbox.dropped == 1
