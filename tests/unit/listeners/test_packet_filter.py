"""The generator of BPF programs, against a machine for them and the networks themselves."""

from __future__ import annotations

import ipaddress
import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.packet_machine import Address, accepts, check, packet_from
from tests.support.strategies import addresses, ipv4, ipv6, length_for

from inbound_audit.errors import CidrError
from inbound_audit.listeners.packet_filter import (
    MARK,
    Ranges,
    attach,
    attached_to,
    detach,
    program_of,
    ranges_of,
)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

networks = addresses.flatmap(
    lambda address: length_for(address).map(lambda length: ipaddress.ip_network((address, length), strict=False))
)


def plain(address: Address) -> Address:
    return getattr(address, "ipv4_mapped", None) or address


def holds(network: Network, address: Address) -> bool:
    """Whether a network has an address; IPv4-mapped addresses are IPv4, and a network of only such ones too."""
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            network = ipaddress.ip_network((mapped, network.prefixlen - 96))
    return address in network


def edges(network: Network) -> list[Address]:
    """Addresses at the ends of a network, within and outside."""
    first, last = network[0], network[-1]
    near = [first, last]
    if int(first):
        near.append(first - 1)
    if int(last) + 1 < 1 << network.max_prefixlen:
        near.append(last + 1)
    return [plain(one) for one in near]


@given(st.lists(networks, max_size=12), st.lists(networks, max_size=6), st.lists(st.one_of(ipv4, ipv6), max_size=8))
def test_exactly_the_networks_are_dropped(dropped: list[Network], spared: list[Network], others: list[Address]) -> None:
    program = program_of(ranges_of(map(str, dropped)), ranges_of(map(str, spared)))
    check(program)
    sources = {plain(one) for one in others} | {one for network in dropped + spared for one in edges(network)}
    for source in sources:
        expected = any(holds(one, source) for one in dropped) and not any(holds(one, source) for one in spared)
        assert accepts(program, packet_from(source)) is not expected, f"{source}"


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 40)), max_size=8), st.integers(0, 80))
def test_any_ranges_are_dropped_wherever_they_begin(pairs: list[tuple[int, int]], shift: int) -> None:
    """Ranges that no network has, as those that are left when a network is cut out."""
    points = sorted({point << shift for pair in pairs for point in pair})
    ranges = [(first, last - 1) for first, last in zip(points[::2], points[1::2], strict=False)]
    program = program_of(Ranges([], ranges), ranges_of(()))
    check(program)
    for first, last in ranges:
        for source, dropped in ((first, True), (last, True), (last + 1, last + 1 in points[::2])):
            assert accepts(program, packet_from(ipaddress.IPv6Address(source))) is not dropped


@pytest.mark.parametrize(
    ("number", "network"), [(900, "10.{0}.{1}.7/32"), (900, "10.{0}.{1}.0/24"), (400, "2001:db8:{0:x}:{1:x}::/64")]
)
def test_many_networks_fit_into_a_program(number: int, network: str) -> None:
    """Jumps over more than 255 instructions are among them."""
    names = [network.format(one // 100, 2 * (one % 100)) for one in range(number)]
    program = program_of(ranges_of(names), ranges_of(()))
    check(program)
    for name in names:
        whole = ipaddress.ip_network(name)
        assert not accepts(program, packet_from(whole[0]))
        assert accepts(program, packet_from(whole[-1] + 1))
        assert accepts(program, packet_from(whole[0] - 1))


def test_packets_of_no_known_version_pass() -> None:
    program = program_of(ranges_of(["0.0.0.0/0", "::/0"]), ranges_of(()))
    assert [accepts(program, bytes([version << 4]) + bytes(39)) for version in range(16)] == [
        version not in (4, 6) for version in range(16)
    ]


def test_a_malformed_network_is_an_error() -> None:
    with pytest.raises(CidrError):
        ranges_of(["192.0.2.0/33"])


# ---- sockets


@pytest.mark.skipif(sys.platform != "linux", reason="SO_ATTACH_FILTER is Linux's")
def test_a_program_is_attached_replaced_and_taken_off() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert attached_to(listening) is None
        for token in (7, 1 << 31):
            attach(listening, program_of(ranges_of(["192.0.2.0/24"]), ranges_of(()), token))
            assert attached_to(listening) == (MARK, token)
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
            assert attached_to(accepted) == (MARK, 1 << 31)
            detach(accepted)
            assert attached_to(accepted) is None
        detach(listening)
        detach(listening)
        assert attached_to(listening) is None


@pytest.mark.skipif(sys.platform != "linux", reason="SO_ATTACH_FILTER is Linux's")
def test_a_program_of_other_code_is_known_from_ours() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        attach(listening, program_of(ranges_of(()), ranges_of(()))[2:])
        assert attached_to(listening) == (0, 0)
        attach(listening, program_of(ranges_of(()), ranges_of(()))[-1:])
        assert attached_to(listening) == (0, 0)
