"""The networks that this process drops before accept, by audit: what `ps` and `top` ask it for."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from inbound_audit import _ipcount


class ShedNetwork(NamedTuple):
    """A network whose packets are dropped, how often it was refused before, and the seconds until it is let in."""

    network: str
    refusals_per_s: float
    seconds_left: float


class Dropping(Protocol):
    @property
    def networks(self) -> Sequence[ShedNetwork]: ...


_dropping: weakref.WeakKeyDictionary[_ipcount.Audit, weakref.WeakSet[Dropping]] = weakref.WeakKeyDictionary()


def note(audit: _ipcount.Audit, dropping: Dropping) -> None:
    """From now on its networks are among those of the audit, until it is collected."""
    _dropping.setdefault(audit, weakref.WeakSet()).add(dropping)


def networks_of(audit: _ipcount.Audit) -> list[ShedNetwork]:
    """Those that are dropped now, the ones that were refused most often first."""
    found = [one for dropping in list(_dropping.get(audit, ())) for one in dropping.networks]
    return sorted(found, key=lambda one: (-one.refusals_per_s, one.network))
