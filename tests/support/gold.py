"""The slow truth: what every count must be, said in the fewest words. Nothing here is fast, and nothing is shared with
the core: addresses are `ipaddress` objects, a count is a loop over all hosts."""

from __future__ import annotations

import ipaddress
from collections import Counter
from itertools import pairwise

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def unmapped(address: Address) -> Address:
    return getattr(address, "ipv4_mapped", None) or address


class GoldCounter:
    def __init__(self) -> None:
        self.hosts: Counter[Address] = Counter()

    def add(self, address: object, n: int = 1) -> None:
        self.hosts[unmapped(ipaddress.ip_address(address))] += n

    def remove(self, address: object, n: int = 1) -> None:
        host = unmapped(ipaddress.ip_address(address))
        if self.hosts[host] < n:
            raise ValueError(address)
        self.hosts[host] -= n
        self.hosts = +self.hosts

    def below(self, network: Network) -> int:
        return sum(n for host, n in self.hosts.items() if host.version == network.version and host in network)

    def count(self, cidr: str) -> int:
        return self.below(ipaddress.ip_network(cidr, strict=False))

    @property
    def total(self) -> int:
        return self.hosts.total()

    def __len__(self) -> int:
        return len(self.hosts)

    def items(self) -> list[tuple[str, int]]:
        return [(str(host), self.hosts[host]) for host in sorted(self.hosts, key=lambda a: (a.version, a))]

    def top(self, n: int = 10, *, prefixlen: tuple[int, int] = (32, 128)) -> list[tuple[int, str]]:
        """Best first; those that are equal in address order."""
        sums: Counter[Network] = Counter()
        for host, count in self.hosts.items():
            sums[ipaddress.ip_network((host, prefixlen[host.version == 6]), strict=False)] += count
        ordered = sorted(sums, key=lambda net: (-sums[net], net.version, net))
        return [(sums[net], str(net)) for net in ordered[:n]]

    def tree(self) -> list[tuple[int, str]]:
        """Every host, and every prefix at which two neighbouring hosts part."""
        networks: set[Network] = {ipaddress.ip_network(host) for host in self.hosts}
        for version in (4, 6):
            hosts = sorted(host for host in self.hosts if host.version == version)
            for one, other in pairwise(hosts):
                length = one.max_prefixlen - (int(one) ^ int(other)).bit_length()
                networks.add(ipaddress.ip_network((one, length), strict=False))
        ordered = sorted(networks, key=lambda net: (net.version, net.network_address, net.prefixlen))
        return [(self.below(net), str(net)) for net in ordered]
