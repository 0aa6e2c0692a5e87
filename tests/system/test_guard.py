"""`inbound-audit guard` in processes of its own: mail, HTTP, servers that die, slow readers, reloads under load."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.command_line import Serve
from tests.support.gates import connect, lua_policy, reset, said
from tests.support.guards import Echo, GuardProcess, echo
from tests.support.ports import free_ports
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="a guard needs Linux")]

OVER = b"421 4.7.0 connection limit exceeded\r\n"
AWAY = b"421 4.7.0 service not available, try again later\r\n"
RELOADS = 100 if os.environ.get("INBOUND_AUDIT_FAULTS") == "full" else 10


@pytest.fixture
def server() -> Iterator[Echo]:
    with echo() as made:
        yield made


@pytest.fixture
def counts(place: Path) -> Iterator[InboundAudit]:
    """What a guard with --shared mail counts, from outside."""
    with InboundAudit(shared="mail") as audit:
        yield audit


SHARED = ("--shared", "mail")


def exchanged(peer: socket.socket, data: bytes) -> bytes:
    """What comes back from an echo."""
    peer.sendall(data)
    got = b""
    while len(got) < len(data):
        more = peer.recv(1 << 16)
        assert more, f"the end after {len(got)} bytes"
        got += more
    return got


# ---- what becomes of a connection


def test_limits_refuse_and_others_are_forwarded(server: Echo) -> None:
    with GuardProcess(server.port, "--limit", "/32=1") as guard:
        with connect(guard.port) as first, connect(guard.port) as second:
            assert said(second) == OVER
            assert exchanged(first, b"hello" * 9999) == b"hello" * 9999
            with connect(guard.port, "127.0.0.2") as other:
                assert exchanged(other, b"x") == b"x"
        total = guard.stopped()
        figures = [total[name] for name in ("opened", "accepted", "refused", "uncounted", "failures", "open")]
        assert figures == [3, 2, 1, 0, 0, 0]
        assert guard.complaints == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tls-passthrough"], b""),
        (["--service", "IMAP"], b""),
        (["--service", "HTTP"], b"HTTP/1.1 429 Too Many Requests\r\n"),
    ],
)
def test_what_a_refused_client_reads(server: Echo, options: list[str], words: bytes) -> None:
    with GuardProcess(server.port, "--limit", "/32=0", *options) as guard, connect(guard.port) as peer:
        found = said(peer)
        assert found.startswith(words)
        assert bool(found) == bool(words)


def test_a_script_is_asked_once_and_its_count_ends(server: Echo, tmp_path: Path, counts: InboundAudit) -> None:
    (tmp_path / "policy.lua").write_text(
        lua_policy('if ac:inbound_session_count("/32") > 1 then vctx:disconnect(450, "one at a time") end')
    )
    with GuardProcess(server.port, "--policy", str(tmp_path / "policy.lua"), *SHARED) as guard:
        for _ in range(3):
            with connect(guard.port) as first:
                assert exchanged(first, b"hello") == b"hello"
                with connect(guard.port) as second:
                    assert said(second) == b"450 4.7.0 one at a time\r\n"
            eventually(lambda: counts.total() == 0, "the end of the count")
        total = guard.stopped()
        assert (total["opened"], total["accepted"], total["refused"], total["failures"]) == (6, 3, 3, 0)


def test_mail_arrives_through_a_guard_with_the_real_client(tmp_path: Path) -> None:
    """`serve` behind it believes the header, and so counts and limits the client."""
    text = "Subject: hello\r\n\r\n" + "line\r\n" * 20000
    with (
        Serve("--proxy-from", "127.0.0.1/32", "--maildir", str(tmp_path / "mail"), "--limit", "/32=1") as mail,
        GuardProcess(mail.addresses[0][1], "--send-proxy", "v2", "--limit", "/32=9") as guard,
    ):
        for source in ("127.0.0.3", "127.0.0.4"):
            with smtplib.SMTP("127.0.0.1", guard.port, source_address=(source, 0), timeout=PATIENCE) as client:
                client.sendmail("a@example.net", ["b@example.com"], text)
                with connect(guard.port, source) as second:
                    assert said(second) == b"421 connection limit exceeded\r\n"  # by `serve`
        kept = list((tmp_path / "mail" / "new").iterdir())
        assert len(kept) == 2
        assert all(one.read_bytes().replace(b"\r\n", b"\n").endswith(b"line\n" * 20000) for one in kept)
        assert mail.stopped()["messages"] == 2


@pytest.mark.skipif(shutil.which("swaks") is None, reason="needs swaks (Debian package)")
def test_swaks_sends_mail_through_a_guard() -> None:
    with Serve() as mail, GuardProcess(mail.addresses[0][1]) as guard:
        command = ["swaks", "--server", "127.0.0.1", "--port", str(guard.port), "--to", "b@example.com"]
        done = subprocess.run([*command, "--from", "a@example.net"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
        assert guard.stopped()["accepted"] == 1


def test_clients_behind_a_balancer_are_counted(server: Echo, counts: InboundAudit) -> None:
    options = ["--proxy-from", "127.0.0.2/32", "--send-proxy", "v1", "--limit", "/32=1", *SHARED]
    with GuardProcess(server.port, *options) as guard:
        peers = [connect(guard.port, "127.0.0.2") for _ in range(3)]
        for peer, client in zip(peers, ("192.0.2.1", "192.0.2.2", "192.0.2.1"), strict=True):
            peer.sendall(f"PROXY TCP4 {client} 192.0.2.9 1000 25\r\nhello".encode())
            if peer is peers[2]:
                assert said(peer) == OVER
            else:
                expected = f"PROXY TCP4 {client} 127.0.0.1 1000 {guard.port}\r\nhello".encode()
                assert peer.recv(len(expected), socket.MSG_WAITALL) == expected
                assert counts.inbound_session_count(client) == 1
        with connect(guard.port, "127.0.0.2") as wrong:
            wrong.sendall(b"EHLO client\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert wrong.recv(1) == b""
        for peer in peers:
            peer.close()
        eventually(lambda: counts.total() == 0, "the end of the counts")
        assert guard.stopped()["refused"] == 1


class Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.path.encode() * 50_000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *about: object) -> None:
        """Says nothing."""


def test_http_through_a_guard() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as pages:
        thread = threading.Thread(target=pages.serve_forever)
        thread.start()
        try:
            with GuardProcess(pages.server_port, "--service", "HTTP", "--limit", "/32=1") as guard:
                client = http.client.HTTPConnection("127.0.0.1", guard.port, timeout=PATIENCE)
                with contextlib.closing(client):
                    for number in range(20):
                        client.request("GET", f"/{number}")
                        assert client.getresponse().read() == f"/{number}".encode() * 50_000
                    other = http.client.HTTPConnection("127.0.0.1", guard.port, timeout=PATIENCE)
                    with contextlib.closing(other):
                        other.request("GET", "/")
                        assert other.getresponse().status == 429
        finally:
            pages.shutdown()
            thread.join()


# ---- back ends


def test_the_next_back_end_takes_over_and_gives_back() -> None:
    # No port that Linux hands out: while none listens there, the guard's own connection to it could have it.
    (port,) = free_ports(1)
    first, second = Echo(b"1", port), Echo(b"2")
    with contextlib.closing(second), GuardProcess([port, second.port], "--check-every", "20ms") as guard:
        with connect(guard.port) as kept:
            assert kept.recv(1) == b"1"
            first.stop_listening()
            with connect(guard.port) as peer:
                assert peer.recv(1) == b"2"
            assert guard.event("back_end")["back_end"] == f"127.0.0.1:{port}"
            assert not guard.event("back_end")["up"]
            assert exchanged(kept, b"still here") == b"still here"
        with contextlib.closing(Echo(b"1", port)):
            assert guard.event("back_end", 1)["up"]
            with connect(guard.port) as peer:
                assert peer.recv(1) == b"1"
        first.close()
        assert guard.stopped()["accepted"] == 3


def test_without_a_back_end_clients_are_told(counts: InboundAudit) -> None:
    with socket.socket() as nothing:
        nothing.bind(("127.0.0.1", 0))
        with GuardProcess(nothing.getsockname()[1], "--check-every", "20ms", *SHARED) as guard:
            assert "refused" in guard.event("back_end")["reason"]
            with connect(guard.port) as peer:
                assert said(peer) == AWAY
            eventually(lambda: counts.total() == 0, "the end of the count")
            nothing.listen()
            assert guard.event("back_end", 1)["up"]


def test_a_back_end_that_dies_in_the_middle_ends_its_connections(counts: InboundAudit) -> None:
    script = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n"
    script += "kept = []\nwhile True: kept.append(s.accept()[0]); kept[-1].sendall(b'begun')"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            with GuardProcess(int(server.stdout.readline()), *SHARED) as guard:
                peers = [connect(guard.port) for _ in range(5)]
                for peer in peers:
                    assert peer.recv(5) == b"begun"
                server.kill()
                for peer in peers:
                    with peer, contextlib.suppress(ConnectionResetError):
                        assert said(peer) == b""
                eventually(lambda: counts.total() == 0, "the end of the counts")
        finally:
            server.kill()


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_slow_readers_take_no_memory(server: Echo) -> None:
    """Each wants a megabyte back and reads nothing of it."""
    with GuardProcess(server.port, "--limit", "/32=100") as guard, contextlib.ExitStack() as held:
        peers = [held.enter_context(connect(guard.port)) for _ in range(60)]
        for peer in peers:
            assert exchanged(peer, b"x") == b"x"
        before = resident_bytes(guard.pid)
        for peer in peers:
            peer.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(16):
                    peer.send(bytes(1 << 16))
        assert exchanged(held.enter_context(connect(guard.port, "127.0.0.2")), b"quick") == b"quick"
        assert resident_bytes(guard.pid) < before + (8 << 20)


# ---- ends


def test_an_idle_connection_is_closed(server: Echo) -> None:
    with GuardProcess(server.port, "--idle", "50ms") as guard:
        with connect(guard.port) as peer:
            assert said(peer) == b""
        assert guard.stopped()["accepted"] == 1


def test_a_stop_lets_connections_end(server: Echo) -> None:
    with GuardProcess(server.port) as guard:
        with connect(guard.port) as peer:
            assert exchanged(peer, b"hello") == b"hello"
            guard.tell(signal.SIGTERM)
            assert guard.event("stopping")["open"] == 1
            with pytest.raises(ConnectionRefusedError):
                connect(guard.port)
            assert exchanged(peer, b"goodbye") == b"goodbye"
        assert guard.end() == 0
        assert guard.event("stopped")["cut"] == 0


@pytest.mark.parametrize("how", ["grace", "second signal"])
def test_a_stop_cuts_off_what_does_not_end(server: Echo, how: str) -> None:
    with GuardProcess(server.port, "--grace", "10ms" if how == "grace" else "1h") as guard, connect(guard.port) as peer:
        assert exchanged(peer, b"hello") == b"hello"
        guard.tell(signal.SIGTERM)
        if how != "grace":
            guard.event("stopping")
            guard.tell(signal.SIGINT)
        with contextlib.suppress(ConnectionResetError):
            assert peer.recv(1) == b""
        assert guard.end() == 0
        assert guard.event("stopped")["cut"] == 1


def test_reloads_under_load_lose_no_connection_and_change_no_count(
    server: Echo, counts: InboundAudit, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.lua"
    policy.write_text(lua_policy("local version = 0"))
    stop, failures, done = threading.Event(), [], [0]

    def load(source: str) -> None:
        try:
            while not stop.is_set():
                with connect(guard.port, source) as peer:
                    assert exchanged(peer, source.encode() * 999) == source.encode() * 999
                done[0] += 1
        except BaseException as error:
            failures.append(error)

    with GuardProcess(server.port, "--policy", str(policy), *SHARED) as guard:
        held = [connect(guard.port, "127.0.0.9") for _ in range(3)]
        for peer in held:
            assert exchanged(peer, b"x") == b"x"
        workers = [threading.Thread(target=load, args=(f"127.0.0.{number}",)) for number in (2, 3)]
        for worker in workers:
            worker.start()
        try:
            for number in range(RELOADS):
                policy.write_text(lua_policy(f"local version = {number}"))
                guard.tell(signal.SIGHUP)
                guard.event("reloaded", number)
                assert counts.inbound_session_count("127.0.0.9") == 3
                before = done[0]
                eventually(lambda before=before: done[0] > before or failures, "connections meanwhile")
        finally:
            stop.set()
            for worker in workers:
                worker.join(PATIENCE)
        assert failures == []
        for peer in held:
            assert exchanged(peer, b"still") == b"still"
            peer.close()
        eventually(lambda: counts.total() == 0, "the end of the counts")
        total = guard.stopped()
        assert total["opened"] == total["accepted"] == done[0] + 3
        assert total["refused"] == total["failures"] == 0
        assert guard.complaints == []


def test_a_client_that_is_reset_is_counted_no_more(server: Echo, counts: InboundAudit) -> None:
    with GuardProcess(server.port, "--limit", "/32=1", *SHARED) as guard:
        for _ in range(5):
            peer = connect(guard.port)
            assert exchanged(peer, b"x") == b"x"
            reset(peer)
            eventually(lambda: counts.total() == 0, "the end of the count")
