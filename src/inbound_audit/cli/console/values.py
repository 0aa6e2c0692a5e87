"""The values in a console's commands: words in, a checked value out. What makes no sense raises ValueError."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from inbound_audit import PrefixCounter

WINDOWS_MOST = 1 << 20
COUNT_MOST = (1 << 32) - 1
UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
ORDERS = ("count", "cidr")

_PARAMETERS = re.compile(r" *([0-9]{1,10}) *, *([0-9]{1,10}) *")
_LEAST = 1 << 13  # bytes: the smallest counter, whose parser is all that is wanted of it


class Value(NamedTuple):
    """A kind of value: what it looks like, how it is read, and how many words of a line it may be."""

    example: str
    read: Callable[[str], Any]
    words: int = 1


def text(word: str) -> str:
    """Anything but nothing."""
    if not word:
        raise ValueError("is empty")
    return word


def cidr(word: str) -> str:
    """An address or a prefix, as it was."""
    PrefixCounter(capacity=_LEAST).count(word)
    return word


def parameters(word: str) -> tuple[int, int]:
    """``300,6``: seconds, and a number of windows."""
    found = _PARAMETERS.fullmatch(word)
    if not found or not int(found[1]) or not int(found[2]):
        raise ValueError("write the seconds of a window and the number of windows, such as 300,6")
    return int(found[1]), int(found[2])


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(word: str) -> int:
        if not (word.isascii() and word.isdigit() and len(word) < 20 and least <= int(word) <= most):
            raise ValueError(f"write a whole number from {least} to {most}")
        return int(word)

    return read


def order(word: str) -> str:
    if word not in ORDERS:
        raise ValueError(f"order by {' or '.join(ORDERS)}")
    return word


def date(words: str) -> datetime:
    """``2026-03-01``, ``2026-03-01 09:30``, ``2026-03-01T09:30:00Z`` (local time, unless it says otherwise) or ``10
    minutes ago``."""
    parts = words.lower().split()
    if len(parts) == 3 and parts[2] == "ago":
        return _ago(parts[0], parts[1])
    try:
        found = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", words))
        return found.astimezone(timezone.utc)
    except (ValueError, OverflowError, OSError):
        raise ValueError("write a date such as 2026-03-01, '2026-03-01 09:30' or 10 minutes ago") from None


def _ago(number: str, unit: str) -> datetime:
    seconds = UNITS.get(unit.removesuffix("s"))
    if seconds is None or not re.fullmatch("[0-9]{1,9}", number):
        raise ValueError(f"write so many {', '.join(f'{name}s' for name in UNITS)} ago")
    try:
        return datetime.now(timezone.utc) - timedelta(seconds=int(number) * seconds)
    except OverflowError:
        raise ValueError("that long ago nobody counted") from None


VALUES = {
    "ADDRESS[/MASK]": Value("192.0.2.7 or 192.0.2.0/24", cidr),
    "CIDR": Value("192.0.2.0/24 or 192.0.2.7", cidr),
    "SERIES": Value("the name of a series", text),
    "PARAMETERS": Value("seconds and windows, such as 300,6", parameters),
    "START": Value("a window, 0 is the current one", _number(0, WINDOWS_MOST)),
    "END": Value("a window, 0 is the current one", _number(0, WINDOWS_MOST)),
    "IP": Value("192.0.2.7 or 2001:db8::7", text),  # of a series of texts it is any
    "INCREMENT": Value("a whole number from 1 on", _number(1, COUNT_MOST)),
    "FILE": Value("the path of a log", text),
    "NODE": Value("a process id, or an owner's id as in `ps --json`", text),
    "COMMAND": Value("a command", text, 4),
    "DATE": Value("2026-03-01, '2026-03-01 09:30' or 10 minutes ago", date, 3),
    "ORDER": Value("count or cidr", order),
    "LENGTH": Value("the length of a prefix", _number(0, 128)),
    "ROWS": Value("a whole number from 1 on", _number(1, COUNT_MOST)),
}
