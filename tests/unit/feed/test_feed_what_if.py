"""What if: whom limits that no process has would refuse."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support import gold_records

from inbound_audit import InboundAudit
from inbound_audit._ipcount import NODE_STATES, NodeTrees
from inbound_audit.errors import PolicyError, UnknownServiceType
from inbound_audit.feed import Feed, Source
from inbound_audit.feed.feed import MAX_VIEWS
from inbound_audit.feed.what_if import MAX_LIMITS, MAX_PREFIXES, as_json, would_refuse

pytestmark = pytest.mark.usefixtures("place")

AGE = 10_000 * 86_400
"""Seconds of a window that ends in 2052, so that none ends in a test: looks have the system's clock."""


@pytest.fixture
def audit() -> Iterator[InboundAudit]:
    with InboundAudit(shared="looked-at", capacity=1 << 22, monitors=[f"{AGE},2", f"{AGE},3"]) as audit:
        yield audit


@pytest.fixture
def feed(audit: InboundAudit) -> Iterator[Feed]:
    audit.listener("SMTP", "mx")
    with Feed("looked-at") as feed:
        yield feed


HOSTS = ["192.0.2.1"] * 4 + ["192.0.2.2"] * 2 + ["198.51.100.1"] * 3 + ["2001:db8::1", "2001:db8:0:0:1::"]


def test_who_would_be_refused_now(audit: InboundAudit, feed: Feed) -> None:
    sessions = [audit.listener("SMTP", "mx").session(host) for host in HOSTS]
    other = audit.listener("IMAP", "imap").session("192.0.2.1")
    by_host, by_network, whole, none = feed.would_refuse(["/32=2", "/24,/48=1", "total=4", "/0=99"])
    assert (by_host.refused, by_host.windows, by_host.exact) == (3, (), True)
    assert by_host.prefixes == (("192.0.2.1/32", 4, 2), ("198.51.100.1/32", 3, 2))
    assert by_network.refused == 5 + 2 + 1
    assert by_network.prefixes == (("192.0.2.0/24", 6, 1), ("198.51.100.0/24", 3, 1), ("2001:db8::/48", 2, 1))
    assert (whole.refused, whole.prefixes) == (7, ())
    assert (none.limit, none.refused, none.prefixes) == ("/0=99", 0, ())
    assert feed.would_refuse(["/32=0"], Source(service="IMAP"))[0].refused == 1
    assert feed.would_refuse(["/32=2"], Source(pid=os.getpid())) == (by_host,)
    with pytest.raises(UnknownServiceType):
        feed.would_refuse(["/32=0"], Source(service="POP"))
    for session in [*sessions, other]:
        session.close()


def test_looks_at_other_nodes_meanwhile(audit: InboundAudit, feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than there are views that are kept."""
    nodes = [f"mx{n}" for n in range(MAX_VIEWS + 1)]
    with InboundAudit(shared="looked-at", capacity=1 << 22) as agent:
        trees = NodeTrees(agent)
        for name in nodes:
            node = trees.add(name)
            node.set_many(gold_records.encode({ipaddress.ip_address("198.51.100.1"): 4}))
            node.set_word(NODE_STATES["heard"], 7)

        def look_and_ask(*arguments: Any) -> object:
            for name in nodes[1:]:
                assert feed.look(Source(node=name)).picture.total == 4
            feed.close()
            return would_refuse(*arguments)

        monkeypatch.setattr("inbound_audit.feed.feed.would_refuse", look_and_ask)
        assert feed.would_refuse(["/32=1"], Source(node=nodes[0]))[0].refused == 3


def test_at_most_a_number_of_prefixes_and_all_of_the_sessions(audit: InboundAudit, feed: Feed) -> None:
    sessions = [audit.listener("SMTP", "mx").session(f"192.0.2.{i}") for i in range(MAX_PREFIXES + 30)]
    (found,) = feed.would_refuse(["/32=0"])
    assert (found.refused, len(found.prefixes)) == (MAX_PREFIXES + 30, MAX_PREFIXES)
    for session in sessions:
        session.close()


def test_a_limit_over_time_has_its_windows(audit: InboundAudit, feed: Feed) -> None:
    with audit.listener("SMTP", "mx").session("192.0.2.9") as session:
        session.record_rejection(5)
    for host in HOSTS:
        audit.listener("SMTP", "mx").session(host).close()
    found, rejected = feed.would_refuse(["/32=2/10000d", "/24=1 rejections/10000d"])
    over = (("192.0.2.1/32", 4, 2), ("198.51.100.1/32", 3, 2))
    assert (found.refused, found.prefixes, found.seconds) == (3, over, AGE)
    assert found.windows == ((0, 3, over), (1, 0, ()), (2, 0, ()))
    assert (rejected.refused, rejected.windows[0].prefixes) == (4, (("192.0.2.0/24", 5, 1),))
    sent = json.loads(json.dumps(as_json([found, rejected])))
    assert [one["limit"] for one in sent["limits"]] == ["/32=2/10000d", "/24=1 rejections/10000d"]
    assert sent["limits"][1]["prefixes"] == [["192.0.2.0/24", 5, 1]]
    assert [(one["ago_s"], one["refused"]) for one in sent["windows"]] == [
        *((0, 3), (AGE, 0), (2 * AGE, 0)),
        *((0, 4), (AGE, 0), (2 * AGE, 0)),
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "write a prefix length"),
        ("/24", "write a prefix length"),
        ("/24=x", "write a prefix length"),
        ("/240=1", "'/240'"),
        ("partner:/24=1", "no network is named 'partner'"),
        ("/24=3/7m", "--monitor 420,2"),
        ("total=3/1m", "counts all listeners"),
        ("/24=" + "9" * 19, "is not a number of sessions"),
    ],
)
def test_what_is_no_limit_is_an_error_that_says_so(feed: Feed, text: str, why: str) -> None:
    with pytest.raises(PolicyError, match=why):
        feed.would_refuse([text])


def test_a_number_of_limits(feed: Feed) -> None:
    for wrong in ([], ["/32=1"] * (MAX_LIMITS + 1)):
        with pytest.raises(PolicyError, match=f"1 to {MAX_LIMITS}"):
            feed.would_refuse(wrong)
    assert len(feed.would_refuse(["/32=1"] * MAX_LIMITS)) == MAX_LIMITS
