"""Address lists in rbldnsd's format: each line is an entry or is reported, and look-ups agree with a slow search."""

from __future__ import annotations

import ipaddress

from inbound_audit.address_lists.lists import networks_of
from inbound_audit.address_lists.rbldnsd import Value, Zone

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_NETWORKS_OF_A_LINE = 62  # of a range, in the worst case
PROBES = [ipaddress.ip_address(text) for text in ("192.0.2.7", "10.1.2.3", "0.0.0.0", "255.255.255.255")]
PROBES += [ipaddress.ip_address(text) for text in ("2001:db8::7", "::", "2001:db8:1:2:3:4:5:6")]
MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def network_of(text: str) -> Network:
    """Host bits are ignored, and a network of IPv4 addresses that are mapped into IPv6 is one of IPv4."""
    network = ipaddress.ip_network(text, strict=False)
    if network.version == 4 or not network.subnet_of(MAPPED):
        return network
    return ipaddress.IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))


def run(data: bytes) -> None:
    lines = data.decode("utf-8", "surrogateescape").splitlines(keepends=True)
    reported: list[int] = []
    zone = Zone(lines, lambda number, why: reported.append(number))
    assert reported == sorted(set(reported)), "a line is reported once"
    assert len(zone.entries) <= MAX_NETWORKS_OF_A_LINE * len(lines)
    found, values = networks_of(zone.entries)
    networks: dict[Network, Value | None] = {}
    for entry in zone.entries:
        networks.setdefault(network_of(entry.network), entry.value)  # of equal networks the first one counts
    for probe in PROBES:
        around = [network for network in networks if probe in network]
        longest = max(around, key=lambda network: network.prefixlen, default=None)
        at = found.lookup(str(probe))
        assert (at is None) == (longest is None), probe
        assert at is None or longest is None or values[at] == networks[longest], probe
    for value in values:
        if value is not None:
            assert ipaddress.IPv4Address(value.a)
            text = zone.expand(value.txt, "192.0.2.7")
            assert len(text.encode("utf-8", "surrogateescape")) <= 254
