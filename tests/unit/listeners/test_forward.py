"""The forwarder: bytes arrive equal and in order, ends and resets are carried on, counts and descriptors come back."""

from __future__ import annotations

import contextlib
import gc
import random
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.gates import connect, descriptors, said
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit, Limits, Listener
from inbound_audit.listeners.forward import BackEnd, Forwarder, resolve, unix_back_end
from inbound_audit.listeners.gate import Gate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a forwarder needs Linux")

SORRY = b"421 no server\r\n"


@pytest.fixture
def audit() -> Iterator[InboundAudit]:
    with InboundAudit(capacity=1 << 22) as audit:
        yield audit


@pytest.fixture
def listener(audit: InboundAudit) -> Listener:
    return audit.listener("SMTP")


@dataclass
class Front:
    """A gate and a forwarder before a socket that the test accepts from."""

    gate: Gate
    forwarder: Forwarder
    port: int
    server: socket.socket

    def pair(self, source: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
        """A client, and its connection as the server has it."""
        client = connect(self.port, source)
        served, _ = self.server.accept()
        served.settimeout(PATIENCE)
        return client, served


@contextlib.contextmanager
def fronted(listener: Listener, limits: Limits | None = None, **options: object) -> Iterator[Front]:
    with contextlib.ExitStack() as held:
        server = held.enter_context(socket.create_server(("127.0.0.1", 0)))
        server.settimeout(PATIENCE)
        to = options.pop("to", None) or resolve(*server.getsockname())
        bound = held.enter_context(socket.create_server(("127.0.0.1", 0)))
        forwarder = held.enter_context(Forwarder(listener, to, unavailable=SORRY, **options))  # type: ignore[arg-type]
        gate = held.enter_context(Gate(listener, limits, [bound]))
        gate.forward_to(forwarder)
        yield Front(gate, forwarder, bound.getsockname()[1], server)


def resets(one: socket.socket) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


def back_end_that_refuses() -> BackEnd:
    """An address where no socket listens: it is bound, so that no other program gets it."""
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    HELD.append(held)
    return resolve(*held.getsockname())[0]


HELD: list[socket.socket] = []


@pytest.fixture(autouse=True)
def no_held_port() -> Iterator[None]:
    yield
    while HELD:
        HELD.pop().close()


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
        assert (front.gate.accepted, front.gate.forwarded, front.gate.waiting) == (1, 1, 0)


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


@pytest.mark.parametrize("threads", [1, 3])
def test_a_large_transfer_in_both_directions_at_once(listener, threads):
    data = random.Random(1).randbytes(3 << 20)
    with fronted(listener, threads=threads) as front:
        client, server = front.pair()
        with client, server:
            exchange(client, server, data, data[::-1])


def exchange(client: socket.socket, server: socket.socket, up: bytes, down: bytes) -> None:
    """Sends both at once and compares what arrives."""
    import threading

    got: dict[str, bytes] = {}

    def read(name: str, one: socket.socket) -> None:
        got[name] = said(one)

    def write(one: socket.socket, data: bytes) -> None:
        one.sendall(data)
        one.shutdown(socket.SHUT_WR)

    jobs = [
        threading.Thread(target=read, args=("up", server)),
        threading.Thread(target=read, args=("down", client)),
        threading.Thread(target=write, args=(client, up)),
        threading.Thread(target=write, args=(server, down)),
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(PATIENCE)
    assert got["up"] == up
    assert got["down"] == down


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


# ---- resets and other ends


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
    """The queue of its socket is full, so the system answers no SYN."""
    with socket.socket() as full, contextlib.ExitStack() as held:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        with fronted(listener, to=resolve(*full.getsockname()), connect_s=0.05) as front, connect(front.port) as client:
            assert said(client) == SORRY
            assert [each.name for each in front.forwarder.down] == [f"127.0.0.1:{full.getsockname()[1]}"]


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


# ---- PROXY headers


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_proxy_header_comes_first(listener, version):
    from inbound_audit.listeners import proxy

    with fronted(listener, send_proxy=version) as front:
        client, server = front.pair("127.0.0.7")
        with client, server:
            client.sendall(b"EHLO")
            client.shutdown(socket.SHUT_WR)
            got = said(server)
            name, port = client.getsockname()
            if version == "v1":
                assert got == f"PROXY TCP4 {name} 127.0.0.1 {port} {front.port}\r\nEHLO".encode()
            else:
                header = proxy._second_version(got[:16], got[16:28])
                assert (str(header.src_addr), header.src_port, str(header.dst_addr), header.dst_port) == (
                    name,
                    port,
                    "127.0.0.1",
                    front.port,
                )
                assert got[28:] == b"EHLO"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_client_without_an_address_is_unknown(tmp_path, listener, version):
    with (
        socket.socket(socket.AF_UNIX) as bound,
        socket.create_server(("127.0.0.1", 0)) as server,
        Forwarder(listener, resolve(*server.getsockname()), send_proxy=version) as forwarder,
        socket.socket(socket.AF_UNIX) as client,
    ):
        bound.bind(str(tmp_path / "front"))
        bound.listen()
        with Gate(listener, None, [bound]) as gate:
            gate.forward_to(forwarder)
            client.connect(str(tmp_path / "front"))
            with server.accept()[0] as served:
                client.sendall(b"x")
                client.shutdown(socket.SHUT_WR)
                header = b"PROXY UNKNOWN\r\n" if version == "v1" else b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
                assert said(served) == header + b"x"


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
