"""The inbox of an agent: what waits in it, and for how long frames are handled before the node speaks again."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
from tests.support.waiting import PATIENCE

from inbound_audit.cluster import agent
from inbound_audit.cluster import inbox as room
from inbound_audit.cluster.agent import Agent
from inbound_audit.cluster.frames import Frame, FrameType, pack
from inbound_audit.cluster.inbox import Arrived, Inbox


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
    monkeypatch.setattr(room, "MAX_FRAMES", 3)
    inbox = Inbox()
    for at in range(3):
        inbox.put("mx2", bytes([at]))
    taken = inbox.take(0.0)
    inbox.put("mx3", b"new")
    inbox.put_back(taken)
    assert [frame for _, frame, _ in inbox.take(0.0)] == [b"\1", b"\2", b"new"]
    assert inbox.dropped == 1


def test_the_inbox_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_FRAMES", 5)
    monkeypatch.setattr(room, "MAX_BYTES", 100)
    inbox = Inbox()
    for number in range(8):
        inbox.put("mx2", bytes([number]))
    assert inbox.dropped == 3
    inbox.put("mx2", b"x" * 97)
    assert [frame[:1] for _, frame, _ in inbox.take(0)] == [b"\5", b"\6", b"\7", b"x"]
    inbox.put("mx2", b"x" * 101)
    assert inbox.take(0) == []
    assert inbox.dropped == 6


def _waiting(inbox: Inbox) -> tuple[threading.Thread, list[list[Arrived]]]:
    """A thread that waits for frames, and what it has taken."""
    taken: list[list[Arrived]] = []
    thread = threading.Thread(target=lambda: taken.append(inbox.take(PATIENCE)))
    thread.start()
    return thread, taken


def test_the_inbox_wakes_who_waits() -> None:
    inbox = Inbox()
    thread, taken = _waiting(inbox)
    inbox.wake()
    thread.join(PATIENCE)
    assert taken == [[]]


HEARTBEAT = pack(Frame(FrameType.HEARTBEAT, 7, 2, base=1))
GOODBYE = pack(Frame(FrameType.GOODBYE, 7, 3, base=1))


def test_a_heartbeat_waits_for_the_next_frame_of_another_kind() -> None:
    inbox = Inbox()
    thread, taken = _waiting(inbox)
    for _ in range(3):
        inbox.put("mx2", HEARTBEAT)
    assert taken == []
    inbox.put("mx3", GOODBYE)
    thread.join(PATIENCE)
    assert [frame for _, frame, _ in taken[0]] == [HEARTBEAT] * 3 + [GOODBYE]


def test_heartbeats_are_taken_at_the_end_of_the_wait() -> None:
    inbox = Inbox()
    inbox.put("mx2", HEARTBEAT)
    assert [frame for _, frame, _ in inbox.take(0.001)] == [HEARTBEAT]


@pytest.mark.parametrize("frame", [b"", b"ibac\1\3", HEARTBEAT + b"x", HEARTBEAT[:-1], GOODBYE])
def test_what_is_no_heartbeat_is_taken_at_once(frame: bytes) -> None:
    inbox = Inbox()
    thread, taken = _waiting(inbox)
    inbox.put("mx2", frame)
    thread.join(PATIENCE)
    assert [frame for _, frame, _ in taken[0]] == [frame]


def test_frames_that_are_put_back_are_taken_at_once() -> None:
    inbox = Inbox()
    inbox.put("mx2", b"x")
    inbox.put_back(inbox.take(0.0))
    thread, taken = _waiting(inbox)
    thread.join(PATIENCE)
    assert [frame for _, frame, _ in taken[0]] == [b"x"]
