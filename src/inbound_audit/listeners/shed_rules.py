"""Which prefixes are dropped below accept, and for how long: the rules, and what they hold at any time.

It knows networks and times alone; `shed` asks it and changes programs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from inbound_audit.listeners.packet_filter import ranges_of
from inbound_audit.shedding import ShedNetwork

MAX_NETWORKS = 1024
"""Networks that are held at once."""


@dataclass(frozen=True)
class Shed:
    """When a prefix is dropped. `prefixlen` are the lengths for IPv4 and IPv6; `never` are networks that are spared.

    Raises ValueError, and CidrError for a network.
    """

    refusals_per_s: float = 50
    prefixlen: tuple[int, int] = (32, 64)
    hold_s: float = 10
    max_hold_s: float = 600
    never: tuple[str, ...] = ("127.0.0.0/8", "::1")

    def __post_init__(self) -> None:
        if not 0 < self.refusals_per_s < 1e9:
            raise ValueError(f"refusals_per_s={self.refusals_per_s!r}: expected a number above 0")
        if not 1 <= self.hold_s <= self.max_hold_s <= 86400:
            raise ValueError(f"hold_s={self.hold_s!r}, max_hold_s={self.max_hold_s!r}: expected 1 to 86400, in order")
        ipv4, ipv6 = self.prefixlen
        if not (0 < ipv4 <= 32 and 0 < ipv6 <= 128):
            raise ValueError(f"prefixlen={self.prefixlen!r}: expected 1 to 32, and 1 to 128")
        ranges_of(self.never)


class _Held(NamedTuple):
    """A network that was over the rate. From `until` on it is let in, and is remembered until `forgotten`."""

    refusals_per_s: float
    hold_s: float
    until: float

    @property
    def forgotten(self) -> float:
        return self.until + self.hold_s


class Holds:
    """Which networks are dropped, at any time. Times are seconds of any clock that does not go back.

    Lock rule: the caller's.
    """

    def __init__(self, rules: Shed) -> None:
        self._rules = rules
        self._held: dict[str, _Held] = {}

    def note(self, now: float, refused: Iterable[tuple[float, str]]) -> None:
        """Networks with what was refused of each per second since the last call. O(held and refused)."""
        self._held = {network: held for network, held in self._held.items() if now < held.forgotten}
        for rate, network in refused:
            known = self._held.get(network)
            if rate <= self._rules.refusals_per_s or (known is not None and now < known.until):
                continue
            hold_s = self._rules.hold_s if known is None else min(2 * known.hold_s, self._rules.max_hold_s)
            self._held[network] = _Held(rate, hold_s, now + hold_s)

    def dropped(self, now: float) -> list[ShedNetwork]:
        """The networks that are to be dropped, those that were refused most often first."""
        left = [ShedNetwork(name, one.refusals_per_s, one.until - now) for name, one in self._held.items()]
        held = [one for one in left if one.seconds_left > 0]
        return sorted(held, key=lambda one: (-one.refusals_per_s, one.network))[:MAX_NETWORKS]

    def keep(self, networks: Iterable[ShedNetwork], now: float) -> None:
        """Forgets the other networks that are to be dropped: they can't be, and are counted again."""
        kept = {one.network for one in networks}
        self._held = {name: one for name, one in self._held.items() if one.until <= now or name in kept}

    def clear(self) -> None:
        self._held.clear()
