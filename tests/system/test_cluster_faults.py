"""Faults on real agents, over both engines: once it is quiet, every view is the truth.

Agents are killed, stopped, frozen and started again while sessions come and go. The processes that count know nothing
of it: their own counts are exact all the time.
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.engine_nodes import free_ports
from tests.support.redis_server import RedisServer
from tests.support.sharing import rounds
from tests.support.waiting import PATIENCE, eventually
from tests.system.test_cli_agent import Host, audit_of

from inbound_audit import InboundAudit, Session

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="shared mode needs Linux")]

NODES = rounds(3, 5)
FAULTS = rounds(9, 1000)
QUIET_EVERY = 3
MAX_SESSIONS = 40


class Cluster:
    """The hosts, and the truth: the sessions that are open on each."""

    def __init__(self, hosts: list[Host], audits: list[InboundAudit], seed: int) -> None:
        self.hosts, self.audits = hosts, audits
        self.draw = random.Random(seed)
        self.open: list[list[Session]] = [[] for _ in hosts]
        self.frozen: set[int] = set()
        for host in hosts:
            host.start()

    def traffic(self) -> None:
        for kept, audit in zip(self.open, self.audits, strict=True):
            for _ in range(self.draw.randrange(10)):
                kept.append(audit.listener().session(f"10.{self.draw.randrange(3)}.0.{self.draw.randrange(9)}"))
            while len(kept) > MAX_SESSIONS or (kept and self.draw.random() < 0.5):
                kept.pop(self.draw.randrange(len(kept))).close()

    def fault(self) -> None:
        at = self.draw.randrange(len(self.hosts))
        agent = self.hosts[at].agents[-1]
        kind = self.draw.choice(["kill", "stop", "freeze", "reload"])
        if kind == "freeze":
            agent.send_signal(signal.SIGSTOP)
            self.frozen.add(at)
        elif kind == "reload" and at not in self.frozen and self.audits[at].nodes:  # it has come so far
            agent.send_signal(signal.SIGHUP)
        else:
            self.thaw(at)
            agent.send_signal(signal.SIGKILL if kind == "kill" else signal.SIGTERM)
            agent.wait(PATIENCE)
            eventually(lambda: not self.audits[at].nodes)
            self.hosts[at].start()

    def thaw(self, at: int) -> None:
        self.frozen.discard(at)
        self.hosts[at].agents[-1].send_signal(signal.SIGCONT)

    def check_own(self) -> None:
        for kept, audit in zip(self.open, self.audits, strict=True):
            assert audit.total("SMTP") == len(kept)

    def check_quiet(self) -> None:
        """Each view has the same rows as the truth."""
        for at in range(len(self.hosts)):
            self.thaw(at)
        truth: dict[str, int] = {}
        for kept in self.open:
            for session in kept:
                truth[f"{session.remote_ip}/32"] = truth.get(f"{session.remote_ip}/32", 0) + 1

        def agree() -> bool:
            views = [{row[1]: row[0] for row in audit.tree("inbound_cidr")} for audit in self.audits]
            return all({net: n for net, n in view.items() if net.endswith("/32")} == truth for view in views)

        try:
            eventually(agree, "agreement")
        except AssertionError:
            raise AssertionError([(audit.nodes, audit.total("inbound_cidr")) for audit in self.audits]) from None

    def close(self) -> None:
        for kept in self.open:
            for session in kept:
                session.close()
            kept.clear()


@pytest.fixture(params=["zenoh", "redis"])
def hosts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Host]]:
    pytest.importorskip(request.param)
    with ExitStack() as at_end:
        root = at_end.enter_context(tempfile.TemporaryDirectory(prefix="cluster-", dir="/dev/shm"))
        ports = free_ports(NODES)
        made = [Host(root, f"mx{at}", port, [p for p in ports if p != port]) for at, port in enumerate(ports)]
        if request.param == "redis":
            server = at_end.enter_context(RedisServer(tmp_path))
            for host in made:
                host.options = ["--cluster", "test", "--node", host.name, "--engine", "redis", "--join", server.url]
        for host in made:
            at_end.callback(host.close)
        yield made


def test_after_faults_every_view_is_the_truth(hosts: list[Host], monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as at_end:
        audits = [at_end.enter_context(audit_of(host, monkeypatch)) for host in hosts]
        cluster = Cluster(hosts, audits, seed=1)
        at_end.callback(cluster.close)
        for number in range(1, FAULTS + 1):
            cluster.traffic()
            cluster.fault()
            time.sleep(cluster.draw.random())
            cluster.check_own()
            if number % QUIET_EVERY == 0:
                cluster.check_quiet()
