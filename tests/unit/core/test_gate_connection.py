"""One connection of a gate: counted and asked about by the address that its peer has."""

from __future__ import annotations

import socket
import sys

import pytest
from tests.support.gates import connect, end, gated, said, take_all

from inbound_audit import InboundAudit, Limits
from inbound_audit.listeners.gate import Gate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux")


@pytest.fixture
def listener():
    with InboundAudit(capacity=1 << 22) as audit:
        yield audit.listener("SMTP")


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
