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
        unit, size = next((unit, size) for unit, size in _UNITS if self.seconds % size == 0)
        return f"{self.kind}/{self.seconds // size}{unit}"

    def __str__(self) -> str:
        """``300/5m``, ``20 rejections/1h``: as `read_rate` reads it."""
        return f"{self.maximum} {self.name}".replace(f" {MONITOR_KINDS[0]}/", "/")


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
    try:
        seconds = parse_duration(found[3])
    except ValueError:
        seconds = 0.0
    if seconds < 1 or seconds % 1:
        raise ValueError(
            f"{text!r}: write a duration of whole seconds from 1s to {MAX_SECONDS}s, such as 30s, 5m or 1h"
        )
    return Rate(int(found[1]), kind, int(seconds))


def monitors_for(rates: Iterable[Rate], present: Iterable[str]) -> list[str]:
    """The monitors that limits over time need beside those that are `present`.

    A limit needs one whose windows are as long as its time, and two of them.
    """
    fit = {seconds for seconds, windows in map(parse_monitor, present) if windows > 1}
    return [f"{seconds},2" for seconds in dict.fromkeys(rate.seconds for rate in rates) if seconds not in fit]
