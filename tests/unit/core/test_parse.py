"""The texts that users write: one native reader for each, held to the table of the grammar and to `ipaddress`."""

from __future__ import annotations

import contextlib
import doctest
import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.gold import unmapped
from tests.support.grammar import CASES, PEER4, PEER6, case_id, populate
from tests.support.strategies import addresses, length_for

from inbound_audit import InboundAudit, _ipcount
from inbound_audit._ipcount import (
    LIMITS,
    MONITOR_KINDS,
    parse_address,
    parse_duration,
    parse_monitor,
    parse_pair,
    parse_prefix,
)
from inbound_audit.errors import AddressError, CidrError, MonitorError


def network(parsed):
    version, packed, length = parsed
    assert len(packed) == (4 if version == 4 else 16)
    return ipaddress.ip_network((packed, length))  # strict: no bit behind the length is set


@pytest.mark.parametrize("case", [c for c in CASES if len(c[0]) == 1 and isinstance(c[0][0], str)], ids=case_id)
def test_a_prefix_is_what_a_count_takes(case):
    """The table of the `cidr` argument: the same prefixes, and the same reason for what is not one."""
    ((text,), *answers) = case
    audit = InboundAudit()
    *_, sessions = populate(audit)
    with contextlib.ExitStack() as opened:
        for session in sessions:
            opened.enter_context(session)
        for peer, answer in zip((PEER4, PEER6), answers, strict=True):
            if isinstance(answer, int):
                assert audit.inbound_session_count(str(network(parse_prefix(text, peer)))) == answer
            else:
                with pytest.raises(CidrError, match=re.escape(answer)):
                    parse_prefix(text, peer)


@given(addresses.flatmap(lambda a: st.tuples(st.just(a), length_for(a))))
def test_a_prefix_as_ipaddress_has_it(drawn):
    address, length = drawn
    given_text = f"{address}/{length}"
    expected = ipaddress.ip_network(given_text, strict=False)
    host = unmapped(address)
    if host.version != address.version and length >= 96:
        expected = ipaddress.ip_network((host, length - 96), strict=False)
    assert network(parse_prefix(given_text)) == expected


@pytest.mark.parametrize("remote", ["192.0.2.7:25", ("192.0.2.7", 25), "[2001:db8::7]:25", ("2001:db8::7", 25, 0, 0),
                                    ("::ffff:192.0.2.7", 25), "192.0.2.7", ipaddress.ip_address("2001:db8::7"),
                                    b"\xc0\x00\x02\x07"])  # fmt: skip
def test_an_address_is_what_a_session_takes(remote):
    version, packed, port = parse_address(remote)
    with InboundAudit() as audit, audit.listener().session(remote) as ac:
        assert (version, str(ipaddress.ip_address(packed)), port) == (ac.version, ac.remote_ip, ac.remote_port)


@pytest.mark.parametrize("remote", ["", "192.0.2.7/32", "localhost", "192.0.2.7:x", None, 7, ("x", 1), b"123"])
def test_what_is_no_address(remote):
    with pytest.raises(AddressError):
        parse_address(remote)


def test_a_peer_in_every_form():
    with InboundAudit() as audit, audit.listener().session(("192.0.2.7", 25)) as ac:
        for peer in ("192.0.2.7", "192.0.2.7:25", ("192.0.2.7", 25), ipaddress.ip_address("192.0.2.7"), ac):
            assert network(parse_prefix("/24,/56", peer)) == ipaddress.ip_network("192.0.2.0/24")
    assert network(parse_prefix("/24,/56", "2001:db8::7")) == ipaddress.ip_network("2001:db8::/56")
    with pytest.raises(AddressError):
        parse_prefix("/24", "mail.example.org")
    with pytest.raises(CidrError, match="no connecting IP"):
        parse_prefix("/24")


@pytest.mark.parametrize(
    ("text", "pair"),
    [("/0", (0, 0)), ("/24", (24, 24)), ("/32", (32, 128)), ("/33", (None, 33)), ("/128", (None, 128)),
     ("/24,/56", (24, 56)), ("/32,/32", (32, 32)), ("/0,/128", (0, 128))],
)  # fmt: skip
def test_a_pair_of_lengths(text, pair):
    assert parse_pair(text) == pair
    assert parse_pair(text.replace("/", ""), bare=True) == parse_pair(text, bare=True) == pair
    with pytest.raises(CidrError):
        parse_pair(text.replace("/", ""))
    # The same lengths that a count takes.
    for peer, length in zip((PEER4, PEER6), pair, strict=True):
        if length is None:
            with pytest.raises(CidrError):
                parse_prefix(text, peer)
        else:
            assert parse_prefix(text, peer)[2] == length


@pytest.mark.parametrize(
    "text",
    ["", "/", "24", "/129", "/33,/64", "/24,/129", "/24,", ",/24", "/24,56", "/24,/56,/64", "/-1", "/+1", " /24",
     "/24 ", "//24", "/24/8", "/\uff12", "192.0.2.0/24", "/" + "1" * 5000, "/24\0", None, 24, b"/24"],
)  # fmt: skip
def test_what_is_no_pair_of_lengths(text):
    with pytest.raises(CidrError) as caught:
        parse_pair(text)
    assert repr(text) in str(caught.value)


UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "ms": 0.001}


@given(st.integers(0, 2**30), st.sampled_from(list(UNITS)), st.sampled_from(["", ".5", ".25", ".125"]))
def test_a_duration(number, unit, fraction):
    text = f"{number}{fraction}{unit}"
    seconds = float(f"{number}{fraction}") * UNITS[unit]
    if seconds > 2**30:
        with pytest.raises(ValueError, match=re.escape(repr(text))):
            parse_duration(text)
    else:
        assert parse_duration(text) == pytest.approx(seconds, abs=0.001)


@pytest.mark.parametrize(
    "text",
    ["", "s", "-1", "+1", "1 s", " 1", "1 ", "1x", "1sm", "1M", "5min", "1.", ".5", "1.5.5", "1.0001", "1e3", "0x10",
     "1_000", "\u0661", "1073741825", "17897d", "9" * 40, "1h30m", None, 5, 5.0, b"5m"],
)  # fmt: skip
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="such as 90, 30s, 5m, 1h or 1d") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "monitor"),
    [("300,6", (300, 6)), (" 300 , 6 ", (300, 6)), ("5m,6", (300, 6)), ("300s, 6", (300, 6)), ("1h,24", (3600, 24)),
     ("1d,7", (86400, 7)), ("1000ms,1", (1, 1)), ("1.5m,2", (90, 2)), ("1,1", (1, 1)), ("1073741824,6", (1 << 30, 6)),
     ("300,1024", (300, 1024)), ("0300,06", (300, 6))],
)  # fmt: skip
def test_a_monitor(text, monitor):
    assert parse_monitor(text) == monitor


@pytest.mark.parametrize(
    "text",
    ["", ",", "300", "300,", ",6", "300,6,1", "0,6", "300,0", "300,1025", "1073741825,6", "9999999999,6", "-300,6",
     "300,-6", "300,6.0", "300,6s", "1.5,6", "500ms,6", "3 00,6", "300;6", "300,6\0", "\t300,6", "\u0663,6", None, 300,
     b"300,6"],
)  # fmt: skip
def test_what_is_no_monitor(text):
    with pytest.raises(MonitorError, match="such as 300,6 or 5m,6") as caught:
        parse_monitor(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["300,6", " 300 ,6", "5m,6", "300s,6", "0.5h,3"])
def test_a_monitor_is_found_by_any_of_its_texts(text):
    with InboundAudit(monitors=["300,6", "1800,3"]) as audit, audit.listener().session("192.0.2.7") as ac:
        assert audit.connections(text, "/32", ac=ac) == 1
        for wrong in (text + "0", "0" + text[:-1], "x" + text):
            with pytest.raises(MonitorError):
                audit.connections(wrong, "/32", ac=ac)


def test_bounds_are_those_that_hold():
    assert MONITOR_KINDS == ("connections", "receptions", "rejections")
    assert LIMITS["count"] == 2**32 - 1
    assert parse_monitor(f"{LIMITS['seconds']},{LIMITS['windows']}") == (LIMITS["seconds"], LIMITS["windows"])
    with InboundAudit() as audit, pytest.raises(ValueError, match="1 to 63"):
        audit.listener("x" * (LIMITS["service_name_bytes"] + 1))
    with pytest.raises(TypeError):
        LIMITS["count"] = 1


def test_examples_in_docstrings():
    examples = doctest.DocTestFinder().find(_ipcount, globs=vars(_ipcount), module=False)
    runner = doctest.DocTestRunner()
    for example in examples:
        runner.run(example)
    assert runner.tries >= 4
    assert runner.failures == 0
