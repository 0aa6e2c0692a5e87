"""A gate beside a simple model: after each step counts, figures and descriptors are exactly what the model says."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket
from collections.abc import Iterator
from typing import NamedTuple

from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.strategies import booleans, integers, lists, sampled_from
from tests.support.gates import connect, reset, said
from tests.support.gold import GoldCounter
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit, Limits, Session
from inbound_audit.listeners.gate import Gate, Linger

BACKLOG = 5
V4, V6, BOTH = range(3)  # the listening sockets; to the last one IPv4 comes as mapped addresses
SOURCES = (
    ("127.0.0.1", V4), ("127.0.0.2", V4), ("127.0.1.1", V4), ("127.9.0.1", V4), ("127.9.0.2", V4),
    ("127.0.0.1", BOTH), ("127.0.1.1", BOTH), ("127.9.0.1", BOTH), ("::1", V6), ("::1", BOTH),
)  # fmt: skip
EXEMPT = "127.9.0.0/16"
TABLES = ({"/32": 2, "/24": 3, "/128": 2}, {"/32": 1, "/64": 3}, {"/16": 4, "/128": 1}, {"/32": 0, "/128": 0})
BUSY, OVER = b"too busy, try again later", b"over"
WAYS = ("stays", "half-closes", "closes", "resets")


class Peer(NamedTuple):
    """One that was let in. `port` is its own, which its socket knows no more once it was closed."""

    socket: socket.socket
    port: int
    source: str


class Taken(NamedTuple):
    connection: socket.socket
    session: Session
    peer: Peer


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def come_from(source: str, port: int) -> socket.socket | None:
    """None: it was refused by a reset before it could see that it is connected."""
    try:
        return connect(port, host="::1") if ":" in source else connect(port, source)
    except ConnectionResetError:
        return None


def leave(peer: socket.socket, way: str) -> None:
    if way == "half-closes":
        with contextlib.suppress(OSError):  # it was reset already
            peer.shutdown(socket.SHUT_WR)
    elif way == "closes":
        peer.close()
    elif way == "resets":
        reset(peer)


def has_ended(peer: socket.socket) -> bool:
    return bool(select.select([peer], [], [], 0)[0])


class GateMachine(RuleBasedStateMachine):
    """No rule has a precondition: which of two peers is let in is up to the gate's threads, and what Hypothesis draws
    must not depend on that."""

    def __init__(self) -> None:
        super().__init__()
        gc.collect()  # what an earlier test has forgotten is not to be closed meanwhile
        self.descriptors = open_descriptors()
        self.audit = InboundAudit(capacity=1 << 20)
        self.listener = self.audit.listener("SMTP")
        self.listening = [
            socket.create_server(("127.0.0.1", 0), backlog=64),
            socket.create_server(("::1", 0), family=socket.AF_INET6, backlog=64),
            socket.create_server(("::", 0), family=socket.AF_INET6, backlog=64, dualstack_ipv6=True),
        ]
        self.table: dict[str, int] = TABLES[0]
        self.gold = GoldCounter()
        self.waiting: list[Peer] = []
        self.taken: list[Taken] = []
        self.refused_ones: list[socket.socket] = []  # that have neither read their reply nor left
        self.opened = self.accepted = self.refused = self.queue_full = 0

    @initialize(threads=sampled_from((1, 2)), linger=sampled_from(("close", "abort", "drain")))
    def open(self, threads: int, linger: Linger) -> None:
        options = {"refusal": "{text}", "backlog": BACKLOG, "threads": threads, "linger": linger}
        self.threads, self.linger = threads, linger
        self.gate = Gate(self.listener, self.limits(), self.listening, **options)  # type: ignore[arg-type]
        self.own = open_descriptors() - self.descriptors  # of the gate, and the listening sockets

    def limits(self) -> Limits:
        return Limits(self.table, exempt=[EXEMPT], text="over")

    def room_for(self, source: str) -> int:
        """How many more of it the limits let in. Exempt sessions use up nothing."""
        if source.startswith("127.9."):
            return 1 << 20
        mine = GoldCounter()
        for host, n in self.gold.items():
            if not host.startswith("127.9."):
                mine.add(host, n)
        longest = 128 if ":" in source else 32
        lengths = [(length, most) for length, most in self.table.items() if int(length[1:]) <= longest]
        return max(min(most - mine.count(source + length) for length, most in lengths), 0)

    # ---- peers come

    @rule(at=sampled_from(SOURCES), way=sampled_from(WAYS))
    def come(self, at: tuple[str, int], way: str) -> None:
        source, number = at
        room, full = self.room_for(source), len(self.waiting) == BACKLOG
        peer = come_from(source, self.listening[number].getsockname()[1])
        assert peer is not None or self.linger == "abort"
        self.opened += 1
        if room and not full:
            assert peer is not None
            self.let_in(Peer(peer, peer.getsockname()[1], source))
        else:
            self.refused += not room
            self.queue_full += room > 0
        if peer is not None:
            leave(peer, way)
        self.await_figures()
        if (room and not full) or peer is None:
            return
        if way in ("closes", "resets"):
            peer.close()
        elif way == "half-closes":
            self.read_refusal(peer, BUSY if room else OVER)
        else:
            self.refused_ones.append(peer)

    @rule(at=sampled_from(SOURCES), number=integers(2, 4))
    def come_together(self, at: tuple[str, int], number: int) -> None:
        """Each is counted before it is asked about: of two about which two threads decide at once both may be over."""
        source, listening = at
        room = min(self.room_for(source), BACKLOG - len(self.waiting))
        peers = [come_from(source, self.listening[listening].getsockname()[1]) for _ in range(number)]
        self.opened += number
        eventually(lambda: sum(self.figures()[1:4]) == self.opened, "a decision about each")
        decided = zip(self.figures()[1:4], self.expected()[1:4], strict=True)
        accepted, refused, full = (now - before for now, before in decided)
        assert accepted <= room
        assert accepted == min(room, number) or (self.threads == 2 and refused > 0)
        self.refused, self.queue_full = self.refused + refused, self.queue_full + full
        eventually(lambda: self.audit.total() == self.gold.total + accepted, "the end of those that were refused")
        connected = [peer for peer in peers if peer is not None]
        left = number - accepted - peers.count(None)
        eventually(lambda: sum(map(has_ended, connected)) == left, "that each of them knows it")
        for peer in connected:
            if has_ended(peer):
                self.refused_ones.append(peer)
            else:
                self.let_in(Peer(peer, peer.getsockname()[1], source))

    def let_in(self, peer: Peer) -> None:
        self.gold.add(peer.source)
        self.accepted += 1
        self.waiting.append(peer)

    def await_figures(self) -> None:
        eventually(lambda: self.figures() == self.expected(), f"{self.figures()} as {self.expected()}")
        eventually(lambda: self.audit.total() == self.gold.total, "the end of the refused session")

    def read_refusal(self, peer: socket.socket, *expected: bytes) -> None:
        with peer:
            try:
                assert said(peer) in expected
            except ConnectionResetError:
                assert self.linger == "abort"

    @rule(way=sampled_from(WAYS))
    def a_refused_peer_reads_or_leaves(self, way: str) -> None:
        if not self.refused_ones:
            return
        peer = self.refused_ones.pop(0)
        if way in ("closes", "resets"):
            leave(peer, way)
        else:
            self.read_refusal(peer, BUSY, OVER)

    # ---- connections are taken, and end

    @rule(number=integers(1, BACKLOG), blocking=booleans())
    def take(self, number: int, blocking: bool) -> None:
        expected = min(number, len(self.waiting))
        found = self.gate.get(PATIENCE if expected else 0, number) if blocking else self.gate.take(number)
        assert len(found) == expected
        for connection, session in found:
            assert session is not None
            peer = next(peer for peer in self.waiting if peer.port == session.remote_port and self.is_of(peer, session))
            self.waiting.remove(peer)
            own = "/128" if ":" in peer.source else "/32"
            assert session.inbound_session_count() == self.gold.count(peer.source + own)
            self.taken.append(Taken(connection, session, peer))

    @staticmethod
    def is_of(peer: Peer, session: Session) -> bool:
        return session.remote_ip == peer.source

    @rule(at=integers(0, 1000), twice=booleans())
    def end(self, at: int, twice: bool) -> None:
        if not self.taken:
            return
        connection, session, peer = self.taken.pop(at % len(self.taken))
        connection.close()
        session.close()
        if twice:
            session.close()
        peer.socket.close()
        self.gold.remove(session.remote_ip)

    @rule(at=integers(0, 1000), other=sampled_from([source for source, _ in SOURCES]))
    def rebind(self, at: int, other: str) -> None:
        if not self.taken:
            return
        one = self.taken[at % len(self.taken)]
        self.gold.remove(one.session.remote_ip)
        one.session.rebind(other)
        self.gold.add(other)

    @rule(tables=lists(sampled_from(TABLES), min_size=1, max_size=3))
    def exchange(self, tables: list[dict[str, int]]) -> None:
        for table in tables:
            self.table = table
            self.gate.limits = self.limits()

    # ---- what holds after each step

    def figures(self) -> tuple[int, ...]:
        gate = self.gate
        return gate.opened, gate.accepted, gate.refused, gate.queue_full, gate.waiting

    def expected(self) -> tuple[int, ...]:
        return self.opened, self.accepted, self.refused, self.queue_full, len(self.waiting)

    def sockets(self) -> Iterator[socket.socket]:
        """Of the peers, as far as they are open."""
        yield from (peer.socket for peer in self.waiting if peer.socket.fileno() >= 0)
        yield from (one.peer.socket for one in self.taken if one.peer.socket.fileno() >= 0)
        yield from (peer for peer in self.refused_ones if peer.fileno() >= 0)

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        assert self.figures() == self.expected()
        hosts = {row[1]: row[0] for row in self.audit.tree() if row[1].endswith(("/32", "/128"))}
        assert hosts == {f"{host}/{128 if ':' in host else 32}": n for host, n in self.gold.items()}
        self.listener._check()
        peers = sum(1 for _ in self.sockets())
        least = self.descriptors + self.own + len(self.waiting) + len(self.taken) + peers
        if self.linger == "drain":  # a socket that is drained is open until its peer has left, a second at the most
            drained = self.refused + self.queue_full
            eventually(lambda: least <= open_descriptors() <= least + drained, "the descriptors that are needed")
        else:
            eventually(lambda: open_descriptors() == least, "the end of each refused connection")

    def teardown(self) -> None:
        self.gate.close()
        for connection, session, _ in self.taken:
            connection.close()
            session.close()
        for peer in list(self.sockets()):
            peer.close()
        for listening in self.listening:
            listening.close()
        assert self.audit.total() == 0
        self.listener._check()
        self.audit.close()
        assert open_descriptors() <= self.descriptors


TestGateMachine = GateMachine.TestCase
