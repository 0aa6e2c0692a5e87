"""Windows and the time: when one begins, what a clock may do, and one that fails."""

from __future__ import annotations

from math import inf, nan

import pytest
from tests.support.timing import START, Clock, shown

from inbound_audit import InboundAudit
from inbound_audit._ipcount import SeriesStore
from inbound_audit.errors import InboundAuditError


@pytest.fixture
def audit(clock):
    with InboundAudit(monitors=("10,3", "60,2"), clock=clock, capacity=1 << 20) as audit:
        yield audit


# ---- time


def test_window_0_is_the_clock_s(audit, clock):
    listener = audit.listener()
    for i in range(3):
        for _ in range(i + 1):
            listener.session("192.0.2.7").close()
        clock.step(10)
    assert shown(audit) == [0, 3, 2]
    assert shown(audit, monitor="60,2") == [6, 0]
    assert audit.connections("10,3", "192.0.2.7", 0, 2) == 5
    clock.step(10)
    assert shown(audit) == [0, 0, 3]
    clock.step(30)
    assert shown(audit) == [0, 0, 0]
    assert shown(audit, monitor="60,2") == [0, 6]


def test_windows_begin_where_the_seconds_since_1970_are_a_multiple(audit, clock):
    clock.seconds = START + 9.999
    audit.listener().session("192.0.2.7").close()
    assert shown(audit) == [1, 0, 0]
    clock.seconds = START + 10
    assert shown(audit) == [0, 1, 0]


def test_a_clock_that_is_set_back_changes_no_answer(audit, clock):
    listener = audit.listener()
    for step in (0, 10, 10):
        clock.step(step)
        listener.session("192.0.2.7").close()
    before = shown(audit), shown(audit, monitor="60,2")
    for step in (-5, -10, -3600, -1e6):
        clock.step(step)
        assert (shown(audit), shown(audit, monitor="60,2")) == before
    listener.session("192.0.2.7").close()  # windows go on from here
    assert shown(audit) == [2, 1, 1]
    clock.step(10)
    assert shown(audit) == [0, 2, 1]
    listener.session("192.0.2.7").close()
    assert shown(audit) == [1, 2, 1]


def test_a_clock_that_was_wrong_for_a_moment_leaves_what_was_counted(audit, clock):
    """Who asks changes nothing: a clock that jumps and comes back has lost nothing, if nothing was added meanwhile."""
    audit.listener().session("192.0.2.7").close()
    clock.step(1e6)
    assert shown(audit) == [0, 0, 0]
    clock.step(-1e6)
    assert shown(audit) == [1, 0, 0]


def test_a_step_forwards_forgets_what_lies_too_far_back(audit, clock):
    audit.listener().session("192.0.2.7").close()
    clock.step(1e6)
    audit.listener().session("192.0.2.8").close()
    assert audit.connections("10,3", "192.0.2.0/24", 0, 2) == 1
    clock.step(-1e6)
    assert audit.connections("10,3", "192.0.2.0/24", 0, 2) == 1


def test_a_clock_at_zero():
    clock = Clock(0)
    with InboundAudit(monitors=["10,3"], clock=clock) as audit:
        audit.listener().session("192.0.2.7").close()
        assert shown(audit) == [1, 0, 0]
        clock.step(10)
        assert shown(audit) == [0, 1, 0]
        SeriesStore(audit).check()


def test_the_sliding_average(audit, clock):
    """Of the previous window as much counts as a window that ends now would still cover."""
    listener = audit.listener()
    with listener.session("192.0.2.7") as ac:
        for _ in range(7):
            ac.record_reception()
        clock.step(10)
        ac.record_reception(3)
        assert audit.sliding_average("receptions", "10,3", ac=ac) == 10
        clock.step(2.5)
        assert audit.sliding_average("receptions", 0, "/24", ac=ac) == 3 + 7 * 0.75
        assert audit.sliding_average("receptions", "60,2", "192.0.2.7") == 10
        clock.step(7.25)
        assert audit.sliding_average("receptions", "10,3", ac=ac) == pytest.approx(3 + 7 * 0.025)
        clock.step(0.25)
        assert audit.sliding_average("receptions", "10,3", ac=ac) == 3
        clock.step(-3600)  # the current window goes on, and nothing of it has passed as far as anybody knows
        assert audit.sliding_average("receptions", "10,3", ac=ac) == 10


def test_an_average_of_one_window_has_no_previous_one(clock):
    with InboundAudit(monitors=["10,1"], clock=clock) as audit, audit.listener().session("192.0.2.7") as ac:
        assert audit.sliding_average("connections", "10,1", ac=ac) == 1
        clock.step(10)
        assert audit.sliding_average("connections", "10,1", ac=ac) == 0


# ---- the clock


def test_the_system_s_clock_is_the_default():
    with InboundAudit(monitors=["1000000000,2"]) as audit, audit.listener().session("192.0.2.7") as ac:
        assert audit.connections(0, ac=ac) == 1
        assert audit.connections(0, "/0", 1, ac=ac) == 0
        assert 1 <= audit.sliding_average("connections", 0, ac=ac) <= 2


@pytest.mark.parametrize("answer", [nan, inf, -inf, 1e300, None, "now", b"", [], 2**70, -(2**70), object()])
def test_a_clock_that_answers_nonsense_is_not_believed(clock, answer):
    """The last good time holds."""
    reported = [None]
    with InboundAudit(monitors=["10,3"], clock=lambda: clock() if reported[0] is None else answer) as audit:
        audit.listener().session("192.0.2.7").close()
        clock.step(10)
        audit.listener().session("192.0.2.8").close()
        reported[0] = "nonsense"
        for _ in range(3):
            audit.listener().session("192.0.2.9").close()
            assert shown(audit) == [2 + _, 1, 0]
        reported[0] = None
        clock.step(10)
        assert shown(audit) == [0, 4, 1]
        SeriesStore(audit).check()


@pytest.mark.parametrize("error", [ValueError, KeyError, RuntimeError, StopIteration, MemoryError])
def test_a_clock_that_raises_stops_no_thread(clock, error):
    broken = False

    def reported():
        if broken:
            raise error("the clock is broken")
        return clock()

    with InboundAudit(monitors=["10,3"], clock=reported) as audit:
        audit.listener().session("192.0.2.7").close()
        broken = True
        clock.step(10)
        with audit.listener().session("192.0.2.7") as ac:
            ac.record_reception()
            assert audit.connections("10,3", ac=ac) == 2
            assert audit.sliding_average("connections", "10,3", ac=ac) == 2
        broken = False
        assert shown(audit) == [0, 2, 0]


def test_an_interrupt_in_a_clock_interrupts_the_program(clock):
    """Python runs a signal's handler wherever it is, sometimes in the clock; the count stands all the same."""

    def reported():
        if interrupted:
            interrupted.clear()
            raise KeyboardInterrupt
        return clock()

    interrupted = set()
    with InboundAudit(monitors=["10,3"], clock=reported) as audit, audit.listener().session("192.0.2.7") as ac:

        def interrupt_a_count():
            interrupted.add(1)
            ac.record_reception()
            for _ in range(1000):  # whenever Python looks after its signals
                pass

        with pytest.raises(KeyboardInterrupt):
            interrupt_a_count()
        assert audit.receptions("10,3", ac=ac) == 1
        assert not interrupted


@pytest.mark.parametrize("seconds", [1_800_000_005, True, 1_800_000_005.25])
def test_seconds_are_any_number(seconds):
    with InboundAudit(monitors=["10,3"], clock=lambda: seconds) as audit:
        audit.listener().session("192.0.2.7").close()
        assert shown(audit) == [1, 0, 0]


def test_a_clock_that_asks_the_audit_itself(clock):
    """It is called outside of every lock, so that it may do what it likes."""
    depth = 0

    def meddling():
        nonlocal depth
        if depth < 2 and made:
            depth += 1
            made[0].listener().session("198.51.100.1").close()
            made[0].connections("10,3", "192.0.2.7")
            depth -= 1
        return clock()

    made: list[InboundAudit] = []
    with InboundAudit(monitors=["10,3"], clock=meddling) as audit:
        made.append(audit)
        audit.listener().session("192.0.2.7").close()
        assert audit.connections("10,3", "192.0.2.7") == 1
        made.clear()
        SeriesStore(audit).check()


@pytest.mark.parametrize("windows", [1, 2, 5])
def test_an_answer_that_comes_late_sets_no_clock_back(clock, windows):
    """Who was held up between question and answer finds that others have turned meanwhile; time goes on as it was."""
    held_up = False

    def slow():
        nonlocal held_up
        asked = clock.seconds
        if held_up:
            held_up = False
            clock.step(10 * windows)
            audit.listener().session("198.51.100.1").close()
        return asked

    with InboundAudit(monitors=["10,8"], clock=slow) as audit:
        audit.listener().session("192.0.2.7").close()
        held_up = True
        audit.listener().session("192.0.2.8").close()
        clock.step(10)
        expected = [0] * 8
        expected[1], expected[1 + windows] = 2, 1
        assert shown(audit, monitor="10,8") == expected
        audit.listener().session("192.0.2.9").close()
        expected[0] = 1
        assert shown(audit, monitor="10,8") == expected


def test_what_is_no_clock():
    with pytest.raises((TypeError, InboundAuditError), match="clock"):
        InboundAudit(clock=7)
