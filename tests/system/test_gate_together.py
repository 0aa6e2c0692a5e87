"""Four workers with a gate each: of one address as many are let in as the limit says, at each moment, and no more."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import sys
from collections.abc import Iterator
from uuid import uuid4

import pytest
from tests.support.command_line import Serve
from tests.support.sharing import NAME, Workers, rounds
from tests.support.waiting import PATIENCE, eventually

from inbound_audit.shared import View

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux")]

LIMIT, CLIENTS, WORKERS = 50, 500, 4

WORKER = """
import contextlib, selectors, socket, threading
from inbound_audit import InboundAudit, Limits
from inbound_audit.listeners.gate import Gate
audit = InboundAudit(shared=NAME, capacity=1 << 24)
listening = socket.socket()
listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listening.bind(("127.0.0.1", THE_NUMBER))
listening.listen(512)
gate = Gate(audit.listener("SMTP", "mx"), Limits({"/32": 50}), [listening])

def serve():
    chosen = selectors.DefaultSelector()
    chosen.register(gate, selectors.EVENT_READ)
    while True:
        for key, _ in chosen.select():
            if key.fileobj is gate:
                for connection, session in gate.take():
                    with contextlib.suppress(OSError):
                        connection.send(b"220 \\r\\n")
                    chosen.register(connection, selectors.EVENT_READ, session)
            else:
                chosen.unregister(key.fileobj)
                key.fileobj.close()
                key.data.close()

threading.Thread(target=serve, daemon=True).start()
"""


@contextlib.contextmanager
def gates(hire: Workers) -> Iterator[tuple[int, str]]:
    """The port of four processes, and the name of their audit."""
    first = hire(WORKER.replace("NAME", repr(NAME)).replace("THE_NUMBER", "0"))
    port = first.do("listening.getsockname()[1]")
    for _ in range(WORKERS - 1):
        hire(WORKER.replace("NAME", repr(NAME)).replace("THE_NUMBER", str(port)))
    yield port, NAME  # type: ignore[misc]


@contextlib.contextmanager
def command(hire: Workers) -> Iterator[tuple[int, str]]:
    """The same of `inbound-audit serve`."""
    name = f"test-{uuid4().hex[:8]}"
    limited = ("--limit", f"/32={LIMIT}", "--workers", str(WORKERS), "--shared", name, "--gate")
    with Serve(*limited, listen=("127.0.0.1:0",)) as server:
        yield server.addresses[0][1], name
        total = server.stopped()
        assert total["accepted"] >= CLIENTS
        assert total["opened"] == total["accepted"] + total["refused"]
        assert total["open"] == 0


class Clients:
    """So many clients of one address. A client that has its banner and has not left is inside: the server counts it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._draw = random.Random(4)
        self.outside = list(range(CLIENTS))
        self.inside: list[tuple[int, socket.socket]] = []
        self.been_inside: set[int] = set()
        self.refused = self.most = 0
        self._come: dict[int, tuple[int, socket.socket]] = {}  # by descriptor: no answer yet
        self._poll = select.poll()

    def come(self, number: int) -> None:
        for client in self.outside[:number]:
            peer = socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE)
            self._come[peer.fileno()] = client, peer
            self._poll.register(peer, select.POLLIN)
        del self.outside[:number]

    def hear(self) -> None:
        """The answers that are there, or the next ones."""
        for fd, _ in self._poll.poll(1000 * PATIENCE):
            client, peer = self._come.pop(fd)
            self._poll.unregister(fd)
            if self._banner(peer).startswith(b"220 "):
                self.inside.append((client, peer))
                self.been_inside.add(client)
                self.most = max(self.most, len(self.inside))
            else:
                self.refused += 1
                self.outside.append(client)
                peer.close()

    @staticmethod
    def _banner(peer: socket.socket) -> bytes:
        try:
            return peer.recv(100)
        except ConnectionResetError:
            return b""

    def fill(self) -> None:
        """They come again and again until all places are taken; 40 at a time have no answer yet."""
        while len(self.inside) < LIMIT:
            self.come(40 - len(self._come))
            self.hear()
            assert self.most <= LIMIT
        while self._come:
            self.hear()
        assert len(self.inside) == self.most == LIMIT

    def close(self) -> None:
        for _, peer in [*self.inside, *self._come.values()]:
            peer.close()

    def leave(self, number: int) -> None:
        self._draw.shuffle(self.inside)
        for client, peer in self.inside[:number]:
            peer.close()
            self.outside.append(client)
        del self.inside[:number]


@pytest.mark.parametrize("serving", [gates, command], ids=["gates", "serve"])
def test_each_place_is_taken_and_none_twice(hire: Workers, serving) -> None:
    """Each of 500 clients comes until it has been inside, and leaves: 50 are reached each time, and never more."""
    with serving(hire) as (port, name), View(name) as view:
        draw, times = random.Random(5), 0
        with contextlib.closing(Clients(port)) as clients:
            while len(clients.been_inside) < CLIENTS or times < rounds(5, 200):
                clients.fill()
                times += 1
                eventually(lambda: view.total("SMTP") == LIMIT, "the end of those that were refused")
                clients.leave(draw.randint(1, LIMIT))
            assert clients.refused > 0
        eventually(lambda: view.total("SMTP") == 0, "the end of all")
