"""What `Limits` must decide, said in the fewest words: loops over all open sessions, `ipaddress` for every question."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tests.support.gold import Address, Network, unmapped

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


class GoldLimits:
    def __init__(
        self,
        limits: Mapping[str, int],
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

    def passed(self, one: Open) -> str | None:
        """The name of the first limit that a session is over."""
        network = self.network(one.address)
        if network is EXEMPT:
            return None
        table = self.tables[network]
        for key, maximum in table.get("limits", {}).items():
            length = lengths(key)[one.address.version == 6]
            if length is None:
                continue
            within = ipaddress.ip_network((one.address, length), strict=False)
            if self.count(one, network, within) > maximum:
                return f"{network} {key}"
        if table.get("total") is not None and self.count(one, network, None) > table["total"]:
            return f"{network} total"
        listener = [n for o, n in self.open.items() if (o.service, o.listener) == (one.service, one.listener)]
        if self.listener_total is not None and sum(listener) > self.listener_total:
            return "listener total"
        return None

    def validate_connect(self, one: Open) -> bool:
        name = self.passed(one)
        self.refused[name or ""] += name is not None
        return name is None


def opened(remote: object, service: str, listener: str) -> Open:
    return Open(unmapped(ipaddress.ip_address(remote)), service, listener)
