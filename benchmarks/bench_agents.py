"""Real agents over Zenoh: how long they take to say something, and what they pay to listen."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import pytest

from benchmarks.choir import CLUSTER, part
from benchmarks.measure import summary
from benchmarks.scale import QUICK
from benchmarks.workloads import WORKLOADS
from inbound_audit import InboundAudit
from inbound_audit.cluster.frames import Frame, unpack
from inbound_audit.cluster.leases import heartbeat_s
from inbound_audit.shared.places import ROOT_VARIABLE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")

NODES, HOSTS, MANY_HOSTS, TIMES = (3, 1_000, 10_000, 50) if QUICK else (10, 10_000, 100_000, 300)
"""Agents, hosts that each has (in the second run: MANY_HOSTS), and how often the way from one to another is timed."""
CHOIR_S = 5 if QUICK else 20
RANDOM = WORKLOADS["random"]
MAX_WAIT_S = 120
TICKS = os.sysconf("SC_CLK_TCK")

Report = Callable[..., None]
Once = Callable[[Callable[[], Any]], Any]


class Host:
    """A directory (ROOT_VARIABLE) in place of a host: its sessions are of this process, its agent is one of its own."""

    def __init__(self, root: str, name: str, port: int, others: list[int]) -> None:
        directory = Path(root, name)
        directory.mkdir(mode=0o700)
        joins = [word for other in others for word in ("--join", f"tcp/127.0.0.1:{other}")]
        options = ["--cluster", CLUSTER, "--node", name, "--listen", f"tcp/127.0.0.1:{port}", *joins]
        self.name = name
        self._log = Path(f"{directory}.log")
        self._command = [sys.executable, "-m", "inbound_audit", "agent", "mail", *options]
        self._environment = {**os.environ, ROOT_VARIABLE: str(directory)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(ROOT_VARIABLE, str(directory))
            self.audit = InboundAudit(shared="mail", capacity=1 << 26)
        self.smtp = self.audit.listener("SMTP")
        self.agents: list[subprocess.Popen[bytes]] = []
        self.start()

    def start(self) -> None:
        """Starts an agent: the one of the host, or one that stands by until that one ends."""
        with self._log.open("ab") as log:
            self.agents.append(subprocess.Popen(self._command, env=self._environment, stderr=log))

    @property
    def log(self) -> str:
        """What its agents have said."""
        return self._log.read_text()

    def gaps(self) -> tuple[int, int]:
        """How often something of the other nodes was missing, and how many snapshots have mended that."""
        command = [sys.executable, "-m", "inbound_audit", "cluster", "mail", "--json"]
        said = subprocess.run(command, env=self._environment, capture_output=True, check=True).stdout
        nodes = json.loads(said)["nodes"]
        return sum(node["gaps"] or 0 for node in nodes), sum(node["snapshots"] or 0 for node in nodes)

    def kill(self) -> None:
        """Kills the agent of the host."""
        agent = self.agents.pop(0)
        agent.kill()
        agent.wait()

    def count(self, cidr: str) -> int:
        return self.audit.inbound_session_count(cidr, "inbound_cidr")

    @property
    def total(self) -> int:
        return self.audit.total("inbound_cidr")

    def processor_s(self) -> float:
        """Seconds of processor time that the agent has used."""
        used = Path(f"/proc/{self.agents[0].pid}/stat").read_text().rpartition(")")[2].split()
        return (int(used[11]) + int(used[12])) / TICKS

    def close(self) -> None:
        while self.agents:
            self.kill()
        self.audit.close()


def until(condition: Callable[[], bool]) -> float:
    """Seconds until it holds. Raises TimeoutError."""
    began = perf_counter()
    while not condition():
        if perf_counter() - began > MAX_WAIT_S:
            raise TimeoutError("an agent does not do what is measured here")
        sleep(0.0002)
    return perf_counter() - began


@contextmanager
def cluster(nodes: int) -> Iterator[tuple[list[Host], Callable[[str], Host]]]:
    """Hosts that know one another, and what makes one more of them."""
    pytest.importorskip("zenoh")
    with ExitStack() as held:
        root = held.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm"))
        with ExitStack() as bound:
            made = [bound.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(nodes + 1)]
            ports = [one.getsockname()[1] for one in made]

        def host(name: str) -> Host:
            port = ports[int(name[2:])]
            one = Host(root, name, port, [other for other in ports if other != port])
            held.callback(one.close)
            return one

        yield [host(f"mx{at}") for at in range(nodes)], host


def fill(hosts: list[Host], each: int) -> list[Any]:
    """Opens sessions from so many hosts on each node; returns them when the last node counts all."""
    kept = [host.smtp.session(address) for host in hosts for address in RANDOM.texts(each)]
    until(lambda: hosts[-1].total == len(kept))
    return kept


def close_all(sessions: list[Any]) -> None:
    for session in sessions:
        session.close()


def ways(first: Host, last: Host) -> list[float]:
    """Milliseconds from a session on one node until another counts it, sorted."""
    took = []
    for _ in range(TIMES):
        with first.smtp.session("2001:db8::7"):
            took.append(1000 * until(lambda: last.count("2001:db8::7") == 1))
        until(lambda: last.count("2001:db8::7") == 0)
    return sorted(took)


def lowest(last: Host, full: int) -> float:
    """The lowest total that is seen for longer than a lease, as a share of all."""
    seen, began = full, perf_counter()
    while perf_counter() - began < 4:
        seen = min(seen, last.total)
        sleep(0.0005)
    until(lambda: last.total == full)
    return seen / full


@functools.cache
def life() -> dict[str, Any]:
    """What happens to one node of a cluster, as another one sees it."""
    figures: dict[str, Any] = {}
    with cluster(NODES) as (hosts, _):
        kept = fill(hosts, HOSTS)
        first, last = hosts[0], hosts[-1]
        figures["ways"] = ways(first, last)
        first.agents[0].send_signal(signal.SIGSTOP)
        figures["cluster-frozen"] = until(lambda: last.total == len(kept) - HOSTS)
        first.agents[0].send_signal(signal.SIGCONT)
        until(lambda: last.total == len(kept))
        first.start()
        sleep(2)  # it stands by
        first.kill()
        figures["cluster-stand-by"] = lowest(last, len(kept))
        first.kill()
        first.start()
        figures["cluster-restarted"] = lowest(last, len(kept))
        first.kill()
        figures["cluster-killed"] = until(lambda: last.total == len(kept) - HOSTS)
        close_all(kept)
    return figures


@functools.cache
def joined() -> dict[str, float]:
    """Seconds until a node with MANY_HOSTS is counted whole: from its link to the other one on, before which no word of
    it is heard, and from the start of its process on."""
    with cluster(1) as ([here], host):
        newcomer = host("mx1")
        newcomer.kill()
        kept = [newcomer.smtp.session(address) for address in RANDOM.texts(MANY_HOSTS)]
        said = len(newcomer.log)
        newcomer.start()
        started = perf_counter()
        until(lambda: "is connected" in newcomer.log[said:])
        linked = perf_counter()
        until(lambda: here.total == MANY_HOSTS)
        counted = perf_counter()
        close_all(kept)
    return {"counted": counted - linked, "from its start": counted - started}


def test_propagation(once: Once, report: Report) -> None:
    took = once(life)["ways"]
    details = {"median": took[len(took) // 2], "longest": took[-1], "nodes": float(NODES)}
    report("cluster-propagation", summary([took[int(0.99 * len(took))]]), details, "ms")


def test_propagation_with_many_hosts(once: Once, report: Report) -> None:
    def measure() -> list[float]:
        with cluster(NODES) as (hosts, _):
            kept = fill(hosts, MANY_HOSTS)
            took = ways(hosts[0], hosts[-1])
            close_all(kept)
        return took

    took = once(measure)
    details = {"median": took[len(took) // 2], "longest": took[-1], "hosts of each node": float(MANY_HOSTS)}
    report("cluster-propagation-many", summary([took[int(0.99 * len(took))]]), details, "ms")


@pytest.mark.parametrize("key", ["cluster-killed", "cluster-frozen"])
def test_a_dead_node(key: str, once: Once, report: Report) -> None:
    report(key, summary([once(life)[key]]), {}, "seconds")


@pytest.mark.parametrize("key", ["cluster-stand-by", "cluster-restarted"])
def test_another_agent_goes_on(key: str, once: Once, report: Report) -> None:
    report(key, summary([once(life)[key]]), {}, "of the sessions")


def test_a_node_that_joins(once: Once, report: Report) -> None:
    figures = once(joined)
    report("cluster-joins", summary([figures["counted"]]), figures | {"hosts": float(MANY_HOSTS)}, "seconds")


@pytest.mark.parametrize(
    ("key", "nodes", "changes", "pause_s"),  # from 1,000 nodes on each says its changes twice a second
    [("agent-1000", 1_000, 100, 0.5), ("agent-100", 100, 10_000, 0.05), ("agent-idle", 100, 0, heartbeat_s(101))],
)
def test_an_agent_listens(key: str, nodes: int, changes: int, pause_s: float, once: Once, report: Report) -> None:
    """One process speaks for all other nodes, over one connection."""

    last = unpack(part(changes, pause_s, CHOIR_S)[-1][0])

    def measure() -> dict[str, float]:
        with cluster(1) as ([here], _):
            address = here._command[here._command.index("--listen") + 1]
            numbers = [str(number) for number in (nodes, changes, pause_s, CHOIR_S)]
            until(lambda: bool(here.audit.nodes))
            choir = subprocess.Popen([sys.executable, "-m", "benchmarks.choir", address, *numbers])
            until(lambda: len(here.audit.nodes) > nodes)
            sleep(1)
            began, used = perf_counter(), here.processor_s()
            sleep(CHOIR_S - 3)
            share = (here.processor_s() - used) / (perf_counter() - began)
            heard = sum(node.state == "heard" for node in here.audit.nodes)
            until(lambda: all_say(here, nodes, last))  # no gap is left at the end
            gaps, snapshots = here.gaps()
            choir.wait()
        return {"processors": share, "nodes heard": heard, "gaps": gaps, "snapshots": snapshots}

    figures = once(measure)
    assert figures["nodes heard"] == nodes
    report(key, summary([figures.pop("processors")]), figures, "processors")


def all_say(here: Host, nodes: int, last: Frame) -> bool:
    """Whether so many other nodes are counted as their last word has it."""
    said = [(node.hosts, node.sessions) for node in here.audit.nodes if node.name.startswith("choir") and node.counted]
    return said == [(last.hosts, last.total)] * nodes
