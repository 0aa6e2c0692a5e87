"""By what the processes of an audit decide: asked over their control sockets, seldom, and kept in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from inbound_audit.errors import SharedStateError, plain
from inbound_audit.shared import View
from inbound_audit.shared.control import client

ASK_AGAIN_S = 10.0
"""Seconds between two questions to the same processes: a reload may have changed the answer."""
REST_S = 1.0
"""Seconds between two questions when there are other processes than before."""
MAX_GUARDS = 1024
"""Of one process, and of all together: the others are not looked at."""
MAX_TEXT = 300
"""Characters of a text that a process has chosen."""


class GuardRule(NamedTuple):
    """By what one guard of a process decides.

    `arguments`: those of `Limits`, if limits decide, as the process has sent them. `log`: the file of its decision log,
    None if it has none; `logs`: whether it has a decision log, wherever that goes.
    """

    pid: int
    user: int
    service: str
    listener: str
    dry_run: bool
    policy: str | None
    script: str | None
    logs: bool
    log: str | None
    arguments: dict[str, Any] | None


_NONE = type(None)
_ANSWER = {"service": str, "listener": str, "policy": (str, _NONE), "dry_run": bool}
_PERHAPS = {"script": str, "log": (str, _NONE), "arguments": dict}


class Rules:
    """What the processes have answered last. `refresh` asks when it is time, and waits for a moment at most.

    Lock rule: the caller's.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked: set[str] = set()
        self._asked_at = float("-inf")
        self.guards: tuple[GuardRule, ...] = ()
        self.failures: tuple[str, ...] = ()
        """A sentence for each process that has not answered, or not as it should."""

    def refresh(self, view: View) -> bool:
        """Returns whether the processes were asked. O(owners); asking costs each O(limits + listed prefixes)."""
        owners = {owner.id: owner for owner in view.owners if owner.damaged is None and owner.listeners}
        rested = self._clock() - self._asked_at
        if rested < (REST_S if self._asked != owners.keys() else ASK_AGAIN_S):
            return False
        self._asked = set(owners)
        try:
            answers, failures = client.request_owners(
                view.place, owners.values(), {"do": "limits"}, client.BRIEF_TIMEOUT_S
            )
        except SharedStateError as error:
            answers, failures = {}, [str(error)]
        self._asked_at = self._clock()
        guards: list[GuardRule] = []
        for owner_id, answer in answers.items():
            found, pid = answer.get("listeners"), owners[owner_id].pid
            user = client.user_of(view.place, owner_id)
            if user is None or not isinstance(found, list) or not all(map(_is_answer, found[:MAX_GUARDS])):
                failures.append(f"process {pid} sent a malformed answer")
            else:
                guards += [_guard(pid, user, row) for row in found[:MAX_GUARDS]]
        self.guards = tuple(sorted(guards[:MAX_GUARDS], key=lambda guard: (guard.service, guard.listener, guard.pid)))
        self.failures = tuple(plain(text[:MAX_TEXT]) for text in failures)
        return True


def _is_answer(row: object) -> bool:
    """Whether it is what `Guard.decides_by` returns: a process may send anything."""
    return client.has_members(row, _ANSWER) and client.has_members(
        row, {name: kind for name, kind in _PERHAPS.items() if name in row}
    )


def _guard(pid: int, user: int, row: dict[str, Any]) -> GuardRule:
    service, listener = plain(row["service"][:MAX_TEXT]), plain(row["listener"][:MAX_TEXT])
    policy, script = (None if row.get(name) is None else plain(row[name][:MAX_TEXT]) for name in ("policy", "script"))
    about = (pid, user, service, listener, row["dry_run"], policy, script)
    return GuardRule(*about, "log" in row, row.get("log"), row.get("arguments"))
