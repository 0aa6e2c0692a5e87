"""The server of the page: what it pays for many clients."""

from __future__ import annotations

import re
import selectors
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from time import perf_counter
from typing import Any

import pytest

from benchmarks.measure import processor_s, summary
from benchmarks.scale import QUICK
from benchmarks.workloads import WORKLOADS
from inbound_audit import InboundAudit, Session
from inbound_audit.shared.places import ROOT_VARIABLE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")

CLIENTS, ROWS, INTERVAL = 100, 1_000, "0.1s"
SESSIONS, CHANGES = 100_000, 200
"""Open sessions, and how many of them end for others between two reads of the clients."""
SECONDS = 3 if QUICK else 10


@contextmanager
def server() -> Iterator[tuple[int, int]]:
    """Its process id and port."""
    command = [sys.executable, "-m", "inbound_audit", "web", "mail", "--listen", "127.0.0.1:0", "--interval", INTERVAL]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r":(\d+)/", process.stdout.readline())
            assert found is not None
            yield process.pid, int(found[1])
        finally:
            process.terminate()


def test_a_hundred_clients(once: Callable[..., Any], report: Callable[..., None]) -> None:
    """Each gets ten looks a second, while sessions come and go."""
    draw, addresses = Random(7), WORKLOADS["random"].texts(SESSIONS)
    with ExitStack() as held:
        root = held.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm"))
        held.enter_context(pytest.MonkeyPatch.context()).setenv(ROOT_VARIABLE, root)
        audit = held.enter_context(InboundAudit(shared="mail", capacity=1 << 26))
        listener = audit.listener()
        sessions: list[Session] = [listener.session(address) for address in addresses]
        held.callback(lambda: [session.close() for session in sessions])
        pid, port = held.enter_context(server())
        ready = held.enter_context(selectors.DefaultSelector())
        for _ in range(CLIENTS):
            client = held.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(b"GET /api/events?rows=%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % ROWS)
            ready.register(client, selectors.EVENT_READ)
        shares, got = [], 0

        def read() -> None:
            nonlocal got
            for _ in range(SECONDS + 1):
                before, began = processor_s(pid), perf_counter()
                while perf_counter() - began < 1.0:
                    for key, _ in ready.select(0.05):
                        part = key.fileobj.recv(1 << 18)  # type: ignore[union-attr]
                        assert part
                        got += part.count(b"event: change")
                    for _ in range(CHANGES // 10):
                        place = draw.randrange(SESSIONS)
                        sessions[place].close()
                        sessions[place] = listener.session(addresses[draw.randrange(SESSIONS)])
                shares.append((processor_s(pid) - before) / (perf_counter() - began))

        once(read)
    report("web-100", summary(shares[1:]), {"changes a second and client": got / CLIENTS / (SECONDS + 1)}, "processors")
