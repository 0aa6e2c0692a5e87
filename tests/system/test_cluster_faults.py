"""Faults on real agents, over both engines: once it is quiet, every view is the truth.

Agents are killed, stopped, frozen and started again, processes that hold sessions are killed, servers end, and networks
are cut while sessions of both families come and go and events are recorded. The processes that count know nothing of
it: their own counts are exact all the time. `make faults-cluster` is the long form. It says how often every view was
the truth after two seconds of quiet, and fails if that is too seldom.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.agent_hosts import Host, hosts_of
from tests.support.networks import Networks, why_not
from tests.support.redis_server import RedisServer
from tests.support.sharing import Worker, Workers, rounds
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit, Session

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="shared mode needs Linux")]

NODES = rounds(3, 5)
FAULTS = rounds(12, 1000)
QUIET_EVERY = rounds(4, 5)
QUIET_S = rounds(0, 2)
MAX_SESSIONS = 40
MIN_AT_ONCE, MAX_LATE_S = 0.95, 2.0
"""How many of the quiet moments of the long form have every view right after QUIET_S, as a share; and the seconds that
the others may take, on a machine that does other work as well."""


class Sessions:
    """The open sessions of a host: some in this process, some in a process of its own, which can be killed."""

    def __init__(self, workers: Workers, host: Host, audit: InboundAudit) -> None:
        self._workers, self._host, self._audit = workers, host, audit
        self._here: list[Session] = []
        self._there: list[str] = []
        """The addresses of those in the other process."""
        self._worker = self._hire()

    def __len__(self) -> int:
        return len(self._here) + len(self._there)

    @property
    def addresses(self) -> list[str]:
        return [session.remote_ip for session in self._here] + self._there

    def _hire(self) -> Worker:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("INBOUND_AUDIT_SHM", self._host.directory)
            return self._workers("audit = InboundAudit(shared='mail')\nlistener = audit.listener()\nkept = []")

    def open(self, here: list[str], there: list[str]) -> None:
        self._here += [self._audit.listener().session(address) for address in here]
        self._worker.do("kept += [listener.session(address) for address in addresses]", addresses=there)
        self._there += there
        eventually(lambda: self._audit.total("SMTP") >= len(self), "a process that is new is counted")

    def close(self, draw: random.Random, max_left: int) -> None:
        """Closes some, so that at most `max_left` are open in each process."""
        while len(self._here) > max_left or (self._here and draw.random() < 0.5):
            self._here.pop(draw.randrange(len(self._here))).close()
        closed = []
        while len(self._there) > max_left or (self._there and draw.random() < 0.5):
            closed.append(draw.randrange(len(self._there)))
            self._there.pop(closed[-1])
        self._worker.do("for at in closed:\n    kept.pop(at).close()", closed=closed)

    def kill_worker(self) -> None:
        """Its sessions are gone with it. Another process takes its place."""
        self._worker.kill()
        self._there.clear()
        eventually(lambda: self._audit.total("SMTP") == len(self), "the sessions of a killed process are gone")
        self._worker = self._hire()

    def check(self) -> None:
        """Each process of the host has its exact count at every moment."""
        assert self._audit.total("SMTP") == len(self)
        assert self._worker.do("len(kept)") == len(self._there)

    def close_all(self) -> None:
        for session in self._here:
            session.close()


class Cluster:
    """The hosts, and the truth: the sessions that are open on each. Without `networks` none is cut."""

    def __init__(self, hosts: list[Host], server: RedisServer | None, networks: Networks | None, seed: int) -> None:
        self.hosts, self.server, self.networks = hosts, server, networks
        self.audits: list[InboundAudit] = []
        self.draw = random.Random(seed)
        self.workers = Workers()
        self.open: list[Sessions] = []
        self.frozen: set[int] = set()
        self.at_once = 0
        """How often all views were the truth after QUIET_S of quiet."""
        self.took: list[float] = []
        """Seconds beyond QUIET_S of quiet until all views were the truth."""
        self.events: Counter[str] = Counter()
        """What all hosts have recorded in a series, by address."""
        self.windows_took: list[float] = []
        """Seconds from then on until all views of the series were the truth."""
        self.kinds: list[Callable[[int], None]] = [self.kill, self.stop, self.freeze, self.reload, self.kill_worker]
        if server is not None:
            self.kinds.append(self.end_server)
        if networks is not None:
            self.kinds += [self.cut_both_ways, self.cut_one_way]
        self.count: Counter[str] = Counter()
        self.last: deque[str] = deque(maxlen=QUIET_EVERY)

    def start(self) -> None:
        for host in self.hosts:
            self.audits.append(host.audit())
            self.audits[-1].series.define("events", "ip", interval=86400, num_windows=3, replicate="cluster")
            self.open.append(Sessions(self.workers, host, self.audits[-1]))
            host.start()

    def traffic(self) -> None:
        for sessions, audit in zip(self.open, self.audits, strict=True):
            sessions.open(self.addresses(5), self.addresses(5))
            sessions.close(self.draw, MAX_SESSIONS // 2)
            for address in self.addresses(1):
                number = self.draw.choice([1, 2, -1])
                audit.series.add("events", address, number)
                self.events[address] += number

    def addresses(self, most: int) -> list[str]:
        """Up to so many, of both families."""
        networks = [self.draw.choice(["10.{}.0.{}", "2001:db8:{}::{}"]) for _ in range(self.draw.randint(0, most))]
        return [network.format(self.draw.randrange(1, 4), self.draw.randrange(1, 9)) for network in networks]

    def fault(self) -> None:
        kind, at = self.draw.choice(self.kinds), self.draw.randrange(len(self.hosts))
        self.count[kind.__name__] += 1
        self.last.append(f"{kind.__name__} {self.hosts[at].name}")
        kind(at)

    # ---- kinds of faults

    def kill(self, at: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends the agent, and starts another one."""
        self.thaw(at)
        self.hosts[at].agent.send_signal(number)
        self.hosts[at].agent.wait(PATIENCE)
        eventually(lambda: not self.audits[at].nodes)
        self.hosts[at].start()

    def stop(self, at: int) -> None:
        self.kill(at, signal.SIGTERM)

    def freeze(self, at: int) -> None:
        """Until the next quiet, or the next freeze or end of this one."""
        if at in self.frozen:
            self.thaw(at)
        else:
            self.frozen.add(at)
            self.hosts[at].agent.send_signal(signal.SIGSTOP)

    def reload(self, at: int) -> None:
        if at not in self.frozen and self.audits[at].nodes:  # it has come so far
            self.hosts[at].agent.send_signal(signal.SIGHUP)

    def kill_worker(self, at: int) -> None:
        self.open[at].kill_worker()

    def end_server(self, at: int) -> None:
        assert self.server is not None
        self.server.kill()
        time.sleep(self.draw.random())
        self.server.start()

    def cut_both_ways(self, at: int) -> None:
        """Until the next quiet."""
        self.cut_one_way(at, back=True)

    def cut_one_way(self, at: int, back: bool = False) -> None:
        assert self.networks is not None
        end = len(self.hosts)  # the server, if there is one, is beyond the hosts
        other = end if self.server else self.draw.choice([one for one in range(end) if one != at])
        one, two = self.draw.choice([(at, other), (other, at)])
        self.networks.cut(one, two)
        if back:
            self.networks.cut(two, one)

    def thaw(self, at: int) -> None:
        self.frozen.discard(at)
        self.hosts[at].agent.send_signal(signal.SIGCONT)

    # ---- what must be true

    def check_own(self) -> None:
        for sessions in self.open:
            sessions.check()

    def check_quiet(self) -> None:
        """No fault is left and every agent runs: each view has the same rows as the truth."""
        for at in range(len(self.hosts)):
            self.thaw(at)
        if self.networks is not None:
            self.networks.heal()
        for host, audit in zip(self.hosts, self.audits, strict=True):
            eventually(lambda audit=audit: audit.nodes, f"the agent of {host.name} runs")
        time.sleep(QUIET_S)
        began = time.monotonic()
        agrees = self.agree()
        self.at_once += agrees
        if QUIET_S and not agrees:
            views = [[node.name for node in audit.nodes if not node.counted] for audit in self.audits]
            load = os.getloadavg()[0]
            print(f"{time.strftime('%T')}: {', '.join(self.last)}; load {load:.0f}, not counted: {views}", flush=True)
        try:
            eventually(self.agree, "agreement")
            self.took.append(time.monotonic() - began)
            began = time.monotonic()
            eventually(self.windows_agree, "agreement on windows")
            self.windows_took.append(time.monotonic() - began)
        except AssertionError:
            said = "\n".join(f"{host.name}: {host.log[-3000:]}" for host in self.hosts)
            views = [(audit.nodes, audit.total("inbound_cidr")) for audit in self.audits]
            raise AssertionError(f"{views}\n{said}") from None

    def agree(self) -> bool:
        time.sleep(0.01)  # the agents need the processors, too
        total = sum(map(len, self.open))
        if any(audit.total("inbound_cidr") != total for audit in self.audits):
            return False
        each = [Counter(sessions.addresses) for sessions in self.open]
        nodes = {host.name: (len(counts), counts.total()) for host, counts in zip(self.hosts, each, strict=True)}
        for host, audit in zip(self.hosts, self.audits, strict=True):
            said = {node.name: (node.hosts, node.sessions) for node in audit.nodes if node.name != host.name}
            if said != {name: counts for name, counts in nodes.items() if name != host.name}:
                return False
        truth = sum(each, Counter())
        return all(hosts_in(audit.tree("inbound_cidr")) == truth for audit in self.audits)

    def windows_agree(self) -> bool:
        time.sleep(0.01)
        return all(
            audit.series.count("events", address, 0, 1) == number
            for audit in self.audits
            for address, number in self.events.items()
        )

    def digests_agree(self) -> bool:
        """Whether each agent has of each node the digest that the node itself has."""
        digests = [{row["node"]: row["digest"] for row in host.rows()} for host in self.hosts]
        names = {host.name for host in self.hosts}
        return (
            digests[0].keys() == names and None not in digests[0].values() and all(one == digests[0] for one in digests)
        )

    def report(self) -> str:
        faults = ", ".join(f"{n} x {name}" for name, n in sorted(self.count.items()))
        return (
            f"{faults}; after {QUIET_S} s of quiet {self.at_once} of {len(self.took)} times every view was the truth, "
            f"and at most {max(self.took):.2f} s later; every view of windows at most {max(self.windows_took):.2f} s "
            "after that"
        )

    def close(self) -> None:
        for sessions in self.open:
            sessions.close_all()
        for audit in self.audits:
            audit.close()
        self.workers.close()


def hosts_in(tree: list[tuple[int, str]]) -> Counter[str]:
    """The hosts among the rows of a tree."""
    found = Counter[str]()
    for count, prefix in tree:
        address, _, length = prefix.partition("/")
        if length == ("128" if ":" in address else "32"):
            found[address] = count
    return found


@pytest.fixture(params=["zenoh", "redis"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    pytest.importorskip(request.param)
    with ExitStack() as at_end:
        networks = None
        if why_not() is None:
            networks = Networks(NODES + 1)
            at_end.callback(networks.close)
        server = None
        if request.param == "redis":
            place = {"address": networks.address(NODES), "prefix": networks.command(NODES)} if networks else {}
            server = at_end.enter_context(RedisServer(tmp_path, **place))
        hosts = at_end.enter_context(hosts_of(NODES, server, networks))
        made = Cluster(hosts, server, networks, seed=1)
        at_end.callback(made.close)
        made.start()
        yield made


def test_after_faults_every_view_is_the_truth(cluster: Cluster) -> None:
    began = time.monotonic()
    for number in range(1, FAULTS + 1):
        cluster.traffic()
        cluster.fault()
        time.sleep(cluster.draw.random())
        cluster.check_own()
        if number % QUIET_EVERY == 0:
            cluster.check_quiet()
            if number % 50 == 0:
                print(f"{number} faults in {time.monotonic() - began:.0f} s: {cluster.report()}", flush=True)
    eventually(cluster.digests_agree, "each agent has the digest of each node")
    print(cluster.report())
    if QUIET_S:
        assert cluster.at_once >= MIN_AT_ONCE * len(cluster.took), cluster.report()
        assert max(cluster.took) <= MAX_LATE_S, cluster.report()
