"""One connection of a gate: many that are refused, drained or let in at once; figures and descriptors in the end."""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
from collections.abc import Callable

import pytest
from tests.support import inner
from tests.support.gates import connect, descriptors, end, gated, said, take_all
from tests.support.listening import Clock
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
def test_the_time_of_the_listening_socket_stays_the_caller_s(listener, own):
    name, value = (socket.SOL_SOCKET, socket.SO_RCVTIMEO), struct.pack("ll", *own)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(*name, value)
        for _ in range(2):
            first, second = (Gate(listener, None, [listening]) for _ in range(2))  # as two processes may have it
            with first, second, connect(listening.getsockname()[1]):
                eventually(lambda: first.waiting or second.waiting, "one that waits")  # noqa: B023
                taken = first.take() + second.take()
                found = taken[0][0].getsockopt(*name, 16)
                assert found == value or (first.opened == 0 and found == bytes(16))
                end(taken)
                second.close()
            assert listening.getsockopt(*name, 16) == value


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


# ---- its own threads


class ClosingClock(Clock):
    """Does something once, in the thread that asks for the time, if that is a gate's."""

    def __init__(self, do: Callable[[], object]) -> None:
        super().__init__()
        self._do: Callable[[], object] | None = do

    def __call__(self) -> float:
        if threading.current_thread() is not threading.main_thread() and self._do is not None:
            do, self._do = self._do, None
            do()
        return super().__call__()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_gate_that_its_own_thread_closes_is_ended_by_another(how, threads):
    gates: list[Gate] = []
    clock = ClosingClock(lambda: gates[0].close() if how == "close" else gates.clear())
    before, tasks = descriptors(), len(os.listdir("/proc/self/task"))
    with InboundAudit(capacity=1 << 22, monitors=["60,2"], clock=clock) as audit:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            gates.append(Gate(audit.listener("SMTP"), Limits({"/32": 1}), [listening], threads=threads))
            with connect(listening.getsockname()[1]) as peer:
                eventually(lambda: descriptors() <= before + 2, "its descriptors")
                assert said(peer) == b"421 4.3.2 service is shutting down\r\n"
            eventually(lambda: len(os.listdir("/proc/self/task")) <= tasks, "its threads")
            assert not gates or gates[0].closed
        assert audit.total() == 0


def test_limits_that_are_exchanged_while_a_gate_closes(listener):
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0), backlog=600) as listening:
            gate = Gate(listener, None, [listening], refusal=b"R" * 4000)
            peers = [connect(listening.getsockname()[1]) for _ in range(200)]
            eventually(lambda: gate.waiting == 200, "all of them")  # noqa: B023
            closing = threading.Thread(target=gate.close)
            closing.start()
            while closing.is_alive():
                gate.limits = None
            closing.join()
            for peer in peers:
                assert said(peer) == b"R" * 4000
                peer.close()
