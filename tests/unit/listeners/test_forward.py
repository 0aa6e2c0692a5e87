"""The forwarder: bytes arrive equal and in order, ends and resets are carried on, counts and descriptors come back."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator

import pytest
from tests.support import forwarding
from tests.support.forwarding import HELD, SORRY, Pairs, back_end_that_refuses, exchange, fronted
from tests.support.gates import Other, come_to_wait, connect, said, tasks
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import Limits
from inbound_audit.listeners.forward import BackEnd, Forwarder, resolve, unix_back_end

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a forwarder needs Linux")

audit, listener, no_held_port = forwarding.audit, forwarding.listener, forwarding.no_held_port  # fixtures


# ---- bytes


def test_bytes_go_both_ways_and_the_client_is_counted_until_its_end(audit, listener):
    with fronted(listener) as front:
        client, server = front.pair("127.0.0.9")
        with client, server:
            client.sendall(b"hello")
            assert server.recv(9) == b"hello"
            server.sendall(b"there")
            assert client.recv(9) == b"there"
            assert audit.inbound_session_count("127.0.0.9") == front.forwarder.open == 1
            client.shutdown(socket.SHUT_WR)
            assert server.recv(1) == b""  # half closed: the other half goes on
            server.sendall(b"and more")
            assert client.recv(99) == b"and more"
            assert audit.total() == 1
            server.close()
            assert client.recv(1) == b""
        eventually(lambda: audit.total() == front.forwarder.open == 0, "the end of the count")
        assert (front.forwarder.bytes_in, front.forwarder.bytes_out) == (5, 13)
        eventually(lambda: front.gate.forwarded == 1, "the gate's figure, which comes after the connection")
        assert (front.gate.accepted, front.gate.waiting) == (1, 0)


def test_the_count_has_ended_when_the_client_reads_the_end(audit, listener):
    """It is taken back before the client's socket is closed: who has read the end finds no count."""
    with fronted(listener) as front:
        for _ in range(50):
            client, server = front.pair()
            with client:
                client.shutdown(socket.SHUT_WR)
                assert server.recv(1) == b""
                server.close()
                assert client.recv(1) == b""  # the stream's end: carried on before the flow ends
            eventually(lambda: audit.total() == 0, "the end of the count")


def test_who_is_over_a_limit_never_reaches_the_server(audit, listener):
    with fronted(listener, Limits({"/32": 1})) as front:
        client, server = front.pair()
        with client, server:
            with connect(front.port) as second:
                assert said(second) == b"421 4.7.0 connection limit exceeded\r\n"
            assert front.forwarder.begun == 1


# ---- back ends


def test_the_first_back_end_that_takes_a_connection_has_it(listener):
    refuses = back_end_that_refuses()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        with fronted(listener, to=[refuses, *resolve(*server.getsockname())]) as front:
            for _ in range(3):
                with connect(front.port) as client, server.accept()[0] as served:
                    served.sendall(b"me")
                    assert client.recv(2) == b"me"
            assert front.forwarder.down == (refuses,)
            assert front.forwarder.unavailable == 0


def test_without_a_back_end_a_client_is_told_and_closed(audit, listener):
    refuses = back_end_that_refuses()
    with fronted(listener, to=[refuses]) as front:
        for number in range(1, 4):
            with connect(front.port) as client:
                client.sendall(b"EHLO me\r\n")  # what was sent and not read takes no reply away
                assert said(client) == SORRY
            eventually(lambda number=number: front.forwarder.unavailable == number, "the figure")
        eventually(lambda: audit.total() == front.forwarder.open == 0, "the end of the count")
        HELD[0].listen()
        front.forwarder.mark_up(refuses)
        with connect(front.port), HELD[0].accept()[0]:
            assert front.forwarder.down == ()


def test_a_back_end_that_takes_no_connection_in_time_is_down(listener):
    with silent() as back_ends, fronted(listener, to=back_ends, connect_s=0.05) as front, connect(front.port) as client:
        assert said(client) == SORRY
        assert list(front.forwarder.down) == back_ends


def test_all_that_a_refused_client_has_sent_is_read(listener):
    """Else it would be reset: it has not ended, and is closed when its time is over."""
    with silent() as back_ends, fronted(listener, to=back_ends, connect_s=0.1) as front, connect(front.port) as client:
        client.sendall(bytes(300_000))
        eventually(lambda: front.forwarder.unavailable and front.forwarder.open == 0, "its end")
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert said(client) == SORRY


@contextlib.contextmanager
def silent() -> Iterator[list[BackEnd]]:
    """The queue of its socket is full, so the system answers no SYN."""
    with socket.socket() as full, contextlib.ExitStack() as held:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        yield resolve(*full.getsockname())


def test_a_unix_socket_is_a_back_end(tmp_path, listener):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "server"))
        server.listen()
        server.settimeout(PATIENCE)
        with (
            fronted(listener, to=[unix_back_end(str(tmp_path / "server"))]) as front,
            connect(front.port) as client,
            server.accept()[0] as served,
        ):
            exchange(client, served, bytes(100_000), b"down")


# ---- connections that Python adds


def test_what_python_adds_is_its_own_to_count(audit, listener):
    with fronted(listener) as front:
        front.gate.forward_to(None)
        with connect(front.port, "127.0.0.5") as client:
            eventually(lambda: front.gate.waiting, "the connection")
            ((connection, session),) = front.gate.take()
            number = front.forwarder.add(connection, session)
            assert number
            assert connection.fileno() == -1
            with front.server.accept()[0] as served:
                served.sendall(b"hi")
                assert client.recv(2) == b"hi"
                assert front.forwarder.take_ended() == []
                assert audit.total() == 1
        ended: list[int] = []
        eventually(lambda: ended.extend(front.forwarder.take_ended()) or ended, "the end")
        assert ended == [number]
        assert audit.total() == 1
        session.close()


def test_a_refused_connection_has_time_to_read_its_reply(listener):
    with fronted(listener) as front:
        front.gate.forward_to(None)
        with connect(front.port) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            eventually(lambda: front.gate.waiting, "the connection")
            ((connection, session),) = front.gate.take()
            connection.sendall(b"no\r\n")
            connection.shutdown(socket.SHUT_WR)
            session.close()
            front.forwarder.add_refused(connection)
            assert said(client) == b"no\r\n"
        eventually(lambda: front.forwarder.open == 0, "the close")
        assert front.forwarder.take_ended() == []


# ---- descriptors that other code closes


@pytest.mark.parametrize(
    ("lost", "kind"),
    [*((name, "nothing") for name in Pairs.NAMES), ("inbox reads", "stream"), ("news writes", "stream")],
)
def test_a_forwarder_that_has_lost_a_descriptor_takes_nothing_and_waits(listener, lost, kind):
    """Other code has closed the number, or has a stream of its own under it. What is open goes on."""
    own, threads = Pairs(), tasks()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Forwarder(listener, resolve(*server.getsockname()), threads=2) as forwarder,
    ):
        own.find(server)
        (client, given), (late, late_given) = socket.socketpair(), socket.socketpair()
        with client, late, late_given:
            number = forwarder.add(given, None)
            with server.accept()[0] as served:
                other = Other(kind)
                other.take([own.number[lost]])
                eventually(lambda: forwarder._is_lost, "the loss")
                come_to_wait(tasks() - threads)
                assert forwarder.add(late_given, None) == 0
                exchange(client, served, b"hello", b"there")
        ended: list[int] = []
        eventually(lambda: ended.extend(forwarder.take_ended()) or ended, "the end")
        assert ended == [number]
        forwarder.close()
        assert not forwarder._is_lost
        other.end()


# ---- mistakes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to": [BackEnd("x", socket.AF_INET, ("127.0.0.1", 1))] * 65}, "65 back ends"),
        ({"threads": 0}, "threads"),
        ({"connect_s": 0}, "connect_s=0"),
        ({"idle_s": -1}, "idle_s=-1"),
        ({"send_proxy": "v3"}, "not in"),
    ],
)
def test_wrong_options_say_so(listener, options, words):
    with pytest.raises(ValueError, match=words):
        Forwarder(listener, **{"back_ends": resolve("127.0.0.1", 1), **_renamed(options)})


def _renamed(options: dict[str, object]) -> dict[str, object]:
    return {"back_ends" if name == "to" else name: value for name, value in options.items()}


def test_a_gate_forwards_in_its_own_listener_alone(audit, listener):
    with (
        Forwarder(audit.listener("Control"), resolve("127.0.0.1", 1)) as forwarder,
        fronted(listener) as front,
        pytest.raises(ValueError, match="another listener"),
    ):
        front.gate.forward_to(forwarder)
