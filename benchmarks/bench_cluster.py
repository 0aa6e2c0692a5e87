"""What an agent pays for what other nodes say, and how long real agents take to say it."""

from __future__ import annotations

import functools
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any

import pytest

from benchmarks.measure import summary
from benchmarks.scale import QUICK
from benchmarks.workloads import WORKLOADS
from inbound_audit import InboundAudit
from inbound_audit._ipcount import NodeTrees
from inbound_audit.cluster.receiver import Bounds, Receiver
from inbound_audit.cluster.sender import Sender
from inbound_audit.shared.places import ROOT_VARIABLE

SECONDS = 2 if QUICK else 5
NODES, HOSTS, TIMES = (3, 1_000, 50) if QUICK else (10, 10_000, 300)
"""Real agents, hosts that each has, and how often the way from one to another is timed."""
RANDOM = WORKLOADS["random"]


def frames_of(node: int, changes: int, seconds: int) -> list[bytes]:
    """What a node says in so many seconds, a frame each: a first state, then half of it goes and comes."""
    addresses = RANDOM.texts(changes)
    now = [0.0]
    said: list[bytes] = []
    with InboundAudit(capacity=1 << 24) as audit:
        smtp = audit.listener("SMTP")
        sender = Sender(node + 1, NodeTrees(audit), lambda: now[0])
        kept = {address: smtp.session(address) for address in addresses}
        said += sender.frames(0.0)
        for second in range(1, seconds):
            for address in addresses:
                if second % 2:
                    kept.pop(address).close()
                else:
                    kept[address] = smtp.session(address)
            now[0] = float(second)
            said += sender.frames(now[0])
        for session in kept.values():
            session.close()
    return said


@pytest.mark.parametrize(("key", "nodes", "changes"), [("cluster-1000", 1_000, 100), ("cluster-100", 100, 10_000)])
def test_cost_of_what_others_say(
    key: str, nodes: int, changes: int, once: Callable[..., None], report: Callable[..., None]
) -> None:
    """Each node changes so many hosts per second, and says so in a frame."""
    said = frames_of(0, changes, SECONDS)
    now = [0.0]
    with InboundAudit(capacity=1 << 24) as audit:
        receiver = Receiver("here", 1 << 40, NodeTrees(audit), lambda: now[0], Bounds())
        shares = []

        def listen() -> None:
            for second, frame in enumerate(said):
                now[0] = float(second)
                began = process_time()
                for node in range(nodes):
                    receiver.heard(f"mx{node}", frame, now[0])
                receiver.tick(now[0])
                assert receiver.asks(now[0]) == []
                shares.append(process_time() - began)

        once(listen)
        assert all(state.gaps == state.dropped == 0 for state in receiver.nodes.values())
    report(key, summary(shares[1:]), {"first second": shares[0]}, "processors")


class Host:
    """A directory (ROOT_VARIABLE) in place of a host: its sessions are of this process, its agent is one of its own."""

    def __init__(self, name: str, port: int, others: list[int]) -> None:
        self.audit = InboundAudit(shared="mail", capacity=1 << 24)
        self.smtp = self.audit.listener("SMTP")
        joins = [word for other in others for word in ("--join", f"tcp/127.0.0.1:{other}")]
        options = ["--cluster", "bench", "--node", name, "--listen", f"tcp/127.0.0.1:{port}", *joins]
        self.agent = subprocess.Popen([sys.executable, "-m", "inbound_audit", "agent", "mail", *options])

    def count(self, cidr: str) -> int:
        return self.audit.inbound_session_count(cidr, "inbound_cidr")

    def close(self) -> None:
        self.agent.kill()
        self.agent.wait()
        self.audit.close()


def until(condition: Callable[[], bool]) -> float:
    """Seconds until it holds."""
    began = perf_counter()
    while not condition():
        sleep(0.0002)
    return perf_counter() - began


@functools.cache
def measured() -> tuple[list[float], float]:
    """Milliseconds from a session on one node until another counts it; seconds until a killed node is gone."""
    pytest.importorskip("zenoh")
    with ExitStack() as held, pytest.MonkeyPatch.context() as patch:
        root = held.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm"))
        with ExitStack() as bound:
            made = [bound.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(NODES)]
            ports = [one.getsockname()[1] for one in made]
        hosts = []
        for at, port in enumerate(ports):
            directory = Path(root, f"mx{at}")
            directory.mkdir(mode=0o700)
            patch.setenv(ROOT_VARIABLE, str(directory))
            hosts.append(Host(directory.name, port, [other for other in ports if other != port]))
            held.callback(hosts[-1].close)
        kept = [host.smtp.session(address) for host in hosts for address in RANDOM.texts(HOSTS)]
        first, last = hosts[0], hosts[-1]
        until(lambda: last.audit.total("inbound_cidr") == len(kept))
        took = []
        for _ in range(TIMES):
            with first.smtp.session("2001:db8::7"):
                took.append(1000 * until(lambda: last.count("2001:db8::7") == 1))
            until(lambda: last.count("2001:db8::7") == 0)
        first.agent.kill()
        gone = until(lambda: last.audit.total("inbound_cidr") == len(kept) - HOSTS)
        for session in kept:
            session.close()
    return sorted(took), gone


@pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")
def test_propagation(once: Callable[[Callable[[], Any]], Any], report: Callable[..., None]) -> None:
    took, _ = once(measured)
    details = {"median": took[len(took) // 2], "longest": took[-1], "nodes": float(NODES)}
    report("cluster-propagation", summary([took[int(0.99 * len(took))]]), details, "ms")


@pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")
def test_a_killed_node(once: Callable[[Callable[[], Any]], Any], report: Callable[..., None]) -> None:
    _, gone = once(measured)
    report("cluster-killed", summary([gone]), {}, "seconds")
