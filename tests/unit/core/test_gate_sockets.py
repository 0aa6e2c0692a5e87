"""What a lane waits on: descriptors that other code closes, and gets for files of its own; the times of sockets."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import sys
import threading
from itertools import product

import pytest
from tests.support.gates import Other, Own, come_to_wait, connect, descriptors, end, gated, said, take_all, tasks, works
from tests.support.sharing import FULL
from tests.support.waiting import eventually

from inbound_audit import InboundAudit, Limits
from inbound_audit.listeners.gate import Gate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux")

OTHERS = ["nothing", "stream", "listening", "epoll"]
TIME = socket.SOL_SOCKET, socket.SO_RCVTIMEO
LIMIT = struct.pack("ll", 0, 20_000)


@pytest.fixture
def listener():
    with InboundAudit(capacity=1 << 22) as audit:
        yield audit.listener("SMTP")


# ---- other code closes what is the gate's


# What is lost, the gate's threads, and what has its number then. Each takes a second or two, so all of them are in the
# long form of the tests of faults alone.
MADE_ANEW = [("epoll", 2, "epoll"), ("listening", 2, "listening"), ("epoll and listening and spare", 1, "nothing")]
ENDS = [("reads", 2, "listening"), ("epoll and spare and reads and writes", 1, "nothing")]
if FULL:
    EACH = ["epoll", "listening", "spare", "epoll and listening", "epoll and listening and spare"]
    MADE_ANEW = list(product(EACH, (1, 3), OTHERS))
    ENDS = list(
        product(["reads", "writes", "reads and writes", "epoll and spare and reads and writes"], (1, 3), OTHERS)
    )


@pytest.mark.parametrize(("lost", "threads", "other"), MADE_ANEW)
def test_what_is_lost_is_made_anew(listener, lost, threads, other):
    before, running = descriptors(), tasks()
    first, second = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    own = Own(first, second)
    gate = Gate(listener, Limits({"/32": 1}), [first, second], threads=threads, linger="drain")
    found, lanes, others = own.find(gate), tasks() - running, Other(other)
    assert [len(numbers) for numbers in found.values()] == [threads, 2, 1, 1, threads]
    closed_twice = gate._closed_twice
    for kind in lost.split(" and "):
        others.take(found[kind])
    least = sum(len(found[kind]) for kind in lost.split(" and ") if kind != "spare")
    for port in (first.getsockname()[1], second.getsockname()[1]) * 2:
        works(gate, port)
        eventually(lambda: gate.lost >= least, "that the loss is seen")
    come_to_wait(lanes)
    assert not gate.closed
    gate.close()
    others.end()
    assert gate._closed_twice == closed_twice
    assert gate.left == 0
    first.close()
    second.close()
    eventually(lambda: descriptors() <= before, "the end of every descriptor")
    assert listener.total == 0


@pytest.mark.parametrize(("lost", "threads", "other"), ENDS)
def test_a_gate_without_its_queue_ends(listener, caplog, lost, threads, other):
    before, running = descriptors(), tasks()
    listening = socket.create_server(("127.0.0.1", 0))
    own = Own(listening)
    gate = Gate(listener, Limits({"/32": 1}), [listening], threads=threads)
    found, lanes, others = own.find(gate), tasks() - running, Other(other)
    closed_twice = gate._closed_twice
    with connect(listening.getsockname()[1]) as peer:
        eventually(lambda: gate.waiting == 1, "one that waits")
        for kind in lost.split(" and "):
            others.take(found[kind])
        with caplog.at_level(logging.ERROR):
            while not gate.closed or gate._is_lost:
                end(gate.get(0.1))
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "other code of this process has closed a descriptor" in caplog.text
        assert said(peer) in (b"421 4.3.2 service is shutting down\r\n", b"")
    assert (gate.get(), gate.take(), gate.fileno()) == ([], [], -1)
    eventually(lambda: not lanes & tasks(), "the end of its threads")
    gate.close()
    others.end()
    assert gate._closed_twice == closed_twice
    listening.close()
    eventually(lambda: descriptors() <= before, "the end of every descriptor")
    assert listener.total == 0


@pytest.mark.parametrize("other", ["nothing", "listening"])
def test_a_socket_of_which_only_the_number_is_left_is_left(listener, other):
    """Both the caller's and the gate's descriptors are other files now."""
    listening = socket.create_server(("127.0.0.1", 0))
    own, running = Own(listening), tasks()
    gate, others = Gate(listener, None, [listening], threads=2), Other(other)
    lanes, found = tasks() - running, own.find(gate)
    kept = os.dup(listening.fileno())  # as another process may have it
    others.take([*found["listening"], listening.fileno()])
    eventually(lambda: gate.left == 2, "that both threads leave it")
    come_to_wait(lanes)
    gate.close()
    others.end()
    os.close(kept)
    listening.detach()


@pytest.mark.parametrize("other", ["nothing", "stream"])
def test_a_connection_of_which_only_the_number_is_left_is_dropped(listener, other):
    """One that waits, and one that is drained."""
    before, running = descriptors(), tasks()
    listening = socket.create_server(("127.0.0.1", 0))
    with Gate(listener, Limits({"/32": 2}), [listening], linger="drain", refusal=b"over") as gate:
        lanes, others = tasks() - running, Other(other)
        peers = [connect(listening.getsockname()[1]) for _ in range(3)]
        eventually(lambda: gate.waiting == 2, "two that wait")
        assert peers[2].recv(10) == b"over"
        others.take([*served(peers[0]), *served(peers[2])])
        for peer in peers:
            peer.sendall(b"x")
        taken = gate.take()
        assert len(taken) == listener.total == 1
        end(taken)
        come_to_wait(lanes)
        for peer in peers:
            peer.close()
    others.end()
    listening.close()
    eventually(lambda: descriptors() <= before, "the end of every descriptor")
    assert listener.total == 0


def served(peer: socket.socket) -> list[int]:
    """The numbers of the other end of a connection, in this process."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{name}"
        if os.path.lexists(path) and os.readlink(path).startswith("socket:"):
            with socket.socket(fileno=os.dup(int(name))) as copy, contextlib.suppress(OSError):  # without a peer
                if copy.getpeername() == peer.getsockname():
                    found.append(int(name))
    return found


# ---- what other code does to the sockets


def test_a_listening_socket_that_blocks_holds_up_nothing(listener):
    """Its mode belongs to the open socket, and may be changed by whoever has it, at any time."""
    first, second = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    with first, second, Gate(listener, Limits({"/32": 9}), [first, second]) as gate:
        first.setblocking(True)
        with connect(first.getsockname()[1]), connect(second.getsockname()[1]):
            end(take_all(gate, 2))
            gate.limits = None  # waits for a batch
        eventually(lambda: not os.get_blocking(first.fileno()), "that the gate makes it non-blocking again")
        first.setblocking(True)
        with connect(first.getsockname()[1]):
            end(take_all(gate, 1))
    assert gate.closed


@pytest.mark.parametrize("threads", [1, 3])
def test_a_thread_that_changes_the_mode_all_the_time_holds_up_nothing(listener, threads):
    stop = threading.Event()

    def change(listening: socket.socket) -> None:
        while not stop.is_set():
            listening.setblocking(True)
            listening.settimeout(0.01)
            listening.setblocking(False)

    for _ in range(5):
        stop.clear()
        with gated(listener, Limits({"/32": 1}), threads=threads) as (gate, port):
            changing = threading.Thread(target=change, args=(gate.sockets[0],))
            changing.start()
            for _ in range(40):
                with connect(port) as peer, connect(port, "127.0.0.2") as other:
                    taken = take_all(gate, 2)
                    gate.limits = Limits({"/32": 1})
                    for connection, _ in taken:
                        connection.sendall(b"x")
                    assert peer.recv(1) == other.recv(1) == b"x"
                    end(taken)
            gate.close()
            stop.set()
            changing.join()


@pytest.mark.parametrize("own", [(0, 0), (5, 0)])
@pytest.mark.parametrize("closes_first", [0, 1])
def test_the_time_of_the_listening_socket_stays_the_caller_s(listener, own, closes_first):
    """With two gates, as two processes may have them, in either order of their ends."""
    value = struct.pack("ll", *own)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(*TIME, value)
        for _ in range(2):
            gates = [Gate(listener, None, [listening]) for _ in range(2)]
            with gates[0], gates[1], connect(listening.getsockname()[1]):
                eventually(lambda: gates[0].waiting or gates[1].waiting, "one that waits")  # noqa: B023
                taken = gates[0].take() + gates[1].take()
                found = taken[0][0].getsockopt(*TIME, 16)
                assert found == value or (gates[0].opened == 0 and found == bytes(16))
                end(taken)
                gates[closes_first].close()
                eventually(lambda: listening.getsockopt(*TIME, 16) == LIMIT, "that the other limits the time")
                with connect(listening.getsockname()[1]):
                    taken = take_all(gates[1 - closes_first], 1)
                    assert taken[0][0].getsockopt(*TIME, 16) == value
                    end(taken)
            assert listening.getsockopt(*TIME, 16) == value


def test_a_time_that_the_caller_sets_later_is_what_connections_get(listener):
    value = struct.pack("ll", 7, 0)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with Gate(listener, None, [listening], threads=2) as gate:
            listening.setsockopt(*TIME, value)
            eventually(lambda: listening.getsockopt(*TIME, 16) == LIMIT, "that the gate limits it")
            with connect(listening.getsockname()[1]):
                taken = take_all(gate, 1)
                assert taken[0][0].getsockopt(*TIME, 16) == value
                end(taken)
            listening.setsockopt(*TIME, bytes(16))
        assert listening.getsockopt(*TIME, 16) == bytes(16)


@pytest.mark.parametrize("linger", [(1, 0), (1, 60)])
def test_the_linger_time_of_the_listening_socket_takes_no_reply_and_holds_up_none(listener, linger):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", *linger))
        with Gate(listener, Limits({"/32": 0}), [listening], refusal=b"x" * 16000) as gate:
            port = listening.getsockname()[1]
            silent = []
            for _ in range(20):  # they never read
                peer = socket.socket()
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
                peer.settimeout(60)
                peer.connect(("127.0.0.1", port))
                silent.append(peer)
            with connect(port) as peer:
                assert said(peer) == b"x" * 16000
            for peer in silent:
                peer.close()
            assert gate.refused == 21


def test_a_gate_has_many_sockets(listener):
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(200)]
    gate = Gate(listener, Limits({"/32": 1}), listening, threads=2)
    with gate, connect(listening[0].getsockname()[1]):
        taken = take_all(gate, 1)
        with connect(listening[-1].getsockname()[1]) as last:
            assert said(last).startswith(b"421 ")
        end(taken)
    for each in listening:
        each.close()
