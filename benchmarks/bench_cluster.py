"""What an agent pays for what other nodes say, without the engine that carries it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import accumulate
from random import Random
from time import process_time

import pytest

from benchmarks.choir import frames_of
from benchmarks.measure import summary
from benchmarks.scale import QUICK
from benchmarks.workloads import WORKLOADS
from inbound_audit import InboundAudit
from inbound_audit._ipcount import NodeTrees
from inbound_audit.cluster.bounds import Bounds
from inbound_audit.cluster.frames import MIN_FRAME_BYTES
from inbound_audit.cluster.host_series import HostSeries
from inbound_audit.cluster.receiver import Receiver
from inbound_audit.cluster.sender import Sender

SECONDS = 2 if QUICK else 5
MONITORS = ("300,6", "1800,4", "86400,2")
OPENS_PER_S, LIFE_S, SOURCES, ROUND_S = 5_000, 20, 200_000, 0.05
"""The node of the model: what it opens, the mean life of a session, from how many addresses, and the pause between its
frames."""
EVENTS_PER_S, ADDRESSES, SPEAKERS = 5_000, 100_000, 10
"""Connections of a node, from random ones of so many addresses, and how many such nodes are heard."""


@pytest.mark.parametrize(("key", "nodes", "changes"), [("cluster-1000", 1_000, 100), ("cluster-100", 100, 10_000)])
def test_cost_of_what_others_say(
    key: str, nodes: int, changes: int, once: Callable[..., None], report: Callable[..., None]
) -> None:
    """Each node changes so many hosts per second, and says so in a frame."""
    said = frames_of(changes, 1.0, SECONDS)
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


def test_bytes_of_a_change(once: Callable[..., None], report: Callable[..., None]) -> None:
    """5,000 hosts change at once."""
    changes = 5_000
    said: list[bytes] = []
    once(lambda: said.extend(frames_of(changes, 1.0, SECONDS)))
    each = [(len(frame) - MIN_FRAME_BYTES) / changes for frame in said]
    report("cluster-bytes", summary(each), {"of the frame itself": float(MIN_FRAME_BYTES)}, "bytes")


def say_sessions(exponent: float) -> list[float]:
    """The kB that a node of the model says each second of its sessions; the first second has those that are open."""
    addresses = WORKLOADS["random"].texts(SOURCES)
    weights = [(rank + 1) ** -exponent for rank in range(SOURCES)]
    totals = list(accumulate(weights))
    draw = Random(7)
    now = [0.0]
    sizes = []
    with InboundAudit(capacity=1 << 24) as audit:
        smtp = audit.listener("SMTP")
        kept = [
            smtp.session(address) for address in draw.choices(addresses, cum_weights=totals, k=OPENS_PER_S * LIFE_S)
        ]
        sender = Sender(1, NodeTrees(audit), lambda: now[0])
        sender.nodes = 100  # so it speaks every ROUND_S
        changes = int(OPENS_PER_S * ROUND_S)
        for _ in range(SECONDS + 1):
            size = 0
            for _ in range(int(1 / ROUND_S)):
                for address in draw.choices(addresses, cum_weights=totals, k=changes):
                    at = draw.randrange(len(kept))  # each that is open ends as likely as another: lives are exponential
                    kept[at].close()
                    kept[at] = smtp.session(address)
                now[0] += ROUND_S
                size += sum(map(len, sender.frames(now[0])))
            sizes.append(size / 1000)
        for session in kept:
            session.close()
    return sizes


@pytest.mark.parametrize(("key", "exponent"), [("cluster-bytes-zipf", 0.9), ("cluster-bytes-uniform", 0.0)])
def test_bytes_of_a_second(key: str, exponent: float, once: Callable[..., None], report: Callable[..., None]) -> None:
    sizes: list[float] = []
    once(lambda: sizes.extend(say_sessions(exponent)))
    report(key, summary(sizes[1:]), {"first second": sizes[0]}, "kB a second")


def say_windows() -> tuple[list[list[bytes]], list[float]]:
    """What a node says of its monitors each second, and the seconds of processor time that it takes to say it."""
    addresses = WORKLOADS["random"].texts(ADDRESSES)
    draw = Random(7)
    now = [0.0]
    said: list[list[bytes]] = []
    shares: list[float] = []
    with InboundAudit(monitors=MONITORS) as audit:
        trees = NodeTrees(audit)
        series = HostSeries(trees, MONITORS, clock=lambda: now[0])
        sender = Sender(1, trees, lambda: now[0], series.said.values())
        smtp = audit.listener("SMTP")
        for second in range(4 * SECONDS):
            for address in draw.choices(addresses, k=EVENTS_PER_S):
                smtp.session(address).close()
            now[0] = float(second)
            began = process_time()
            series.find()
            series.turn()
            said.append(sender.frames(now[0]))
            shares.append(process_time() - began)
    return said, shares


def hear_windows(said: list[list[bytes]]) -> list[float]:
    """The seconds of processor time that it takes each second to hear SPEAKERS nodes that say this."""
    shares = []
    now = [0.0]
    with InboundAudit(monitors=MONITORS, monitor_bytes=1 << 30) as audit:
        trees = NodeTrees(audit)
        series = HostSeries(trees, MONITORS, clock=lambda: now[0])
        receiver = Receiver("here", 1 << 40, trees, lambda: now[0], Bounds(), series)
        for second, frames in enumerate(said):
            now[0] = float(second)
            began = process_time()
            series.find()
            series.turn()
            for node in range(SPEAKERS):
                for frame in frames:
                    receiver.heard(f"mx{node}", frame, now[0])
            receiver.tick(now[0])
            shares.append(process_time() - began)
        assert all(state.gaps == state.dropped == 0 and state.whole for state in receiver.nodes.values())
        total = audit.connections(MONITORS[2], "0.0.0.0/0", 0, 1, cluster=True)
        assert total == SPEAKERS * len(said) * EVENTS_PER_S
    return shares


@cache
def windows() -> dict[str, list[float]]:
    said, say_shares = say_windows()
    sizes = [sum(map(len, frames)) / 1000 for frames in said]
    heard = hear_windows(said)
    return {"cluster-windows-say": say_shares, "cluster-windows-hear": heard, "cluster-windows-bytes": sizes}


@pytest.mark.parametrize(
    ("key", "unit"),
    [
        ("cluster-windows-say", "processors"),
        ("cluster-windows-hear", "processors"),
        ("cluster-windows-bytes", "kB a second"),
    ],
)
def test_cost_of_windows(key: str, unit: str, once: Callable[..., None], report: Callable[..., None]) -> None:
    once(windows)
    measured = windows()[key]
    report(key, summary(measured[1:]), {"first second": measured[0]}, unit)
