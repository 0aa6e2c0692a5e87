"""What the tests of gates share: peers from any address of 127.0.0.0/8, and what a peer was told."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import struct
from collections.abc import Iterator

from tests.support.waiting import PATIENCE, eventually

from inbound_audit import Listener, Session
from inbound_audit.listeners.gate import Gate

Taken = tuple[socket.socket, Session | None]


def connect(port: int, source: str = "127.0.0.1", host: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    peer = socket.socket(family)
    peer.settimeout(PATIENCE)
    try:
        if family == socket.AF_INET:
            peer.bind((source, 0))
        peer.connect((host, port))
    except OSError:
        peer.close()
        raise
    return peer


def said(peer: socket.socket) -> bytes:
    """All that the server sends until it closes."""
    return b"".join(iter(lambda: peer.recv(65536), b""))


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def descriptors() -> int:
    """How many this process has."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def take_all(gate: Gate, number: int) -> list[Taken]:
    """Waits until so many connections were let in, and takes them."""
    taken: list[Taken] = []
    while len(taken) < number:
        found = gate.get(PATIENCE, number - len(taken))
        assert found, f"{len(taken)} of {number} connections came"
        taken += found
    return taken


def end(taken: list[Taken]) -> None:
    for connection, session in taken:
        connection.close()
        if session is not None:
            session.close()


@contextlib.contextmanager
def gated(listener: Listener, *arguments: object, **options: object) -> Iterator[tuple[Gate, int]]:
    """A gate on a socket of its own, and its port. In the end nothing is counted and no descriptor is left."""
    before = descriptors()
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        with Gate(listener, *arguments, [listening], **options) as gate:  # type: ignore[arg-type]
            closed_twice = gate._closed_twice
            yield gate, listening.getsockname()[1]
        assert gate.closed
        assert gate._closed_twice == closed_twice
        assert gate.opened == gate.accepted + gate.refused + gate.queue_full
    assert listener.total == 0
    listener._check()
    eventually(lambda: descriptors() <= before, "the end of every descriptor")
