"""Limits over time, as users write them: ``300/5m``, ``20 rejections/1h``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from inbound_audit._ipcount import LIMITS, MONITOR_KINDS, parse_duration, parse_monitor
from inbound_audit.errors import did_you_mean

MAX_COUNT = 2**63 - 1
"""Of open sessions, or of events."""

MAX_SECONDS = LIMITS["seconds"]
"""The longest window of a monitor."""

EXAMPLE = "'300/5m' or '20 rejections/1h'"

_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


class Rate(NamedTuple):
    """At most `maximum` events of a kind of `MONITOR_KINDS` in so many seconds."""

    maximum: int
    kind: str
    seconds: int

    @property
    def name(self) -> str:
        """Without the maximum: ``connections/5m``."""
        return f"{self.kind}/{in_units(self.seconds)}"

    def __str__(self) -> str:
        """``300/5m``, ``20 rejections/1h``: as `read_rate` reads it."""
        return f"{self.maximum} {self.name}".replace(f" {MONITOR_KINDS[0]}/", "/")


class Most(NamedTuple):
    """What one limit allows, and for how many seconds whoever is over it is denied (0: not at all)."""

    most: int | Rate
    deny_s: int = 0

    def __str__(self) -> str:
        """``10``, ``300/5m``, ``20 rejections/1h then deny for 10m``."""
        return f"{self.most} then deny for {in_units(self.deny_s)}" if self.deny_s else str(self.most)


def in_units(seconds: int) -> str:
    """``5m`` for 300."""
    unit, size = next((unit, size) for unit, size in _UNITS if seconds % size == 0)
    return f"{seconds // size}{unit}"


def read_most(text: str) -> Most:
    """A rate, or a rate or number of open sessions with ``then deny for`` and a duration. Raises ValueError.

    >>> str(read_most("10 then deny for 600s"))
    '10 then deny for 10m'
    """
    limit, then, duration = text.partition(" then deny for ")
    if not then:
        return Most(read_rate(text))
    if not limit.isdecimal() or not limit.isascii() or len(limit) > 19:
        return Most(read_rate(limit), _whole_seconds(duration, text))
    if int(limit) > MAX_COUNT:
        raise ValueError(f"{text!r}: the number is above {MAX_COUNT}")
    return Most(int(limit), _whole_seconds(duration, text))


def read_rate(text: str) -> Rate:
    """A number, a kind of events (connections by default) and a duration in whole seconds, from 1 s to 34 years.

    Raises ValueError.

    >>> read_rate("20 rejections/1h")
    Rate(maximum=20, kind='rejections', seconds=3600)
    """
    found = re.fullmatch(r"(\d{1,19})(?: (\w+))?/(.+)", text, re.ASCII)
    if found is None or int(found[1]) > MAX_COUNT:
        raise ValueError(f"{text!r}: write a number and a duration, such as {EXAMPLE}")
    kind = found[2] or MONITOR_KINDS[0]
    if kind not in MONITOR_KINDS:
        known = ", ".join(MONITOR_KINDS)
        raise ValueError(f"{text!r}: unknown events {kind!r}{did_you_mean(kind, MONITOR_KINDS)} (known: {known})")
    return Rate(int(found[1]), kind, _whole_seconds(found[3], text))


def _whole_seconds(duration: str, text: str) -> int:
    """Raises ValueError."""
    try:
        seconds = parse_duration(duration)
    except ValueError:
        seconds = 0.0
    if seconds < 1 or seconds % 1:
        raise ValueError(
            f"{text!r}: write a duration of whole seconds from 1s to {MAX_SECONDS}s, such as 30s, 5m or 1h"
        )
    return int(seconds)


def monitors_for(rates: Iterable[Rate], present: Iterable[str]) -> list[str]:
    """The monitors that limits over time need beside those that are `present`.

    A limit needs one whose windows are as long as its time, and two of them.
    """
    fit = {seconds for seconds, windows in map(parse_monitor, present) if windows > 1}
    return [f"{seconds},2" for seconds in dict.fromkeys(rate.seconds for rate in rates) if seconds not in fit]
