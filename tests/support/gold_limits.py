"""What `Limits` must decide, said in the fewest words: loops over all open sessions, `ipaddress` for every question."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import floor
from typing import Any, NamedTuple

from tests.support.gold import Address, Network, unmapped
from tests.support.gold_windows import GoldRing

EXEMPT, DEFAULT = object(), "default"


class Open(NamedTuple):
    address: Address
    service: str
    listener: str


def lengths(key: str) -> tuple[int | None, int]:
    numbers = [int(part[1:]) for part in key.split(",")]
    if len(numbers) == 2:
        return numbers[0], numbers[1]
    return (numbers[0] if numbers[0] <= 32 else None), (128 if numbers[0] == 32 else numbers[0])


class Rate(NamedTuple):
    maximum: int
    kind: str
    seconds: int
    name: str


def rate(text: str) -> Rate:
    maximum, kind, number, unit = re.fullmatch(r"(\d+)( \w+)?/(\d+)([smhd])", text).groups()  # type: ignore[union-attr]
    kind = (kind or " connections")[1:]
    seconds = int(number) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    return Rate(int(maximum), kind, seconds, f"{kind}/{number}{unit}")


class GoldEvents:
    """What happened when, of all services: a ring of two windows for each kind and time that is asked for."""

    def __init__(self, rates: Iterable[Rate], seconds: float) -> None:
        self.rings = {(r.kind, r.seconds): GoldRing(r.seconds, 2, seconds) for r in rates}

    def record(self, kind: str, address: Address, seconds: float) -> dict[int, int]:
        """The window of each time in which the event is."""
        return {time: ring.add(seconds, address) for (of, time), ring in self.rings.items() if of == kind}

    def move(self, numbers: Mapping[int, int], source: Address, target: Address) -> None:
        for time, number in numbers.items():
            self.rings["connections", time].move(number, source, target)


class GoldLimits:
    """A limit over time is asked if `events` is set, at the time `seconds`."""

    events: GoldEvents
    seconds = 0.0

    def __init__(
        self,
        limits: Mapping[str, Any],
        exempt: Iterable[str] = (),
        networks: Mapping[str, Mapping[str, Any]] | None = None,
        listener_total: int | None = None,
    ) -> None:
        self.tables: dict[object, Mapping[str, Any]] = {DEFAULT: {"limits": limits}, **(networks or {})}
        self.listener_total = listener_total
        self.listed: dict[Network, object] = {}
        for prefix in exempt:
            self.listed[ipaddress.ip_network(prefix)] = EXEMPT
        for name, network in (networks or {}).items():
            for prefix in network["prefixes"]:
                self.listed[ipaddress.ip_network(prefix)] = name
        self.open: Counter[Open] = Counter()
        self.refused: Counter[str] = Counter()

    def network(self, address: Address) -> object:
        around = [net for net in self.listed if net.version == address.version and address in net]
        return self.listed[max(around, key=lambda net: net.prefixlen)] if around else DEFAULT

    def count(self, one: Open, network: object, within: Network | None) -> int:
        return sum(
            number
            for other, number in self.open.items()
            if other.service == one.service
            and self.network(other.address) == network
            and (within is None or (other.address.version == within.version and other.address in within))
        )

    def sliding(self, rate: Rate, network: object, within: Network | None) -> int:
        """All of the current window, and of the one before the share that the time up to now covers, rounded down."""
        ring = self.events.rings[rate.kind, rate.seconds]
        current, before = (
            sum(
                n
                for address, n in ring.rows(self.seconds, v).items()
                if self.network(address) == network  # type: ignore[arg-type]
                and (within is None or (address.version == within.version and address in within))  # type: ignore
            )
            for v in (0, 1)
        )
        ahead = ring.now(self.seconds) > ring.number(self.seconds)
        gone = Fraction(0) if ahead else Fraction(self.seconds) % rate.seconds / rate.seconds
        return floor(current + before * (1 - gone))

    def rates(self) -> list[Rate]:
        values = [v for table in self.tables.values() for v in (*table.get("limits", {}).values(), table.get("total"))]
        return [rate(each) for value in values for each in listed(value) if isinstance(each, str)]

    def passed_value(self, one: Open, name: str, value: object, within: Network | None) -> str | None:
        """Of one prefix length, or of a total: the name of the first limit that a session is over."""
        network = self.network(one.address)
        for each in listed(value):
            over = rate(each) if isinstance(each, str) else None
            if over is not None and self.sliding(over, network, within) > over.maximum:
                return f"{network} {name} {over.name}"
            if over is None and self.count(one, network, within) > each:  # type: ignore[operator]
                return f"{network} {name}"
        return None

    def passed(self, one: Open) -> str | None:
        """The name of the first limit that a session is over."""
        network = self.network(one.address)
        if network is EXEMPT:
            return None
        table = self.tables[network]
        for key, value in table.get("limits", {}).items():
            length = lengths(key)[one.address.version == 6]
            if length is None:
                continue
            within = ipaddress.ip_network((one.address, length), strict=False)
            if over := self.passed_value(one, key, value, within):
                return over
        if over := self.passed_value(one, "total", table.get("total"), None):
            return over
        listener = [n for o, n in self.open.items() if (o.service, o.listener) == (one.service, one.listener)]
        if self.listener_total is not None and sum(listener) > self.listener_total:
            return "listener total"
        return None

    def validate_connect(self, one: Open) -> bool:
        name = self.passed(one)
        self.refused[name or ""] += name is not None
        return name is None


def listed(value: object) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def opened(remote: object, service: str, listener: str) -> Open:
    return Open(unmapped(ipaddress.ip_address(remote)), service, listener)
