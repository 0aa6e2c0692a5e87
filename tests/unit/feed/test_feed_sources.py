"""Looks at one process, one node, a monitor and a series of an audit."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator

import pytest
from tests.support import gold_records
from tests.support.timing import Clock

from inbound_audit import InboundAudit
from inbound_audit._ipcount import NODE_STATES, NodeTrees, SeriesStore
from inbound_audit.errors import MonitorError, SeriesError, SharedStateError, UnknownServiceType
from inbound_audit.feed import Feed, Source
from inbound_audit.feed import feed as feed_room
from inbound_audit.shared.scanner import OwnerInfo

pytestmark = pytest.mark.usefixtures("place")


@pytest.fixture
def feed() -> Iterator[Feed]:
    with (
        InboundAudit(shared="mail", capacity=1 << 22, monitors=["864000000,2"]) as worker,
        InboundAudit(shared="mail", capacity=1 << 22) as agent,
    ):
        trees = NodeTrees(agent)
        node = trees.add("mx2")
        node.set_many(gold_records.encode({ipaddress.ip_address("198.51.100.1"): 4}))
        node.set_word(NODE_STATES["heard"], 7)
        worker.series.define("hits", type="ip", interval=864000000, num_windows=2)
        worker.series.add("hits", "203.0.113.1", 6)
        worker.series.define("names", type="string", interval=864000000, num_windows=2)  # texts have no prefixes
        sessions = [worker.listener("SMTP", "mx").session("192.0.2.1") for _ in range(2)]
        sessions[0].record_rejection(3)
        with Feed("mail") as feed:
            yield feed
        for session in sessions:
            session.close()


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        (Source(), [("192.0.2.1/32", 2, None, 3)]),
        (Source(listener="mx"), [("192.0.2.1/32", 2, None, 3)]),
        (Source(pid=os.getpid()), [("192.0.2.1/32", 2, None, 3)]),
        (Source(node="mx2"), [("198.51.100.1/32", 4, None, 0)]),
        (Source(monitor="864000000,2", kind="rejections", endv=1), [("192.0.2.1/32", 3, None, 3)]),
        (Source(series="hits"), [("203.0.113.1/32", 6, None, 0)]),
    ],
    ids=["service", "listener", "process", "node", "monitor", "series"],
)
def test_each_source_has_its_rows(feed: Feed, source: Source, rows: list[tuple[object, ...]]) -> None:
    look = feed.look(source)
    assert look.rows == rows
    assert [(row.service, row.listener, row.sessions) for row in look.listeners] == [("SMTP", "mx", 2)]
    assert [row.name for row in look.monitors] == ["864000000,2"]
    assert [row.name for row in look.series] == ["hits"]
    assert [node.name for node in look.nodes][-1] == "mx2"
    assert look.history.rejections == (0, 3)
    assert [row[2] for row in feed.look(source).rows] == [0]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (Source(service="POP"), UnknownServiceType),
        (Source(monitor="7,7"), MonitorError),
        (Source(monitor="864000000,2", kind="x"), MonitorError),
        (Source(series="x"), SeriesError),
        (Source(pid=1), SharedStateError),
        (Source(node="mx3"), SharedStateError),
    ],
    ids=str,
)
def test_a_source_that_is_not_there_is_an_error_and_the_others_stay(
    feed: Feed, source: Source, error: type[Exception]
) -> None:
    for _ in range(2):
        with pytest.raises(error):
            feed.look(source)
        assert feed.look().picture.total == 2


def test_a_picture_with_other_rows_does_not_disturb_what_has_changed(feed: Feed) -> None:
    feed.look(Source(), 50)
    with InboundAudit(shared="mail", capacity=1 << 22) as other, other.listener("SMTP", "mx").session("192.0.2.1"):
        feed.look(Source(), 2)
        assert feed.look(Source(), 50).rows == [("192.0.2.1/32", 3, 1, 3)]


def test_after_a_pause_without_looks_no_change_is_known() -> None:
    clock = Clock()
    with (
        InboundAudit(shared="mail", capacity=1 << 20) as worker,
        Feed("mail", clock=clock) as feed,
        Feed("mail", clock=clock, interval_s=60) as seldom,
    ):
        sessions = [worker.listener().session("192.0.2.1")]
        for pause, change, of_seldom in [
            (0, None, None),
            (10, 1, 1),
            (10.25, None, 1),
            (180.25, None, None),
            (1, 1, 1),
        ]:
            clock.step(pause)
            assert [row[2] for row in feed.look().rows] == [change]
            assert [row[2] for row in seldom.look().rows] == [of_seldom]
            sessions.append(worker.listener().session("192.0.2.1"))
        for session in sessions:
            session.close()


def test_a_monitor_that_counts_no_rejections_has_no_history_of_them() -> None:
    """No process of ours makes one, but files of others may be anything."""
    with InboundAudit(shared="mail", capacity=1 << 22) as worker, Feed("mail") as feed:
        SeriesStore(worker).define("connections", "864000000,2", 864000000, 2, 1 << 20, 0)
        look = feed.look()
        assert [row.name for row in look.monitors] == ["864000000,2"]
        assert look.history.connections == look.history.rejections == (0, 0)


def test_processes_that_are_alike_but_for_the_damage() -> None:
    owners = [OwnerInfo("x", 7, 0.0, (), damaged) for damaged in ("a", None, "b")]
    shown = feed_room._processes(owners, 9.0)
    assert sorted(row.damaged or "" for row in shown) == ["a", "b"]
