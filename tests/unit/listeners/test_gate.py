"""The gate: what becomes of each connection, exact counts, and what a close, a signal and a lost socket do."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.gates import connect, descriptors, end, gated, reset, said, take_all
from tests.support.listening import WAYS, Clock, Script, Way, fill
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit, Limits, Listener, Session, Verdict
from inbound_audit._ipcount import MAX_GATE_SOCKETS
from inbound_audit.errors import CidrError
from inbound_audit.listeners import Guard
from inbound_audit.listeners.gate import BUSY, Gate, is_native

OVER = b"421 4.7.0 connection limit exceeded\r\n"
TOO_BUSY = b"421 4.7.0 too busy, try again later\r\n"


@pytest.fixture
def audit():
    with InboundAudit(capacity=1 << 22) as audit:
        yield audit


@pytest.fixture
def listener(audit):
    return audit.listener("SMTP")


# ---- what becomes of a connection


def test_who_may_stay_comes_out_counted(audit, listener):
    with gated(listener, Limits({"/32": 1})) as (gate, port), connect(port, "127.0.0.9") as peer:
        ((connection, session),) = taken = take_all(gate, 1)
        assert session.remote_addr == f"127.0.0.9:{peer.getsockname()[1]}"
        assert session.local_addr == f"127.0.0.1:{port}"
        assert session.inbound_session_count() == audit.total() == 1
        assert (connection.family, connection.type, connection.gettimeout()) == (
            socket.AF_INET,
            socket.SOCK_STREAM,
            None,
        )
        connection.sendall(b"hello")
        assert peer.recv(5) == b"hello"
        assert (gate.opened, gate.accepted, gate.refused, gate.waiting) == (1, 1, 0, 0)
        end(taken)
        assert audit.total() == 0


def test_who_is_over_a_limit_is_told_and_closed(audit, listener):
    limits = Limits({"/32": 1})
    with gated(listener, limits) as (gate, port), connect(port) as first, connect(port) as second:
        assert said(second) == OVER
        taken = take_all(gate, 1)
        eventually(lambda: audit.total() == 1, "the end of the refused session")
        assert taken[0][0].getpeername() == first.getsockname()
        assert limits.refused == {"default /32": 1}
        assert (gate.opened, gate.accepted, gate.refused) == (2, 1, 1)
        end(taken)


def test_a_place_that_comes_free_is_given_again(listener):
    with gated(listener, Limits({"/32": 1})) as (gate, port):
        for _ in range(20):
            with connect(port) as peer, connect(port) as other:
                assert said(other) == OVER
                end(take_all(gate, 1))
                assert said(peer) == b""


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_each_family_is_counted_as_what_it_is(audit, listener, way: Way):
    with way.listening() as listening, Gate(listener, Limits({"/32,/128": 1}), [listening]) as gate:
        port = listening.getsockname()[1]
        with connect(port, host=way.connect) as _, connect(port, host=way.connect) as second:
            assert said(second) == OVER
            ((_, session),) = taken = take_all(gate, 1)
            assert session.remote_ip == way.counted
            end(taken)


def test_a_unix_socket_is_passed_on_uncounted(tmp_path, listener, audit):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen()
        with Gate(listener, Limits({"/32": 0}), [listening]) as gate, socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(tmp_path / "socket"))
            ((connection, session),) = taken = take_all(gate, 1)
            assert (connection.family, session, gate.uncounted, audit.total()) == (socket.AF_UNIX, None, 1, 0)
            end(taken)


def test_several_sockets_and_threads_count_together(audit, listener):
    first, second = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    with first, second, Gate(listener, Limits({"/32": 3}), [first, second], threads=3) as gate:
        peers = []
        for number, one in enumerate((first, second) * 4):
            peers.append(connect(one.getsockname()[1]))
            # Of two that come at once, both may be over the limit: each is counted before it is asked about.
            eventually(lambda number=number: gate.accepted + gate.refused == number + 1, "a decision")
        assert (gate.accepted, gate.refused) == (3, 5)
        eventually(lambda: audit.total() == 3, "the end of the others")
        end(take_all(gate, 3))
        for peer in peers:
            peer.close()


def test_limits_of_every_kind_are_asked(audit, listener):
    limits = Limits(
        {"/32": 5, "/24": 2},
        exempt=["127.1.0.0/16"],
        networks={"partner": {"prefixes": ["127.2.0.0/16"], "limits": {"/32": 1}, "total": 2}},
        listener_total=6,
    )
    opened = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.1.0.1", "127.1.0.1", "127.2.0.1", "127.2.0.1", "127.2.0.2",
              "127.2.0.3", "127.3.0.1"]  # fmt: skip
    over = {2: "default /24", 6: "partner /32", 8: "partner total", 9: "listener total"}
    with gated(listener, limits, refusal="{limit}\n") as (gate, port):
        peers = []
        for number, source in enumerate(opened):
            peers.append(connect(port, source))
            eventually(lambda number=number: gate.accepted + gate.refused == number + 1, "a decision")
            if number in over:
                assert said(peers[-1]) == over[number].encode() + b"\n"
        assert sorted(limits.refused) == sorted(over.values())
        end(take_all(gate, 6))
        for peer in peers:
            peer.close()


def test_a_dry_run_refuses_none_and_counts_them(listener):
    limits = Limits({"/32": 0}, dry_run=True)
    with gated(listener, limits) as (gate, port), connect(port), connect(port):
        end(take_all(gate, 2))
        assert (gate.refused, limits.would_refuse) == (0, {"default /32": 2})


def test_other_limits_hold_for_later_connections(listener):
    with gated(listener, Limits({"/32": 0})) as (gate, port):
        with connect(port) as peer:
            assert said(peer) == OVER
        gate.limits = Limits({"/32": 1}, code=451, text="later")
        with connect(port), connect(port) as second:
            assert said(second) == b"451 4.7.0 later\r\n"
            end(take_all(gate, 1))
        gate.limits = None
        with connect(port):
            end(take_all(gate, 1))


def test_monitors_have_connections_and_rejections(listener):
    clock = Clock()
    with InboundAudit(capacity=1 << 22, monitors=["300,6"], clock=clock) as audit:
        smtp = audit.listener("SMTP")
        with gated(smtp, Limits({"/32": 1})) as (gate, port), connect(port), connect(port) as second:
            assert said(second) == OVER
            ((_, session),) = taken = take_all(gate, 1)
            assert audit.rejections("300,6", "127.0.0.1") == 1
            assert audit.connections("300,6", "127.0.0.1") == 2
            session.rebind("192.0.2.7")  # as a PROXY header does
            assert audit.connections("300,6", "192.0.2.7") == 1
            end(taken)


def test_a_balancer_is_counted_and_not_asked_about(audit, listener):
    with gated(listener, Limits({"/32": 0}), proxy_from=["127.0.0.0/24"]) as (gate, port):
        balancer, other = connect(port, "127.0.0.7"), connect(port, "127.0.1.7")
        with balancer, other:
            assert said(other) == OVER
            eventually(lambda: gate.waiting == 1, "one that waits")
            eventually(lambda: audit.total() == 1, "the end of the refused session")
            ((connection, session, asked),) = gate.take_asked()
            assert (session.remote_ip, asked) == ("127.0.0.7", None)
            end([(connection, session)])


# ---- refusals


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        ("smtp", OVER),
        (b"go away\n", b"go away\n"),
        (None, b""),
        (
            "{code} {text} [{address}] {limit} {count}\r\n",
            b"421 connection limit exceeded [127.0.0.5] default /32 2\r\n",
        ),
        ("{{{count}}}", b"{2}"),
    ],
)
def test_a_refusal_is_put_together(listener, refusal, expected):
    with gated(listener, Limits({"/32": 1}), refusal=refusal) as (gate, port):
        first, second = connect(port, "127.0.0.5"), connect(port, "127.0.0.5")
        with first, second:
            assert said(second) == expected
            end(take_all(gate, 1))


def test_lines_of_a_text_are_reply_lines(listener):
    limits = Limits({"/32": 0}, code=554, text="one\ntwo \u00e9")
    with gated(listener, limits) as (_, port), connect(port) as peer:
        assert said(peer) == b"554-5.7.0 one\r\n554 5.7.0 two ?\r\n"


def test_a_refused_http_client_gets_a_response_although_its_request_is_unread(listener):
    with gated(listener, Limits({"/32": 0}), refusal="http") as (_, port), connect(port) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + b"x" * 100_000)
        head, _, body = said(peer).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: ")
        assert b"Connection: close" in head
        assert body == b"connection limit exceeded\n"
        assert b"Content-Length: %d" % len(body) in head


def test_an_abort_is_a_reset(listener):
    with gated(listener, Limits({"/32": 0}), refusal=None, linger="abort") as (_, port):  # noqa: SIM117
        with pytest.raises(ConnectionResetError), connect(port) as peer:  # perhaps before `connect` has returned
            peer.recv(1)


@pytest.mark.parametrize("linger", ["close", "abort", "drain"])
def test_peers_that_never_read_or_close_hold_up_no_other(audit, listener, linger):
    with gated(listener, Limits({"/32": 1}), refusal=b"x" * 16000, linger=linger) as (gate, port):
        peers = []
        for _ in range(600):  # more than a lane drains
            with contextlib.suppress(ConnectionResetError):
                peers.append(connect(port, "127.0.0.2"))
        with connect(port, "127.0.0.3") as good:
            taken = take_all(gate, 2)
            good.sendall(b"x")
            eventually(lambda: gate.refused == 599 and audit.total() == 2, "the end of the others")
            end(taken)
        for peer in peers:
            peer.close()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"refusal": "{cod}"}, ValueError),
        ({"refusal": "{count:5}"}, ValueError),
        ({"refusal": b"x" * 20000}, ValueError),
        ({"refusal": "{count}" * 40}, ValueError),
        ({"refusal": 421}, TypeError),
        ({"backlog": 0}, ValueError),
        ({"threads": 65}, ValueError),
        ({"threads": True}, ValueError),
        ({"linger": "wait"}, ValueError),
        ({"proxy_from": ["10.0.0.0/33"]}, CidrError),
        ({"bakclog": 1}, TypeError),
    ],
)
def test_what_makes_no_sense_is_an_error(listener, options, error):
    before = descriptors()
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(error):
        Gate(listener, Limits(), [listening], **options)
    assert descriptors() <= before


def test_only_sockets_that_listen_and_native_limits_are_taken(listener):
    class Own(Limits):
        def validate_connect(self, ac: Session) -> Verdict:
            return super().validate_connect(ac)

    with socket.socket() as other, pytest.raises(ValueError, match="does not listen"):
        Gate(listener, None, [other])
    with socket.socket(type=socket.SOCK_DGRAM) as other, pytest.raises(ValueError, match="does not listen"):
        Gate(listener, None, [other])
    for policy in (Own(), Script()):
        assert not is_native(policy)
        with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(TypeError, match="guard"):
            Gate(listener, policy, [listening])


def test_a_gate_has_a_bound_of_sockets_and_a_guard_may_have_several_gates(audit):
    guard = Guard(audit.listener("SMTP"), Limits({"/32": 2}))
    with contextlib.ExitStack() as held:
        given = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(MAX_GATE_SOCKETS + 1)]
        with pytest.raises(ValueError, match="257 sockets: a gate accepts from at most 256; make two"):
            Gate(guard.listener, guard.policy, given, guard=guard)
        for part in (given[:-1], given[-1:]):
            held.enter_context(Gate(guard.listener, guard.policy, part, guard=guard))
        for i in (0, -2, -1):
            held.enter_context(connect(given[i].getsockname()[1]))
        eventually(lambda: (guard.opened, guard.refused, guard.open) == (3, 1, 2), "two that wait")


# ---- the queue has an end


def test_beyond_the_backlog_peers_are_told_that_the_server_is_busy(audit, listener):
    with gated(listener, None, backlog=3) as (gate, port):
        peers = [connect(port, f"127.0.0.{i + 1}") for i in range(10)]
        eventually(lambda: gate.accepted + gate.queue_full == 10, "ten decisions")
        eventually(lambda: audit.total() == 3, "three sessions")
        assert (gate.opened, gate.accepted, gate.queue_full, gate.waiting) == (10, 3, 7, 3)
        assert [said(peer) for peer in peers[3:]] == [TOO_BUSY] * 7
        end(take_all(gate, 3))
        with connect(port):
            end(take_all(gate, 1))
        for peer in peers:
            peer.close()
    assert BUSY.text.encode() in TOO_BUSY


def test_what_waits_when_a_gate_is_closed_is_refused(audit, listener):
    with gated(listener, None) as (gate, port):
        peers = [connect(port) for _ in range(5)]
        eventually(lambda: gate.waiting == 5, "five that wait")
        gate.close()
        assert [said(peer) for peer in peers] == [b"421 4.3.2 service is shutting down\r\n"] * 5
        assert (audit.total(), gate.waiting, gate.get(0), gate.take()) == (0, 0, [], [])
        assert (gate.opened, gate.accepted, gate.refused, gate.queue_full) == (5, 0, 5, 0)
        for peer in peers:
            peer.close()


def test_the_descriptor_is_readable_exactly_while_one_waits(listener):
    with gated(listener, None) as (gate, port):
        poll = select.poll()
        poll.register(gate.fileno(), select.POLLIN)
        assert not poll.poll(0)
        with connect(port), connect(port):
            eventually(lambda: gate.waiting == 2, "two that wait")
            assert poll.poll(0)
            first = gate.take(1)
            assert first[0][0].gettimeout() == 0
            assert poll.poll(0)
            second = gate.take()
            assert not poll.poll(0)
            assert gate.take() == []
            end(first + second)


def test_get_waits_and_its_time_has_an_end(listener):
    with gated(listener, None) as (gate, port):
        assert gate.get(0) == gate.get(0.01) == []
        for most in (0, -1, True, 1.5):
            with pytest.raises(ValueError, match="most"):
                gate.get(0, most)
        found: list[object] = []
        threads = [threading.Thread(target=lambda: found.extend(gate.get(PATIENCE, 1))) for _ in range(4)]
        for thread in threads:
            thread.start()
        peers = [connect(port) for _ in range(4)]
        for thread in threads:
            thread.join()
        assert len(found) == 4
        end(found)
        for peer in peers:
            peer.close()


# ---- room


@pytest.fixture
def full() -> Iterator[Listener]:
    """A listener whose tree has no room."""
    with InboundAudit(capacity=8192) as audit:
        listener = audit.listener("SMTP")
        kept = fill(listener)
        yield listener
        for session in kept:
            session.close()


def test_a_full_tree_lets_in_uncounted(full):
    limits = Limits({"/32": 0})
    with socket.create_server(("127.0.0.1", 0)) as listening, Gate(full, limits, [listening]) as gate:
        peer = connect(listening.getsockname()[1], "127.77.66.55")
        ((connection, session),) = take_all(gate, 1)
        assert (session, gate.uncounted) == (None, 1)
        connection.close()
        peer.close()


def test_a_full_tree_refuses_if_the_guard_says_so(full):
    guard = Guard(full, Limits({"/32": 0}), when_full="refuse")
    with socket.create_server(("127.0.0.1", 0)) as listening, Gate(full, guard.policy, [listening], guard=guard):
        peer = connect(listening.getsockname()[1], "127.77.66.55")
        assert said(peer) == b"421 4.7.0 service not available, try again later\r\n"
        eventually(lambda: (guard.uncounted, guard.refused) == (1, 1), "a refusal")
        peer.close()


def test_a_gate_follows_when_the_guard_says_something_else(full):
    guard = Guard(full, Limits({"/32": 0}), on_error="refuse")
    with socket.create_server(("127.0.0.1", 0)) as listening, Gate(full, guard.policy, [listening], guard=guard):
        with pytest.raises(ValueError, match="on_error='no'"):
            guard.choose(when_full="refuse", on_error="no")
        assert (guard.refuses_when_full, bool(guard.on_error)) == (False, False)
        guard.choose(when_full="refuse", on_error="accept")
        guard.policy = Limits({"/32": 0})
        peer = connect(listening.getsockname()[1], "127.77.66.55")
        assert said(peer).startswith(b"421 ")
        assert (guard.refuses_when_full, bool(guard.on_error)) == (True, True)
        peer.close()


@pytest.mark.parametrize(("when_full", "outcome"), [("accept", "let in"), ("refuse", "refused")])
def test_why_a_session_is_uncounted_is_logged(full, caplog, when_full, outcome):
    guard = Guard(full, Limits({"/32": 0}), when_full=when_full)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        gate = Gate(full, guard.policy, [listening], guard=guard)
        with gate, caplog.at_level(logging.WARNING), connect(listening.getsockname()[1], "127.77.66.55") as peer:
            eventually(lambda: gate.report() or "uncounted" in caplog.text, "a report")
            assert re.search(rf"a session is {outcome} uncounted: '127\.77\.66\.55:\d+': .*full", caplog.text)
            peer.close()


@pytest.mark.parametrize("when_full", ["accept", "refuse"])
def test_a_full_tree_is_logged_as_without_a_gate(full, caplog, when_full):
    caplog.set_level(logging.INFO, "inbound_audit")

    def lines() -> set[tuple[int, str]]:
        found = {(record.levelno, re.sub(r"[('].*[)']:", "PEER:", record.getMessage())) for record in caplog.records}
        caplog.clear()
        return found

    Guard(full, when_full=when_full).admit(("127.77.66.55", 1)).close()
    without = lines()
    assert len(without) == {"accept": 1, "refuse": 2}[when_full]
    guard = Guard(full, when_full=when_full)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        Gate(full, None, [listening], guard=guard) as gate,
        connect(listening.getsockname()[1], "127.77.66.55"),
    ):
        eventually(lambda: gate.report() or caplog.records, "a report")
    assert lines() == without


def test_a_full_queue_is_logged(listener, caplog):
    with caplog.at_level(logging.WARNING), gated(listener, None, backlog=1) as (gate, port):
        with connect(port), connect(port, "127.0.0.4") as second:
            assert said(second) == TOO_BUSY
            eventually(lambda: gate.report() or "queue" in caplog.text, "a report")
        assert re.search(r"refused 127\.0\.0\.4:\d+: 421 too busy, .*; the queue was full 1 time", caplog.text)


def test_a_guard_that_joins_later_decides_about_a_full_tree_as_one_that_was_there(full):
    guard = Guard(full, when_full="refuse")
    with socket.create_server(("127.0.0.1", 0)) as listening, Gate(full, None, [listening]) as gate:
        gate.join(guard)
        gate.join(guard)
        with connect(listening.getsockname()[1], "127.77.66.55") as peer:
            assert said(peer).startswith(b"421 ")
        eventually(lambda: (guard.opened, guard.uncounted, guard.refused) == (1, 1, 1), "a refusal, once")


def test_a_gate_of_a_closed_audit_goes_on_uncounted(listener, audit):
    with socket.create_server(("127.0.0.1", 0)) as listening, Gate(listener, Limits({"/32": 0}), [listening]) as gate:
        audit.close()
        with connect(listening.getsockname()[1]):
            ((connection, session),) = take_all(gate, 1)
            assert (session, gate.uncounted) == (None, 1)
            connection.close()


# ---- faults


def test_a_peer_that_has_left_before_it_was_taken_is_taken_all_the_same(audit, listener):
    with gated(listener, Limits({"/32": 5})) as (gate, port):
        for _ in range(5):
            reset(connect(port))
        taken = take_all(gate, 5)
        assert audit.total() == 5
        for connection, _ in taken:
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        end(taken)


def test_a_half_closed_peer_is_taken_and_read(listener):
    with gated(listener, None) as (gate, port), connect(port) as peer:
        peer.sendall(b"last words")
        peer.shutdown(socket.SHUT_WR)
        ((connection, _),) = taken = take_all(gate, 1)
        assert said(connection) == b"last words"
        end(taken)


def test_a_socket_that_its_owner_closes_is_left(listener, caplog):
    first, second = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    address = first.getsockname()
    with second, Gate(listener, None, [first, second], threads=2) as gate, caplog.at_level(logging.WARNING):
        first.close()
        eventually(lambda: gate.left == 2, "that both threads leave it")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        with connect(second.getsockname()[1]):
            end(take_all(gate, 1))
        eventually(lambda: gate.report() or "left 2 listening sockets" in caplog.text, "a report")


def test_a_socket_that_is_shut_down_is_left(listener):
    with gated(listener, None) as (gate, _):
        gate.sockets[0].shutdown(socket.SHUT_RDWR)
        eventually(lambda: gate.left == 1, "that it is left")
        assert gate.get(0) == []


def test_refusals_are_logged_with_their_number(listener, caplog):
    with caplog.at_level(logging.INFO), gated(listener, Limits({"/32": 0})) as (gate, port):
        for _ in range(3):
            with connect(port, "127.0.0.8") as peer:
                assert said(peer) == OVER
        eventually(lambda: gate.refused == 3, "three refusals")
        ready = select.poll()
        ready.register(gate.fileno(), select.POLLIN)
        assert ready.poll(PATIENCE * 1000)  # although none waits
        assert gate.take() == []
        assert re.search(
            r"refused 127\.0\.0\.8:\d+: 421 connection limit exceeded \(and 2 more since the last such line\)",
            caplog.text,
        )
        assert not gate._has_news


# ---- the end


def test_a_close_comes_once_and_wakes_those_that_wait(listener):
    with gated(listener, None) as (gate, _):
        results: list[object] = []
        waiting = [threading.Thread(target=lambda: results.append(gate.get())) for _ in range(3)]
        closing = [threading.Thread(target=gate.close) for _ in range(3)]
        for thread in waiting:
            thread.start()
        time.sleep(0.01)
        for thread in closing:
            thread.start()
        for thread in waiting + closing:
            thread.join()
        assert results == [[], [], []]
        gate.close()
        assert (gate.fileno(), gate.closed) == (-1, True)


def test_a_signal_handler_may_close_a_gate_that_is_waited_for(listener):
    with gated(listener, None) as (gate, _):
        before = signal.signal(signal.SIGUSR1, lambda *_: gate.close())
        try:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            assert gate.get(PATIENCE) == []
        finally:
            signal.signal(signal.SIGUSR1, before)


def test_threads_of_a_gate_get_no_signals(listener):
    with gated(listener, None, threads=3):
        for task in Path("/proc/self/task").iterdir():
            try:
                status = (task / "status").read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                continue
            lines = dict(line.split(":\t", 1) for line in status if ":\t" in line)
            if int(task.name) not in {thread.native_id for thread in threading.enumerate()}:
                assert int(lines["SigBlk"], 16) & (1 << (signal.SIGTERM - 1)) or lines["Name"] != "pytest"


def test_a_gate_that_is_forgotten_ends(listener):
    before = descriptors()
    threads = len(os.listdir("/proc/self/task"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        guard = Guard(listener, Limits())
        gate = Gate(listener, guard.policy, [listening], guard=guard, threads=4)
        with connect(listening.getsockname()[1]):
            while not gate.waiting:
                time.sleep(0.001)
            del gate, guard
            eventually(lambda: descriptors() <= before + 2, "its descriptors")
    eventually(lambda: len(os.listdir("/proc/self/task")) <= threads, "the end of its threads")
    assert listener.total == 0


def test_a_clock_of_python_and_a_forgotten_gate_do_not_wait_for_each_other():
    clock = Clock()
    with InboundAudit(capacity=1 << 22, monitors=["60,2"], clock=clock) as audit:
        for _ in range(20):
            with socket.create_server(("127.0.0.1", 0)) as listening:
                gate = Gate(audit.listener("SMTP"), Limits({"/32": 1}), [listening])
                peers = [connect(listening.getsockname()[1]) for _ in range(3)]
                gate.close()
                for peer in peers:
                    peer.close()
        assert audit.total() == 0


def test_a_clock_of_python_may_use_the_gate_that_calls_it():
    """It runs in a thread of the gate, in the middle of a batch."""
    main, gates, said_by = threading.current_thread(), [], []

    def clock():
        if gates and threading.current_thread() is not main and not said_by:
            said_by.append(gates[0].report(last=True))
            with pytest.raises(RuntimeError, match="a clock that a gate calls") as failure:
                gates[0].limits = Limits({"/32": 5})
            said_by.append(failure.value)
        return 0.0

    with InboundAudit(capacity=1 << 22, monitors=["60,2"], clock=clock) as audit:
        before = Limits({"/32": 3})
        with gated(audit.listener("SMTP"), before) as (gate, port), connect(port):
            gates.append(gate)
            with connect(port):
                end(take_all(gate, 2))
            assert len(said_by) == 2
            assert gate.limits is before
            gates.clear()


# ---- the guard


def test_one_set_of_figures(listener):
    guard = Guard(listener, Limits({"/32": 1}))
    with gated(listener, guard.policy, guard=guard) as (gate, port), connect(port), connect(port) as second:
        assert said(second) == OVER
        eventually(lambda: gate.waiting == 1, "one that waits")
        assert (guard.opened, guard.accepted, guard.refused, guard.open) == (2, 0, 1, 1)
        ((connection, session, asked),) = gate.take_asked()
        assert asked is gate.limits
        admission = guard.receive(session, asked)
        assert admission.evaluate()
        assert (guard.opened, guard.accepted, guard.refused, guard.open) == (2, 1, 1, 1)
        connection.close()
        admission.close()
        assert guard.open == 0
        eventually(lambda: listener.total == 0, "the end of the refused session")


def test_a_script_is_asked_behind_the_limits(listener):
    script = Script({"connect": Verdict(False, 550, "no")})
    guard = Guard(listener, script)
    with gated(listener, Limits({"/32": 1}), guard=guard) as (gate, port), connect(port), connect(port) as second:
        assert said(second) == OVER
        ((connection, session),) = take_all(gate, 1)
        admission = guard.receive(session, gate.limits)
        assert not admission.evaluate()
        assert script.asked == [("connect", "127.0.0.1")]
        assert (guard.opened, guard.accepted, guard.refused) == (2, 0, 2)
        connection.close()
        admission.close()


def test_a_policy_that_is_exchanged_is_what_the_gate_asks(listener):
    guard = Guard(listener, Limits({"/32": 1}))
    with gated(listener, guard.policy, guard=guard) as (gate, port):
        guard.policy = Script()
        assert gate.limits is None
        guard.policy = Limits({"/32": 0}, text="closed")
        with connect(port) as peer:
            assert said(peer) == b"421 4.7.0 closed\r\n"


@pytest.mark.parametrize("before", [None, {"/32": 9}])
def test_who_waits_while_the_limits_are_exchanged_is_asked_about_anew(listener, before):
    guard = Guard(listener, None if before is None else Limits(before))
    with gated(listener, guard.policy, guard=guard) as (gate, port):
        peers = [connect(port) for _ in range(3)]
        eventually(lambda: gate.waiting == 3, "three that wait")
        guard.policy = Limits({"/32": 1})
        taken = gate.take_asked()
        admissions = [guard.receive(session, asked) for _, session, asked in taken]
        assert [asked for _, _, asked in taken] == [None] * 3
        for admission, (connection, _, _) in zip(admissions, taken, strict=True):
            connection.close()
            assert not admission.evaluate()
        assert guard.refused == 3
        for admission, peer in zip(admissions, peers, strict=True):
            admission.close()
            peer.close()


@pytest.mark.parametrize("own", [False, True], ids=["no limits", "the guard's limits"])
def test_a_gate_follows_a_guard_that_joins_later(listener, own: bool):
    guard = Guard(listener, Limits({"/32": 1}))
    with gated(listener, guard.policy if own else None) as (gate, port):
        gate.join(guard)
        guard.policy = Limits({"/32": 0}, text="closed")
        assert gate.limits is guard.policy
        with connect(port) as peer:
            assert said(peer) == b"421 4.7.0 closed\r\n"


def test_a_gate_with_limits_of_its_own_keeps_them_when_a_guard_joins(listener):
    guard, limits = Guard(listener, Limits({"/32": 1})), Limits({"/32": 2})
    with gated(listener, limits) as (gate, _):
        gate.join(guard)
        guard.policy = Limits({"/32": 0})
        assert gate.limits is limits


def test_the_real_client_of_a_connection_is_asked_about_anew(listener):
    limits = Limits({"/32": 1}, exempt=["127.0.0.0/8"])
    guard = Guard(listener, limits)
    admissions = [guard.receive(listener.session("127.0.0.1"), limits) for _ in range(2)]
    for admission in admissions:
        assert admission.rebind("192.0.2.1")
        admission.evaluate()
    assert [admission.let_in for admission in admissions] == [True, False]
    for admission in admissions:
        admission.close()


def test_the_timeout_of_a_socket_stays(listener):
    with socket.create_server(("127.0.0.1", 0)) as listening, Gate(listener, None, [listening]):
        assert listening.gettimeout() is None


def test_a_guard_of_another_listener_is_no_guard_of_a_gate(audit, listener):
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(ValueError, match="another listener"):
        Gate(listener, None, [listening], guard=Guard(audit.listener("IMAP")))


def test_the_error_of_a_system_without_descriptors_is_raised(listener):
    before = descriptors()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(listening.fileno())
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 2, hard))  # numbers from there on may be in use
        try:
            with pytest.raises(OSError, match="the gate can't begin") as failure:
                Gate(listener, None, [listening])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert failure.value.errno == errno.EMFILE
    assert descriptors() <= before
