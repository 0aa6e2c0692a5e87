"""What if: whom limits that no process has would refuse now, and whom they would have refused lately."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from inbound_audit._ipcount import SeriesStore
from inbound_audit.errors import PolicyError
from inbound_audit.policy.limits import Limits
from inbound_audit.policy.limits import Row as Limit
from inbound_audit.policy.options import grouped, read_limit
from inbound_audit.policy.rates import Rate, in_units
from inbound_audit.shared import View

MAX_LIMITS = 16
"""That are asked about at once."""
MAX_PREFIXES = 100
MAX_WINDOWS = 120
"""The newest ones of a monitor that are looked at."""
STEPS = 1 << 17
"""Prefixes that are looked into, for all limits together; and as many for all windows."""

Over = tuple[str, int, int]
"""A prefix, what a limit counts in it, and the most that it allows."""


class WindowOver(NamedTuple):
    """Of one window of a monitor, `startv` (0 is the current one): how many events were over the limit in it, and the
    prefixes, the fullest first."""

    startv: int
    refused: int
    prefixes: tuple[Over, ...]


@dataclass(frozen=True)
class WouldRefuse:
    """What a limit would do.

    `refused`: how many sessions are over it now; of a limit over time, how many events of that time. `prefixes` are
    those that are over it, the fullest first, at most 100; a limit of all sessions has none. `windows`, the current one
    first, are those of the monitor with the most windows as long as the limit's time: what each had more than the limit
    allows. A limit over time counts the last seconds, not such a window, so a burst over the end of one may be missing.
    Of a limit of open sessions there are none: how long past connections were open is written nowhere. `seconds`: of a
    window, 0 without any. `exact`: False where more than can be looked into is over it; there are more then.
    """

    limit: str
    refused: int
    prefixes: tuple[Over, ...]
    windows: tuple[WindowOver, ...] = ()
    seconds: int = 0
    exact: bool = True


def read_limits(texts: Sequence[str]) -> list[Limits]:
    """Each for itself, as the command line's ``--limit`` has it. They refuse and deny no client. Raises PolicyError."""
    if not 1 <= len(texts) <= MAX_LIMITS:
        raise PolicyError(f"{len(texts)} limits: give 1 to {MAX_LIMITS}")
    try:
        return [Limits.from_options(grouped([read_limit(text)]), {}, dry_run=True) for text in texts]
    except PolicyError:
        raise
    except ValueError as error:  # CidrError, too
        raise PolicyError(str(error)) from None


def would_refuse(view: View, service: str, texts: Sequence[str]) -> tuple[WouldRefuse, ...]:
    """Raises PolicyError, UnknownServiceType. O(STEPS x trees x bytes of the address)."""
    read = read_limits(texts)
    return tuple(_one(view, service, text, limits, len(read)) for text, limits in zip(texts, read, strict=True))


def _one(view: View, service: str, text: str, limits: Limits, of: int) -> WouldRefuse:
    number = len(limits.rows) - 1  # before `total` there is the stock policy
    limit = limits.rows[number]
    most = _most(limit)
    if limit.kind == "listener":
        totals = _totals(view, service)
        return WouldRefuse(text, sum(max(0, total - most) for total in totals), ())
    windows = _windows(view, limit, text) if isinstance(limit.most, Rate) else 0
    rows, over, exact = limits._fullest(view, service, number, MAX_PREFIXES, STEPS // of, True)
    found = []
    for startv in range(min(windows, MAX_WINDOWS)):
        steps = STEPS // (of * min(windows, MAX_WINDOWS))
        then, refused, sure = limits._fullest(view, service, number, MAX_PREFIXES, steps, True, startv)
        found.append(WindowOver(startv, refused, _over(then, most)))
        exact = exact and sure
    seconds = limit.most.seconds if isinstance(limit.most, Rate) else 0
    return WouldRefuse(text, over, _over(rows, most), tuple(found), seconds, exact)


def _most(limit: Limit) -> int:
    return limit.most.maximum if isinstance(limit.most, Rate) else limit.most


def _over(rows: Iterable[tuple[int, str | None]], most: int) -> tuple[Over, ...]:
    return tuple((prefix, count, most) for count, prefix in rows if prefix is not None and count > most)


def _totals(view: View, service: str) -> list[int]:
    """Of each listener of a service, in all processes. Raises UnknownServiceType."""
    view.total(service)
    totals: dict[str, int] = {}
    for owner in view.owners:
        for listener in owner.listeners:
            if listener.service_type == service:
                totals[listener.name] = totals.get(listener.name, 0) + listener.total
    return list(totals.values())


def _windows(view: View, limit: Limit, text: str) -> int:
    """How many windows there are that are as long as the limit's time. Raises PolicyError."""
    assert isinstance(limit.most, Rate)
    _, kind, seconds = limit.most
    fit = [n for scope, _, _, interval, n in SeriesStore(view).known if (scope, interval) == (kind, seconds) and n > 1]
    if not fit:
        raise PolicyError(
            f"{text!r}: no monitor of the audit has windows of {in_units(seconds)}: start a server with "
            f"--monitor {seconds},2"
        )
    return max(fit)


def as_json(found: Iterable[WouldRefuse]) -> dict[str, Any]:
    """`limits`, and the `windows` of all of them, each with its limit and how many seconds before the current one."""
    found = list(found)
    return {
        "limits": [
            {"limit": one.limit, "refused": one.refused, "prefixes": one.prefixes, "exact": one.exact} for one in found
        ],
        "windows": [
            {
                "limit": one.limit,
                "ago_s": window.startv * one.seconds,
                "refused": window.refused,
                "prefixes": window.prefixes,
            }
            for one in found
            for window in one.windows
        ],
    }
