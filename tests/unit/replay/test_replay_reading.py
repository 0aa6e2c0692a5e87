"""Lines to events in the order of time, and what is no line."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbound_audit.replay import reading
from inbound_audit.replay.reading import LogReader, form_of, merged
from inbound_audit.replay.stamps import StampReader

UTC = timezone.utc
AT = datetime(2026, 2, 6, 12, 0, 0, tzinfo=UTC).timestamp()


def reader_of(text: str, name: str, duration: float = 0.0) -> LogReader:
    return LogReader("log", form_of(text.encode(), name, {}), StampReader(AT, None, UTC), duration)


def nginx(end: float, lasts: float, address: str = "192.0.2.7") -> str:
    stamp = datetime.fromtimestamp(AT + end, UTC).strftime("%d/%b/%Y:%H:%M:%S")
    return f"{address} [{stamp} +0000] TCP 200 1 2 {lasts:.3f}"


def test_lines_that_are_none_are_counted_and_the_first_are_shown():
    good = "Feb  6 12:00:00 mx1 postfix/smtpd[1]: connect from a[192.0.2.7]"
    lines = [
        good,
        "",
        "torn",
        *["\x1b[2J\0" for _ in range(20)],
        "Feb 30 12:00:00 mx1 postfix/smtpd[1]: connect from a[::1]",
    ]
    reader = reader_of(good, "postfix")
    events = list(reader.events(["\n".join(lines[:3]).encode(), "\n".join(lines[3:]).encode()]))
    assert [event[2] for event in events] == ["192.0.2.7"]
    assert (reader.lines, reader.bad, len(reader.complaints)) == (24, 22, 10)
    assert reader.complaints[0] == "log: line 3 is no line of a log of postfix: 'torn'"
    assert all(complaint.isprintable() for complaint in reader.complaints)


def postfix(time: float, process: int, what: str = "connect") -> str:
    stamp = datetime.fromtimestamp(time, UTC).isoformat()
    return f"{stamp} mx1 postfix/smtpd[{process}]: {what} from a[192.0.2.7]"


def times(lines: list[str]) -> tuple[list[float], LogReader]:
    reader = reader_of(lines[0], "postfix")
    return [event[0] - AT for event in reader.events(["\n".join(lines).encode()])], reader


FAR = datetime(2200, 1, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("far", [1, 2, 1023])
def test_lines_with_a_wrong_year_are_left_out_and_shown(far):
    lines = [postfix(AT, 1), *[postfix(FAR, 2)] * far, postfix(AT + 1, 1, "disconnect"), postfix(FAR, 3)]
    found, reader = times([*lines, postfix(AT + 2, 4), postfix(AT - 7200, 5), postfix(AT + 3, 6)])
    assert found == [0, 1, 2, -7200, 3]
    assert reader.bad == far + 1
    assert "2200-01-01" in reader.complaints[0]


@pytest.mark.parametrize("later", [1, 5, 1024, 3000])
def test_where_the_log_goes_on_time_has_passed(later):
    gap = 7 * reading.LEAP_S
    lines = [postfix(AT, 1), *[postfix(AT + gap + number // 2, number) for number in range(later)]]
    found, reader = times(lines)
    assert found == [0, *[gap + number // 2 for number in range(later)]]
    assert reader.bad == 0


def test_a_log_that_begins_with_a_wrong_year_is_read():
    found, reader = times([postfix(FAR, 1), postfix(AT, 2), postfix(AT + 1, 3)])
    assert (found, reader.bad) == ([FAR - AT, 0, 1], 0)


def test_a_day_that_no_calendar_has():
    reader = reader_of("", "postfix")
    assert list(reader.events([b"2026-02-30T12:00:00Z mx1 postfix/smtpd[1]: connect from a[::1]"])) == []
    assert (reader.bad, reader.complaints) == (1, [reader.complaints[0]])
    assert "is no time" in reader.complaints[0]


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 100_000)), max_size=60))
def test_sessions_begin_in_the_order_of_time_though_lines_are_written_at_their_ends(sessions):
    sessions.sort()
    text = "\n".join(nginx(end, lasts / 1000) for end, lasts in sessions)
    events = list(reader_of(text, "nginx").events([text.encode()]))
    starts = [event[0] for event in events]
    assert starts == sorted(starts)
    assert sorted(round(1000 * (event[3] - event[0])) for event in events) == sorted(lasts for _, lasts in sessions)


def test_a_session_that_began_too_long_ago_begins_as_soon_as_it_can(monkeypatch):
    monkeypatch.setattr(reading, "MAX_ORDERED", 2)
    lines = [nginx(second, 0.001) for second in range(10, 14)] + [nginx(14, 14)]
    reader = reader_of(lines[0], "nginx")
    events = list(reader.events(["\n".join(lines).encode()]))
    starts = [event[0] for event in events]
    assert starts == sorted(starts)
    assert (reader.late, len(events)) == (1, 5)
    assert max(event[3] for event in events) == AT + 14


def test_a_session_that_is_longer_than_time_begins_in_1970():
    lines = [nginx(1, 0.5).replace("0.500", f"{digits}.000") for digits in ("9" * 12, "9" * 400)]
    events = list(reader_of(lines[0], "nginx").events(["\n".join(lines).encode()]))
    assert [(event[0], event[3] > AT) for event in events] == [(0.0, True), (0.0, True)]


def test_connects_of_one_process_keep_the_order_of_their_lines():
    """Also where the clock goes back."""
    lines = [
        "Feb  6 12:00:05 mx1 postfix/smtpd[1]: connect from a[192.0.2.7]",
        "Feb  6 12:00:01 mx1 postfix/smtpd[1]: disconnect from a[192.0.2.7]",
    ]
    events = list(reader_of(lines[0], "postfix").events(["\n".join(lines).encode()]))
    assert [event[2] for event in events] == ["192.0.2.7", None]


@given(st.lists(st.lists(st.integers(0, 50), max_size=20), max_size=6))
def test_several_logs_have_one_order_of_time(logs):
    logs = [sorted(log) for log in logs]
    opened = []

    def opener(number):
        def begin():
            opened.append(number)
            return iter([(float(time), None, f"{number}", None, False) for time in logs[number]])

        return begin

    firsts = [float(log[0]) if log else float("-inf") for log in logs]
    events = list(merged([opener(number) for number in range(len(logs))], firsts))
    times = [event[0] for event in events]
    assert times == sorted(times)
    assert sorted(opened) == list(range(len(logs)))
    for number, log in enumerate(logs):
        assert [event[0] for event in events if event[2] == f"{number}"] == log


def test_a_log_is_opened_when_its_time_comes():
    """Rotated logs have one open file at a time."""
    active = 0

    def begin(first):
        def events():
            nonlocal active
            active += 1
            yield from ((first + step, None, "192.0.2.7", None, False) for step in range(10))
            active -= 1

        return events

    most = 0
    for _ in merged([begin(first) for first in (300.0, 100.0, 200.0)], [300.0, 100.0, 200.0]):
        most = max(most, active)
    assert most == 1
