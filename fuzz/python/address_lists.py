"""Address lists in rbldnsd's format: each line is an entry or is reported, and look-ups agree with a slow search."""

from __future__ import annotations

import ipaddress

from inbound_audit._ipcount import NetworkMap
from inbound_audit.address_lists.rbldnsd import Zone

MAX_NETWORKS_OF_A_LINE = 62  # of a range, in the worst case
PROBES = [ipaddress.ip_address(text) for text in ("192.0.2.7", "10.1.2.3", "0.0.0.0", "255.255.255.255")]
PROBES += [ipaddress.ip_address(text) for text in ("2001:db8::7", "::", "2001:db8:1:2:3:4:5:6")]


def run(data: bytes) -> None:
    lines = data.decode("utf-8", "surrogateescape").splitlines(keepends=True)
    reported: list[int] = []
    zone = Zone(lines, lambda number, why: reported.append(number))
    assert reported == sorted(set(reported)), "a line is reported once"
    assert len(zone.entries) <= MAX_NETWORKS_OF_A_LINE * len(lines)
    values = list(dict.fromkeys(entry.value for entry in zone.entries))
    first: dict[str, int] = {}
    for entry in zone.entries:
        first.setdefault(entry.network, values.index(entry.value))
    networks: dict[ipaddress.IPv4Network | ipaddress.IPv6Network, int] = {}
    for network, at in first.items():
        try:
            networks.setdefault(ipaddress.ip_network(network, strict=False), at)  # the first one holds
        except ValueError:
            return  # a form of rbldnsd's own, such as 10.01.2.3: the second reader does not know it
    found = NetworkMap(first.items())
    for probe in PROBES:
        around = [network for network in networks if probe in network]
        longest = max(around, key=lambda network: network.prefixlen, default=None)
        assert found.lookup(str(probe)) == (None if longest is None else networks[longest]), probe
    for value in values:
        if value is not None:
            assert ipaddress.IPv4Address(value.a)
            text = zone.expand(value.txt, "192.0.2.7")
            assert len(text.encode("utf-8", "surrogateescape")) <= 254
