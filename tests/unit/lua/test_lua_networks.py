"""The address lists of `msys.cidr`: the file format, longest match, a file that changes."""

from __future__ import annotations

import ipaddress
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbound_audit.errors import AddressError, PolicyError
from inbound_audit.log_limiter import LogLimiter
from inbound_audit.lua.networks import NetworkLists
from inbound_audit.lua.rbldnsd import Entry, Value, parse

PLAIN = Value("127.0.0.2", "")


@pytest.mark.parametrize(
    ("line", "entries"),
    [
        ("", []),
        ("  # comment", []),
        ("; comment", []),
        ("$SOA 3000 example.org admin.example.org 0 600 300 86400 300", []),
        ("192.0.2.7", [Entry("192.0.2.7/32", PLAIN)]),
        ("192.0.2.77/24", [Entry("192.0.2.0/24", PLAIN)]),
        ("192.0.2", [Entry("192.0.2.0/24", PLAIN)]),
        ("10", [Entry("10.0.0.0/8", PLAIN)]),
        ("10.1/12", [Entry("10.0.0.0/12", PLAIN)]),
        ("2001:db8::7", [Entry("2001:db8::7/128", PLAIN)]),
        ("2001:db8::/32", [Entry("2001:db8::/32", PLAIN)]),
        ("192.0.2.7 a text", [Entry("192.0.2.7/32", Value("127.0.0.2", "a text"))]),
        ("192.0.2.7\ta text", [Entry("192.0.2.7/32", Value("127.0.0.2", "a text"))]),
        ("192.0.2.7 :4:four", [Entry("192.0.2.7/32", Value("127.0.0.4", "four"))]),
        ("192.0.2.7:4:four 4", [Entry("192.0.2.7/32", Value("127.0.0.4", "four 4"))]),
        ("192.0.2.7:10.0.0.1:a:b", [Entry("192.0.2.7/32", Value("10.0.0.1", "a:b"))]),
        ("192.0.2.0/24:4", [Entry("192.0.2.0/24", Value("127.0.0.4", ""))]),
        ("2001:db8::/32 :4:four", [Entry("2001:db8::/32", Value("127.0.0.4", "four"))]),
        ("2001:db8::1.2.3.4 x", [Entry("2001:db8::102:304/128", Value("127.0.0.2", "x"))]),
        ("192.0.2.7 ::only text", [Entry("192.0.2.7/32", Value("127.0.0.2", "only text"))]),
        ("!192.0.2.7", [Entry("192.0.2.7/32", None)]),
        ("! 192.0.2.7", [Entry("192.0.2.7/32", None)]),
        ("192.0.2.4-192.0.2.7", [Entry("192.0.2.4/30", PLAIN)]),
        ("192.0.2.4-7", [Entry("192.0.2.4/30", PLAIN)]),
        ("192.0.2.7-192.0.2.8", [Entry("192.0.2.7/32", PLAIN), Entry("192.0.2.8/32", PLAIN)]),
        ("10.0-1", [Entry("10.0.0.0/15", PLAIN)]),
    ],
)
def test_a_line(line: str, entries: list[Entry]) -> None:
    assert list(parse([line], "f")) == entries


def test_default_values_are_those_of_the_line_before() -> None:
    lines = ["10.0.0.1", ":3:three", "10.0.0.2", "10.0.0.3 :4", "10.0.0.4 text", ":5", "10.0.0.5"]
    assert [entry.value for entry in parse(lines, "f")] == [
        PLAIN, Value("127.0.0.3", "three"), Value("127.0.0.4", "three"), Value("127.0.0.3", "text"),
        Value("127.0.0.5", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("line", [
    "nonsense", "192.0.2.256", "192.0.2.0/33", "2001:db8::/129", "2001:db8::1-2001:db8::2", "192.0.2.7-192.0.2.1",
    "1.2.3.4.5", "192.0.2.7:300:x", "192.0.2.7:1.2.3:x", "!", "192.0.2.0/24/24", "192.0.2.-7", "10.0.0.1-1.2.3.4.5",
])  # fmt: skip
def test_a_line_that_is_wrong_is_named(line: str) -> None:
    with pytest.raises(PolicyError, match=r"^f:2: "):
        list(parse(["# fine", line], "f"))


@given(first=st.ip_addresses(v=4), second=st.ip_addresses(v=4))
def test_a_range_is_covered_exactly(first: ipaddress.IPv4Address, second: ipaddress.IPv4Address) -> None:
    low, high = sorted([first, second])
    networks = [ipaddress.ip_network(entry.network) for entry in parse([f"{low}-{high}"], "f")]
    assert networks[0][0] == low
    assert networks[-1][-1] == high
    assert sum(network.num_addresses for network in networks) == int(high) - int(low) + 1


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lists(directory: Path, clock: Clock) -> NetworkLists:
    return NetworkLists(directory, burst=LogLimiter(logging.getLogger("inbound_audit.lua"), clock=clock), clock=clock)


def test_longest_match_and_exclusions(tmp_path: Path) -> None:
    (tmp_path / "l").write_text("10.0.0.0/8 :2:a\n10.1.0.0/16 :3:\n!10.1.2.0/24\n10.1.2.3\n2001:db8::/32 :9:v6\n")
    found = lists(tmp_path, Clock())
    found.define("a", "l", "a", 0)
    found.define("txt", "l", "txt", 0)
    answers = {
        "10.9.9.9": "127.0.0.2", "10.1.9.9": "127.0.0.3", "10.1.2.9": None, "10.1.2.3": "127.0.0.2", "11.0.0.1": None,
        "2001:db8::1": "127.0.0.9", "2001:db9::1": None, "::ffff:10.9.9.9": "127.0.0.2",
    }  # fmt: skip
    assert {address: found.query("a", address) for address in answers} == answers
    assert found.query("txt", "10.9.9.9") == "a"
    assert found.query("txt", "10.1.2.3") == "127.0.0.2"
    with pytest.raises(AddressError):
        found.query("a", "nonsense")


def test_a_file_that_changes_is_read_again_when_it_is_due(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, clock = tmp_path / "l", Clock()
    path.write_text("10.0.0.0/8\n")
    found = lists(tmp_path, clock)
    found.define("l", f"file://{path}", "a", 60)
    path.write_text("192.0.2.0/24\n")
    clock.now += 59
    assert found.query("l", "10.0.0.1") == "127.0.0.2"
    clock.now += 1
    assert found.query("l", "10.0.0.1") is None
    assert found.query("l", "192.0.2.1") == "127.0.0.2"
    path.write_text("192.0.2.0/24/24\n")
    clock.now += 60
    assert found.query("l", "192.0.2.1") == "127.0.0.2"
    path.unlink()
    clock.now += 60
    assert found.query("l", "192.0.2.1") == "127.0.0.2"
    assert len(caplog.messages) == 2
    assert f"a list stays as it was: {path}:1: " in caplog.messages[0]
    assert f"a list stays as it was: {path}: No such file" in caplog.messages[1]
    path.write_text("10.0.0.0/8\n")
    clock.now += 60
    assert found.query("l", "10.0.0.1") == "127.0.0.2"


def test_a_file_is_recognised_although_its_time_stands_still(tmp_path: Path) -> None:
    path, clock = tmp_path / "l", Clock()
    path.write_text("10.0.0.0/8\n")
    found = lists(tmp_path, clock)
    found.define("l", "l", "a", 1)
    stamp = path.stat()
    fresh = tmp_path / "fresh"
    fresh.write_text("11.0.0.0/8\n")
    os.utime(fresh, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    fresh.replace(path)
    clock.now += 1
    assert found.query("l", "11.0.0.1") == "127.0.0.2"
