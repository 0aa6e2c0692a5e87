"""socketserver: serial, threading and forking servers, counted from accept to close."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.support import gates, listening
from tests.support.listening import WAYS, Peer, Script, Way, every_way
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit, Limits, Verdict
from inbound_audit.errors import InboundAuditError
from inbound_audit.listeners import Guard
from inbound_audit.listeners.gate import Gate
from inbound_audit.listeners.threads import Counted

pytestmark = [
    pytest.mark.usefixtures("acceptor"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

acceptor, audit, guard = listening.acceptor, listening.audit, listening.guard  # fixtures

FOREVER = Verdict(tarpit=3600.0)
SHORTLY = Verdict(tarpit=0.05)
BUSY = Verdict(False, 421, "busy")


class Echo(socketserver.StreamRequestHandler):
    """Greets with "hello" and sends back what comes; "fail" makes it raise, "who" tells what it knows."""

    def handle(self) -> None:
        self.wfile.write(b"hello\n")
        for line in self.rfile:
            if line == b"fail\n":
                raise RuntimeError("on purpose")
            self.wfile.write(self.who() if line == b"who\n" else line)

    def who(self) -> bytes:
        session = self.server.inbound_session(self.request)
        return f"{session.remote_ip} {session.inbound_session_count()} {session.closed} {os.getpid()}\n".encode()


class Quiet(Counted):
    """Keeps errors of handlers to itself, and listens in every way."""

    request_queue_size = 64
    errors: tuple[object, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        forks = isinstance(self, socketserver.ForkingMixIn)
        super().__init__(*args, **{"gate": listening.accepts_by_gate() and not forks, **kwargs})

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.errors += (client_address,)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class Serial(Quiet, socketserver.TCPServer):
    pass


class Threading(Quiet, socketserver.ThreadingTCPServer):
    pass


class Forking(Quiet, socketserver.ForkingTCPServer):
    pass


forking = pytest.param(Forking, marks=pytest.mark.system)  # starts processes
every_server = pytest.mark.parametrize("kind", [Serial, Threading, forking], ids=lambda kind: kind.__name__)
every_concurrent_server = pytest.mark.parametrize("kind", [Threading, forking], ids=lambda kind: kind.__name__)


@contextlib.contextmanager
def serving(kind: type[Any], guard: Guard, way: Way = WAYS[0], **kwargs: Any) -> Iterator[tuple[Any, tuple[str, int]]]:
    family = socket.AF_INET6 if ":" in way.listen else socket.AF_INET
    bound = type(kind.__name__, (kind,), {"address_family": family})
    with bound((way.listen, 0), Echo, guard=guard, **kwargs) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server, (way.connect, server.server_address[1])
        except BaseException:
            for pid in getattr(server, "active_children", None) or ():
                os.kill(pid, signal.SIGKILL)  # or closing the server would wait for it, and the failure be never told
            raise
        finally:
            server.shutdown()
            thread.join()


def child_of(server: Any) -> int:
    """Its process id, which the server notes a moment after the fork."""
    eventually(lambda: server.active_children, "a child")
    (pid,) = server.active_children
    return int(pid)


@every_way
@every_server
def test_counted_while_it_is_open(guard: Guard, audit: InboundAudit, way: Way, kind: type[Any]) -> None:
    with serving(kind, guard, way) as (_, address):
        for _ in range(2):
            with Peer(*address) as peer:
                assert peer.line() == b"hello\n"
                assert audit.inbound_session_count(way.counted) == 1
            eventually(lambda: audit.total() == 0)
        assert (guard.opened, guard.accepted, guard.open) == (2, 2, 0)


@every_way
@every_concurrent_server
def test_several_at_once(guard: Guard, audit: InboundAudit, way: Way, kind: type[Any]) -> None:
    with serving(kind, guard, way) as (_, address), contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(*address)) for _ in range(5)]
        assert [peer.line() for peer in peers] == [b"hello\n"] * 5
        assert audit.inbound_session_count(way.counted) == 5
        peers[2].close()
        eventually(lambda: audit.total() == 4)
        assert peers[3].ask(b"over") == b"over\r\n"


@every_way
@every_server
def test_a_reset_ends_the_session(guard: Guard, audit: InboundAudit, way: Way, kind: type[Any]) -> None:
    with serving(kind, guard, way) as (_, address):
        peer = Peer(*address)
        assert peer.line() == b"hello\n"
        peer.reset()
        eventually(lambda: guard.opened == 1 and audit.total() == 0)


@every_server
def test_peers_that_reset_at_once(guard: Guard, audit: InboundAudit, kind: type[Any]) -> None:
    with serving(kind, guard) as (_, address):
        for _ in range(20):
            Peer(*address).reset()
        eventually(lambda: guard.opened == 20)
        eventually(lambda: audit.total() == 0)


@every_server
def test_a_handler_that_raises(guard: Guard, audit: InboundAudit, kind: type[Any]) -> None:
    with serving(kind, guard, WAYS[1]) as (server, address):
        with Peer(*address) as peer:
            peer.line()
            peer.send(b"fail\n")
            assert peer.rest() == b""
        eventually(lambda: audit.total() == 0)
        assert len(server.errors) == (0 if kind is Forking else 1)  # the child's error stays in the child
        with Peer(*address) as peer:
            assert peer.line() == b"hello\n"


@every_way
@every_concurrent_server
def test_a_refused_peer_reads_the_reason(guard: Guard, audit: InboundAudit, way: Way, kind: type[Any]) -> None:
    guard.policy = policy = Limits({"/32": 1})
    with serving(kind, guard, way, refusal=b"busy\n") as (_, address):
        with Peer(*address) as one:
            one.line()
            with Peer(*address) as two:
                assert two.rest() == b"busy\n"
            eventually(lambda: audit.total() == 1)
            assert (guard.accepted, guard.refused) == (1, 1)
            assert sum(policy.refused.values()) == 1
        eventually(lambda: audit.total() == 0)
        with Peer(*address) as three:
            assert three.line() == b"hello\n"


@every_server
def test_a_refusal_may_be_made_of_the_verdict(guard: Guard, kind: type[Any]) -> None:
    guard.policy = Script({"connect": BUSY})
    with serving(kind, guard, refusal=lambda verdict: verdict.text.encode()) as (_, address), Peer(*address) as peer:
        assert peer.rest() == b"busy"


def test_a_forking_server_has_no_gate(guard: Guard) -> None:
    with pytest.raises(TypeError, match="forks"):
        Forking(("127.0.0.1", 0), Echo, guard=guard, gate=True)


@pytest.mark.parametrize("refusal", [lambda verdict: 1 / 0, lambda verdict: verdict.text])
def test_a_refusal_that_cannot_be_made_is_a_silent_one(guard: Guard, refusal: Any) -> None:
    guard.policy = Script({"connect": BUSY})
    with serving(Serial, guard, refusal=refusal) as (_, address):
        for _ in range(2):
            with Peer(*address) as peer:
                assert peer.rest() == b""
        assert guard.failures == 2


def test_a_refused_peer_that_does_not_read_delays_no_other(guard: Guard) -> None:
    guard.policy = Script({"connect": BUSY})
    with serving(Serial, guard, refusal=b"busy\n" * (1 << 22), gate=False) as (_, address), Peer(*address):
        with Peer(*address) as peer:
            assert peer.line() == b"busy\n"
        assert guard.refused == 2


@every_server
def test_a_policy_that_raises_does_not_end_the_server(guard: Guard, kind: type[Any]) -> None:
    guard.policy = Script({"connect": RuntimeError("out of order")})
    with serving(kind, guard) as (_, address):
        for _ in range(2):
            with Peer(*address) as peer:
                assert peer.line() == b"hello\n"


@every_server
def test_a_full_arena_does_not_end_the_server(kind: type[Any]) -> None:
    with InboundAudit(capacity=8192) as audit:
        kept = listening.fill(audit.listener(), size=4)
        guard = Guard(audit.listener())
        with serving(kind, guard) as (_, address):
            for _ in range(2):
                with Peer(*address) as peer:
                    assert peer.line() == b"hello\n"
            eventually(lambda: guard.open == 0)
            assert (guard.uncounted, audit.total()) == (2, len(kept))
        for session in kept:
            session.close()


@every_concurrent_server
@every_way
def test_a_tarpit_does_not_stop_the_others(guard: Guard, audit: InboundAudit, kind: type[Any], way: Way) -> None:
    policy = guard.policy = Script({"connect": FOREVER})
    with serving(kind, guard, way) as (server, address), Peer(*address):
        eventually(lambda: guard.open == 1)
        policy.answers.clear()
        with Peer(*address) as quick:
            assert quick.line() == b"hello\n"
            assert audit.total() == 2
        eventually(lambda: audit.total() == 1)
        for pid in server.active_children if kind is Forking else ():
            os.kill(pid, signal.SIGKILL)


@every_concurrent_server
@pytest.mark.parametrize("answer", [SHORTLY, Verdict(False, tarpit=0.05)], ids=["let in", "refused"])
def test_after_a_tarpit(guard: Guard, kind: type[Any], answer: Verdict) -> None:
    guard.policy = Script({"connect": answer})
    with serving(kind, guard, refusal=b"busy\n") as (_, address), Peer(*address) as peer:
        assert peer.line() == (b"hello\n" if answer else b"busy\n")


def test_a_serial_server_does_not_wait(guard: Guard) -> None:
    policy = guard.policy = Script({"connect": FOREVER})
    with serving(Serial, guard, refusal=b"busy\n") as (_, address):
        with Peer(*address) as peer:
            assert peer.line() == b"hello\n"
        policy.answers["connect"] = Verdict(False, tarpit=3600.0)
        with Peer(*address) as peer:
            assert peer.rest() == b"busy\n"


def test_closing_the_server_cuts_tarpits_short(guard: Guard, audit: InboundAudit) -> None:
    guard.policy = Script({"connect": FOREVER})
    with serving(Threading, guard) as (_, address):
        peer = Peer(*address)
        eventually(lambda: guard.open == 1)
        peer.close()
    assert audit.total() == 0


def test_closing_the_server_waits_for_sessions(guard: Guard, audit: InboundAudit) -> None:
    """As socketserver does: threads are joined, and each ends its session."""
    with serving(Threading, guard) as (server, address):
        peer = Peer(*address)
        peer.line()
        server.shutdown()
        assert peer.ask(b"still served") == b"still served\r\n"
        assert audit.total() == 1
        peer.close()
    assert audit.total() == 0


@pytest.mark.system
@every_way
def test_a_child_knows_its_peer_and_counts_nothing(guard: Guard, audit: InboundAudit, way: Way) -> None:
    with serving(Forking, guard, way) as (server, address), Peer(*address) as peer:
        peer.line()
        pid = child_of(server)
        peer.send(b"who\n")
        assert peer.line() == f"{way.counted} 0 True {pid}\n".encode()
        assert audit.inbound_session_count(way.counted) == 1


def test_a_thread_knows_its_session(guard: Guard) -> None:
    with serving(Threading, guard, WAYS[1]) as (_, address), Peer(*address) as peer:
        peer.line()
        peer.send(b"who\n")
        assert peer.line() == f"::1 1 False {os.getpid()}\n".encode()


@pytest.mark.system
def test_a_child_that_is_killed_ends_its_session(guard: Guard, audit: InboundAudit) -> None:
    policy = guard.policy = Script()
    with serving(Forking, guard) as (server, address), Peer(*address) as peer:
        peer.line()
        pid = child_of(server)
        assert audit.total() == 1
        os.kill(pid, signal.SIGKILL)
        assert peer.rest() == b""
        eventually(lambda: audit.total() == 0)
        assert len(policy.ended) == 1


@pytest.mark.system
def test_children_are_reaped_before_the_policy_is_asked(guard: Guard, audit: InboundAudit) -> None:
    """Else a child that has ended would be counted against the next connection."""
    guard.policy = Limits({"/32": 1})
    with Forking(("127.0.0.1", 0), Echo, guard=guard) as server:
        for _ in range(3):
            with Peer(*server.server_address) as peer:
                server.handle_request()  # which reaps no child by itself
                assert peer.line() == b"hello\n"
                (pid,) = server._children
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            assert audit.total() == 1
        assert guard.refused == 0


@pytest.mark.system
def test_children_that_a_closed_server_leaves_behind_are_not_counted(guard: Guard, audit: InboundAudit) -> None:
    class Leaving(Forking):
        block_on_close = False

    with serving(Leaving, guard) as (server, address):
        peer = Peer(*address)
        peer.line()
        pid = child_of(server)
    assert audit.total() == 0
    peer.close()
    assert os.waitpid(pid, 0)[0] == pid


@pytest.mark.parametrize("kind", [Threading, Forking])
def test_a_server_that_can_start_nothing(
    guard: Guard, audit: InboundAudit, kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError("no more of them")

    with serving(kind, guard) as (server, address):
        with monkeypatch.context() as patch:
            patch.setattr(server, "process_request_thread", None, raising=False)
            patch.setattr(os, "fork", fail)
            if kind is Threading:
                patch.setattr(socketserver.threading, "Thread", fail)
            with Peer(*address) as peer:
                assert peer.rest() == b""
            eventually(lambda: len(server.errors) == 1)
        eventually(lambda: audit.total() == 0)


def test_what_the_server_itself_turns_away_is_not_counted(guard: Guard) -> None:
    class Choosy(socketserver.TCPServer):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            return False

    class Both(Counted, Choosy):
        pass

    with serving(Both, guard) as (_, address), Peer(*address) as peer:
        assert peer.rest() == b""
        assert guard.opened == 0


def test_a_unix_socket_is_let_in_uncounted(guard: Guard, audit: InboundAudit, tmp_path: Path) -> None:
    class Unix(Counted, socketserver.ThreadingUnixStreamServer):
        pass

    guard.policy = Limits({"/0": 0})
    with Unix(str(tmp_path / "socket"), Echo, guard=guard) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(server.server_address)
            assert client.recv(100) == b"hello\n"
            assert (guard.uncounted, guard.open, audit.total()) == (1, 1, 0)
        thread.join()


# ---- TLS


class Secured(Threading):
    """Its requests are wrapped one by one."""

    context: ssl.SSLContext

    def get_request(self) -> tuple[Any, Any]:
        request, address = super().get_request()
        return self.context.wrap_socket(request, server_side=True), address


def secured(server: Any, context: ssl.SSLContext, **options: Any) -> None:
    server.socket = context.wrap_socket(server.socket, server_side=True, **options)


@pytest.fixture(scope="module")
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


needs_gate = pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux")
gate_or_not = pytest.mark.parametrize("gate", [False, pytest.param(True, marks=needs_gate)], ids=["loop", "gate"])


@gate_or_not
@pytest.mark.parametrize("wrapped", ["listening", "before it listens", "each", "handshake later"])
def test_tls_is_as_the_listening_socket_has_it(guard: Guard, tls: Any, gate: bool, wrapped: str) -> None:
    ours, theirs = tls
    kind = type("Secured", (Secured if wrapped == "each" else Threading,), {"context": ours})
    early = wrapped == "before it listens"
    with kind(("127.0.0.1", 0), Echo, guard=guard, gate=gate, bind_and_activate=not early) as server:
        if wrapped != "each":
            secured(server, ours, do_handshake_on_connect=wrapped != "handshake later")
        if early:
            server.server_bind()
            server.server_activate()
        serves = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serves.start()
        try:
            for _ in range(2):
                with Peer(*server.server_address) as peer:
                    secure = theirs.wrap_socket(peer.socket, server_hostname="localhost")
                    assert secure.recv(6) == b"hello\n"
                    assert (guard.open, guard.listener.total) == (1, 1)
                    secure.sendall(b"who\n")
                    assert secure.recv(100).startswith(b"127.0.0.1 1 False")
                    secure.close()
                eventually(lambda: guard.open == guard.listener.total == 0, "its end")
            with Peer(*server.server_address) as peer:
                peer.send(b"no handshake at all\n")
                assert b"hello" not in peer.rest()
            eventually(lambda: guard.open == guard.listener.total == 0, "the end of the handshake")
        finally:
            server.shutdown()
            serves.join()


@gate_or_not
def test_a_listening_socket_may_be_set_to_wait(guard: Guard, gate: bool) -> None:
    with serving(Threading, guard, gate=gate) as (server, address):
        for timeout in (None, 5.0, None):
            with Peer(*address) as peer:
                assert peer.line() == b"hello\n"
            server.socket.settimeout(timeout)
        eventually(lambda: guard.open == 0, "the end of each")
    assert server.socket.fileno() == -1


@gate_or_not
@pytest.mark.parametrize("seconds", [None, 3600.0])
def test_requests_have_the_time_out_that_accept_gives_them(
    guard: Guard, gate: bool, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[float | None] = []

    class Seeing(Echo):
        def handle(self) -> None:
            found.append(self.request.gettimeout())

    with Threading(("127.0.0.1", 0), Seeing, guard=guard, gate=gate) as server, Peer(*server.server_address) as peer:
        server.timeout = 0.01
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(seconds)
        try:
            eventually(lambda: server.handle_request() or found, "a request")
        finally:
            socket.setdefaulttimeout(before)
        assert peer.rest() == b""
    assert found == [seconds]


@needs_gate
def test_a_class_that_accepts_by_itself_has_no_gate(guard: Guard) -> None:
    class Accepting(socketserver.ThreadingTCPServer):
        def get_request(self) -> Any:
            return self.socket.accept()

    class Both(Counted, Accepting):
        pass

    with pytest.raises(TypeError, match="a get_request of its own"):
        Both(("127.0.0.1", 0), Echo, guard=guard, gate=True)
    Both(("127.0.0.1", 0), Echo, guard=guard).server_close()


class Other(socket.socket):
    def accept(self) -> Any:
        raise NotImplementedError


@needs_gate
def test_a_socket_that_accepts_in_another_way_has_no_gate(guard: Guard) -> None:
    class Odd(Counted, socketserver.ThreadingTCPServer):
        def server_bind(self) -> None:
            self.socket = Other(fileno=self.socket.detach())
            super().server_bind()

    with pytest.raises(TypeError, match="an `accept` of its own"):
        Odd(("127.0.0.1", 0), Echo, guard=guard, gate=True)
    with Threading(("127.0.0.1", 0), Echo, guard=guard, gate=True) as server, Peer(*server.server_address) as peer:
        server.socket = Other(fileno=server.socket.detach())
        eventually(lambda: guard.opened == 1, "a connection")
        with pytest.raises(TypeError, match="an `accept` of its own"):
            server.handle_request()
        assert peer.rest() == b""


@needs_gate
def test_a_gate_alone_takes_no_tls_socket(guard: Guard, tls: Any) -> None:
    words = pytest.raises(ValueError, match="wrap what it lets in")
    with tls[0].wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True) as listening, words:
        Gate(guard.listener, None, [listening])


@needs_gate
def test_what_the_server_turns_away_behind_a_gate_is_counted_no_more(guard: Guard) -> None:
    class Choosy(Threading):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            return False

    with serving(Choosy, guard, gate=True) as (_, address), Peer(*address) as peer:
        assert peer.rest() == b""
        eventually(lambda: guard.open == guard.listener.total == 0, "its end")
        assert guard.opened == 1


LOST = [("reads", "stream"), ("reads", "nothing"), ("writes", "stream"), ("watched", "stream"), ("watched", "nothing")]


@needs_gate
@pytest.mark.parametrize(("lost", "kind"), LOST, ids=[" ".join(each) for each in LOST])
def test_a_server_whose_gate_is_lost_ends_and_says_so(guard: Guard, lost: str, kind: str) -> None:
    """It would ask again and again for a connection that never comes."""
    ended: list[Exception] = []

    def serve() -> None:
        try:
            server.serve_forever(poll_interval=0.01)
        except InboundAuditError as error:
            ended.append(error)

    with Threading(("127.0.0.1", 0), Echo, guard=guard, bind_and_activate=False, gate=True) as server:
        server.server_bind()
        other, own = gates.Other(kind), gates.Own(server.socket)
        server.server_activate()
        found = own.find(server._gate) | {"watched": [server.fileno()]}
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            other.take(found[lost])
            thread.join(PATIENCE)
            assert "accepts no more" in str(ended[0])
        finally:
            server.shutdown()
        assert server._gate.closed
        with pytest.raises(InboundAuditError, match="accepts no more"):
            server.handle_request()
    other.end()


@needs_gate
def test_a_server_whose_gate_was_closed_ends(guard: Guard) -> None:
    with Threading(("127.0.0.1", 0), Echo, guard=guard, gate=True) as server:
        server._gate.close()
        with pytest.raises(InboundAuditError, match="accepts no more"):
            server.serve_forever()


def test_a_server_without_connections_is_none(guard: Guard) -> None:
    class Datagrams(Counted, socketserver.UDPServer):
        pass

    with pytest.raises(TypeError, match="Datagrams has no connections"):
        Datagrams(("127.0.0.1", 0), Echo, guard=guard)
