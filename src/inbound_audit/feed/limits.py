"""How full the limits of an audit are. No process pays for that: what they limit is known by asking them, seldom (room
`rules`), and counted here in the trees that they share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inbound_audit._ipcount import parse_prefix
from inbound_audit.errors import CidrError, PolicyError, UnknownServiceType, plain
from inbound_audit.feed.look import LimitRow, ListenerRow, RefusalRow
from inbound_audit.feed.rules import MAX_TEXT, GuardRule
from inbound_audit.policy.limits import Limits
from inbound_audit.policy.rates import Rate
from inbound_audit.shared import View

MAX_POLICIES = 16
"""Different policies of one audit that are looked at."""
MAX_LIMITS = 256
"""Limits of them all together."""
MIN_STEPS, MAX_STEPS = 1 << 10, 1 << 20
"""Prefixes that are looked into for one look, for all limits together: as many as `AIM_S` leaves time for."""
AIM_S = 0.01
"""Seconds."""
MAX_HINTS = 8
"""Prefixes that were refused lately, of each limit, which may be fuller than those that are found by then."""

_ARGUMENTS = ("limits", "exempt", "networks", "listener_total", "cluster")


@dataclass
class _Policy:
    """What some guards of one service have in common."""

    service: str
    dry_run: bool
    arguments: Mapping[str, Any]
    limits: Limits
    listeners: set[str] = field(default_factory=set)
    fullest: dict[int, str] = field(default_factory=dict)
    """By the number of a limit: the prefix that was the fullest in the last look."""


class LimitsInUse:
    """Lock rule: the caller's."""

    def __init__(self) -> None:
        self._policies: list[_Policy] = []
        self.steps = MIN_STEPS
        self.notes: tuple[str, ...] = ()
        """A sentence for each guard whose limits are not seen."""

    def refresh(self, guards: Iterable[GuardRule]) -> None:
        """Takes over what the processes have answered. O(guards x policies x (limits + listed prefixes))."""
        before, self._policies = self._policies, []
        notes: dict[str, None] = {}
        for guard in guards:
            try:
                why_not = self._add(guard, before)
            except PolicyError as error:
                why_not = f"process {guard.pid} sent limits that are none: {plain(str(error)[:MAX_TEXT])}"
            if why_not:
                notes[why_not] = None
        self.notes = tuple(notes)

    def _add(self, guard: GuardRule, before: Sequence[_Policy]) -> str | None:
        """Returns why its limits are not seen, if they aren't. Raises PolicyError."""
        if guard.arguments is None:
            if guard.policy is None:
                return None
            who = f"the script {guard.script}" if guard.script else guard.policy
            return f"{guard.service} {guard.listener}: {who} decides, so its limits are not seen"
        found = _equal(guard, self._policies)
        if found is None:
            if len(self._policies) == MAX_POLICIES:
                return f"more than {MAX_POLICIES} different policies: the limits of the others are not seen"
            known = _equal(guard, before)
            limits = _limits(guard.arguments) if known is None else known.limits
            found = _Policy(guard.service, guard.dry_run, guard.arguments, limits)
            found.fullest = {} if known is None else known.fullest
            self._policies.append(found)
        found.listeners.add(guard.listener)
        return None

    def rows(
        self, view: View, listeners: Iterable[ListenerRow], refusals: Iterable[RefusalRow]
    ) -> tuple[LimitRow, ...]:
        """In the order in which the policies ask. O(limits + steps x trees x bytes of the address)."""
        began = time.perf_counter()
        hints = _prefixes_refused(refusals)
        sessions = {(row.service, row.listener): row.sessions for row in listeners}
        asked = sum(len(policy.limits.rows) for policy in self._policies)
        steps = max(1, self.steps // max(1, min(asked, MAX_LIMITS)))
        found: dict[LimitRow, None] = {}
        for policy in self._policies:
            for number in range(min(len(policy.limits.rows), MAX_LIMITS - len(found))):
                found |= dict.fromkeys(_rows(policy, number, view, sessions, hints, steps))
        if not all(row.exact for row in found):
            fit = self.steps * AIM_S / max(time.perf_counter() - began, AIM_S / 4)
            self.steps = max(MIN_STEPS, min(MAX_STEPS, int(fit)))
        return tuple(found)


def _equal(guard: GuardRule, policies: Iterable[_Policy]) -> _Policy | None:
    same = (each for each in policies if (each.service, each.dry_run) == (guard.service, guard.dry_run))
    return next((each for each in same if each.arguments == guard.arguments), None)


def _limits(arguments: Mapping[str, Any]) -> Limits:
    """They refuse and deny no client here. Raises PolicyError."""
    unknown = arguments.keys() - set(_ARGUMENTS)
    if unknown or not isinstance(arguments.get("cluster"), bool):
        raise PolicyError("their arguments are not those of Limits")
    try:
        return Limits(**arguments, dry_run=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise PolicyError(str(error)) from None


def _prefixes_refused(refusals: Iterable[RefusalRow]) -> Mapping[tuple[str, str], dict[str, None]]:
    """The latest of each service and limit. What is no prefix is left out."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for row in refusals:
        if row.service is None or row.limit is None or row.prefix is None:
            continue
        hints = found.setdefault((row.service, row.limit), {})
        if len(hints) < MAX_HINTS:
            with contextlib.suppress(CidrError):
                parse_prefix(row.prefix)
                hints[row.prefix] = None
    return found


def _rows(
    policy: _Policy,
    number: int,
    view: View,
    sessions: Mapping[tuple[str, str], int],
    refused: Mapping[tuple[str, str], Iterable[str]],
    steps: int,
) -> list[LimitRow]:
    """Of one limit: one row, or one for each listener."""
    limit = policy.limits.rows[number]
    most = limit.most.maximum if isinstance(limit.most, Rate) else limit.most
    if limit.kind == "listener":
        counts = [(listener, sessions.get((policy.service, listener), 0)) for listener in sorted(policy.listeners)]
        return [
            LimitRow(limit.name, policy.service, None, count, most, policy.dry_run, listener)
            for listener, count in counts
        ]
    before = (policy.fullest[number],) if number in policy.fullest else ()
    hints = (*before, *refused.get((policy.service, limit.name), ()))
    try:
        rows, _, exact = policy.limits._fullest(view, policy.service, number, 1, steps, hints=hints)
    except UnknownServiceType:  # of a guard that has counted nothing, or of a false answer
        rows, exact = [], True
    count, prefix = rows[0] if rows else (0, None)
    if prefix is not None:
        policy.fullest[number] = prefix
    return [LimitRow(plain(limit.name[:MAX_TEXT]), policy.service, prefix, count, most, policy.dry_run, exact=exact)]
