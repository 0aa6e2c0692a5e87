"""Time stamps of logs as seconds since 1970.

Four kinds: ``1770380054``, ``Feb  6 12:14:14`` (RFC 3164, without a year), ``2026-02-06T12:14:14`` (RFC 3339, or with a
blank), and ``06/Feb/2026:12:14:14`` (nginx, HAProxy). Fractions and the zone stand apart.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone, tzinfo

_MONTHS = {
    name: number + 1
    for number, name in enumerate(
        (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
    )
}
_DAY_S = 86400
MAX_TIME_S = 1 << 33
"""Of a time stamp: the year 2242. The first is 1970."""


class StampReader:
    """Reads the time stamps of one log, in the order of its lines.

    A stamp without a zone is in `zone` (None: this machine's). Where a clock is set back for winter, an hour comes
    twice: of the two times it is the one that does not lie before the line before. A stamp without a year has the year
    that brings it nearest to the line before; the first one has `year`, or the last year in which it is not over a day
    later than `newest` (the time of the file).
    """

    def __init__(self, newest: float, year: int | None = None, zone: tzinfo | None = None) -> None:
        self._zone = zone
        self._last: float | None = None
        self._newest = newest
        self._year = year if year is not None else datetime.fromtimestamp(newest, zone).year
        self._year_is_given = year is not None
        self._stamp: bytes | None = None
        self._stamp_zone: bytes | None = None

    def seconds(self, stamp: bytes, zone: bytes | None) -> float:
        """Raises ValueError for a time that no calendar has."""
        if stamp == self._stamp and zone == self._stamp_zone and self._last is not None:
            return self._last  # most lines have the second of the line before
        found = self._read(stamp, zone)
        if not 0 <= found < MAX_TIME_S:
            raise ValueError("write times from 1970 to 2242")
        self._stamp, self._stamp_zone, self._last = stamp, zone, found
        return found

    def _read(self, stamp: bytes, zone: bytes | None) -> float:
        if stamp.isdigit():
            return float(stamp)
        at = _zone_of(zone) if zone else self._zone
        if stamp[:1].isalpha():
            return self._without_year(_MONTHS[stamp[:3]], int(stamp[4:6]), stamp[7:], at)
        if stamp[2:3] == b"/":
            day, month, year = int(stamp[:2]), _MONTHS[stamp[3:6]], int(stamp[7:11])
        else:
            year, month, day = int(stamp[:4]), int(stamp[5:7]), int(stamp[8:10])
        return self._time(year, month, day, stamp[-8:], at)

    def _time(self, year: int, month: int, day: int, clock: bytes, at: tzinfo | None) -> float:
        second = int(clock[6:8])
        # The 60th second of a leap second is the next minute's first.
        found = datetime(year, month, day, int(clock[:2]), int(clock[3:5]), min(second, 59), tzinfo=at)
        seconds = found.timestamp()
        if self._last is not None and seconds < self._last:
            later = found.replace(fold=1).timestamp()
            seconds = later if later != seconds and later >= self._last - 1 else seconds
        return seconds + (second > 59)

    def _without_year(self, month: int, day: int, clock: bytes, at: tzinfo | None) -> float:
        if self._last is None and self._year_is_given:
            return self._time(self._year, month, day, clock, at)
        times = []
        for year in (self._year - 1, self._year, self._year + 1):
            try:
                times.append((self._time(year, month, day, clock, at), year))
            except ValueError:  # the 29th of February
                continue
        if self._last is None:
            times = [each for each in times if each[0] <= self._newest + _DAY_S][-1:]
        if not times:
            raise ValueError("no year has that day; write another --year")
        last = self._last
        found, self._year = times[0] if last is None else min(times, key=lambda each: abs(each[0] - last))
        return found


def _zone_of(text: bytes) -> tzinfo:
    """``Z``, ``+0200``, ``-03:30``. Raises ValueError."""
    text = text.strip()
    if text == b"Z":
        return timezone.utc
    digits = text[1:].replace(b":", b"")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-offset if text[:1] == b"-" else offset)
