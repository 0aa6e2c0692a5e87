"""One connection of a gate: many that are refused, drained or let in at once; figures and descriptors in the end."""

from __future__ import annotations

import socket
import sys

import pytest
from tests.support import inner
from tests.support.gates import connect, end, gated, said, take_all
from tests.support.waiting import eventually

from inbound_audit import InboundAudit, Limits
from inbound_audit.listeners.gate import Gate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux")


@pytest.fixture
def listener():
    with InboundAudit(capacity=1 << 22) as audit:
        yield audit.listener("SMTP")


def test_a_drained_socket_is_closed_when_its_peer_has_closed(listener):
    with gated(listener, Limits({"/32": 0}), linger="drain") as (gate, port):
        for _ in range(3 * inner.MAX_DRAINED):  # so places are used again
            with connect(port) as peer:
                peer.sendall(b"unread")
                assert said(peer).startswith(b"421 ")
        eventually(lambda: gate.refused == gate.opened, "the last refusal")


def test_peers_that_do_not_close_are_cut_off_after_a_second(listener):
    with gated(listener, Limits({"/32": 0}), linger="drain") as (_, port), connect(port) as peer:
        assert said(peer).startswith(b"421 ")
        # Its end of the connection is closed, too: what is sent comes back as a reset.
        with pytest.raises(ConnectionError):
            eventually(lambda: peer.sendall(b"x") is not None, "a reset")


def test_a_refused_session_is_no_session_while_it_is_drained(listener):
    with gated(listener, Limits({"/32": 1}), linger="drain") as (_, port), connect(port) as good, connect(port) as bad:
        assert said(bad).startswith(b"421 ")
        assert listener.total == 1
        good.sendall(b"x")


def test_exempt_and_named_networks_by_the_peer_s_address(listener):
    limits = Limits({"/32": 0}, exempt=["127.0.0.2/32"])
    with gated(listener, limits) as (gate, port), connect(port, "127.0.0.2"), connect(port, "127.0.0.3") as other:
        assert said(other).startswith(b"421 ")
        ((connection, session),) = taken = take_all(gate, 1)
        assert connection.getpeername()[0] == session.remote_ip == "127.0.0.2"
        end(taken)


def test_a_mapped_peer_is_asked_about_as_ipv4(listener):
    listening = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    limits = Limits({"/32": 0}, exempt=["127.0.0.9/32"])
    with listening, Gate(listener, limits, [listening]) as gate:
        port = listening.getsockname()[1]
        with connect(port, "127.0.0.9"), connect(port, "127.0.0.8") as other:
            assert said(other).startswith(b"421 ")
            ((_, session),) = taken = take_all(gate, 1)
            assert session.remote_ip == "127.0.0.9"
            end(taken)
