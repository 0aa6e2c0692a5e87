"""A gate under a flood: what a refusal costs beside peers, what is dropped before accept, and what others notice."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median, quantiles
from typing import Any

import pytest

from benchmarks.bench_counts import FLOOR, RANDOM, new_texts, open_sessions
from benchmarks.client import ADDRESSES, OTHER_ADDRESSES, QUIT, command, drive
from benchmarks.flood import IN_FLIGHT, Server, measure, of_floor, own, ratios, running
from benchmarks.flood_peers import versions
from benchmarks.measure import Race, summary, timed
from benchmarks.scale import FLOOD_CONNECTIONS, FLOOD_REFUSALS, FLOOD_ROUNDS, ROUNDS
from inbound_audit import Limits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux")

MANY = 100_000_000
REFUSED_PER_ADMITTED = 20
BANNERS = 300
IP_BIND_ADDRESS_NO_PORT = 24


# ---- a refusal


@pytest.fixture(scope="module")
def refusals() -> dict[str, list[float]]:
    """Microseconds of processor time per connection of each server, in each round."""
    return measure(FLOOD_ROUNDS, FLOOD_CONNECTIONS)


@pytest.fixture
def compare(
    once: Callable[..., Any], report: Callable[..., None], refusals: dict[str, list[float]], benchmark: Any
) -> Callable[..., None]:
    """Reports the ratios of two servers, and the median of each."""

    def compare(key: str, samples: list[float], *names: str) -> None:
        once(lambda: None)
        report(key, summary(samples), {name: median(refusals[name]) for name in names}, "µs of processor a connection")
        servers = {name: [median(costs), of_floor(refusals, name)] for name, costs in refusals.items()}
        benchmark.extra_info.update(servers=servers, versions=versions())

    return compare


def test_a_refusal_and_the_c_program(compare: Callable[..., None], refusals: dict[str, list[float]]) -> None:
    compare("flood-floor", ratios(refusals, "gate", "C program"), "C program", "gate")


def test_a_refusal_and_peers(compare: Callable[..., None], refusals: dict[str, list[float]]) -> None:
    """Beside each that sends the same: the larger ratio."""
    peers = [name for name in refusals if name.startswith(("nginx", "HAProxy"))]
    if len(peers) < 3:
        pytest.skip(f"a peer is missing: {versions()}")
    silent = min((name for name in peers if "silent" in name), key=lambda name: median(refusals[name]))
    speaking = next(name for name in peers if "silent" not in name)
    pairs = [ratios(refusals, "gate, silent", silent), ratios(refusals, "gate", speaking)]
    compare("flood-peers", max(pairs, key=median), "C program, silent", "gate, silent", "gate", *peers)


def test_a_refusal_and_asyncio(compare: Callable[..., None], refusals: dict[str, list[float]]) -> None:
    compare("flood-asyncio", ratios(refusals, "gate", "asyncio"), "gate", "asyncio")


def test_two_threads(compare: Callable[..., None], refusals: dict[str, list[float]]) -> None:
    """What two threads refuse in a second of both, against one: twice the ratio of what a connection costs."""
    compare(
        "flood-threads", [2 * ratio for ratio in ratios(refusals, "gate", "gate, 2 threads")], "gate", "gate, 2 threads"
    )


# ---- dropped before accept


def come(port: int, number: int, first: int) -> None:
    """So many SYN from different addresses; none is waited for."""
    for at in range(number):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as peer:
            peer.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            peer.bind((socket.inet_ntoa((first + at).to_bytes(4, "big")), 0))
            peer.connect_ex(("127.0.0.1", port))


def test_a_shed_connection(once: Callable[..., Any], report: Callable[..., None]) -> None:
    first = int.from_bytes(socket.inet_aton(ADDRESSES), "big")

    def measured() -> tuple[list[float], list[float], list[float]]:
        shed, refused, client = [], [], []
        with running(own("shed")) as shedding, running(own("gate")) as refusing:
            before = -1
            while shedding.refused() != before:  # until nothing is accepted any more
                before = shedding.refused()
                come(shedding.port, 1000, first)
                time.sleep(1.5)
            for _ in range(FLOOD_ROUNDS):
                used, own_used = shedding.used_s(), time.process_time()
                come(shedding.port, FLOOD_CONNECTIONS, first)
                shed.append((shedding.used_s() - used) / FLOOD_CONNECTIONS * 1e6)
                client.append((time.process_time() - own_used) / FLOOD_CONNECTIONS * 1e6)
                refused.append(refusing.cost_us(FLOOD_CONNECTIONS))
            assert shedding.refused() == before
        return shed, refused, client

    shed, refused, client = once(measured)
    details = {"dropped": median(shed), "refused": median(refused), "a dropped one's client": median(client)}
    report("flood-shed", summary([a / b for a, b in zip(shed, refused, strict=True)]), details, "µs of processor")


# ---- what others notice


@contextmanager
def flooded(port: int, rate: float) -> Iterator[None]:
    """While about so many connections a second are refused, if the processors allow it."""
    wanted = command(port, MANY, IN_FLIGHT, ("421",), first=OTHER_ADDRESSES, nap_us=int(IN_FLIGHT / rate * 1e6))
    with subprocess.Popen(wanted, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as flood:
        try:
            time.sleep(0.2)
            assert flood.poll() is None, "the flood has ended"
            yield
            assert flood.poll() is None, "the flood has ended"
        finally:
            flood.kill()


def admitted(server: Server, number: int) -> tuple[float, float, float]:
    """Sessions a second; refusals meanwhile and microseconds of the loop's thread per session."""
    refused, used = server.refused(), server.loop_s()
    rate = drive(server.port, number, 8, QUIT).rate
    return rate, (server.refused() - refused) / number, (server.loop_s() - used) / number * 1e6


def test_admitted_sessions(once: Callable[..., Any], report: Callable[..., None]) -> None:
    pytest.importorskip("aiosmtpd")

    def measured() -> list[tuple[tuple[float, float, float], tuple[float, float, float]]]:
        with running(own("smtp")) as server:
            rate, found = admitted(server, 500)[0], []
            for _ in range(FLOOD_ROUNDS):
                alone = admitted(server, 1000)
                with flooded(server.port, REFUSED_PER_ADMITTED * rate):
                    found.append((alone, admitted(server, 1000)))
                rate = found[-1][1][0]
        return found

    found = once(measured)
    details = {
        "alone": median(alone[0] for alone, _ in found),
        "in the flood": median(within[0] for _, within in found),
        "refused per admitted": median(within[1] for _, within in found),
        "alone, µs of the loop": median(alone[2] for alone, _ in found),
        "in the flood, µs of the loop": median(within[2] for _, within in found),
    }
    report("flood-admitted", summary([within[0] / alone[0] for alone, within in found]), details, "sessions a second")


def banner_ms(port: int) -> float:
    """The 99th of a hundred waits for the banner, in milliseconds."""
    waits = []
    for at in range(BANNERS):
        with socket.socket() as peer:
            peer.bind((f"127.64.{at // 250}.{at % 250 + 1}", 0))
            started = time.perf_counter()
            peer.connect(("127.0.0.1", port))
            assert peer.recv(100).startswith(b"220")
            waits.append((time.perf_counter() - started) * 1e3)
        time.sleep(0.002)
    return quantiles(waits, n=100)[98]


def test_the_banner_of_a_good_client(once: Callable[..., Any], report: Callable[..., None]) -> None:
    pytest.importorskip("aiosmtpd")

    def measured() -> list[tuple[float, float, float]]:
        with running(own("smtp")) as server:
            found = []
            for _ in range(FLOOD_ROUNDS):
                alone = banner_ms(server.port)
                with flooded(server.port, 20_000):
                    refused, started = server.refused(), time.monotonic()
                    within = banner_ms(server.port)
                    rate = (server.refused() - refused) / (time.monotonic() - started)
                found.append((alone, within, rate))
        return found

    found = once(measured)
    names = ("alone", "in the flood", "refusals a second")
    details = dict(zip(names, map(median, zip(*found, strict=True)), strict=True))
    report("flood-banner", summary([within / alone for alone, within, _ in found]), details, "ms until the banner")


# ---- the admission cycle, and memory

CYCLE = "session = listener.session(x); limits.validate_connect(session); session.close()"


@pytest.mark.parametrize(
    ("key", "table"),
    [
        ("admission", {"/32": 100, "/24": 1000, "/0": 1_000_000}),
        ("admission-refused", {"/32": 100, "/24": 1000, "/0": 0}),
    ],
)
def test_the_admission_cycle(
    floor: Callable[[], Any], hold: Callable[..., None], key: str, table: dict[str, int]
) -> None:
    fresh: list[str] = []
    draw = random.Random(6)
    with open_sessions(RANDOM.texts(100_000)) as (_, listener, _):
        subjects = {
            "floor": timed(FLOOR, fresh, floor=floor()),
            key: timed(CYCLE, fresh, listener=listener, limits=Limits(table)),
        }

        def prepare() -> None:
            fresh[:] = new_texts(draw, 5_000)

        hold(key, Race(subjects, prepare), key, "floor", ROUNDS)


def test_memory_after_refusals(once: Callable[..., Any], report: Callable[..., None]) -> None:
    """The client comes from four million addresses in turn."""
    block = min(FLOOD_REFUSALS, 1_000_000)

    def measured() -> tuple[float, float]:
        with running(own("gate")) as server:
            drive(server.port, 10_000, IN_FLIGHT, ("421",))
            before = server.resident()
            for _ in range(FLOOD_REFUSALS // block):
                drive(server.port, block, IN_FLIGHT, ("421",))
            return before / 2**20, server.resident() / 2**20

    before, after = once(measured)
    details = {"before": before, "after": after, "refusals": FLOOD_REFUSALS}
    report("flood-memory", summary([after - before]), details, "MiB in memory")
