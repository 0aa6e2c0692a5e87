"""The guards of this process, by audit, and what others ask them: what they would decide, and by what they decide."""

from __future__ import annotations

import weakref
from typing import Protocol

from inbound_audit import _ipcount
from inbound_audit.process import ProcessLock

Answer = dict[str, object]
"""Of one guard, for JSON; docs/howto/decision-log.md has the members."""


class Deciding(Protocol):
    def would_decide(self, address: str) -> Answer:
        """Raises AddressError."""

    def decides_by(self) -> Answer: ...


_lock = ProcessLock()
"""Of `_deciding` and its sets: no thread may add to a set that another one reads."""

_deciding: weakref.WeakKeyDictionary[_ipcount.Audit, weakref.WeakSet[Deciding]] = weakref.WeakKeyDictionary()


def note(audit: _ipcount.Audit, deciding: Deciding) -> None:
    """From now on it is asked, too, until it is collected."""
    with _lock:
        _deciding.setdefault(audit, weakref.WeakSet()).add(deciding)


def answers_of(audit: _ipcount.Audit, address: str) -> list[Answer]:
    """What each would decide. Raises AddressError. O(guards x limits)."""
    return [deciding.would_decide(address) for deciding in _guards_of(audit)]


def rules_of(audit: _ipcount.Audit) -> list[Answer]:
    """By what each decides. O(guards x (limits + listed prefixes))."""
    return [deciding.decides_by() for deciding in _guards_of(audit)]


def _guards_of(audit: _ipcount.Audit) -> list[Deciding]:
    with _lock:
        return list(_deciding.get(audit, ()))
