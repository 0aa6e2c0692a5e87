"""What this host's sessions are, and what it has said of them: the difference, as records."""

from __future__ import annotations

import contextlib
import ipaddress
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.support import gold_records
from tests.support.gold import Address, unmapped
from tests.support.strategies import addresses

from inbound_audit import InboundAudit, Session
from inbound_audit._ipcount import NodeTree, NodeTrees
from inbound_audit.errors import UnknownServiceType

LISTENERS = 5


class DifferenceMachine(RuleBasedStateMachine):
    """Several listeners' trees against a Counter each. Each difference is applied, as a sender applies it."""

    @initialize(max_bytes=st.sampled_from([64, 100, 1 << 16]))
    def begin(self, max_bytes: int) -> None:
        self.audit = InboundAudit(capacity=1 << 24)
        self.listeners = [self.audit.listener("SMTP", f"mx{at}") for at in range(LISTENERS)]
        self.control = self.audit.listener("Control").session("10.0.0.1")  # another service
        self.trees = NodeTrees(self.audit)
        self.remote = self.trees.add("mx2")
        self.said = self.trees.said()
        self.max_bytes = max_bytes
        self.gold: Counter[Address] = Counter()
        self.said_gold: dict[Address, int] = {}
        self.sessions: list[tuple[Address, Session]] = []

    def teardown(self) -> None:
        if hasattr(self, "audit"):
            for session in (self.control, *(session for _, session in self.sessions)):
                session.close()
            self.audit.close()

    @rule(hosts=st.lists(st.tuples(addresses.map(unmapped), st.integers(0, LISTENERS - 1)), max_size=10))
    def open(self, hosts: list[tuple[Address, int]]) -> None:
        for host, at in hosts:
            self.gold[host] += 1
            self.sessions.append((host, self.listeners[at].session(host)))

    @rule(which=st.integers(0, 100), number=st.integers(1, 5))
    def close(self, which: int, number: int) -> None:
        for _ in range(min(number, len(self.sessions))):
            host, session = self.sessions.pop(which % len(self.sessions))
            self.gold[host] -= 1
            session.close()

    @rule(hosts=st.dictionaries(addresses.map(unmapped), st.integers(0, 3), max_size=5))
    def hear(self, hosts: dict[Address, int]) -> None:
        """What others say is no part of what we say."""
        self.remote.set_many(gold_records.encode(hosts))

    @rule()
    def say(self) -> None:
        records = self.trees.difference(self.said, self.max_bytes)
        assert len(records) <= self.max_bytes
        changes = gold_records.decode(records)
        for host, count in changes.items():
            assert count == self.gold[host] != self.said_gold.get(host, 0)
        assert self.said.set_many(records) == len(changes)
        self.said_gold = {host: count for host, count in (self.said_gold | changes).items() if count}
        assert bool(records) or self.trees.complete

    @rule()
    def say_all(self) -> None:
        for _ in range(2):  # the first may end what had no room before, and see no more
            self.say()
            while not self.trees.complete:
                self.say()
        assert self.said_gold == +self.gold
        assert self.trees.difference(self.said) == b""
        assert not self.trees.changed()

    @invariant()
    def changes_are_seen(self) -> None:
        if hasattr(self, "trees") and self.said_gold != +self.gold:
            assert self.trees.changed()


TestDifference = DifferenceMachine.TestCase


@pytest.fixture
def audit():
    with InboundAudit(capacity=1 << 24) as audit:
        yield audit


def say(trees: NodeTrees, said: NodeTree) -> dict[Address, int]:
    records = trees.difference(said)
    said.set_many(records)
    return gold_records.decode(records)


def test_many_hosts_in_several_trees(audit: InboundAudit) -> None:
    trees, expected = NodeTrees(audit), Counter[Address]()
    said, sessions = trees.said(), []
    for at in range(7):
        listener = audit.listener("SMTP", f"mx{at}")
        for host in (ipaddress.IPv4Address(i * (at + 1) * 65_537 % 2**32) for i in range(1000)):
            sessions.append(listener.session(host))
            expected[host] += 1
    assert say(trees, said) == expected
    assert say(trees, said) == {}
    for session in sessions:
        session.close()


def test_a_stamp_sees_each_change_that_the_difference_of_another_service_does_not(audit: InboundAudit) -> None:
    trees = NodeTrees(audit)
    said, control = trees.said(), trees.said("control")
    listener = audit.listener("SMTP")
    assert trees.changed()
    say(trees, said)
    assert not trees.changed()
    session = listener.session("192.0.2.7")
    assert trees.changed()
    trees.difference(control, service="Control")
    assert trees.changed()
    say(trees, said)
    session.close()
    assert trees.changed()
    assert say(trees, said) == {ipaddress.IPv4Address("192.0.2.7"): 0}


def test_a_new_tree_is_a_change(audit: InboundAudit) -> None:
    trees = NodeTrees(audit)
    say(trees, trees.said())
    audit.listener("SMTP", "another")
    assert trees.changed()


def test_bounds_and_names_are_checked(audit: InboundAudit) -> None:
    trees = NodeTrees(audit)
    with pytest.raises(ValueError, match="at least 64"):
        trees.difference(trees.said(), 63)
    with pytest.raises(UnknownServiceType):
        trees.difference(trees.said(), service="SMPT")
    with pytest.raises(ValueError, match="at least 64"):
        trees.said().records(b"", 63)
    with pytest.raises(ValueError, match="not a cursor"):
        trees.said().records(b"12345")


def test_the_sessions_of_all_processes_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INBOUND_AUDIT_SHM", str(tmp_path))
    four, six = ipaddress.ip_address("192.0.2.7"), ipaddress.ip_address("2001:db8::1")
    with contextlib.ExitStack() as held:
        one, two = (held.enter_context(InboundAudit(shared="mail")) for _ in range(2))
        opened = [(one, "a", four), (two, "b", four), (two, "a", six)]
        for audit, listener, host in opened:
            held.enter_context(audit.listener("SMTP", listener).session(host))
        trees = NodeTrees(one)
        said = trees.said()
        assert say(trees, said) == {four: 2, six: 1}
        two.close()
        one._membership.scan()
        assert say(trees, said) == {four: 1, six: 0}
