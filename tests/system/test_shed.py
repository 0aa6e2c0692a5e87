"""Prefixes that a gate keeps refusing are dropped by the kernel: at real sockets, from several addresses."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.command_line import run
from tests.support.forking import UNDER_ASAN
from tests.support.gates import connect, descriptors, end, gated, said, take_all
from tests.support.sharing import NAME, Workers
from tests.support.waiting import eventually

from inbound_audit import InboundAudit, Limits, Listener
from inbound_audit.listeners import shed
from inbound_audit.listeners.gate import Gate
from inbound_audit.listeners.packet_filter import Program, attach, attached_to, program_of, ranges_of
from inbound_audit.listeners.shed import Shed

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux")]

OVER = b"421 4.7.0 connection limit exceeded\r\n"
FOREVER = Shed(refusals_per_s=1, hold_s=3600, max_hold_s=3600, never=())
BRIEF = Shed(refusals_per_s=1, hold_s=1, max_hold_s=1, never=())
LOCK_FILTER = 44  # SO_LOCK_FILTER

has_ipv6 = pytest.mark.skipif(
    not socket.has_dualstack_ipv6() or not os.path.exists("/proc/net/if_inet6"), reason="IPv6"
)


SHORT_S = 0.05
"""The period of the programs in these tests."""


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    monkeypatch.setattr(shed, "PERIOD_S", SHORT_S)
    with InboundAudit(capacity=1 << 24) as audit:
        listener = audit.listener("SMTP")
        with socket.create_server(("127.0.0.1", 0)) as listening, Gate(listener, None, [listening], shed=True):
            # From then on the thread has its pipe, so that `gated` counts no new descriptors.
            eventually(lambda: shed._thread._pipe is not None, "the thread")
        yield listener


def flood(gate: Gate, port: int, source: str = "127.0.0.9", host: str = "127.0.0.1") -> None:
    """Connects from one address until the kernel drops its packets."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET

    def come() -> bool:
        with contextlib.ExitStack() as peers:
            for _ in range(20):
                peer = peers.enter_context(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
                if family == socket.AF_INET:
                    peer.bind((source, 0))
                peer.connect_ex((host, port))
            time.sleep(0.01)
        return bool(gate.shed)

    eventually(come, "that the flood is dropped")


def is_dropped(port: int, source: str = "127.0.0.9", host: str = "127.0.0.1") -> bool:
    """Whether a connection from there times out. It is refused or let in at once where it does not."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as peer:
        peer.settimeout(0.5)
        if ":" not in host:
            peer.bind((source, 0))
        try:
            peer.connect((host, port))
        except TimeoutError:
            return True
        return False


def test_who_keeps_being_refused_is_dropped_and_its_neighbour_is_served(listener: Listener) -> None:
    with gated(listener, Limits({"/32": 1}), shed=FOREVER) as (gate, port), connect(port, "127.0.0.9") as first:
        taken = take_all(gate, 1)
        flood(gate, port)
        assert [one.network for one in gate.shed] == ["127.0.0.9/32"]
        assert is_dropped(port)
        with connect(port, "127.0.0.10") as neighbour:
            taken += take_all(gate, 1)
            for connection, peer in zip([each[0] for each in taken], [first, neighbour], strict=True):
                peer.sendall(b"hello")  # who is served already goes on
                assert connection.recv(5) == b"hello"
                assert attached_to(connection) is None
        end(taken)
        limits, gate.limits = gate.limits, Limits({"/32": 1}, dry_run=True)
        eventually(lambda: not gate.shed, "that a dry run drops none")
        assert attached_to(gate.sockets[0]) is None
        gate.limits = limits


def test_it_is_let_in_after_a_while_and_dropped_again(listener: Listener) -> None:
    with gated(listener, Limits({"/32": 0}), shed=BRIEF) as (gate, port):
        for _ in range(2):
            flood(gate, port)
            eventually(lambda: not gate.shed, "the end of the hold")
            eventually(lambda: attached_to(gate.sockets[0]) is None, "the end of the program")
            with connect(port, "127.0.0.9") as peer:
                assert said(peer) == OVER


def test_exempt_networks_and_balancers_are_cut_out_of_a_prefix(listener: Listener) -> None:
    limits = Limits({"/32": 0}, exempt=["127.0.0.16/29"])
    wide = Shed(refusals_per_s=1, prefixlen=(24, 64), hold_s=3600, max_hold_s=3600, never=("127.0.0.33",))
    with gated(listener, limits, shed=wide, proxy_from=["127.0.0.32"]) as (gate, port):
        flood(gate, port)
        assert [one.network for one in gate.shed] == ["127.0.0.0/24"]
        assert is_dropped(port, "127.0.0.10")
        spared = [connect(port, f"127.0.0.{last}") for last in (16, 23, 32, 33)]
        with spared.pop() as refused:  # it is refused, and yet not dropped
            assert said(refused) == OVER
        end(take_all(gate, 3))
        gate.limits = Limits({"/32": 0}, exempt=["127.0.0.10"])
        eventually(lambda: not is_dropped(port, "127.0.0.10"), "that who is exempt now is let in")
        end(take_all(gate, gate.accepted - 3))
        for peer in spared:
            peer.close()


def test_loopback_is_spared_unless_it_is_wanted(listener: Listener) -> None:
    with gated(listener, Limits({"/32": 0}), shed=Shed(refusals_per_s=1)) as (gate, port):
        flood(gate, port)
        assert attached_to(gate.sockets[0]) is not None
        with connect(port, "127.0.0.9") as peer:
            assert said(peer) == OVER


@has_ipv6
@pytest.mark.parametrize(("dropped", "other"), [("::1", "127.0.0.1"), ("127.0.0.1", "::1")])
def test_both_families_at_one_socket(listener: Listener, dropped: str, other: str) -> None:
    """IPv4 at a socket of IPv6, whose peers are IPv4-mapped."""
    listening = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
    with listening, Gate(listener, Limits({"/32,/128": 0}), [listening], shed=FOREVER) as gate:
        port = listening.getsockname()[1]
        flood(gate, port, "127.0.0.1", dropped)
        assert [one.network for one in gate.shed] == ["::/64" if dropped == "::1" else "127.0.0.1/32"]
        assert is_dropped(port, "127.0.0.1", dropped)
        with connect(port, "127.0.0.1", other) as peer:
            assert said(peer) == OVER


def test_the_end_of_a_gate_takes_the_program_off(listener: Listener) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        for collected in (False, True):
            gate = Gate(listener, Limits({"/32": 0}), [listening], shed=FOREVER)
            flood(gate, listening.getsockname()[1])
            assert attached_to(listening) is not None
            if not collected:
                gate.close()
                gate.close()
            del gate
            eventually(lambda: attached_to(listening) is None, "the end of the program")


def test_a_socket_that_its_owner_has_closed_is_left(listener: Listener) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening, listening.dup() as kept:
        gate = Gate(listener, Limits({"/32": 0}), [listening], shed=FOREVER)
        flood(gate, listening.getsockname()[1])
        before = descriptors()
        listening.close()
        eventually(lambda: attached_to(kept) is None, "the end of the program")
        eventually(lambda: descriptors() <= before - 3, "the end of all copies")
        gate.close()


def test_a_program_that_another_gate_takes_off_comes_back(listener: Listener) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        with Gate(listener, Limits({"/32": 0}), [listening], shed=FOREVER) as gate:
            flood(gate, listening.getsockname()[1])
            before = attached_to(listening)
            with Gate(listener, Limits({"/32": 0}), [listening]) as other:
                assert other.shed == []
            eventually(lambda: attached_to(listening) == before, "the program")
        assert attached_to(listening) is None


def test_no_socket_is_left_where_the_system_allows_short_programs_alone(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a small `net.core.optmem_max`."""
    longest = 150

    def attach_short(listening: socket.socket, program: Program) -> None:
        if len(program) > longest:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        attach(listening, program)

    monkeypatch.setattr(shed.packet_filter, "attach", attach_short)
    spared = Shed(FOREVER.refusals_per_s, hold_s=3600, max_hold_s=3600, never=())
    with contextlib.ExitStack() as at_end:
        sockets = [at_end.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512)) for _ in range(9)]
        gate = at_end.enter_context(Gate(listener, Limits({"/32": 0}), sockets, shed=spared))
        assert gate._shedder is not None
        for number in range(200):
            for _ in range(3):
                gate._shedder.refusals.add(f"192.0.{number}.1")
        eventually(lambda: all(attached_to(one) for one in sockets) and len(gate.shed) > 10, "programs at all sockets")
        assert len(gate.shed) < 200


def test_a_program_of_other_code_stays(listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
    other = program_of(ranges_of(["192.0.2.0/24"]), ranges_of(()))[2:]
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        attach(listening, other)
        with Gate(listener, Limits({"/32": 0}), [listening], shed=FOREVER) as gate:
            eventually(lambda: come(listening.getsockname()[1]) and bool(caplog.records), "that it is found")
            assert attached_to(listening) == (0, 0)
            assert gate.shed == []
        assert attached_to(listening) == (0, 0)
    assert "nothing is dropped before accept" in caplog.text


def test_a_system_that_refuses_programs_is_named_once(listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
    with gated(listener, Limits({"/32": 0}), shed=FOREVER) as (gate, port):
        gate.sockets[0].setsockopt(socket.SOL_SOCKET, LOCK_FILTER, 1)
        with caplog.at_level(logging.WARNING):
            eventually(lambda: come(port) and bool(caplog.records), "the refusal of the system")
            for _ in range(3):
                assert come(port)
        assert [record.getMessage() for record in caplog.records] == [
            f"nothing is dropped before accept at 127.0.0.1:{port}: Operation not permitted"
        ]
        assert gate.shed == []


def come(port: int) -> bool:
    for _ in range(20):
        with connect(port, "127.0.0.9") as peer:
            assert said(peer) == OVER
    return True


# ---- processes

GATED = """
import os, socket, time
from inbound_audit import InboundAudit, Limits
from inbound_audit.listeners import shed
from inbound_audit.listeners.gate import Gate
from inbound_audit.listeners.packet_filter import attached_to
from inbound_audit.listeners import shed
from tests.system.test_shed import FOREVER, SHORT_S, flood, is_dropped
shed.PERIOD_S = SHORT_S
audit = InboundAudit(capacity=1 << 24)
listening = socket.create_server(("127.0.0.1", 0), backlog=512)
"""
FLOODED = """
gate = Gate(audit.listener("SMTP"), Limits({"/32": 0}), [listening], shed=FOREVER)
port = listening.getsockname()[1]
flood(gate, port)
"""


def test_a_gate_that_begins_takes_off_what_a_dead_process_has_left(hire: Workers) -> None:
    """A program belongs to the socket, which lives on in another process."""
    parent = hire(GATED)
    child = parent.fork()
    child.do(FLOODED)
    assert parent.do("attached_to(listening) is not None")
    child.kill()
    child.await_end()
    assert parent.do("attached_to(listening) is not None")
    parent.do("gate = Gate(audit.listener('SMTP'), None, [listening])")
    assert parent.do("attached_to(listening)") is None


@pytest.mark.skipif(UNDER_ASAN, reason="AddressSanitizer's locks don't outlive a fork")
@pytest.mark.parametrize("fork", ["os.fork()", "ctypes.CDLL(None).fork()"])
def test_a_child_leaves_its_parent_s_program_alone(hire: Workers, fork: str) -> None:
    parent = hire(GATED)
    parent.do(FLOODED)
    status = parent.do(
        f"""
import ctypes
pid = {fork}
if pid == 0:
    try:
        gate.close()
        os._exit(0 if gate.shed == [] and attached_to(listening) is not None else 1)
    finally:
        os._exit(2)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""
    )
    assert status is None
    assert parent.do("status") == 0
    assert parent.do("is_dropped(port) and bool(gate.shed)")
    parent.do("gate.close()")
    assert parent.do("attached_to(listening)") is None


def test_the_end_of_a_process_takes_the_program_off(hire: Workers) -> None:
    parent = hire(GATED)
    child = parent.fork()
    child.do(FLOODED)
    child.start("import sys; sys.exit(0)")
    child.await_end()
    assert parent.do("attached_to(listening)") is None


def test_ps_and_top_show_what_is_dropped(hire: Workers) -> None:
    worker = hire(GATED.replace("InboundAudit(", f"InboundAudit(shared={NAME!r}, "))
    worker.do(FLOODED)
    # On a busy machine a process may not answer in time: then the commands show what they read without it.
    rows: list[dict[str, Any]] = []
    eventually(lambda: rows.extend(shown("ps", "owners")[0]["shed"]) or rows, "what is dropped")
    (dropped,) = rows
    assert dropped["network"] == "127.0.0.9/32"
    assert dropped["refusals_per_s"] > 1
    assert 0 < dropped["seconds_left"] <= FOREVER.hold_s
    eventually(lambda: b"drops 127.0.0.9/32 for " in run("ps", NAME).stdout, "the same in words")
    eventually(lambda: [one["network"] for one in shown("top", "shed")] == ["127.0.0.9/32"], "the same in `top`")
    eventually(lambda: b"  1 dropped before accept (see ps)" in run("top", NAME).stdout, "its number")
    worker.do("gate.close()")
    assert shown("top", "shed") == []


def shown(command: str, part: str) -> list[dict[str, Any]]:
    """A part of what a command says in JSON."""
    return list(json.loads(run(command, NAME, "--json").stdout)[part])


def test_a_network_that_several_gates_drop_is_shown_once(hire: Workers) -> None:
    """By `ps` once per process, by `top` once."""
    shared = GATED.replace("InboundAudit(", f"InboundAudit(shared={NAME!r}, ")
    for worker in (hire(shared), hire(shared)):
        worker.do(FLOODED)
        worker.do("first = gate\nlistening = socket.create_server(('127.0.0.1', 0), backlog=512)")
        worker.do(FLOODED)
        assert worker.do("[one.network for each in (first, gate) for one in each.shed]") == ["127.0.0.9/32"] * 2

    def networks() -> list[list[str]]:
        return [[one["network"] for one in owner["shed"]] for owner in shown("ps", "owners")]

    eventually(lambda: all(networks()), "the answers of both")
    assert [found for found in networks() if found not in ([], ["127.0.0.9/32"])] == []
    eventually(lambda: b"  1 dropped before accept (see ps)" in run("top", NAME).stdout, "one in `top`")
    assert max(len(shown("top", "shed")) for _ in range(3)) <= 1
