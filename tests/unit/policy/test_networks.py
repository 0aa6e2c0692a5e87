"""Longest-prefix match against the obvious way."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.gold import unmapped
from tests.support.strategies import addresses, length_for

from inbound_audit import InboundAudit
from inbound_audit._ipcount import NetworkMap
from inbound_audit.errors import AddressError, CidrError

prefixes = addresses.map(unmapped).flatmap(
    lambda a: length_for(a).map(lambda n: ipaddress.ip_network((a, n), strict=False))
)


@given(st.lists(prefixes, max_size=25), st.lists(addresses, min_size=1, max_size=25))
def test_the_longest_match_wins(nets, probes):
    table = NetworkMap([(str(net), i) for i, net in enumerate(nets)])
    latest = {net: i for i, net in enumerate(nets)}
    ends = [end for net in nets for end in (net.network_address, net.broadcast_address)]
    audit = InboundAudit()
    for probe in [*probes, *ends]:
        host = unmapped(probe)
        matches = [net for net in nets if net.version == host.version and host in net]
        expected = latest[max(matches, key=lambda net: net.prefixlen)] if matches else None
        assert table.lookup(probe) == expected
        with audit.listener().session(probe) as ac:
            assert table.lookup_session(ac) == expected
    assert len(table) == len(nets)


@pytest.mark.parametrize("cidr", ["/24", "x", "", 7, None, "192.0.2.0/33"])
def test_a_bad_prefix_is_named(cidr):
    with pytest.raises(CidrError) as caught:
        NetworkMap([("192.0.2.0/24", 1), (cidr, 2)])
    assert repr(cidr) in str(caught.value)


@pytest.mark.parametrize("value", [-1, 2**31])
def test_a_value_out_of_bounds(value):
    with pytest.raises(ValueError, match=str(value)):
        NetworkMap([("192.0.2.0/24", value)])


def test_what_is_no_address():
    with pytest.raises(AddressError):
        NetworkMap().lookup("192.0.2.0/24")
    assert NetworkMap().lookup("192.0.2.0") is None
