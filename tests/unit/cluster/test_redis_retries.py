"""When an agent tries to connect to its Redis server again."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

redis = pytest.importorskip("redis")

from inbound_audit.cluster.engine import EngineSettings  # noqa: E402
from inbound_audit.cluster.redis_engine import MAX_RETRY_S, MIN_RETRY_S, RedisEngine  # noqa: E402

ATTEMPTS = 3_000
"""A server may be away for long: 0.1 * 2**1024 is no number."""


def pauses(attempts: int, up_at: int | None = None) -> list[float]:
    """The pauses of a node whose attempts all fail; the one of number `up_at` has connected first."""
    engine = RedisEngine(EngineSettings("eu", "mx1", join=("redis://127.0.0.1:1",)))
    waited: list[float] = []
    ends: Iterator[bool] = iter([False] * attempts)
    closing = SimpleNamespace(is_set=lambda: next(ends, True), wait=waited.append)
    engine._closing = cast("threading.Event", closing)
    engine._on_link = lambda up: None
    client: Any = contextlib.nullcontext()
    engine._client = lambda: client  # type: ignore[method-assign]

    def serve(client: object, up: Callable[[], None]) -> None:
        if len(waited) == up_at:
            up()
        raise redis.ConnectionError("no server")

    engine._keep("reads", serve)
    return waited


def test_each_pause_is_up_to_twice_the_one_before() -> None:
    waited = pauses(ATTEMPTS)
    assert len(waited) == ATTEMPTS
    assert MIN_RETRY_S / 2 <= waited[0] <= MIN_RETRY_S
    assert all(MIN_RETRY_S / 2 <= pause <= MAX_RETRY_S for pause in waited)
    assert min(waited[10:]) >= MAX_RETRY_S / 2


def test_after_a_connection_the_first_pause_is_short() -> None:
    assert pauses(12, up_at=11)[11] <= MIN_RETRY_S


def test_nodes_whose_server_comes_back_do_not_all_connect_in_one_moment() -> None:
    """All have lost it in one moment."""
    last = [pauses(12)[11] for _ in range(100)]
    assert max(last) - min(last) > MAX_RETRY_S / 8
