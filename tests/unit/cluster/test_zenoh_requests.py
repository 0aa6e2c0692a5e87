"""Requests for a snapshot over Zenoh and their answers, without a session of Zenoh."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.support.waiting import PATIENCE

zenoh = pytest.importorskip("zenoh")

from inbound_audit.cluster import zenoh_engine as room  # noqa: E402
from inbound_audit.cluster.engine import EngineSettings  # noqa: E402
from inbound_audit.cluster.frames import MAX_FRAME_BYTES, MAX_PARTS  # noqa: E402
from inbound_audit.cluster.zenoh_engine import ZenohEngine  # noqa: E402
from inbound_audit.cluster.zenoh_links import Links  # noqa: E402

Requests = Sequence["zenoh.handlers.Callback[Any]"]
"""Those that were sent: what comes for each is given to it."""


def part(request: zenoh.handlers.Callback[Any], data: bytes) -> None:
    request.callback(SimpleNamespace(ok=SimpleNamespace(payload=data)))


def end(request: zenoh.handlers.Callback[Any]) -> None:
    assert request.drop is not None
    request.drop()


def no_answer(requests: Requests) -> None:
    """A lost link has swallowed it."""


def answer(requests: Requests) -> None:
    part(requests[-1], b"first")
    part(requests[-1], b"second")
    end(requests[-1])


class Session:
    """Does one thing after each request."""

    def __init__(self, *acts: Callable[[Requests], None]) -> None:
        self.waits_s: list[float] = []
        self.requests: list[zenoh.handlers.Callback[Any]] = []
        self._acts = iter(acts)

    def get(self, key: str, handler: zenoh.handlers.Callback[Any], *, timeout: float, **options: object) -> None:
        assert key == "ia/eu/mx2/s"
        self.waits_s.append(timeout)
        self.requests.append(handler)
        next(self._acts)(self.requests)


def asked(session: Session) -> tuple[list[bytes] | None, list[str]]:
    """What comes of a request, and the nodes that get new links then. The node that asks says nothing meanwhile, like
    one that is a duplicate."""
    engine = ZenohEngine(EngineSettings("eu", "mx1", listen=("tcp/127.0.0.1:7447",)))
    renewed: list[str] = []
    engine._session = cast("zenoh.Session", session)
    engine._links = cast("Links", SimpleNamespace(renew=renewed.append))
    return engine.ask("mx2", 2.0), renewed


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is sent once more if no part has come when it is sent."""
    monkeypatch.setattr(room, "ASK_AGAIN_S", 0)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "ASK_AGAIN_S", PATIENCE)


@pytest.mark.usefixtures("patient")
def test_a_request_that_is_answered_is_sent_once() -> None:
    session = Session(answer)
    assert asked(session) == ([b"first", b"second"], [])
    assert session.waits_s == [2.0]


def test_a_request_without_an_answer_is_sent_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "ASK_AGAIN_S", 0.01)
    session = Session(no_answer, answer)
    assert asked(session) == ([b"first", b"second"], [])
    assert session.waits_s == [2.0, 1.99]


@pytest.mark.usefixtures("at_once")
def test_an_answer_that_is_late_is_taken() -> None:
    """It takes the other node longer than after which it is asked again, and it would take as long again."""
    assert asked(Session(no_answer, lambda requests: answer(requests[:1]))) == ([b"first", b"second"], [])


@pytest.mark.usefixtures("at_once")
def test_an_answer_is_whole_whatever_comes_of_the_other_request() -> None:
    def both(requests: Requests) -> None:
        part(requests[0], b"a part of another snapshot")
        answer(requests)
        end(requests[0])

    assert asked(Session(no_answer, both)) == ([b"first", b"second"], [])


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("failing", [0, 1])
def test_one_answer_is_enough(failing: int) -> None:
    def one(requests: Requests) -> None:
        end(requests[failing])
        answer(requests[: 2 - failing])

    assert asked(Session(no_answer, one)) == ([b"first", b"second"], [])


@pytest.mark.usefixtures("at_once")
def test_an_answer_that_has_begun_is_waited_for() -> None:
    def begin(requests: Requests) -> None:
        part(requests[0], b"first")
        threading.Timer(0.05, go_on, requests).start()

    def go_on(request: zenoh.handlers.Callback[Any]) -> None:
        part(request, b"second")
        end(request)

    session = Session(begin)
    assert asked(session) == ([b"first", b"second"], [])
    assert session.waits_s == [2.0]


@pytest.mark.usefixtures("patient")
def test_what_came_before_a_failure_may_be_whole() -> None:
    def fail(requests: Requests) -> None:
        part(requests[0], b"first")
        requests[0].callback(SimpleNamespace(ok=None))
        end(requests[0])

    assert asked(Session(fail)) == ([b"first"], [])


@pytest.mark.usefixtures("patient")
def test_a_node_that_does_not_answer_gets_new_links() -> None:
    session = Session(lambda requests: end(requests[0]))
    assert asked(session) == (None, ["mx2"])
    assert session.waits_s == [2.0]


@pytest.mark.usefixtures("at_once")
def test_a_node_that_answers_neither_request_gets_new_links() -> None:
    def fail(requests: Requests) -> None:
        for request in requests:
            end(request)

    assert asked(Session(no_answer, fail)) == (None, ["mx2"])


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    "parts", [[b"x"] * (MAX_PARTS + 2), [b"x", bytes(MAX_FRAME_BYTES + 1)], [bytes(MAX_FRAME_BYTES + 1)]]
)
def test_an_answer_with_more_than_its_bounds_is_none(parts: list[bytes]) -> None:
    def flood(requests: Requests) -> None:
        for data in parts:
            part(requests[0], data)
        end(requests[0])

    assert asked(Session(flood)) == (None, [])


def test_an_engine_that_is_closed_has_no_answer() -> None:
    def closed(requests: Requests) -> None:
        raise zenoh.ZError("it is closed")

    assert asked(Session(closed)) == (None, [])
