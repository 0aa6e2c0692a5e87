"""Time stamps: without a year, without a zone, and clocks that are set."""

from __future__ import annotations

from datetime import datetime, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbound_audit.replay.stamps import StampReader

UTC = timezone.utc
BERLIN = ZoneInfo("Europe/Berlin")


def at(*when: int, zone=UTC) -> float:
    return datetime(*when, tzinfo=zone).timestamp()


def read(*stamps: bytes, newest: float = at(2026, 11, 28), year: int | None = None, zone=UTC) -> list[float]:
    reader = StampReader(newest, year, zone)
    return [reader.seconds(stamp, None) for stamp in stamps]


@pytest.mark.parametrize(
    ("stamp", "zone", "expected"),
    [
        (b"Feb  6 12:14:14", None, at(2026, 2, 6, 12, 14, 14)),
        (b"2026-02-06T12:14:14", b"Z", at(2026, 2, 6, 12, 14, 14)),
        (b"2026-02-06 12:14:14", b"+01:00", at(2026, 2, 6, 11, 14, 14)),
        (b"2026-02-06 12:14:14", b" -0330", at(2026, 2, 6, 15, 44, 14)),
        (b"06/Feb/2009:12:14:14", b"+0200", at(2009, 2, 6, 10, 14, 14)),
        (b"1770380054", None, 1770380054),
        (b"2016-12-31T23:59:60", b"Z", at(2017, 1, 1)),
    ],
)
def test_each_kind(stamp, zone, expected):
    assert StampReader(at(2026, 11, 28), None, UTC).seconds(stamp, zone) == expected


def test_the_year_is_the_last_in_which_the_file_is_not_older():
    assert read(b"Nov 28 00:00:00", newest=at(2026, 11, 28, 12)) == [at(2026, 11, 28)]
    assert read(b"Dec 28 00:00:00", newest=at(2026, 11, 28, 12)) == [at(2025, 12, 28)]
    assert read(b"Jan  1 00:00:00", newest=at(2026, 12, 31, 23)) == [at(2027, 1, 1)]  # its clock goes a little ahead


def test_the_year_that_is_given_is_that_of_the_first_line():
    assert read(b"Dec 31 23:59:59", b"Jan  1 00:00:00", year=2020) == [at(2020, 12, 31, 23, 59, 59), at(2021, 1, 1)]


def test_a_new_year_and_a_line_that_comes_late_in_it():
    stamps = [b"Dec 31 23:59:58", b"Jan  1 00:00:00", b"Dec 31 23:59:59", b"Jan  1 00:00:01"]
    expected = [at(2025, 12, 31, 23, 59, 58), at(2026, 1, 1), at(2025, 12, 31, 23, 59, 59), at(2026, 1, 1, 0, 0, 1)]
    assert read(*stamps, newest=at(2026, 1, 2)) == expected


def test_a_leap_day_has_the_nearest_year_that_has_it():
    assert read(b"Feb 28 10:00:00", b"Feb 29 10:00:00", newest=at(2024, 3, 1))[1] == at(2024, 2, 29, 10)
    with pytest.raises(ValueError, match="--year"):
        read(b"Feb 29 10:00:00", newest=at(2026, 11, 28))
    with pytest.raises(ValueError, match="day"):
        read(b"Feb 29 10:00:00", year=2026)


def test_the_hour_that_comes_twice_goes_on():
    """In Berlin the clock was set from 3:00 to 2:00 on the 25th of October 2026."""
    stamps = [b"Oct 25 01:59:59", b"Oct 25 02:59:59", b"Oct 25 02:00:00", b"Oct 25 02:30:00", b"Oct 25 03:00:00"]
    times = read(*stamps, zone=BERLIN)
    assert [time - times[0] for time in times] == [0, 3600, 3601, 5401, 7201]


def test_the_hour_that_is_left_out_takes_no_time():
    times = read(b"Mar 29 01:59:59", b"Mar 29 03:00:00", zone=BERLIN)
    assert times[1] - times[0] == 1


def test_a_clock_that_is_set_back_is_believed():
    assert read(b"Feb  6 12:00:00", b"Feb  6 11:00:00") == [at(2026, 2, 6, 12), at(2026, 2, 6, 11)]


@pytest.mark.parametrize(
    "stamp",
    [
        b"2026-13-01T00:00:00",
        b"2026-01-01T25:00:00",
        b"Xyz  1 00:00:00",
        b"",
        b"1969-12-31T00:00:00",
        b"9000-01-01T00:00:00",
    ],
)
def test_no_time(stamp):
    with pytest.raises((ValueError, KeyError)):
        StampReader(at(2026, 11, 28), None, UTC).seconds(stamp, None)


@given(st.lists(st.integers(0, 600 * 86400), min_size=2, max_size=50))
def test_any_log_that_runs_forward_is_read_back(steps):
    """Without its years, if no line is half a year after the one before."""
    times = [at(2024, 3, 1)]
    for step in steps:
        times.append(times[-1] + step % (180 * 86400))
    stamps = [datetime.fromtimestamp(time, UTC).strftime("%b %e %H:%M:%S").encode() for time in times]
    assert read(*stamps, year=2024) == times
