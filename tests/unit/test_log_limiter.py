"""`LogLimiter`: one line per interval, none lost from the count."""

from __future__ import annotations

import errno
import logging
import re
import threading

import pytest

from inbound_audit.log_limiter import MAX_KINDS, LogLimiter, kind_of_text

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


def test_a_frequent_kind_hides_no_other(limiter: LogLimiter, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A kind is a format and the kinds of the errors in it; or what the caller says."""
    for _ in range(3):
        limiter.report(logging.ERROR, "it failed: %s", OSError(errno.ENOSPC, "full"))
        limiter.report(logging.ERROR, "it failed: %s", OSError(errno.EACCES, "forbidden"))
        limiter.report(logging.ERROR, "it failed: %s", ValueError("full"))
        limiter.report(logging.ERROR, "%s failed", "x", kind="one")
        limiter.report(logging.ERROR, "%s failed", "y", kind="other")
    assert len(caplog.records) == 5
    clock.now += 10.0
    limiter.report(logging.ERROR, "it failed: %s", OSError(errno.EACCES, "forbidden"))
    assert caplog.records[-1].getMessage().endswith("(and 2 more like it since the last such line)")


def test_whoever_provokes_many_kinds_gets_few_lines(
    limiter: LogLimiter, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for turn in range(1, 4):
        for number in range(10 * MAX_KINDS):
            limiter.report(logging.ERROR, "%s", number, kind=(turn, number))
        assert len(caplog.records) <= turn * (MAX_KINDS + 2)
        clock.now += 10.0
    limiter.report(logging.ERROR, "last", kind="another kind")
    told = [int(found[1]) for record in caplog.records if (found := re.search(r"and (\d+) more", record.getMessage()))]
    assert len(caplog.records) + sum(told) == 30 * MAX_KINDS + 1


def test_a_kind_of_text_is_without_its_details() -> None:
    one, other = (kind_of_text(f"mail.lua:{n}: {name!r} is no address") for n, name in ((12, "a'"), (7, "b")))
    assert one == other == "mail.lua::  is no address"


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
