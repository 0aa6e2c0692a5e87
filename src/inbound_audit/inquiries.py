"""What the guards of this process would decide about a client now, by audit: what `why` asks it for."""

from __future__ import annotations

import weakref
from typing import Protocol

from inbound_audit import _ipcount

Answer = dict[str, object]
"""Of one guard, for JSON; docs/howto/decision-log.md has the members."""


class Deciding(Protocol):
    def would_decide(self, address: str) -> Answer:
        """Raises AddressError."""


_deciding: weakref.WeakKeyDictionary[_ipcount.Audit, weakref.WeakSet[Deciding]] = weakref.WeakKeyDictionary()


def note(audit: _ipcount.Audit, deciding: Deciding) -> None:
    """From now on it is asked, too, until it is collected."""
    _deciding.setdefault(audit, weakref.WeakSet()).add(deciding)


def answers_of(audit: _ipcount.Audit, address: str) -> list[Answer]:
    """What each would decide. Raises AddressError. O(guards x limits)."""
    return [deciding.would_decide(address) for deciding in list(_deciding.get(audit, ()))]
