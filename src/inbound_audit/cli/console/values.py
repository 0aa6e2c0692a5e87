"""The values in a console's commands: a word in, a checked value out. A wrong word raises ValueError."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, NamedTuple

from inbound_audit._ipcount import LIMITS, parse_monitor, parse_prefix
from inbound_audit.cli.params import read_number
from inbound_audit.errors import MonitorError

ORDERS = ("count", "cidr")
DATE_EXAMPLE = "2026-03-01, '2026-03-01 09:30', yesterday, 10 minutes ago"

_BASIC_ISO = {8: "%Y%m%d", 13: "%Y%m%dT%H%M", 15: "%Y%m%dT%H%M%S"}
"""The reference's own form, ``20080423T123000``, by its length; Python 3.10 does not read it."""


class Value(NamedTuple):
    """A kind of value: what it looks like, and the function that reads a word."""

    example: str
    read: Callable[[str], Any]


class Span(NamedTuple):
    """The time that a date means, in UTC: a day from midnight to midnight, or a moment, which is its own end."""

    start: datetime
    end: datetime


def text(word: str) -> str:
    if not word:
        raise ValueError("is empty")
    return word


def cidr(word: str) -> str:
    """An address or a prefix, unchanged."""
    parse_prefix(word)
    return word


def parameters(word: str) -> tuple[int, int]:
    """``300,6`` or ``5m,6``: the seconds of a window, and the number of windows."""
    try:
        return parse_monitor("".join(word.split()))
    except MonitorError:
        most = f"{LIMITS['seconds']},{LIMITS['windows']}"
        raise ValueError(
            f"write the seconds of a window and the number of windows, such as 300,6 or 5m,6 (at most {most})"
        ) from None


def instance(word: str) -> str:
    """The NAME in ``inbound_audit:NAME``; empty for ``inbound_audit`` alone."""
    module, _, name = word.partition(":")
    if module.lower() != "inbound_audit":
        raise ValueError("is not a module of the console")
    return name


def series_name(word: str) -> str:
    """The name of a series in a list of several, which commas and parentheses end."""
    if re.search(r"[(),]", word):
        raise ValueError("is a list")
    return text(word)


def order(word: str) -> str:
    if word.lower() not in ORDERS:
        raise ValueError(f"order by {' or '.join(ORDERS)}")
    return word.lower()


def date(words: str) -> Span:
    """A date as people write it: ISO 8601, ``yesterday``, ``monday 9:30``, ``3 march``, ``10 minutes ago``.

    Local time, unless the text names another zone. A date without a time is the whole day.
    """
    try:
        found = _iso(words) or _spoken(words)
        return Span(found.start.astimezone(timezone.utc), found.end.astimezone(timezone.utc))
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"write a date such as {DATE_EXAMPLE}") from None


def _iso(words: str) -> Span | None:
    """None if the text does not begin as ISO 8601 does. Raises ValueError."""
    if re.fullmatch(r"\d{8}(T\d{4}(\d\d)?)?", words):
        found = datetime.strptime(words, _BASIC_ISO[len(words)])
    elif re.match(r"\d{4}-\d", words):
        found = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", words))
    else:
        return None
    return _day(found) if len(words) in (8, 10) else Span(found, found)


def _spoken(words: str) -> Span:
    """Raises ValueError."""
    from dateparser.date import DateDataParser

    # What is only digits could be anything, and the parts of 01/02/2026 are read in two orders.
    if not re.search("[A-Za-z:]", words):
        raise ValueError(words)
    settings = {"PREFER_DATES_FROM": "past", "PREFER_DAY_OF_MONTH": "first", "RETURN_TIME_AS_PERIOD": True}
    read = DateDataParser(languages=["en"], settings=settings).get_date_data(words.lower())
    found = read.date_obj
    if found is None:
        raise ValueError(words)
    if read.period == "day" and not words.lower().endswith("ago"):
        return _day(found)
    if read.period == "month" and (found.hour, found.minute, found.second) == (0, 0, 0):
        return Span(found, (found + timedelta(days=31)).replace(day=1))
    return Span(found, found)


def between(first: Span, last: Span) -> tuple[datetime, datetime]:
    """From the begin of a date to the end of another. Raises ValueError."""
    if last.start < first.start:
        raise ValueError("the time ends before it begins; write the earlier date first")
    return first.start, last.end


def _day(found: datetime) -> Span:
    """From midnight to midnight in local time, on days of 23 and 25 hours too."""
    start = found.replace(hour=0, minute=0, second=0, microsecond=0)
    return Span(start, start + timedelta(days=1))


WINDOW = Value("a window; 0 is the current one", partial(read_number, 0, LIMITS["windows"] - 1))
POSITIVE = Value("a whole number from 1 on", partial(read_number, 1, LIMITS["count"]))

VALUES = {
    "PREFIX": Value("inbound_audit or inbound_audit:NAME", instance),
    "CIDR": Value("192.0.2.0/24 or 192.0.2.7", cidr),
    "SERIES": Value("the name of a series", text),
    "NAME": Value("the name of a series", series_name),
    "PARAMETERS": Value("seconds and windows, such as 300,6", parameters),
    "START": WINDOW,
    "END": WINDOW,
    "KEY": Value("192.0.2.7 or 2001:db8::7; any text in a series of type string", text),
    "INCREMENT": POSITIVE,
    "FILE": Value("the path of a change log", text),
    "NODE": Value("a node of the cluster; a process id; or an owner's id as in `ps --json`", text),
    "COMMAND": Value("a command", text),
    "DATE": Value(DATE_EXAMPLE, text),  # a word of a date: `date` reads all of them together
    "COLUMN": Value("count or cidr", order),
    "LENGTH": Value("the length of a prefix", partial(read_number, 0, 128)),
    "MINIMUM": POSITIVE,
    "ROWS": POSITIVE,
}
