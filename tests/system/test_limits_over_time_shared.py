"""Limits over time in several processes, and in `inbound-audit serve`."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from tests.support.command_line import Serve, run
from tests.support.gates import connect, said
from tests.support.gold_limits import GoldEvents, GoldLimits, opened
from tests.support.sharing import NAME, Workers
from tests.support.timing import Clock
from tests.support.waiting import eventually
from tests.unit.cli.test_cli_parts import settings

from inbound_audit import InboundAudit, Limits
from inbound_audit.cli.service import parts

shared = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")

LIMITS = {"/32": "4/1m", "/24": ["8/10s", "9 rejections/1m"]}
BOUNDS = {"capacity": 1 << 24, "monitor_bytes": 1 << 22}
JOIN_BARE = f"""
from inbound_audit import InboundAudit, Limits
from tests.support.timing import Clock
clock = Clock()
audit = InboundAudit(shared=NAME, clock=clock, **{BOUNDS!r})
mx = audit.listener('SMTP', 'mx')
"""
JOIN = f"""{JOIN_BARE}
limits = Limits({LIMITS!r})
limits.prepare(audit)
def ask(host, rejected=0):
    with mx.session(host) as ac:
        if rejected:
            ac.record_rejection(rejected)
        return bool(limits.validate_connect(ac))
"""
# The border of such windows was in 2002, and is in 2035.
TIME = "12000d"


@pytest.fixture
def audit(place: Path, clock: Clock) -> Iterator[InboundAudit]:
    with InboundAudit(shared=NAME, clock=clock, **BOUNDS) as audit:  # type: ignore[arg-type]
        yield audit


# ---- one count for all processes


@shared
@pytest.mark.parametrize("seed", range(3))
def test_processes_decide_as_one(audit: InboundAudit, clock: Clock, hire: Workers, seed: int) -> None:
    """Whichever process a connection comes to, the verdict is that of the gold model, which has one count."""
    draw = random.Random(seed)
    limits, gold = Limits(LIMITS), GoldLimits(LIMITS)
    limits.prepare(audit)
    gold.events = GoldEvents(gold.rates(), clock.seconds)
    others = hire.hire(2, JOIN)
    refused = 0
    for _ in range(120):
        if draw.random() < 0.2:
            clock.step(draw.choice([0.25, 1, 2.5, 7, 15, 31.75, 70]))
            for other in others:
                other.do("clock.seconds = seconds", seconds=clock.seconds)
        host, rejected = f"192.0.2.{draw.randrange(3)}", draw.choice([0, 0, 1, 2])
        one = opened(host, "SMTP", "mx")
        gold.events.record("connections", one.address, clock.seconds)
        for _ in range(rejected):
            gold.events.record("rejections", one.address, clock.seconds)
        who = draw.randrange(3)
        if who < 2:
            verdict = others[who].do("ask(host, rejected)", host=host, rejected=rejected)
        else:
            with audit.listener("SMTP", "mx").session(host) as ac:
                if rejected:
                    ac.record_rejection(rejected)
                verdict = bool(limits.validate_connect(ac))
        gold.seconds = clock.seconds
        assert verdict == gold.validate_connect(one)
        refused += not verdict
    assert 0 < refused < 120


@shared
def test_a_monitor_that_comes_late_is_seen_by_all(audit: InboundAudit, clock: Clock, hire: Workers) -> None:
    other = hire(JOIN_BARE)
    listener = audit.listener("SMTP", "mx")
    audit.add_monitors(["5m,2"])
    other.do("kept = mx.session('192.0.2.7')")
    assert audit.connections("5m,2", "192.0.2.7") == 0  # it has no such monitor yet
    other.do("audit.add_monitors(['5m,2']); kept = mx.session('192.0.2.7')")
    assert audit.connections("5m,2", "192.0.2.7") == 1
    with listener.session("192.0.2.7") as ac:
        limits = Limits({"/32": "1/5m"})
        assert not limits.validate_connect(ac)
        assert other.do("audit.connections('5m,2', '192.0.2.7')") == 2
    other.kill()
    eventually(lambda: audit.connections("5m,2", "192.0.2.7") == 1, "the end of the other process's windows")


@shared
def test_a_child_of_a_fork_has_the_monitors_and_adds_its_own(audit: InboundAudit, hire: Workers) -> None:
    limits = Limits({"/32": "3/1m"})
    limits.prepare(audit)
    parent = hire(JOIN)
    assert parent.do("ask('192.0.2.7')") is True
    child = parent.fork()
    assert child.do("ask('192.0.2.7')") is True
    assert child.do("audit.monitors") == parent.do("audit.monitors") == ("60,2", "10,2")
    child.do("audit.add_monitors(['5m,2'])")
    assert child.do("[ask('192.0.2.7') for _ in range(3)]") == [True, True, False]
    assert child.do("audit.connections('5m,2', '192.0.2.7')") == 3
    assert parent.do("audit.monitors") == ("60,2", "10,2")
    with audit.listener("SMTP", "mx").session("192.0.2.7") as ac:
        assert not limits.validate_connect(ac)
        assert audit.connections("60,2", "192.0.2.7") == 6


# ---- serve


@pytest.mark.parametrize("gate", ["--no-gate", "--gate"])
def test_serve_refuses_who_has_come_too_often(gate: str) -> None:
    with Serve("--limit", "/32=9", "--limit", f"/32=3/{TIME}", gate) as server:
        assert server.event("policy")["policy"] == f"/32=9 /32=3/{TIME}"
        port = server.addresses[0][1]
        for _ in range(3):
            with connect(port) as peer:
                assert peer.recv(4) == b"220 "
        for _ in range(2):
            with connect(port) as peer:
                assert said(peer).startswith(b"421 ")
        with connect(port, "127.0.0.2") as peer:
            assert peer.recv(4) == b"220 "
        total = server.stopped()
        assert (total["opened"], total["accepted"], total["refused"]) == (6, 4, 2)


@pytest.mark.parametrize("gate", ["--no-gate", "--gate"])
def test_serve_limits_clients_behind_a_balancer_and_networks(gate: str) -> None:
    options = ("--network", "near=192.0.2.0/24", "--limit", f"near:total=2/{TIME}", "--limit", f"/32=1/{TIME}")
    with Serve(*options, "--proxy-from", "127.0.0.2/32", gate) as server:
        port = server.addresses[0][1]
        came = [("192.0.2.1", b"220"), ("192.0.2.1", b"220"), ("192.0.2.9", b"421"), ("198.51.100.1", b"220"),
                ("198.51.100.2", b"220"), ("198.51.100.1", b"421")]  # fmt: skip
        for client, word in came:
            with connect(port, "127.0.0.2") as peer:
                peer.sendall(f"PROXY TCP4 {client} 192.0.2.200 1000 25\r\n".encode())
                assert peer.recv(3) == word
        total = server.stopped()
        assert (total["opened"], total["accepted"], total["refused"]) == (6, 4, 2)


@shared
@pytest.mark.parametrize("gate", ["--no-gate", "--gate"])
def test_workers_count_connections_together(gate: str) -> None:
    name = f"test-{uuid4().hex[:8]}"
    with Serve("--limit", f"/32=4/{TIME}", "--workers", "2", "--shared", name, gate) as server:
        port = server.addresses[0][1]
        words = []
        for _ in range(9):
            with connect(port) as peer:
                words.append(peer.recv(3))
        assert words == [b"220"] * 4 + [b"421"] * 5
        server.stopped()


def test_serve_makes_the_monitors_that_limits_need() -> None:
    limits = {"/32": [5, "3/5m"], "/24": "20 rejections/1h", "/0": "9/1m"}
    with parts(
        settings(limits=limits, network=(), monitor=("5m,6", "60,1"), monitor_bytes=1 << 24, capacity=1 << 20)
    ) as (
        audit,
        _,
    ):
        assert audit.monitors == ("300,6", "60,1", "3600,2", "60,2")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--limit", "/32=300/0s"], "'300/0s': write a duration of whole seconds from 1s"),
        (["--limit", "/32=300/5m", "--limit", "/32=200/300s"], "300/5m and 200/5m both limit connections/5m"),
        (["--limit", "/32=300/5m", "--limit", "/32=2", "--limit", "/32=3"], "--limit has the same length twice"),
        (["--limit", "total=300/5m"], "a limit over time counts all listeners; write /0=300/5m, or NAME:total=300/5m"),
        (["--limit", "/32=20 rejects/1h"], "unknown events 'rejects'; did you mean 'rejections'?"),
        (["--limit", "x:/32=3/1h"], "no network is named 'x'"),
        (["--limit", "=3/1h"], "write a prefix length and how many sessions it may have, such as /24=100, or how many"),
        ([f"--limit=/32=1/{n}s" for n in range(1, 18)], "17 monitors: at most 16"),
        (["--limit=/32=1/1m", "--monitor-bytes=64K"], "--limit: monitor_bytes 65536: 10922 bytes per window"),
    ],
)  # fmt: skip
def test_a_mistake_ends_the_start(options: list[str], why: str) -> None:
    done = run("serve", *options)
    assert done.returncode == 2
    assert why in done.stderr.decode()
