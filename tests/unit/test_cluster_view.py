"""`inbound_cidr` is the SMTP sessions of all nodes: the trees that the agent of a cluster fills, and this host's."""

from __future__ import annotations

import ipaddress
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import gold_records
from tests.support.effort import effort
from tests.support.gold import GoldCounter
from tests.support.lua_support import KINDS, Kind
from tests.support.lua_support import Bench as LuaBench
from tests.support.sieve_support import Bench as SieveBench

from inbound_audit import InboundAudit, Limits, Session
from inbound_audit._ipcount import NODE_STATES, NodeTrees
from inbound_audit.errors import SharedStateError, UnknownServiceType
from inbound_audit.process import shared_lock
from inbound_audit.shared import View

HERE = ["192.0.2.7", "192.0.2.8", "2001:db8::1"]
NODES = {
    "mx2": {"192.0.2.7": 3, "198.51.100.1": 2, "2001:db8::1": 1},
    "mx3": {"192.0.2.9": 10, "2001:db8::ff": 4},
}
PREFIXES = ["192.0.2.7", "192.0.2.0/24", "0.0.0.0/0", "::/0", "2001:db8::/64", "2001:db8::1", "203.0.113.0/24"]


def records(hosts: dict[str, int]) -> bytes:
    return gold_records.encode({ipaddress.ip_address(host): count for host, count in hosts.items()})


def fill(trees: NodeTrees) -> None:
    for name, hosts in NODES.items():
        node = trees.add(name)
        node.set_many(records(hosts))
        node.set_word(NODE_STATES["heard"], 7)


def gold(*, remote: bool = True, here: list[str] = HERE) -> GoldCounter:
    counter = GoldCounter()
    for host in here:
        counter.add(host)
    for hosts in NODES.values() if remote else ():
        for host, count in hosts.items():
            counter.add(host, count)
    return counter


@pytest.fixture(params=[False, True], ids=["lists", "sum"])
def kept(request: pytest.FixtureRequest) -> bool:
    """Whether a sum over the nodes is kept."""
    return bool(request.param)


class Cluster:
    """A worker and an agent of one host, both in this process."""

    def __init__(self, kept: bool) -> None:
        self.worker = InboundAudit(shared="mail", capacity=1 << 22)
        self.agent = InboundAudit(shared="mail", capacity=1 << 22)
        self.trees = NodeTrees(self.agent)
        self.sessions = [self.worker.listener().session(host) for host in HERE]
        self.control = self.worker.listener("Control").session("192.0.2.7")
        fill(self.trees)
        self.trees.sum = kept
        self.scan()

    def scan(self) -> None:
        for audit in (self.worker, self.agent):
            if not audit.closed:
                audit._membership.scan()

    def close(self) -> None:
        for session in (*self.sessions, self.control):
            session.close()
        self.worker.close()
        self.agent.close()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool) -> Iterator[Cluster]:
    monkeypatch.setenv("INBOUND_AUDIT_SHM", str(tmp_path))
    made = Cluster(kept)
    yield made
    made.close()


def check(audit: InboundAudit | View, expected: GoldCounter, service: str = "inbound_cidr") -> None:
    assert audit.total(service) == expected.total
    assert audit.tree(service) == expected.tree()
    for lengths in ((32, 128), (24, 64), (0, 0)):
        assert audit.top(100, service_type=service, prefixlen=lengths) == expected.top(100, prefixlen=lengths)
    for cidr in PREFIXES:
        assert audit.inbound_session_count(cidr, service) == expected.count(cidr)
    assert drawn(audit, service) == expected.tree()


def drawn(audit: InboundAudit | View, service: str) -> list[tuple[int, str]]:
    """A picture with room for each row of the tree."""
    return [(row.count, row.prefix) for row in audit.picture(service_type=service).rows]


def test_a_picture_of_one_node(cluster: Cluster) -> None:
    for name, hosts in NODES.items():
        expected = GoldCounter()
        for host, count in hosts.items():
            expected.add(host, count)
        with View("mail", node=name) as view:
            assert drawn(view, "SMTP") == expected.tree()


def test_every_process_counts_the_sessions_of_all_nodes(cluster: Cluster) -> None:
    with View("mail") as view:
        for audit in (cluster.worker, cluster.agent, view):
            check(audit, gold())
            check(audit, gold(remote=False), "SMTP")
            assert audit.total("Control") == 1
            assert audit._nodes() == [(name, 1, 7, len(hosts), sum(hosts.values())) for name, hosts in NODES.items()]


def test_a_session_asks_for_the_sessions_of_all_nodes(cluster: Cluster) -> None:
    for session in cluster.sessions:
        assert session.inbound_session_count(None, "inbound_cidr") == gold().count(session.remote_ip)
        assert session.inbound_session_count() == session.inbound_session_count(None, "SMTP") == 1
        for length in (0, 16, 24, 32):
            network = f"{session.remote_ip}/{length}"
            assert session.inbound_session_count(network, "inbound_cidr") == gold().count(network)


def test_an_agent_that_ends_takes_the_other_nodes_along(cluster: Cluster) -> None:
    cluster.agent.close()
    cluster.scan()
    check(cluster.worker, gold(remote=False))
    assert cluster.worker._nodes() == []


def test_the_next_agent_is_counted_in_place_of_the_one_before(cluster: Cluster, kept: bool) -> None:
    cluster.agent.close()
    cluster.agent = InboundAudit(shared="mail", capacity=1 << 22)
    cluster.trees = NodeTrees(cluster.agent)
    cluster.scan()
    check(cluster.worker, gold(remote=False))
    cluster.trees.sum = kept
    fill(cluster.trees)
    cluster.scan()
    check(cluster.worker, gold())


def test_an_agent_whose_file_was_removed_moves_its_nodes_to_a_new_one(cluster: Cluster, kept: bool) -> None:
    membership = cluster.agent._membership
    os.unlink(os.path.join(membership.place.path, membership._resources.file))
    with shared_lock:
        membership._repair_own_file()
    cluster.scan()
    cluster.scan()
    check(cluster.worker, gold())
    assert cluster.trees.sum == kept
    cluster.trees.add("mx2").empty()
    assert cluster.worker.total("inbound_cidr") == gold().total - sum(NODES["mx2"].values())
    cluster.trees._check()


def test_to_keep_the_sum_or_not_moves_no_count(cluster: Cluster) -> None:
    for wanted in (True, False, True, True, False):
        cluster.trees.sum = wanted
        cluster.trees._check()
        check(cluster.worker, gold())
        cluster.scan()
        check(cluster.worker, gold())


def test_what_changes_is_counted_at_once(cluster: Cluster) -> None:
    two, three = cluster.trees.add("mx2"), cluster.trees.add("mx3")
    two.replace(records({"192.0.2.7": 1}))
    three.set_many(records({"192.0.2.9": 0, "192.0.2.10": 2}))
    expected = gold(remote=False)
    for host, count in {"192.0.2.7": 1, "192.0.2.10": 2, "2001:db8::ff": 4}.items():
        expected.add(host, count)
    check(cluster.worker, expected)
    cluster.trees._check()


def test_a_new_node_is_counted_after_the_next_scan(cluster: Cluster) -> None:
    cluster.trees.add("mx4").set_many(records({"203.0.113.1": 5}))
    cluster.scan()
    assert cluster.worker.inbound_session_count("203.0.113.0/24", "inbound_cidr") == 5


@pytest.mark.parametrize("kept", [False], indirect=True)
def test_to_drop_a_node_is_one_moment(cluster: Cluster) -> None:
    """Each count meanwhile has all of its sessions or none."""
    node, hosts = cluster.trees.add("mx4"), records({f"10.{at >> 8}.{at & 255}.1": 2 for at in range(2000)})
    others = records({f"11.{at >> 8}.{at & 255}.1": 2 for at in range(2000)})
    cluster.scan()
    seen = set()

    def drop() -> None:
        node.empty()
        node.replace(others)  # the memory is used again

    for _ in range(effort(20, 500)):
        node.replace(hosts)
        writer = threading.Thread(target=drop)
        writer.start()
        while writer.is_alive():
            seen.add(cluster.worker.inbound_session_count("10.0.0.0/8", "inbound_cidr"))
        writer.join()
    assert seen <= {0, 4000}


def test_a_view_of_one_node(cluster: Cluster) -> None:
    for name, hosts in NODES.items():
        expected = GoldCounter()
        for host, count in hosts.items():
            expected.add(host, count)
        with View("mail", node=name) as view:
            check(view, expected, "SMTP")
            check(view, expected)
            assert view.total("Control") == 0
            assert [listener for owner in view.owners for listener in owner.listeners] == [
                ("SMTP", name, sum(hosts.values()))
            ]
            cluster.trees.add(name).empty()
            check(view, GoldCounter(), "SMTP")
    with pytest.raises(SharedStateError, match="no node 'mx5'"):
        View("mail", node="mx5")


def test_no_listener_belongs_to_the_view(cluster: Cluster) -> None:
    with pytest.raises(UnknownServiceType, match="view"):
        cluster.worker.listener("inbound_cidr")
    assert [listener.name for owner in View("mail").owners for listener in owner.listeners] == ["default", "default"]


# ---- policies

ASKED = {"192.0.2.7": ("/24", 14), "192.0.2.8": ("192.0.2.9", 10), "2001:db8::1": ("/64", 6)}


def remote_nodes(audit: InboundAudit, kept: bool) -> NodeTrees:
    trees = NodeTrees(audit)
    fill(trees)
    trees.sum = kept
    return trees


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_lua_counts_the_sessions_of_all_nodes(kind: Kind, kept: bool, tmp_path: Path) -> None:
    bench = LuaBench(tmp_path, kind, capacity=1 << 22)
    try:
        remote_nodes(bench.audit, kept)
        for host, (cidr, expected) in ASKED.items():
            prefix = f'ac:inbound_session_count("{cidr}", "inbound_cidr")'
            asked = f'{prefix} .. " " .. ac:inbound_session_count(nil, "inbound_cidr")'
            remote = f"{host}:25" if "." in host else f"[{host}]:25"
            exact = gold(here=[]).count(host) + 1
            assert bench.say(asked, remote=remote) == f"{expected} {exact}"
            bench.sessions.pop().close()
    finally:
        bench.close()


def test_sieve_counts_the_sessions_of_all_nodes(kept: bool, tmp_path: Path) -> None:
    bench = SieveBench(tmp_path)
    remote_nodes(bench.audit, kept)
    try:
        for host, (cidr, expected) in ASKED.items():
            assert bench.say(f'audit_service "inbound_cidr" "{cidr}"', remote=host) == str(expected)
    finally:
        bench.audit.close()


@pytest.fixture
def sessions(kept: bool) -> Iterator[list[Session]]:
    """Of an audit with other nodes."""
    with InboundAudit(capacity=1 << 22) as audit:
        opened = [audit.listener().session(host) for host in HERE]
        remote_nodes(audit, kept)
        yield opened
        for session in opened:
            session.close()


@pytest.mark.parametrize(
    ("limits", "options", "refused"),
    [
        ({"/24,/64": 15, "/32,/64": 6}, {}, []),
        ({"/24,/64": 14}, {}, ["192.0.2.7", "192.0.2.8"]),
        ({"/32,/128": 2}, {}, ["192.0.2.7"]),
        ({"/32,/64": 5}, {}, ["2001:db8::1"]),
        ({"/0": 16}, {}, ["192.0.2.7", "192.0.2.8"]),
        # The sessions of a network on all nodes use up nothing of the default limits.
        ({"/24,/128": 5}, {"exempt": ["192.0.2.9"]}, []),
        ({"/24,/128": 4}, {"exempt": ["192.0.2.9"]}, ["192.0.2.7", "192.0.2.8"]),
        ({"/0": 99}, {"networks": {"n": {"prefixes": ["192.0.2.8/30", "2001:db8::/32"], "total": 17}}}, []),
        ({"/0": 99}, {"networks": {"n": {"prefixes": ["192.0.2.8/30", "2001:db8::/32"], "total": 16}}}, HERE[1:]),
        ({"/0": 99}, {"listener_total": 3}, []),
        ({"/0": 99}, {"listener_total": 2}, HERE),
    ],
)
def test_limits_over_the_cluster(
    limits: dict[str, int], options: dict[str, object], refused: list[str], sessions: list[Session]
) -> None:
    over = Limits(limits, cluster=True, **options)  # type: ignore[arg-type]
    assert [ac.remote_ip for ac in sessions if not over.validate_connect(ac)] == refused
    assert "cluster=True" in repr(over)
    here = Limits(limits, **options)  # type: ignore[arg-type]
    assert "cluster" not in repr(here)
    if options != {"listener_total": 2}:
        assert all(here.validate_connect(ac) for ac in sessions)


def test_limits_over_the_cluster_leave_other_services_alone(kept: bool) -> None:
    with InboundAudit(capacity=1 << 22) as audit:
        remote_nodes(audit, kept)
        with audit.listener("IMAP").session("192.0.2.7") as ac:
            assert Limits({"/0": 1}, cluster=True).validate_connect(ac)
