"""What the tests of gates share: peers from any address of 127.0.0.0/8, and what a peer was told."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket
import struct
from collections.abc import Iterator

from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit, Limits, Listener, Session
from inbound_audit.listeners import Guard
from inbound_audit.listeners.gate import Gate

Taken = tuple[socket.socket, Session | None]


@contextlib.contextmanager
def guarded(service: str) -> Iterator[Guard]:
    """A guard that lets in one session of an address. At the end nothing is counted or open."""
    with InboundAudit(capacity=1 << 22) as audit:
        guard = Guard(audit.listener(service), Limits({"/32": 1}))
        yield guard
        eventually(lambda: audit.total() == guard.open == 0, "the end of every connection")
        guard.listener._check()


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


def lua_policy(body: str) -> str:
    """A script whose `validate_connect(ac, vctx)` does this, and lets in if it has not disconnected."""
    return f"""
require("msys.core")
require("msys.extended.ac")
require("msys.extended.vctx")
local policy = {{}}
function policy:validate_connect(ac, vctx)
  {body}
  return msys.core.VALIDATE_CONT
end
msys.registerModule("policy", policy)
"""


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def descriptors() -> int:
    """How many this process has."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def tasks() -> set[str]:
    """The threads of this process, those without Python, too."""
    return set(os.listdir("/proc/self/task"))


def come_to_wait(threads: set[str]) -> None:
    """Waits until each of these threads has ended, or has waited several times: a busy one never does."""
    before = {name: _waits(name) for name in threads}
    eventually(
        lambda: all((waits := _waits(name)) is None or waits > (before[name] or 0) + 1 for name in threads),
        "threads that wait",
    )


def _waits(task: str) -> int | None:
    """How often a thread has given up the processor itself; None if it has ended."""
    try:
        with open(f"/proc/self/task/{task}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))
    except (FileNotFoundError, ProcessLookupError):
        return None


class Own:
    """The descriptors of a gate that is made within the block, and what becomes of a number that other code closes.

    epoll       one per thread
    listening   the gate's descriptor of each of its sockets
    reads       of the queue, as `fileno` says; `writes` is its other end
    spare       one per thread
    """

    def __init__(self, *listening: socket.socket) -> None:
        self._inodes = {os.fstat(each.fileno()).st_ino for each in listening}
        self._before = set(os.listdir("/proc/self/fd"))

    def find(self, gate: Gate) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {
            "epoll": [],
            "listening": [],
            "reads": [gate.fileno()],
            "writes": [],
            "spare": [],
        }
        for name in sorted(set(os.listdir("/proc/self/fd")) - self._before, key=int):
            link = os.readlink(f"/proc/self/fd/{name}") if os.path.lexists(f"/proc/self/fd/{name}") else ""
            if link == "anon_inode:[eventpoll]":
                found["epoll"].append(int(name))
            elif link.startswith("socket:") and not os.path.sameopenfile(int(name), gate.fileno()):
                is_listening = os.fstat(int(name)).st_ino in self._inodes
                found["listening" if is_listening else "spare" if found["writes"] else "writes"].append(int(name))
        return found


class Other:
    """Files of other code, which get numbers that the gate had; in the end they are as they were."""

    def __init__(self, kind: str) -> None:
        self._kept: list[socket.socket] = []
        self._inner = select.epoll()
        if kind == "nothing":
            self._number = -1
        elif kind == "listening":
            self._kept.append(socket.create_server(("127.0.0.1", 0)))
            self._number = self._kept[0].fileno()
        else:
            self._kept += socket.socketpair()
            self._kept[1].sendall(b"x")
            self._number = self._kept[0].fileno()
            if kind == "epoll":
                self._inner.register(self._number, select.EPOLLIN | select.EPOLLET)
                self._number = self._inner.fileno()
        self._kind = kind
        self._has: list[int] = []

    def take(self, numbers: list[int]) -> None:
        """Closes these numbers, and has them itself unless it is nothing."""
        for number in numbers:
            if self._number < 0:
                os.close(number)
            else:
                os.dup2(self._number, number)
                self._has.append(number)

    def end(self) -> None:
        """Asserts that nothing was done to them."""
        for number in self._has:
            assert os.path.sameopenfile(number, self._number)
            if self._kind != "epoll":
                assert os.fstat(number).st_ino == os.fstat(self._number).st_ino
            os.close(number)
        if self._kind == "epoll":
            assert self._inner.poll(0) == [(self._kept[0].fileno(), select.EPOLLIN)]  # reported once, so not to others
        if self._kind in ("epoll", "stream"):
            self._kept[0].setblocking(False)
            assert self._kept[0].recv(10) == b"x"
            self._kept[0].sendall(b"y")
            assert self._kept[1].recv(10) == b"y"
        for each in self._kept:
            each.close()
        self._inner.close()


def works(gate: Gate, port: int) -> None:
    """One peer is let in, and one more of its address is over a limit of 1."""
    with connect(port) as first:
        taken = take_all(gate, 1)
        with connect(port) as second:
            assert said(second).startswith(b"421 ")
        taken[0][0].sendall(b"x")
        assert first.recv(1) == b"x"
        end(taken)


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
