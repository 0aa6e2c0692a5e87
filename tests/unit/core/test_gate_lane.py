"""A thread of a gate: what it does when it runs Python, and when the gate closes."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable

import pytest
from tests.support.gates import connect, descriptors, said
from tests.support.listening import Clock
from tests.support.waiting import eventually

from inbound_audit import InboundAudit, Limits
from inbound_audit.listeners.gate import Gate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux")


@pytest.fixture
def listener():
    with InboundAudit(capacity=1 << 22) as audit:
        yield audit.listener("SMTP")


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
