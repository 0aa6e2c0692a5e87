"""Lines of logs to events: connects, disconnects, receptions, rejections and whole sessions, in the order of time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from itertools import chain
from operator import itemgetter

from inbound_audit.replay.columns import Columns
from inbound_audit.replay.formats import FORMATS, LineFormat
from inbound_audit.replay.stamps import StampReader

Event = tuple[float, bytes | None, str | None, float | None, int]
"""Its time; the key of its session; the address, None if it is no connect; the end, None if a disconnect will tell it;
and what it is: a connect or a disconnect, of a key that may have several sessions or has one at a time; or a reception
or a rejection, of the newest session of the key."""

SEVERAL, ALONE, RECEPTION, REJECTION = range(4)

MAX_SHOWN = 60
"""Letters of a bad line that a message has."""
MAX_COMPLAINTS = 10
"""Bad lines that are reported one by one; the others are counted."""
MAX_ORDERED = 1 << 18
"""Sessions that are kept back until it is known that none that began earlier comes. A line that is written at a
session's end may come that much later."""

LEAP_S = 86400.0
"""How far a time stamp may lie after all before it without a doubt."""
MAX_LEAP = 1024
"""Events after which such a leap is no longer doubted."""
MAX_BACK_S = 3600.0
"""How far a time stamp may lie before the one before it. Then the clock stands; beyond that it was set back."""

NAMES = (*(each.name for each in FORMATS), "csv", "json")

_time = itemgetter(0)


class LogReader:
    """Reads one log, once. `duration` is the length of a session whose end the log does not tell, in seconds."""

    def __init__(self, name: str, form: LineFormat, stamps: StampReader, duration: float = 0.0) -> None:
        self.name = name
        self.form = form
        self.lines = self.bad = self.late = 0
        self.complaints: list[str] = []
        self._stamps = stamps
        self._duration = duration

    def events(self, blocks: Iterable[bytes]) -> Iterator[Event]:
        """In order of time, as far as `MAX_ORDERED` allows; connects and disconnects of one program at a time as they
        come. Blocks are whole lines."""
        events = self._events(blocks)
        return self._without_leaps(events) if self.form.one_at_a_time else self._ordered(events)

    def _events(self, blocks: Iterable[bytes]) -> Iterator[Event]:
        form, seconds, lasts = self.form, self._stamps.seconds, self._duration
        what, paired, starts, unit = ALONE if form.one_at_a_time else SEVERAL, form.paired, form.starts, form.unit
        for block in blocks:
            matched = 0
            for stamp, fraction, zone, key, number, address, closed, duration, received, rejected in form.fields(block):
                matched += 1
                happens = rejected if received is None else received
                if address is None and closed is None and happens is None:
                    continue
                try:
                    time = seconds(stamp or b"", zone)
                except (ValueError, KeyError, OverflowError) as error:
                    self._complain(stamp or b"", f"is no time ({error})")
                    continue
                if fraction is not None:
                    time += int(fraction) / 10 ** len(fraction)
                if happens is not None:
                    yield time, number or key, None, None, RECEPTION if rejected is None else REJECTION
                    continue
                if closed is not None:
                    yield time, number or key or closed, None, None, what
                    continue
                client = (address or b"").decode("latin-1")
                if duration is not None or not (paired and (number or key)):
                    length = lasts if duration is None else max(0.0, float(duration) * unit)
                    time = time if starts or duration is None else max(0.0, time - length)
                    yield time, None, client, time + length, SEVERAL
                else:
                    yield time, number or key, client, None, what
            self._count(block, matched)

    def _count(self, block: bytes, matched: int) -> None:
        lines = block.count(b"\n") + 1
        if matched < lines:
            for number, line in enumerate(block.split(b"\n"), self.lines + 1):
                if line.strip() and not self.form.fits(line):
                    self._complain(line, f"line {number} is no line of a log of {self.form.name}")
        self.lines += lines

    def _complain(self, line: bytes, why: str) -> None:
        self.bad += 1
        if len(self.complaints) < MAX_COMPLAINTS:
            text = line[:MAX_SHOWN].decode("utf-8", "replace")
            shown = text if text.isprintable() else ascii(text)[1:-1]
            self.complaints.append(f"{self.name}: {why}: {shown!r}{'...' if len(line) > MAX_SHOWN else ''}")

    def _without_leaps(self, events: Iterator[Event]) -> Iterator[Event]:
        """Leaves out events that lie more than `LEAP_S` after all before them, if the log then goes back: a line with a
        wrong year would end all sessions. Where it goes on for `MAX_LEAP` events, time has passed."""
        latest: float | None = None
        leapt: list[Event] = []
        for event in events:
            time = event[0]
            if leapt and time < leapt[0][0] - MAX_BACK_S:
                for each in leapt:
                    stamp = datetime.fromtimestamp(each[0], timezone.utc).isoformat()
                    self._complain(stamp.encode(), "is a time far after those of the lines around it")
                leapt.clear()
            if leapt or (latest is not None and time > latest + LEAP_S):
                leapt.append(event)
                if len(leapt) == MAX_LEAP:
                    latest = max(each[0] for each in leapt)
                    yield from leapt
                    leapt.clear()
                continue
            if latest is None or time > latest:
                latest = time
            yield event
        yield from leapt

    def _ordered(self, events: Iterator[Event]) -> Iterator[Event]:
        """Stable. An event that belongs before one that was given away already is moved to its time."""
        kept: list[Event] = []
        given = float("-inf")
        for event in events:
            if event[0] < given:
                self.late += 1
                event = (given, *event[1:])
            kept.append(event)
            if len(kept) >= 2 * MAX_ORDERED:
                kept.sort(key=_time)
                yield from kept[:MAX_ORDERED]
                given = kept[MAX_ORDERED - 1][0]
                del kept[:MAX_ORDERED]
        kept.sort(key=_time)
        yield from kept


def form_of(head: bytes, name: str | None, columns: Mapping[str, str]) -> LineFormat:
    """The format of a log that begins with `head`. `name`: it is known; otherwise the one that finds most connections.

    Raises ValueError, which says what to write.
    """
    first = head.lstrip().split(b"\n", 1)[0]
    if name is None and columns:
        name = "json" if first.startswith(b"{") else "csv"
    if name in ("csv", "json") or (name is None and (first.startswith(b"{") or _is_header(first))):
        return _columns(name or ("json" if first.startswith(b"{") else "csv"), first, columns)
    if name is not None:
        return next(each for each in FORMATS if each.name == name)
    found = {each: _connections(each, head) for each in FORMATS}
    best = max(FORMATS, key=found.__getitem__)
    if not found[best]:
        raise ValueError(f"has no connection of a known format at its beginning; write --format {'|'.join(NAMES)}")
    return best


def _columns(name: str, first: bytes, columns: Mapping[str, str]) -> Columns:
    try:
        return Columns(name, first, columns)
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("does not begin with a JSON object; write one object a line") from None


def _is_header(first: bytes) -> bool:
    try:
        Columns("csv", first, {})
    except ValueError:
        return False
    return True


def _connections(form: LineFormat, head: bytes) -> int:
    return sum(
        (address is not None or closed is not None) and received is rejected
        for *_, address, closed, _, received, rejected in form.fields(head)
    )


def tells_ends(form: LineFormat, head: bytes) -> bool:
    """Whether the log tells, at its beginning, how long sessions last."""
    return form.paired or any(fields[7] is not None for fields in form.fields(head))


def merged(logs: Iterable[Callable[[], Iterator[Event]]], firsts: Iterable[float]) -> Iterator[Event]:
    """The events of several logs in one order of time. Each log is opened when the time of its first event comes."""
    waiting = sorted(zip(firsts, logs, strict=True), key=_time, reverse=True)
    active: list[tuple[Event, Iterator[Event]]] = []
    while waiting or active:
        at = min(range(len(active)), key=lambda each: active[each][0][0], default=None)
        if waiting and (at is None or waiting[-1][0] <= active[at][0][0]):
            events = waiting.pop()[1]()
            active += [(event, events) for event in [next(events, None)] if event is not None]
            continue
        assert at is not None
        head, events = active[at]
        if len(active) == 1 and not waiting:
            yield head
            yield from events
            return
        until = min(
            [other[0][0] for each, other in enumerate(active) if each != at] + [each[0] for each in waiting[-1:]],
            default=float("inf"),
        )
        for event in chain([head], events):
            if event[0] > until:
                active[at] = event, events
                break
            yield event
        else:
            del active[at]
