"""The file format of rbldnsd: each form of a line, and what its texts expand to."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbound_audit.address_lists.rbldnsd import Entry, Value, Zone

PLAIN = Value("127.0.0.2", "")


def read(*lines: str) -> tuple[list[Entry], list[tuple[int, str]]]:
    skipped: list[tuple[int, str]] = []
    zone = Zone(lines, lambda number, reason: skipped.append((number, reason)))
    return [Entry(str(ipaddress.ip_network(network, strict=False)), value) for network, value in zone.entries], skipped


@pytest.mark.parametrize(
    ("line", "entries"),
    [
        ("", []),
        ("  # comment", []),
        ("; comment", []),
        ("$SOA 3000 example.org admin.example.org 0 600 300 86400 300", []),
        ("#$NS 3600 ns.example.org", []),
        ("$TTL 300", []),
        ("192.0.2.7", [Entry("192.0.2.7/32", PLAIN)]),
        ("192.0.2.07", [Entry("192.0.2.7/32", PLAIN)]),
        ("192.0.2.77/24", [Entry("192.0.2.0/24", PLAIN)]),
        ("192.0.2", [Entry("192.0.2.0/24", PLAIN)]),
        ("10/8", [Entry("10.0.0.0/8", PLAIN)]),
        ("0/0", [Entry("0.0.0.0/0", PLAIN)]),
        ("10.1/12", [Entry("10.0.0.0/12", PLAIN)]),
        ("::1", [Entry("::1/128", PLAIN)]),
        ("2001:db8::7", [Entry("2001:db8::7/128", PLAIN)]),
        ("2001:DB8::0007", [Entry("2001:db8::7/128", PLAIN)]),
        ("2001:db8::/32", [Entry("2001:db8::/32", PLAIN)]),
        ("2001:db8::7/32", [Entry("2001:db8::/32", PLAIN)]),
        ("2001:db8:1", [Entry("2001:db8:1::/48", PLAIN)]),
        ("2001:db8:1/48", [Entry("2001:db8:1::/48", PLAIN)]),
        ("2001:db8:1/32", [Entry("2001:db8::/32", PLAIN)]),
        ("1:2:3:4:5:6:7:8", [Entry("1:2:3:4:5:6:7:8/128", PLAIN)]),
        ("1:2:3:4:5:6:7:8:4:x", [Entry("1:2:3:4:5:6:7:8/128", Value("127.0.0.4", "x"))]),
        ("1:2:3:4:5:6:7:8:9:x", [Entry("1:2:3:4:5:6:7:8/128", Value("127.0.0.9", "x"))]),
        ("1::2::3", [Entry("1::2/128", Value("127.0.0.3", ""))]),
        ("2001:db8::1:", [Entry("2001:db8::1/128", PLAIN)]),
        ("2001:db8::/32:4:x", [Entry("2001:db8::/32", Value("127.0.0.4", "x"))]),
        ("::/0 :5:x", [Entry("::/0", Value("127.0.0.5", "x"))]),
        ("2001:db8::/32 :4:four", [Entry("2001:db8::/32", Value("127.0.0.4", "four"))]),
        ("192.0.2.7 a text", [Entry("192.0.2.7/32", Value("127.0.0.2", "a text"))]),
        ("192.0.2.7\ta text", [Entry("192.0.2.7/32", Value("127.0.0.2", "a text"))]),
        ("192.0.2.7 # a comment", [Entry("192.0.2.7/32", PLAIN)]),
        ("192.0.2.7; a comment", [Entry("192.0.2.7/32", PLAIN)]),
        ("192.0.2.7 :4:four", [Entry("192.0.2.7/32", Value("127.0.0.4", "four"))]),
        ("192.0.2.7 :4 : four", [Entry("192.0.2.7/32", Value("127.0.0.4", "four"))]),
        ("192.0.2.7:4:four 4", [Entry("192.0.2.7/32", Value("127.0.0.4", "four 4"))]),
        ("192.0.2.7:10.0.0.1:a:b", [Entry("192.0.2.7/32", Value("10.0.0.1", "a:b"))]),
        ("192.0.2.7:10.2:x", [Entry("192.0.2.7/32", Value("10.0.0.2", "x"))]),
        ("192.0.2.7:10.1.2:x", [Entry("192.0.2.7/32", Value("10.1.0.2", "x"))]),
        ("192.0.2.0/24:4", [Entry("192.0.2.0/24", Value("127.0.0.4", ""))]),
        ("!192.0.2.7", [Entry("192.0.2.7/32", None)]),
        ("! 192.0.2.7 :4:its value does not matter", [Entry("192.0.2.7/32", None)]),
        ("!2001:db8::7", [Entry("2001:db8::7/128", None)]),
        ("192.0.2.4-192.0.2.7", [Entry("192.0.2.4/30", PLAIN)]),
        ("192.0.2.4-7", [Entry("192.0.2.4/30", PLAIN)]),
        ("192.0.2.7-192.0.2.8 x", [Entry(f"192.0.2.{n}/32", Value("127.0.0.2", "x")) for n in (7, 8)]),
        ("10.0-1", [Entry("10.0.0.0/15", PLAIN)]),
    ],
)
def test_a_line(line: str, entries: list[Entry]) -> None:
    assert read(line) == (entries, [])


def test_a_mapped_ipv6_address_is_an_entry() -> None:
    ((network, value),), skipped = read("::ffff:7f00:2/128 :127.0.1.1: T")
    assert ipaddress.ip_network(network) == ipaddress.ip_network("::ffff:127.0.0.2/128")
    assert (value, skipped) == (Value("127.0.1.1", "T"), [])


@pytest.mark.parametrize("line", [
    "nonsense", "192.0.2.256", "192.0.2.0/33", "192.0.2.0/", "2001:db8::/129", "2001:db8::1-2001:db8::2",
    "192.0.2.7-192.0.2.1", "1.2-1.2.3.4", "1.2.3.4-1.2", "1.2.3.4.5", "192.0.2.7:300:x", "192.0.2.7:0:x", "!",
    "192.0.2.0/24/24", "192.0.2.-7", "10.0.0.1-1.2.3.4.5", "10", "2001", "2001:db8:",
    "1:2:3:4::5:6:7:8", "2001:db8::12345", "2001:db8::7 ::x", "192.0.2.7 :4 x", "192.0.2.7x", ":x:y", "$UNKNOWN 1",
    "2001:db8::1.2.3.4",
])  # fmt: skip
def test_a_wrong_line_is_skipped_and_named(line: str) -> None:
    entries, skipped = read("# fine", line, "192.0.2.7")
    assert entries == [Entry("192.0.2.7/32", PLAIN)]
    assert [number for number, _ in skipped] == [2]


def test_default_values_are_those_of_the_line_before() -> None:
    lines = ["10.0.0.1", ":3:three", "10.0.0.2", "10.0.0.3 :4", "10.0.0.4 text", ":5", "::1", ":text alone", "10.0.0.5"]
    entries, skipped = read(*lines)
    assert [entry.value for entry in entries] == [
        PLAIN, Value("127.0.0.3", "three"), Value("127.0.0.4", "three"), Value("127.0.0.3", "text"),
        Value("127.0.0.5", ""), Value("127.0.0.5", ""),
    ]  # fmt: skip
    assert skipped == [(8, "not a value such as ':127.0.0.2:text'")]


def test_a_range_has_a_bound_that_only_shrinks() -> None:
    entries, skipped = read(
        "10/8", "$MAXRANGE4 /16", "11/8", "12.1/16", "$MAXRANGE4 1024", "13.1/16", "$MAXRANGE4 /8", "14/8"
    )
    assert [entry.network for entry in entries] == ["10.0.0.0/8", "12.1.0.0/16"]
    assert [number for number, _ in skipped] == [3, 6, 8]


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("see http://bl.example/?ip=$", "see http://bl.example/?ip=192.0.2.7"),
        ("$1/$ $2", "one/192.0.2.7 $2"),
        ("$$5", "$5"),
        ("$x", "192.0.2.7x"),
        ("ends with $", "ends with 192.0.2.7"),
        ("$=", "$="),
        ("x" * 300 + "$", "x" * 254),
    ],
)
def test_placeholders(text: str, expanded: str) -> None:
    zone = Zone(["$1 one", "$1 another"], lambda number, reason: None)
    assert zone.expand(text, "192.0.2.7") == expanded


def test_a_template_has_the_text_inside() -> None:
    zone = Zone(["$= listed: $= ($)"], lambda number, reason: None)
    assert zone.expand("spam", "192.0.2.7") == "listed: spam (192.0.2.7)"
    assert zone.expand("", "192.0.2.7") == "listed: 192.0.2.7 (192.0.2.7)"
    assert zone.expand("=just $", "192.0.2.7") == "just 192.0.2.7"


@given(first=st.ip_addresses(v=4), second=st.ip_addresses(v=4))
def test_a_range_is_covered_exactly(first: ipaddress.IPv4Address, second: ipaddress.IPv4Address) -> None:
    low, high = sorted([first, second])
    networks = [ipaddress.ip_network(entry.network) for entry in read(f"{low}-{high}")[0]]
    assert networks[0][0] == low
    assert networks[-1][-1] == high
    assert sum(network.num_addresses for network in networks) == int(high) - int(low) + 1


@given(line=st.text(alphabet="0123456789abf.:/-!$#; xé\udc80", max_size=30))
def test_any_line_is_read_or_skipped(line: str) -> None:
    entries, skipped = read(line, "192.0.2.7")
    assert entries[-1].network == "192.0.2.7/32"
    assert [number for number, _ in skipped] in ([], [1])
