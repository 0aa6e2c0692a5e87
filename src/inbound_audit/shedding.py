"""The networks that this process drops before accept, by audit: what `ps` and `top` ask it for."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
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
    """Those that are dropped now, as `merged` returns them."""
    return merged(one for dropping in list(_dropping.get(audit, ())) for one in dropping.networks)


def merged(found: Iterable[ShedNetwork]) -> list[ShedNetwork]:
    """Each network once, with the sum of its refusals and the longest time: several gates may drop it. The networks
    that were refused most often are first."""
    networks: dict[str, ShedNetwork] = {}
    for one in found:
        _, rate, seconds_left = networks.get(one.network, (one.network, 0.0, 0.0))
        networks[one.network] = ShedNetwork(one.network, rate + one.refusals_per_s, max(seconds_left, one.seconds_left))
    return sorted(networks.values(), key=lambda one: (-one.refusals_per_s, one.network))
