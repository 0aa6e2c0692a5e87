"""A gate beside a simple model: after each step counts, figures and descriptors are exactly what the model says."""

from __future__ import annotations

import gc
import os
import socket
from collections import deque

from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import booleans, integers, lists, sampled_from
from tests.support.gates import connect, reset, said
from tests.support.gold import GoldCounter
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit, Limits, Session
from inbound_audit.listeners.gate import Gate

BACKLOG = 5
SOURCES = ("127.0.0.1", "127.0.0.2", "127.0.1.1", "127.9.0.1", "127.9.0.2")
EXEMPT = "127.9.0.0/16"
TABLES = ({"/32": 2, "/24": 3}, {"/32": 1}, {"/16": 4}, {"/32": 0})
BUSY, OVER = b"busy", b"over"

Taken = tuple[socket.socket, Session, socket.socket, str]


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class GateMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        gc.collect()  # what an earlier test has forgotten is not to be closed meanwhile
        self.descriptors = open_descriptors()
        self.audit = InboundAudit(capacity=1 << 20)
        self.listener = self.audit.listener("SMTP")
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.table: dict[str, int] = TABLES[0]
        self.gate = Gate(
            self.listener,
            self.limits(),
            [self.listening],
            refusal="{text}",
            backlog=BACKLOG,
        )
        self.own = open_descriptors() - self.descriptors  # of the gate, and the listening socket
        self.gold = GoldCounter()
        self.waiting: deque[tuple[socket.socket, str]] = deque()
        self.taken: list[Taken] = []
        self.opened = self.accepted = self.refused = self.queue_full = 0

    def limits(self) -> Limits:
        return Limits(self.table, exempt=[EXEMPT], text="over")

    def is_over(self, source: str) -> bool:
        """With the connection that asks. Exempt sessions use up nothing."""
        if source.startswith("127.9."):
            return False
        mine = GoldCounter()
        for host, n in self.gold.items():
            if not host.startswith("127.9."):
                mine.add(host, n)
        mine.add(source)
        return any(mine.count(source + length) > most for length, most in self.table.items())

    @rule(source=sampled_from(SOURCES), leaves=booleans())
    def come(self, source: str, leaves: bool) -> None:
        over = self.is_over(source)
        peer = connect(self.listening.getsockname()[1], source)
        self.opened += 1
        if over or len(self.waiting) == BACKLOG:
            expected = b"over" if over else b"too busy, try again later"
            assert said(peer) == expected
            peer.close()
            self.refused += over
            self.queue_full += not over
        else:
            self.gold.add(source)
            self.accepted += 1
            self.waiting.append((peer, source))
            if leaves:
                reset(peer)
        eventually(lambda: self.gate.opened == self.opened and self.audit.total() == self.gold.total, "a decision")
        eventually(lambda: self.figures() == self.expected(), f"{self.figures()} as {self.expected()}")

    @rule(number=integers(1, BACKLOG), blocking=booleans())
    def take(self, number: int, blocking: bool) -> None:
        expected = min(number, len(self.waiting))
        found = self.gate.get(PATIENCE if expected else 0, number) if blocking else self.gate.take(number)
        assert len(found) == expected
        for connection, session in found:
            assert session is not None
            peer, source = self.waiting.popleft()
            assert session.remote_ip == source
            assert session.inbound_session_count() == self.gold.count(f"{source}/32")
            if peer.fileno() >= 0:
                assert session.remote_port == peer.getsockname()[1]
            self.taken.append((connection, session, peer, source))

    @precondition(lambda self: self.taken)
    @rule(at=integers(0, 1000), twice=booleans())
    def end(self, at: int, twice: bool) -> None:
        connection, session, peer, source = self.taken.pop(at % len(self.taken))
        connection.close()
        session.close()
        if twice:
            session.close()
        peer.close()
        self.gold.remove(source)

    @precondition(lambda self: self.taken)
    @rule(at=integers(0, 1000), other=sampled_from(SOURCES))
    def rebind(self, at: int, other: str) -> None:
        connection, session, peer, source = self.taken.pop(at % len(self.taken))
        session.rebind(other)
        self.gold.remove(source)
        self.gold.add(other)
        self.taken.append((connection, session, peer, other))

    @rule(tables=lists(sampled_from(TABLES), min_size=1, max_size=3))
    def exchange(self, tables: list[dict[str, int]]) -> None:
        for table in tables:
            self.table = table
            self.gate.limits = self.limits()

    def figures(self) -> tuple[int, ...]:
        gate = self.gate
        return gate.opened, gate.accepted, gate.refused, gate.queue_full, gate.waiting

    def expected(self) -> tuple[int, ...]:
        return self.opened, self.accepted, self.refused, self.queue_full, len(self.waiting)

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        assert self.figures() == self.expected()
        assert [(n, f"{host}/32") for host, n in self.gold.items()] == sorted(
            (row for row in self.audit.tree() if row[1].endswith("/32")), key=lambda row: socket.inet_aton(row[1][:-3])
        )
        self.listener._check()
        peers = sum(peer.fileno() >= 0 for peer, _ in self.waiting)
        peers += sum(peer.fileno() >= 0 for _, _, peer, _ in self.taken)
        # A connection that was refused is closed before its count is taken back.
        expected = self.descriptors + self.own + len(self.waiting) + len(self.taken) + peers
        assert open_descriptors() == expected

    def teardown(self) -> None:
        self.gate.close()
        for connection, session, _, _ in self.taken:
            connection.close()
            session.close()
        for peer in [peer for peer, _ in self.waiting] + [peer for _, _, peer, _ in self.taken]:
            peer.close()
        self.listening.close()
        assert self.audit.total() == 0
        self.listener._check()
        self.audit.close()
        assert open_descriptors() <= self.descriptors


TestGateMachine = GateMachine.TestCase
