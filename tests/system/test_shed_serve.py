"""`inbound-audit serve --shed N` under a flood from one network: the kernel drops it, and serves all others."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.command_line import Serve, run
from tests.support.gates import connect
from tests.support.waiting import eventually

from inbound_audit.listeners.packet_filter import attach, program_of, ranges_of

pytestmark = [
    pytest.mark.system,
    pytest.mark.usefixtures("place"),
    pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux"),
]

NAME = "test-shed"
FLOODED, OTHER = "127.0.0.9", "127.0.0.10"

# Loopback is spared, and a hold is longer than a test should last.
COMMAND = (
    sys.executable,
    "-c",
    "import functools, sys\n"
    "from inbound_audit.cli import accepting\n"
    "from inbound_audit.__main__ import main\n"
    "accepting.Shed = functools.partial(accepting.Shed, never=(), hold_s=3, max_hold_s=3)\n"
    "sys.exit(main())\n",
)


@pytest.fixture(scope="module", autouse=True)
def filters() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        try:
            attach(listening, program_of(ranges_of(["192.0.2.0/24"]), ranges_of(())))
        except OSError as error:
            pytest.skip(f"the system attaches no filter to a socket: {error}")


def come(port: int, source: str, number: int, wait_s: float) -> int:
    """Begins connections from an address, all at once; how many of them are made after a time."""
    with contextlib.ExitStack() as peers:
        waiting = []
        for _ in range(number):
            peer = peers.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            peer.bind((source, 0))
            peer.connect_ex(("127.0.0.1", port))
            waiting.append(peer)
        time.sleep(wait_s)
        return len(select.select([], waiting, [], 0)[1])


@contextlib.contextmanager
def flood(port: int) -> Iterator[None]:
    stop = threading.Event()

    def run_it() -> None:
        while not stop.is_set():
            come(port, FLOODED, 20, 0.02)

    flooding = threading.Thread(target=run_it)
    flooding.start()
    try:
        yield
    finally:
        stop.set()
        flooding.join()


def shed_by_worker() -> list[set[str]]:
    owners: list[dict[str, Any]] = json.loads(run("ps", NAME, "--json").stdout)["owners"]
    return [{one["network"] for one in owner.get("shed", ())} for owner in owners]


def is_let_in(port: int, source: str) -> bool:
    """Asked at most twice a second, which is below the rate; a connection that is dropped is not waited for."""
    time.sleep(0.5)
    with socket.socket() as peer:
        peer.settimeout(3)
        peer.bind((source, 0))
        try:
            peer.connect(("127.0.0.1", port))
            return peer.recv(1000).startswith(b"220")
        except TimeoutError:
            return False


def test_a_flood_is_dropped_and_let_in_again_when_it_is_over() -> None:
    options = ["--limit", "/32=1", "--shed", "5", "--shared", NAME, "--workers", "2"]
    with Serve(*options, listen=["127.0.0.1:0"], command=COMMAND) as server:
        port = server.addresses[0][1]
        with connect(port, FLOODED) as first:
            assert first.recv(1000).startswith(b"220")
            with flood(port):
                eventually(lambda: come(port, FLOODED, 20, 0.5) == 0, "that none of its connections is made")
                eventually(lambda: shed_by_worker() == [{f"{FLOODED}/32"}] * 2, "that ps shows it")
                eventually(lambda: b"drops 127.0.0.9/32 for " in run("ps", NAME).stdout, "that ps says it")
                eventually(lambda: b"1 dropped before accept (see ps)" in run("top", NAME).stdout, "that top says it")
                eventually(lambda: is_let_in(port, OTHER), "that another network is served")
                first.sendall(b"NOOP\r\n")  # a session that is open goes on
                assert first.recv(1000).startswith(b"250")
            eventually(lambda: come(port, FLOODED, 20, 0.5) > 0, "that the kernel answers it again")
        eventually(lambda: is_let_in(port, FLOODED), "that it is let in again")
        eventually(lambda: shed_by_worker() == [set()] * 2, "that nothing is dropped")
        total = server.stopped()
        assert total["refused"] > 5
        assert total["opened"] == total["accepted"] + total["refused"]
        assert server.complaints == []
