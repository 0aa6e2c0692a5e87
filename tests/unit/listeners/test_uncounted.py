"""Every way by which a connection may be open and not counted, as docs/listeners.md lists them."""

from __future__ import annotations

import ast
import asyncio
import re
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.support.gates import connect, end, take_all
from tests.support.listening import LoopThread
from tests.support.waiting import eventually

from inbound_audit import InboundAudit, Limits, Session, Verdict
from inbound_audit.errors import CapacityError
from inbound_audit.listeners import Guard
from inbound_audit.listeners.aio import counted
from inbound_audit.listeners.gate import Gate
from inbound_audit.listeners.pending import stop_accepting
from inbound_audit.listeners.proxy import TrustedProxies
from inbound_audit.policy.verdict import ACCEPT, UNAVAILABLE

ROOT = Path(__file__).parents[3]
HERE = "tests/unit/listeners/test_uncounted.py"
GATE = "tests/unit/listeners/test_gate.py"

# A row of the page begins like this, and these tests show what it says: without a gate, and behind one.
SHOWN_BY = {
    "has no address": [f"{HERE}::test_without_an_address", f"{GATE}::test_a_unix_socket_is_passed_on_uncounted"],
    "has an address that can't be read": [f"{HERE}::test_with_an_address_that_can_t_be_read"],
    "finds no room in the listener's tree": [
        f"{HERE}::test_without_room",
        f"{HERE}::test_after_the_audit_was_closed",
        f"{GATE}::test_a_full_tree_lets_in_uncounted",
        f"{GATE}::test_a_full_tree_refuses_if_the_guard_says_so",
        f"{GATE}::test_a_gate_of_a_closed_audit_goes_on_uncounted",
    ],
    "is from a balancer whose header": [
        f"{HERE}::test_a_client_whose_address_can_t_be_read_leaves_the_count_and_is_to_be_closed"
    ],
    "is from a balancer, and the tree": [f"{HERE}::test_a_client_for_whom_there_is_no_room"],
    "shakes hands by asyncio's `ssl=`": [
        f"{HERE}::test_a_connection_in_its_handshake_is_not_counted_yet",
        "tests/unit/listeners/test_gate_server.py::test_with_tls_a_connection_is_counted_before_its_handshake",
    ],
    "has a protocol that another one has replaced": [
        "tests/unit/listeners/test_listeners_aio.py::test_a_transport_that_is_taken_away_ends_the_session_with_a_warning",
        "tests/system/test_gate_faults.py::test_what_is_taken_and_forgotten_is_closed",
    ],
    "finds no descriptor left": [
        "tests/system/test_gate_faults.py::test_without_descriptors_peers_are_told_so_and_the_gate_goes_on",
        "tests/system/test_gate_accept_faults.py::"
        "test_a_failed_accept_loses_no_connection_but_one_without_a_descriptor",
    ],
    'was refused by a gate with `linger="drain"`': [
        "tests/unit/core/test_gate_drain.py::test_a_refused_session_is_no_session_while_it_is_drained"
    ],
    "waits in the system's queue": [
        f"{HERE}::test_what_waits_in_the_system_s_queue_is_counted_when_it_is_accepted",
        "tests/system/test_gate_faults.py::test_a_child_has_no_gate_and_keeps_nothing_of_it",
    ],
    "was accepted by other code": [f"{HERE}::test_what_other_code_accepts_is_that_code_s_alone"],
}


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


@pytest.mark.parametrize("policy", [None, Limits({"/32,/128": 5}, code=550)], ids=["none", "limits"])
def test_without_room_who_is_denied_is_refused_all_the_same(audit, policy):
    guard = Guard(audit.listener(), policy)
    sessions, host = full(audit)
    audit.deny(host)
    for admission in (guard.admit((host, 25)), guard.enter(("192.0.2.7", 25))):
        if admission.uncounted is None:  # a balancer, which is counted
            assert admission.rebind(host)
            admission.evaluate()
        assert admission.session is None
        assert admission.denied
        assert admission.verdict.code == (421 if policy is None else 550)
        admission.close()
    assert (guard.accepted, guard.refused, guard.uncounted) == (0, 2, 2)
    for session in sessions:
        session.close()


def test_a_balancer_for_which_there_is_no_room_is_still_one(audit):
    guard = Guard(audit.listener())
    sessions, host = full(audit)
    audit.deny("192.0.2.7")
    admission = guard.enter((host, 25))
    assert TrustedProxies(["2001:db8::/32"]).expects_header(admission)
    assert admission.rebind("example.org") is False
    assert admission.rebind("192.0.2.7")
    assert not admission.evaluate()
    admission.close()
    for session in sessions:
        session.close()


@pytest.mark.skipif(sys.platform != "linux", reason="names without a file are Linux's")
def test_the_name_of_a_unix_socket_is_no_address(audit):
    """Its peer chooses it, and may choose the bytes of a balancer's address."""
    guard = Guard(audit.listener())
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as peer:
        listening.bind(b"\0inbound-audit-" + str(id(listening)).encode())
        listening.listen()
        peer.bind(bytes(10) + b"\xff\xff" + bytes([127, 0, 0, 1]))
        peer.connect(listening.getsockname())
        with listening.accept()[0] as connection:
            assert len(connection.getpeername()) == 16
            admission = guard.receive(None, connection=connection)
            assert not TrustedProxies(["127.0.0.0/8"]).expects_header(admission)
            admission.close()


class Hello(asyncio.Protocol):
    def connection_made(self, transport):
        transport.write(b"hello\n")


def test_a_connection_in_its_handshake_is_not_counted_yet(audit):
    """Of asyncio's TLS, without a gate: the protocol gets the connection after the handshake."""
    guard, authority = Guard(audit.listener()), trustme.CA()
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(ours)
    authority.configure_trust(theirs)
    with LoopThread() as thread:
        server = thread.do(lambda: thread.loop.create_server(counted(Hello, guard), "127.0.0.1", 0, ssl=ours))
        address = server.sockets[0].getsockname()
        with (
            socket.create_connection(address),  # it is accepted before the next one
            theirs.wrap_socket(socket.create_connection(address), server_hostname="localhost") as peer,
        ):
            assert peer.recv(6) == b"hello\n"
            assert (guard.opened, guard.uncounted, audit.total()) == (1, 0, 1)
        eventually(lambda: audit.total() == 0, "the end of the second")
        assert guard.opened == 1
        thread.do(lambda: stop_accepting(server))


# ---- beside a gate

needs_gate = pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux")


@needs_gate
def test_what_waits_in_the_system_s_queue_is_counted_when_it_is_accepted(audit):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        Gate(audit.listener(), None, [listening]).close()
        with connect(listening.getsockname()[1]) as peer:
            peer.sendall(b"x")  # the system has made the connection
            assert audit.total() == 0
            with Gate(audit.listener(), None, [listening]) as gate:
                taken = take_all(gate, 1)
                assert (gate.uncounted, audit.total()) == (0, 1)
                end(taken)


@needs_gate
def test_what_other_code_accepts_is_that_code_s_alone(audit):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        gate = Gate(audit.listener(), None, [listening])
        gate.close()  # so that it is certain who accepts
        with connect(listening.getsockname()[1]) as peer:
            listening.setblocking(True)
            connection, _ = listening.accept()
            with Gate(audit.listener(), None, [listening]) as gate, connect(listening.getsockname()[1]):
                end(take_all(gate, 1))
                assert (gate.opened, gate.uncounted, audit.total()) == (1, 0, 0)
                connection.sendall(b"hello")
                assert peer.recv(5) == b"hello"
            connection.close()


# ---- the page


def rows() -> list[str]:
    text = (ROOT / "docs" / "listeners.md").read_text().split("open and not counted:\n")[1].split("\n#")[0]
    return re.findall(r"^\| (?!the connection|---)(.+?) \| .+ \| (?:yes|no) \|$", text, re.MULTILINE)


def test_each_row_of_the_page_has_a_test() -> None:
    found = rows()
    assert [next((key for key in SHOWN_BY if row.startswith(key)), row) for row in found] == list(SHOWN_BY)
    for path, _, function in (name.partition("::") for names in SHOWN_BY.values() for name in names):
        tree = ast.parse((ROOT / path).read_text())
        assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, (path, function)
