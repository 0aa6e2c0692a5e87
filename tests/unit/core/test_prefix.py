"""The grammar of the argument: the table, and `ipaddress` as oracle in both directions."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.support.gold import unmapped
from tests.support.grammar import CASES, case_id, populate
from tests.support.strategies import addresses, length_for

from inbound_audit import InboundAudit, PrefixCounter
from inbound_audit.errors import AddressError, CidrError, InboundAuditError, UnknownServiceType


@pytest.fixture(scope="module")
def peers():
    with InboundAudit() as audit:
        peer4, peer6, sessions = populate(audit)
        yield peer4, peer6
        for session in sessions:
            session.close()


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_the_table(peers, case):
    arguments, *answers = case
    for session, answer in zip(peers, answers, strict=True):
        if isinstance(answer, int):
            assert session.inbound_session_count(*arguments) == answer
        else:
            with pytest.raises(InboundAuditError) as caught:
                session.inbound_session_count(*arguments)
            assert answer in str(caught.value)
            assert isinstance(caught.value, ValueError)
            wrong_service = len(arguments) > 1
            assert isinstance(caught.value, UnknownServiceType if wrong_service else CidrError)
            assert repr(arguments[1 if wrong_service else 0]) in str(caught.value)


@pytest.mark.parametrize("case", [c for c in CASES if c[0] and isinstance(c[0][0], str)], ids=case_id)
def test_the_table_without_a_connecting_ip(peers, case):
    """An audit returns the same for an absolute prefix, and raises CidrError for another."""
    arguments, answer, other = case
    audit = peers[0].listener.audit
    if arguments[0].startswith("/"):
        with pytest.raises((CidrError, UnknownServiceType)):
            audit.inbound_session_count(*arguments)
    elif isinstance(answer, int):
        assert answer == other == audit.inbound_session_count(*arguments)
    else:
        with pytest.raises((CidrError, UnknownServiceType)) as caught:
            audit.inbound_session_count(*arguments)
        assert answer in str(caught.value)


@pytest.mark.parametrize("cidr", ["/24", "/24,/56"])
def test_a_length_alone_needs_a_connecting_ip(cidr):
    with pytest.raises(CidrError, match="no connecting IP"):
        InboundAudit().inbound_session_count(cidr)


@pytest.mark.parametrize("cidr", [None, b"192.0.2.0/24", 24, ipaddress.ip_network("192.0.2.0/24")])
def test_an_audit_wants_a_text(cidr):
    with pytest.raises(CidrError, match="is not a text"):
        InboundAudit().inbound_session_count(cidr)


# ---- the oracle

# Texts made of what addresses are made of, mostly nearly right.
PIECES = ["0", "1", "9", "10", "25", "255", "256", "00", "01", "ff", "FFFF", "12345", "db8", "2001", "abcd", "e", "g",
          ".", ":", "::", "/", "/24", "/32", "/128", "/255.255.0.0", "192.0.2.", "192.0.2.7", "fe80::", "::ffff:",
          "%", "%eth0", "[", "]", " ", "-", "+", ","]  # fmt: skip
texts = st.one_of(st.lists(st.sampled_from(PIECES), max_size=9).map("".join), st.text("0123456789abf.:/%", max_size=24))


def oracle(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """What `ipaddress` makes of a prefix, mapped ones as IPv4."""
    try:
        net = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    if net.version == 6 and net.prefixlen >= 96 and int(net.network_address) >> 32 == 0xFFFF:
        return ipaddress.ip_network((int(net.network_address) & 0xFFFFFFFF, net.prefixlen - 96))
    return net


def differs_by_design(text: str) -> bool:
    """Where the two disagree, and why that is meant.

    Ours alone: brackets; `localhost`; a zone id before a prefix length in forms that `ipaddress` has no place for.
    Theirs alone: an inverted mask (``/0.0.0.255`` is a "hostmask" there, an error here).
    """
    mask = text.rpartition("/")[2]
    return "[" in text or "%" in text or ("/" in text and "." in mask)


@given(texts)
@example("1:2:3:4:5:6:7::")
@example("::1:2:3:4:5:6:7")
@example("1:2:3:4:5:6:1.2.3.4")
@example("1::2:3:4:5:6:1.2.3.4")
@example("1:2:3:4:5:6:7:1.2.3.4")
@example("::ffff:1.2.3.4/95")
@example(":1:2:3:4:5:6:7")
@example("1:2:3:4:5:6:7:")
@example("0.0.0.0/00")
@example(":::")
@example("")
def test_what_ipaddress_says_of_any_text(text):
    counter = PrefixCounter(capacity=8192)
    net = oracle(text)
    if differs_by_design(text):
        return
    if net is None:
        with pytest.raises(CidrError) as caught:
            counter.count(text)
        assert repr(text) in str(caught.value)
        return
    ends = [net.network_address, net.broadcast_address]
    for end in ends:
        counter.add(end)
    # A mapped host is IPv4, also where the IPv6 prefix around it is asked for.
    inside = sum(unmapped(end) == end for end in ends)
    assert counter.count(text) == inside
    assert counter.count(str(net)) == inside


@given(addresses, st.data())
def test_every_prefix_that_ipaddress_prints_is_read(address, data):
    """First and last address of the prefix are in it; their neighbours outside are not."""
    net = oracle(f"{address}/{data.draw(length_for(address))}")
    counter = PrefixCounter(capacity=65536)
    first, last = int(net.network_address), int(net.broadcast_address)
    around = [net.network_address.__class__(value) for value in (first - 1, first, last, last + 1)
              if 0 <= value < 1 << net.max_prefixlen]  # fmt: skip
    for host in around:
        counter.add(host)
    inside = sum(host in net and unmapped(host) == host for host in around)
    texts = [str(net), net.with_netmask if net.version == 4 else net.exploded, str(net).upper()]
    if net.version == 6:
        texts += [f"[{net}]", f"[{net.network_address}]/{net.prefixlen}", f"{net.network_address}%0/{net.prefixlen}"]
    for text in texts:
        assert counter.count(text) == inside


@given(texts)
@example("192.0.2.7:25")
def test_an_address_is_read_as_ipaddress_reads_it(text):
    counter = PrefixCounter(capacity=8192)
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        if text.startswith("["):
            return
        with pytest.raises(AddressError) as caught:
            counter.add(text)
        assert repr(text) in str(caught.value)
        assert len(counter) == 0
        return
    address, _, zone = str(address).partition("%")
    if set(zone) & set("[]/ "):  # such a zone id is one for `ipaddress`
        with pytest.raises(AddressError):
            counter.add(text)
        return
    address = ipaddress.ip_address(address)
    counter.add(text)
    expected = getattr(address, "ipv4_mapped", None) or address
    assert list(counter) == [str(expected)]


@given(addresses)
def test_every_address_is_printed_as_ipaddress_prints_it(address):
    counter = PrefixCounter(capacity=8192)
    counter.add(address.packed)
    assert list(counter) == [str(getattr(address, "ipv4_mapped", None) or address)]


@given(st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address) | st.integers(0, 2**16).map(ipaddress.IPv6Address))
def test_ipv6_text_goes_both_ways(address):
    test_every_address_is_printed_as_ipaddress_prints_it.hypothesis.inner_test(address)
