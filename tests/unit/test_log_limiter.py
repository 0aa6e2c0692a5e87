"""`LogLimiter`: one line per interval, none lost from the count."""

from __future__ import annotations

import logging
import threading

import pytest

from inbound_audit.log_limiter import LogLimiter

NOTE = "%s knocked"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> LogLimiter:
    return LogLimiter(logging.getLogger("test.limiter"), interval=10.0, clock=clock)


def test_the_first_is_logged_at_once(limiter: LogLimiter, caplog: pytest.LogCaptureFixture) -> None:
    limiter.report(logging.WARNING, NOTE, "a")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [("WARNING", "a knocked")]


def test_a_burst_is_one_line_and_the_next_line_tells_how_many(
    limiter: LogLimiter, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "abcd":
        limiter.report(logging.WARNING, NOTE, name)
        clock.now += 3.0  # the fourth comes 9 seconds after the first
    assert [r.getMessage() for r in caplog.records] == ["a knocked"]
    limiter.report(logging.WARNING, NOTE, "e")
    assert caplog.records[-1].getMessage() == "e knocked (and 3 more like it since the last such line)"


def test_after_a_pause_nothing_is_owed(limiter: LogLimiter, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    limiter.report(logging.WARNING, NOTE, "a")
    clock.now += 10.0
    limiter.report(logging.WARNING, NOTE, "b")
    assert [r.getMessage() for r in caplog.records] == ["a knocked", "b knocked"]


def test_a_message_that_is_held_back_is_never_formatted(limiter: LogLimiter) -> None:
    class Costly:
        def __str__(self) -> str:
            raise AssertionError("formatted for nothing")

    limiter.report(logging.WARNING, NOTE, "a")
    limiter.report(logging.WARNING, NOTE, Costly())


def test_threads_lose_nothing(limiter: LogLimiter, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    def knock() -> None:
        for _ in range(500):
            limiter.report(logging.WARNING, NOTE, "x")

    threads = [threading.Thread(target=knock) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock.now += 10.0
    limiter.report(logging.WARNING, NOTE, "last")
    assert len(caplog.records) == 2
    assert "and 1999 more" in caplog.records[-1].getMessage()
