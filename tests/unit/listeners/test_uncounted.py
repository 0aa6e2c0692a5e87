"""Every way by which a connection may be open and not counted, as docs/listeners.md lists them."""

from __future__ import annotations

from typing import Any

import pytest

from inbound_audit import InboundAudit, Session, Verdict
from inbound_audit.errors import CapacityError
from inbound_audit.listeners import Guard
from inbound_audit.policy.verdict import ACCEPT, UNAVAILABLE


class Asked:
    """A policy that refuses, and remembers whom it was asked about."""

    def __init__(self) -> None:
        self.sessions: list[str] = []

    def validate_connect(self, ac: Session) -> Verdict:
        self.sessions.append(ac.remote_ip)
        return Verdict(False, 550, "no")


@pytest.fixture
def audit():
    with InboundAudit(capacity=1 << 13) as audit:
        yield audit


def full(audit: InboundAudit) -> tuple[list[Session], str]:
    """Sessions that fill the tree, and a host for which it has no room."""
    sessions: list[Session] = []
    while True:
        host = f"2001:db8:{len(sessions):x}::1"
        try:
            sessions.append(audit.listener().session(host))
        except CapacityError:
            return sessions, host


def outcome(guard: Guard, remote: Any) -> tuple[Verdict, int, bool]:
    admission = guard.admit(remote)
    counted = admission.session is not None
    admission.close()
    return admission.verdict, guard.uncounted, counted


@pytest.mark.parametrize("remote", ["", b"", None, "/run/mail.sock", "\0abstract", b"\0abstract", (3, 1024), (), 7])
def test_without_an_address(audit, remote):
    policy = Asked()
    assert outcome(Guard(audit.listener(), policy, when_full="refuse"), remote) == (ACCEPT, 1, False)
    assert policy.sessions == []


@pytest.mark.parametrize(
    "remote",
    ["example.org", "192.0.2.256", ("192.0.2", 25), ("00:11:22:33:44:55", 1), ("::g", 25, 0, 0), ("192.0.2.7\r", 25)],
)
def test_with_an_address_that_can_t_be_read(audit, remote):
    policy = Asked()
    assert outcome(Guard(audit.listener(), policy, when_full="accept"), remote) == (UNAVAILABLE, 1, False)
    assert policy.sessions == []


@pytest.mark.parametrize(("when_full", "verdict"), [("accept", ACCEPT), ("refuse", UNAVAILABLE)])
def test_without_room(audit, when_full, verdict):
    policy, (sessions, host) = Asked(), full(audit)
    assert outcome(Guard(audit.listener(), policy, when_full=when_full), (host, 25)) == (verdict, 1, False)
    assert policy.sessions == []
    for session in sessions:
        session.close()


@pytest.mark.parametrize(("when_full", "verdict"), [("accept", ACCEPT), ("refuse", UNAVAILABLE)])
def test_after_the_audit_was_closed(audit, when_full, verdict):
    guard = Guard(audit.listener(), Asked(), when_full=when_full)
    audit.close()
    assert outcome(guard, ("192.0.2.7", 25)) == (verdict, 1, False)


@pytest.mark.parametrize("client", ["example.org", "", ("x", 1), None, b"\0"])
def test_a_client_whose_address_can_t_be_read_leaves_the_count_and_is_to_be_closed(audit, client):
    guard = Guard(audit.listener())
    admission = guard.enter(("192.0.2.7", 25))
    assert admission.rebind(client) is False
    assert (audit.inbound_session_count("192.0.2.7"), guard.uncounted) == (1, 0)
    admission.close()


@pytest.mark.parametrize(("when_full", "verdict"), [("accept", ACCEPT), ("refuse", UNAVAILABLE)])
def test_a_client_for_whom_there_is_no_room(audit, when_full, verdict):
    guard = Guard(audit.listener(), when_full=when_full)
    admission = guard.enter(("192.0.2.7", 25))
    sessions, host = full(audit)
    assert admission.rebind(host) is True
    assert (admission.verdict, admission.session, guard.uncounted) == (verdict, None, 1)
    admission.close()
    for session in sessions:
        session.close()
