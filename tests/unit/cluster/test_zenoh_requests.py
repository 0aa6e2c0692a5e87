"""Requests for a snapshot over Zenoh that are not answered, without a session of Zenoh."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from time import sleep
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.support.waiting import PATIENCE

zenoh = pytest.importorskip("zenoh")

from inbound_audit.cluster import zenoh_engine as room  # noqa: E402
from inbound_audit.cluster.engine import EngineSettings  # noqa: E402
from inbound_audit.cluster.zenoh_engine import ZenohEngine  # noqa: E402
from inbound_audit.cluster.zenoh_links import Links  # noqa: E402

Answer = Callable[[Any], Iterator[object]]


def part(data: bytes) -> object:
    return SimpleNamespace(ok=SimpleNamespace(payload=data))


def late(token: zenoh.CancellationToken) -> Iterator[object]:
    """Nothing comes until the request is given up."""
    while not token.is_cancelled:
        sleep(0.001)
    yield from ()


def whole(token: zenoh.CancellationToken) -> Iterator[object]:
    yield part(b"a part")


class Session:
    """Answers one request after the other."""

    def __init__(self, answers: list[Answer]) -> None:
        self.waits_s: list[float] = []
        self.requests: set[room.Request] = set()
        self._answers = iter(answers)

    def get(self, key: str, *, timeout: float, cancellation_token: object, **options: object) -> Iterator[object]:
        assert key == "ia/eu/mx2/s"
        self.waits_s.append(timeout)
        return next(self._answers)(cancellation_token)


def asked(session: Session, monkeypatch: pytest.MonkeyPatch) -> list[bytes] | None:
    """What comes of a request by a node that speaks meanwhile."""
    monkeypatch.setattr(room, "CHECK_S", 0)
    engine = ZenohEngine(EngineSettings("eu", "mx1", listen=("tcp/127.0.0.1:7447",)))
    session.requests = engine._requests
    engine._session = cast("zenoh.Session", session)
    engine._publisher = cast("zenoh.Publisher", SimpleNamespace(put=lambda frame: None))
    engine._links = Links(None, lambda up: None)
    parts: list[list[bytes] | None] = []
    asking = threading.Thread(target=lambda: parts.append(engine.ask("mx2", 2.0)))
    asking.start()
    while asking.is_alive():
        engine.publish(b"a frame")
        asking.join(0.001)
    assert not engine._requests
    return parts[0]


def test_a_request_without_an_answer_is_sent_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "ASK_AGAIN_S", 0.01)
    session = Session([late, whole])
    assert asked(session, monkeypatch) == [b"a part"]
    assert session.waits_s == [2.0, 1.99]


def test_a_request_that_is_answered_is_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "ASK_AGAIN_S", PATIENCE)
    session = Session([whole])
    assert asked(session, monkeypatch) == [b"a part"]
    assert session.waits_s == [2.0]


def test_an_answer_that_has_begun_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    given_up: list[bool] = []

    def begun(token: zenoh.CancellationToken) -> Iterator[object]:
        yield part(b"first")
        given_up.append(any(request.token == token for request in session.requests))
        yield part(b"second")

    session = Session([begun])
    monkeypatch.setattr(room, "ASK_AGAIN_S", PATIENCE)
    assert asked(session, monkeypatch) == [b"first", b"second"]
    assert given_up == [False]


def test_a_node_without_an_answer_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "ASK_AGAIN_S", PATIENCE)
    session = Session([lambda token: iter(())])
    assert asked(session, monkeypatch) is None
    assert session.waits_s == [2.0]
