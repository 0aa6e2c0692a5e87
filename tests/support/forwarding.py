"""A forwarder behind a gate, before a socket that the test accepts from."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.support.gates import connect, said
from tests.support.waiting import PATIENCE

from inbound_audit import InboundAudit, Limits, Listener
from inbound_audit.listeners.forward import BackEnd, Forwarder, resolve
from inbound_audit.listeners.gate import Gate

SORRY = b"421 no server\r\n"


@pytest.fixture
def audit() -> Iterator[InboundAudit]:
    with InboundAudit(capacity=1 << 22) as audit:
        yield audit


@pytest.fixture
def listener(audit: InboundAudit) -> Listener:
    return audit.listener("SMTP")


@dataclass
class Front:
    """A gate and a forwarder before a socket that the test accepts from."""

    gate: Gate
    forwarder: Forwarder
    port: int
    server: socket.socket

    def pair(self, source: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
        """A client, and its connection as the server has it."""
        client = connect(self.port, source)
        served, _ = self.server.accept()
        served.settimeout(PATIENCE)
        return client, served


@contextlib.contextmanager
def fronted(listener: Listener, limits: Limits | None = None, **options: object) -> Iterator[Front]:
    with contextlib.ExitStack() as held:
        server = held.enter_context(socket.create_server(("127.0.0.1", 0)))
        server.settimeout(PATIENCE)
        to = options.pop("to", None) or resolve(*server.getsockname())
        bound = held.enter_context(socket.create_server(("127.0.0.1", 0)))
        forwarder = held.enter_context(Forwarder(listener, to, unavailable=SORRY, **options))  # type: ignore[arg-type]
        gate = held.enter_context(Gate(listener, limits, [bound]))
        gate.forward_to(forwarder)
        yield Front(gate, forwarder, bound.getsockname()[1], server)


class Pairs:
    """The sockets that a forwarder which is made meanwhile waits on, and that it wakes Python by."""

    NAMES = ("inbox reads", "inbox writes", "news reads", "news writes")  # as they are opened

    def __init__(self) -> None:
        self._before = self._all()
        self.number: dict[str, int] = {}

    def find(self, *others: socket.socket) -> None:
        """`others` were made meanwhile, too."""
        found = self._all() - self._before - {each.fileno() for each in others}
        self.number = dict(zip(self.NAMES, sorted(found), strict=True))

    @staticmethod
    def _all() -> set[int]:
        found = set()
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing
                if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                    found.add(int(name))
        return found


def resets(one: socket.socket) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


def back_end_that_refuses() -> BackEnd:
    """An address where no socket listens: it is bound, so that no other program gets it."""
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    HELD.append(held)
    return resolve(*held.getsockname())[0]


HELD: list[socket.socket] = []


@pytest.fixture(autouse=True)
def no_held_port() -> Iterator[None]:
    yield
    while HELD:
        HELD.pop().close()


def exchange(client: socket.socket, server: socket.socket, up: bytes, down: bytes) -> None:
    """Sends both at once and compares what arrives."""

    got: dict[str, bytes] = {}

    def read(name: str, one: socket.socket) -> None:
        got[name] = said(one)

    def write(one: socket.socket, data: bytes) -> None:
        one.sendall(data)
        one.shutdown(socket.SHUT_WR)

    jobs = [
        threading.Thread(target=read, args=("up", server)),
        threading.Thread(target=read, args=("down", client)),
        threading.Thread(target=write, args=(client, up)),
        threading.Thread(target=write, args=(server, down)),
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(PATIENCE)
    assert got["up"] == up
    assert got["down"] == down
