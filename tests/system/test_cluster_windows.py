"""Windows over a cluster of real agents, over both engines: what one host records, the others count."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.agent_hosts import Host, hosts_of
from tests.support.redis_server import RedisServer
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="shared mode needs Linux")]

CIDR = "192.0.2.0/24"
MONITOR = "86400,3"


class Counting:
    """A host, and a process of it that records events."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.audit = host.audit([MONITOR])
        for name, replicate in (("everywhere", "cluster"), ("managed", "manager"), ("here", "none")):
            self.audit.series.define(name, "ip", interval=86400, num_windows=3, replicate=replicate)

    def count(self, name: str) -> int:
        return self.audit.series.count(name, CIDR, 0, 1)

    def connections(self, cluster: bool = True) -> int:
        return self.audit.connections(MONITOR, CIDR, 0, 1, cluster=cluster)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        return self.connections(), self.count("everywhere"), self.count("managed"), self.count("here")

    def record(self, address: str, number: int) -> None:
        for _ in range(number):
            self.audit.listener("SMTP").session(address).close()
        for name in ("everywhere", "managed", "here"):
            self.audit.series.add(name, address, number)


@pytest.fixture(params=["zenoh", "redis"])
def two(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Counting, Counting]]:
    """The first is a manager."""
    pytest.importorskip(request.param)
    with ExitStack() as at_end:
        server = at_end.enter_context(RedisServer(tmp_path)) if request.param == "redis" else None
        one, other = at_end.enter_context(hosts_of(2, server))
        one.options += ["--monitor", "1d,3", "--manager"]
        other.options += ["--monitor", MONITOR]
        made = Counting(one), Counting(other)
        for counting in made:
            at_end.callback(counting.audit.close)
            counting.host.start()
        yield made


def test_windows_are_counted_go_with_their_node_and_come_back(two: tuple[Counting, Counting]) -> None:
    one, other = two
    one.record("192.0.2.7", 2)
    other.record("192.0.2.8", 3)
    eventually(lambda: (one.counts, other.counts) == ((5, 5, 5, 2), (5, 5, 3, 3)), "both count what both have recorded")
    assert (one.connections(cluster=False), other.connections(cluster=False)) == (2, 3)
    other.audit.series.add("everywhere", "192.0.2.8", -4)
    eventually(lambda: one.count("everywhere") == 1, "what was taken away is counted, too")
    for host in (one.host, other.host):  # what it was told, and what it has said itself
        eventually(lambda host=host: windows_of_mx2(host) == [(3, 3, 0)], f"{host.name} lists the windows of mx2")
    eventually(lambda: clock_of_mx2(one.host) == [False], "a clock is measured, and is that of this machine")

    other.host.agent.kill()
    eventually(lambda: one.counts == (2, 2, 2, 2), "a node that is lost takes its windows along")
    assert other.connections(cluster=False) == 3
    other.host.start()
    eventually(lambda: one.counts == (5, 1, 5, 2), "its next agent brings them back")

    one.host.agent.terminate()
    assert one.host.agent.wait(PATIENCE) == 0
    eventually(lambda: other.counts == (3, -1, 3, 3), "a node that leaves is gone")
    eventually(lambda: one.counts == (2, 2, 2, 2), "without an agent a host counts itself")


def clock_of_mx2(host: Host) -> list[bool]:
    """Whether it differs, once it was measured."""
    return [row["clock_differs"] for row in host.rows() if row["node"] == "mx2" and row["clock_ahead_s"] is not None]


def windows_of_mx2(host: Host) -> list[tuple[int, int, int]]:
    rows = [row for row in host.rows() if row["node"] == "mx2"]
    return [(row["windows"], row["window_hosts"], row["folded_windows"]) for row in rows]


def test_a_process_that_ends_takes_its_windows_along(two: tuple[Counting, Counting]) -> None:
    one, other = two
    other.record("192.0.2.8", 3)
    eventually(lambda: one.count("everywhere") == 3)
    other.audit.close()
    eventually(lambda: one.counts == (0, 0, 0, 0))


def test_a_monitor_that_the_agent_was_not_given_is_counted_here_alone(two: tuple[Counting, Counting]) -> None:
    one, other = two
    with InboundAudit() as single:
        assert single.nodes == ()
    one.host.agent.terminate()
    one.host.agent.wait(PATIENCE)
    one.host.options = [word for word in one.host.options if word not in ("--monitor", "1d,3", "--manager")]
    one.host.start()
    other.record("192.0.2.8", 3)
    eventually(lambda: one.count("everywhere") == 3)
    assert one.counts == (0, 3, 0, 0)
