"""The pipes of a forwarder: many bytes both ways, and a peer that does not read."""

from __future__ import annotations

import contextlib
import random
import sys

import pytest
from tests.support import forwarding
from tests.support.forwarding import exchange, fronted
from tests.support.waiting import eventually

from inbound_audit.listeners.forward import Forwarder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a forwarder needs Linux")

audit, listener, no_held_port = forwarding.audit, forwarding.listener, forwarding.no_held_port  # fixtures


@pytest.mark.parametrize("threads", [1, 3])
def test_a_large_transfer_in_both_directions_at_once(listener, threads):
    data = random.Random(1).randbytes(3 << 20)
    with fronted(listener, threads=threads) as front:
        client, server = front.pair()
        with client, server:
            exchange(client, server, data, data[::-1])


def test_a_peer_that_does_not_read_stops_the_one_that_sends(listener):
    """Bounded memory: beyond the buffers of the sockets, the forwarder holds a pipe."""
    with fronted(listener) as front:
        client, server = front.pair()
        with client, server:
            server.setblocking(False)
            sent = 0
            data = bytes(1 << 16)

            def is_full() -> bool:
                nonlocal sent
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sent += server.send(data)
                return front.forwarder.bytes_out == before.pop() if before else bool(before.append(0))

            before: list[int] = []
            eventually(lambda: steady(front.forwarder, is_full), "a sender that has to wait")
            other, served = front.pair()
            with other, served:  # others go on meanwhile
                served.sendall(b"ok")
                assert other.recv(2) == b"ok"
            client_got = 0
            while client_got < sent:
                client_got += len(client.recv(1 << 20))
            assert client_got == sent


def steady(forwarder: Forwarder, fill: object) -> bool:
    """Whether nothing is moved although as much is sent as goes."""
    import time

    before = forwarder.bytes_out
    fill()  # type: ignore[operator]
    time.sleep(0.05)
    return before > 0 and forwarder.bytes_out == before
