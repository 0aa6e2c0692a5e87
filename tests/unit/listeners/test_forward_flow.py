"""The flows of a forwarder: ends, resets and times, and any order of them against a model."""

from __future__ import annotations

import contextlib
import gc
import random
import socket
import sys
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import forwarding
from tests.support.forwarding import fronted, resets
from tests.support.gates import connect, descriptors, said
from tests.support.waiting import eventually

from inbound_audit import InboundAudit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a forwarder needs Linux")

audit, listener, no_held_port = forwarding.audit, forwarding.listener, forwarding.no_held_port  # fixtures


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_reset_is_carried_on(audit, listener, side):
    with fronted(listener) as front:
        client, server = front.pair()
        client.sendall(b"x")
        assert server.recv(1) == b"x"
        first, second = (client, server) if side == "client" else (server, client)
        resets(first)
        with second, pytest.raises(ConnectionResetError):
            second.recv(1)
        eventually(lambda: audit.total() == 0, "the end of the count")
        assert front.forwarder.reset == 1


@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "ends"])
@pytest.mark.parametrize("back", [False, True], ids=["from the client", "from the server"])
def test_an_urgent_byte_keeps_its_place(listener, back, ends):
    with fronted(listener) as front:
        client, server = front.pair()
        first, second = (server, client) if back else (client, server)
        with client, server:
            for number in range(2):
                first.sendall(bytes(100_000) + b"before")
                first.send(b"!", socket.MSG_OOB)
                if ends and number:
                    break
                first.sendall(b"after")
                assert read_exactly(second, 100_012) == bytes(100_000) + b"before!after"
            if ends:
                first.shutdown(socket.SHUT_WR)
                assert said(second) == bytes(100_000) + b"before!"
                second.sendall(b"and more")
                assert read_exactly(first, 8) == b"and more"


def read_exactly(one: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size and (more := one.recv(size - len(got))):
        got += more
    return got


def test_a_server_that_resets_at_once_is_not_down(audit, listener):
    with fronted(listener) as front:
        for _ in range(200):
            client = connect(front.port)
            with client:
                resets(front.server.accept()[0])
                with contextlib.suppress(ConnectionResetError):
                    assert client.recv(99) == b""
        assert front.forwarder.down == ()
        eventually(lambda: audit.total() == front.forwarder.open == 0, "the end of the counts")


def test_a_client_that_is_reset_ends_its_count_while_the_server_does_not_read(audit, listener):
    with fronted(listener) as front:
        client, server = front.pair()
        with server:
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    client.send(bytes(1 << 16))
            resets(client)
            eventually(lambda: audit.total() == 0, "the end of the count")


def test_an_idle_connection_is_closed(audit, listener):
    with fronted(listener, idle_s=0.05) as front:
        client, server = front.pair()
        with client, server:
            assert said(client) == b""
            assert said(server) == b""
        eventually(lambda: audit.total() == 0, "the end of the count")
        assert front.forwarder.timed_out == 1


def test_close_cuts_off_all(audit, listener):
    with fronted(listener) as front:
        client, server = front.pair()
        front.forwarder.close()
        front.forwarder.close()
        assert audit.total() == 0
        assert front.forwarder.closed
        for one in (client, server):
            with one, pytest.raises(ConnectionResetError):
                one.recv(1)
        with connect(front.port) as late:  # the gate has no place for it
            assert said(late).startswith(b"421 ")


# ---- against a model

Step = tuple[str, str, int]

steps = st.lists(
    st.tuples(
        st.sampled_from(["client", "server"]),
        st.sampled_from(["send", "send", "send", "read", "end", "reset"]),
        st.sampled_from([1, 17, 4096, 65536, 200_000]),
    ),
    max_size=25,
)


@dataclass
class Model:
    """What one side has sent, and what the other has got: a queue of bytes, its end, and whether it was cut."""

    sent: bytearray = field(default_factory=bytearray)
    got: bytearray = field(default_factory=bytearray)
    ended: bool = False


def apply(step: Step, ends: dict[str, socket.socket], models: dict[str, Model], noise: random.Random) -> bool:
    """Does a step on the real sockets. False: the connection was reset."""
    name, action, size = step
    one, other = ends[name], "server" if name == "client" else "client"
    if action == "send" and not models[name].ended:
        data = noise.randbytes(size)
        with contextlib.suppress(BlockingIOError):
            models[name].sent += data[: one.send(data)]
    elif action == "read":
        with contextlib.suppress(BlockingIOError):
            models[other].got += one.recv(size)
    elif action == "end" and not models[name].ended:
        one.shutdown(socket.SHUT_WR)
        models[name].ended = True
    elif action == "reset":
        resets(one)
        return False
    return True


@given(several=st.lists(steps, min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_any_order_of_chunks_ends_and_resets(several, seed):
    noise = random.Random(seed)
    gc.collect()  # what other tests have left keeps no descriptor
    before = descriptors()
    with InboundAudit(capacity=1 << 22) as audit, fronted(audit.listener("SMTP")) as front:
        for each in several:
            client, server = front.pair()
            ends, models = {"client": client, "server": server}, {"client": Model(), "server": Model()}
            client.setblocking(False)
            server.setblocking(False)
            with client, server:
                if all(apply(step, ends, models, noise) for step in each):
                    finish(ends, models)
                    assert models["client"].got == models["client"].sent
                    assert models["server"].got == models["server"].sent
                else:
                    for model in models.values():
                        assert model.sent.startswith(model.got)
        eventually(lambda: audit.total() == front.forwarder.open == 0, "the end of the counts")
    eventually(lambda: descriptors() <= before, "as many descriptors as before")


def finish(ends: dict[str, socket.socket], models: dict[str, Model]) -> None:
    """Ends both streams and reads what is left of both, in turn: each side may wait for the other."""
    for name, one in ends.items():
        if not models[name].ended:
            one.shutdown(socket.SHUT_WR)
    left = {"client": "server", "server": "client"}

    def read() -> bool:
        for reader, writer in list(left.items()):
            with contextlib.suppress(BlockingIOError):
                while data := ends[reader].recv(1 << 20):
                    models[writer].got += data
                del left[reader]
        return not left

    eventually(read, "both ends")
