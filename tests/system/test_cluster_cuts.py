"""Networks that are cut between real agents: each side counts what it hears, and all is counted again afterwards."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.agent_hosts import Host, hosts_of
from tests.support.networks import Networks
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

from inbound_audit import InboundAudit

pytestmark = pytest.mark.system

NODES = 5
SOME, OTHERS = [0, 1, 2], [3, 4]


class Cluster:
    """Each host has one session more than the one before, so that each set of hosts has a sum of its own."""

    def __init__(self, networks: Networks, hosts: list[Host], at_end: ExitStack) -> None:
        self.networks, self.hosts = networks, hosts
        self.audits: list[InboundAudit] = []
        for at, host in enumerate(hosts):
            host.start()
            audit = at_end.enter_context(host.audit())
            self.audits.append(audit)
            for number in range(1 << at):
                at_end.enter_context(audit.listener().session(f"192.0.2.{number + 1}"))

    def counts(self, at: int, nodes: list[int]) -> None:
        """Waits until that host counts these and no others, and says so."""
        audit = self.audits[at]
        names = {self.hosts[node].name for node in nodes}

        def agrees() -> bool:
            said = {node.name for node in audit.nodes if node.counted}
            return said == names and audit.total("inbound_cidr") == sum(1 << node for node in nodes)

        eventually(agrees, f"{self.hosts[at].name} counts {names} alone")
        assert audit.total("SMTP") == 1 << at

    def all_count_all(self) -> None:
        for at in range(NODES):
            self.counts(at, list(range(NODES)))


@pytest.fixture(params=["zenoh", "redis"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """With a server, it is beyond the hosts."""
    pytest.importorskip(request.param)
    with ExitStack() as at_end:
        networks = Networks(NODES + 1)
        at_end.callback(networks.close)
        server = None
        if request.param == "redis":
            server = RedisServer(tmp_path, address=networks.address(NODES), prefix=networks.command(NODES))
            at_end.enter_context(server)
        hosts = at_end.enter_context(hosts_of(NODES, server, networks))
        made = Cluster(networks, hosts, at_end)
        made.all_count_all()
        yield made


@pytest.mark.parametrize("cluster", ["zenoh"], indirect=True)
def test_each_side_of_a_split_counts_itself_and_a_cut_of_one_way_is_no_end(cluster: Cluster) -> None:
    cluster.networks.split(SOME, OTHERS)
    for side in (SOME, OTHERS):
        for at in side:
            cluster.counts(at, side)
    cluster.hosts[0].await_output(lambda said: "3 of 5 nodes are counted, 7 sessions" in said, "cluster", "mail")
    cluster.networks.heal()
    cluster.all_count_all()

    cluster.networks.cut(0, 4)  # a link that takes nothing one way has no use for the other way either
    cluster.counts(4, [1, 2, 3, 4])
    cluster.counts(0, [0, 1, 2, 3])
    cluster.counts(2, list(range(NODES)))
    cluster.networks.heal()
    cluster.all_count_all()


@pytest.mark.parametrize("cluster", ["redis"], indirect=True)
def test_a_node_without_its_server_counts_itself(cluster: Cluster) -> None:
    """One hears nothing of it, and nothing comes there from the other."""
    cluster.networks.cut(NODES, 3)
    cluster.networks.cut(4, NODES)
    for at in SOME:
        cluster.counts(at, SOME)
    for at in OTHERS:
        cluster.counts(at, [at])
        cluster.hosts[at].await_output(lambda said: "not connected" in said, "cluster", "mail")
    cluster.networks.heal()
    cluster.all_count_all()


def test_a_host_without_loopback_counts_and_is_counted(cluster: Cluster) -> None:
    """Between an agent and the processes of its host there is no network."""
    cluster.networks.loopback(0, "down")
    host = cluster.hosts[0]
    host.agent.kill()
    host.agent.wait()
    for at in range(1, NODES):
        cluster.counts(at, list(range(1, NODES)))
    host.start()
    cluster.all_count_all()


@pytest.mark.parametrize("cluster", ["zenoh"], indirect=True)
def test_a_node_comes_back_without_the_one_that_is_named_first(cluster: Cluster) -> None:
    """Neither one that stood still for longer than a lease, nor one that starts again."""
    first, back = cluster.hosts[0], cluster.hosts[3]
    left = [1, 2, 4]
    first.agent.kill()
    back.agent.send_signal(signal.SIGSTOP)
    for at in left:
        cluster.counts(at, left)
    back.agent.send_signal(signal.SIGCONT)
    for at in (*left, 3):
        cluster.counts(at, [1, 2, 3, 4])
    back.agent.kill()
    for at in left:
        cluster.counts(at, left)
    back.start()
    for at in (*left, 3):
        cluster.counts(at, [1, 2, 3, 4])
    first.start()
    cluster.all_count_all()
