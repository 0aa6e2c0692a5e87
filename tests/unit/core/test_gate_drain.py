"""Refused connections whose socket is not closed yet: when each is closed, and who is reset."""

from __future__ import annotations

import socket
import sys
import time

import pytest
from tests.support import inner
from tests.support.gates import connect, gated, said
from tests.support.waiting import eventually

from inbound_audit import InboundAudit, Limits

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


def is_reset(peer: socket.socket) -> bool:
    return bool(peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


def test_a_slow_peer_is_not_reset_because_many_quick_ones_come_after_it(listener):
    with gated(listener, Limits({"/32": 0}), linger="drain") as (_, port), connect(port) as slow:
        assert said(slow).startswith(b"421 ")
        for _ in range(2 * inner.MAX_DRAINED):
            with connect(port) as quick:
                assert said(quick).startswith(b"421 ")
        assert not is_reset(slow)


def test_beyond_the_bound_the_one_that_has_waited_longest_is_reset(listener):
    with gated(listener, Limits({"/32": 0}), linger="drain") as (_, port):
        begun = time.monotonic()
        peers = [connect(port) for _ in range(inner.MAX_DRAINED + 1)]
        for peer in peers:
            assert peer.recv(4) == b"421 "
        eventually(lambda: is_reset(peers[0]) or time.monotonic() - begun > 1, "a reset, or the end of its second")
        assert not any(map(is_reset, peers[1:]))
        for peer in peers:
            peer.close()
