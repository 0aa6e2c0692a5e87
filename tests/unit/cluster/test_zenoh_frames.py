"""How an engine takes frames from Zenoh, without a session of it."""

from __future__ import annotations

import time
from collections import deque
from types import SimpleNamespace
from typing import Any, cast

import pytest

zenoh = pytest.importorskip("zenoh")

from inbound_audit.cluster.engine import EngineSettings  # noqa: E402
from inbound_audit.cluster.zenoh_engine import FEW_NODES, MAX_REST_S, ZenohEngine  # noqa: E402
from inbound_audit.cluster.zenoh_links import Links  # noqa: E402


class Frames:
    """What a subscriber of Zenoh has: frames that have come in crowds, the next one when the last was taken."""

    def __init__(self, *crowds: list[tuple[str, bytes]]) -> None:
        self._crowds = deque(crowds)
        self._come: deque[tuple[str, bytes]] = deque()

    def recv(self) -> object:
        if not self._crowds:
            raise zenoh.ZError
        self._come.extend(self._crowds.popleft())
        return self.try_recv()

    def try_recv(self) -> object:
        if not self._come:
            return None
        node, frame = self._come.popleft()
        return SimpleNamespace(key_expr=f"ia/eu/{node}/d", kind=zenoh.SampleKind.PUT, payload=frame)


def heard(
    monkeypatch: pytest.MonkeyPatch, *crowds: list[tuple[str, bytes]]
) -> tuple[list[tuple[str, bytes]], list[float]]:
    """What the engine gives on until the session ends, and how long it has rested in between."""
    given: list[tuple[str, bytes]] = []
    rests: list[float] = []
    monkeypatch.setattr(time, "sleep", rests.append)
    engine = ZenohEngine(EngineSettings("eu", "mx1", listen=("tcp/127.0.0.1:7447",)))
    engine._closed = False
    engine._links = Links(None, lambda up: None)
    engine._on_frame = lambda node, frame: given.append((node, frame))
    engine._frames = cast("Any", Frames(*crowds))
    engine._hear()
    return given, rests


def crowd(nodes: int) -> list[tuple[str, bytes]]:
    return [(f"mx{node}", b"a frame") for node in range(nodes)]


def test_frames_of_few_nodes_are_taken_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    assert heard(monkeypatch, crowd(FEW_NODES), crowd(3)) == (crowd(FEW_NODES) + crowd(3), [])


@pytest.mark.parametrize("nodes", [FEW_NODES + 1, 100, 4_000])
def test_frames_of_many_nodes_are_taken_together(monkeypatch: pytest.MonkeyPatch, nodes: int) -> None:
    given, rests = heard(monkeypatch, crowd(nodes), crowd(3))
    assert given == crowd(nodes) + crowd(3)
    assert len(rests) == 2
    assert all(0 < rest_s <= MAX_REST_S for rest_s in rests)
