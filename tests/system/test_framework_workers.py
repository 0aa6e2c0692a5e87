"""Servers with worker processes: each worker counts for itself, all count together, and a killed one leaves nothing."""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.support.command_line import environment
from tests.support.frameworks import GET, authority
from tests.support.listening import Peer
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="shared counts need Linux"),
    pytest.mark.usefixtures("place"),
]

MOST = 6

WEB = f"""
from tests.support.frameworks import application

from inbound_audit import InboundAudit, Limits
from inbound_audit.listeners import Guard
from inbound_audit.listeners.gate_reply import http_refusal

def make_guard():
    return Guard(InboundAudit(shared="mail").listener("HTTP"), Limits({{"/32": {MOST}}}))

def page(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]
"""

GUNICORN = """
from web import http_refusal, make_guard

from inbound_audit.listeners.adapters.gunicorn import count

def post_fork(server, worker):
    count(worker, make_guard(), refusal=http_refusal)

wsgi_app, keepalive, timeout = "web:page", 3600, 3600
"""

HYPERCORN = """
import sys
from hypercorn.run import run
from web import http_refusal, make_guard

from inbound_audit.listeners.adapters.hypercorn import CountedConfig

if __name__ == "__main__":
    config = CountedConfig(make_guard, refusal=http_refusal)
    config.bind, config.workers = ["fd://" + sys.argv[1]], 2
    config.application_path, config.keep_alive_timeout = "web:application", 3600
    config.worker_class = sys.argv[2]
    run(config)
"""

UVICORN = """
import socket, sys
import uvicorn
from uvicorn.supervisors import Multiprocess
from web import http_refusal, make_guard

from inbound_audit.listeners.sockets import counted_socket

if __name__ == "__main__":
    listening = counted_socket(socket.socket(fileno=int(sys.argv[1])), make_guard, refusal=http_refusal)
    config = uvicorn.Config("web:application", workers=2, loop=sys.argv[2], timeout_keep_alive=3600)
    try:
        server = Multiprocess(config, sockets=[listening])
    except TypeError:  # of older releases
        server = Multiprocess(config, target=uvicorn.Server(config).run, sockets=[listening])
    server.run()
"""

UVLOOP = "inbound_audit.listeners.adapters.uvloop:Loop"


@contextlib.contextmanager
def serving(place: Path, script: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server in a process of its own, which gets a listening socket as its first argument ("{}"); yields the port."""
    (place / "web.py").write_text(WEB)
    (place / "gunicorn.conf.py").write_text(GUNICORN)
    (place / "start.py").write_text(script)
    paths = [str(place), str(Path(__file__).parents[2]), *filter(None, sys.path)]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        given, port = str(listening.fileno()), listening.getsockname()[1]
        run = subprocess.Popen(
            [sys.executable, *(argument.format(given) for argument in arguments)],
            cwd=place, pass_fds=[listening.fileno()], start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**environment(), "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
    try:
        yield run, port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait(PATIENCE)


def start(
    place: Path, kind: str, *options: str
) -> contextlib.AbstractContextManager[tuple[subprocess.Popen[bytes], int]]:
    server, _, variant = kind.partition("-")
    pytest.importorskip(server)
    if variant in ("uvloop",):
        pytest.importorskip("uvloop")
    if server == "gunicorn":
        application = ["web:application"] if variant == "asgi" else []
        command = ["-m", "gunicorn", "-w", "2", "-k", variant, "--bind", "fd://{}", *options, *application]
        return serving(place, "", *command)
    if server == "hypercorn":
        return serving(place, HYPERCORN, "start.py", "{}", variant)
    return serving(place, UVICORN, "start.py", "{}", UVLOOP if variant == "uvloop" else variant)


@pytest.fixture
def total(place: Path) -> Iterator[InboundAudit]:
    with InboundAudit(shared="mail", services=["HTTP"]) as audit:
        yield audit


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_open(peer: Peer) -> bool:
    if not select.select([peer.socket], [], [], 0)[0]:
        return True
    try:
        return peer.socket.recv(1, socket.MSG_PEEK) != b""
    except OSError:
        return False


def sees(audit: InboundAudit, peers: Sequence[Peer]) -> bool:
    """Whether the counts of all workers are the connections that are open."""
    return audit.total("HTTP") == sum(map(is_open, peers))


def ask(peer: Peer) -> None:
    peer.send(GET)
    came = b""
    while not came.endswith(b"hello"):
        more = peer.socket.recv(65536)
        assert more, came
        came += more


def serves(port: int) -> bool:
    """Whether a new connection is let in: a worker may count one that was killed until its next scan, and a connection
    may wait for a worker that is about to end."""
    with Peer("127.0.0.1", port) as peer:
        peer.socket.settimeout(5)
        try:
            ask(peer)
        except (AssertionError, OSError):
            return False
        return True


KINDS = ["gunicorn-gthread", "gunicorn-asgi", "hypercorn-asyncio", "uvicorn-asyncio", "uvicorn-uvloop"]


@pytest.mark.parametrize("kind", KINDS)
def test_workers_count_together_and_a_killed_one_leaves_nothing(tmp_path: Path, kind: str, total: InboundAudit) -> None:
    with start(tmp_path, kind) as (run, port), contextlib.ExitStack() as ends:
        peers = [ends.enter_context(Peer("127.0.0.1", port)) for _ in range(MOST)]
        for peer in peers:
            ask(peer)
        assert total.total("HTTP") == MOST
        with Peer("127.0.0.1", port) as one_more:
            assert b" 429 " in one_more.line()
        assert all(map(is_open, peers))
        eventually(lambda: sees(total, peers), "the end of the refused one")

        for pid in children(run.pid):  # until one that serves some of them
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            eventually(lambda pid=pid: not Path(f"/proc/{pid}").exists() or is_zombie(pid), "its end")
            if not all(map(is_open, peers)):
                break
        eventually(lambda: not all(map(is_open, peers)), "the end of connections")
        eventually(lambda: sees(total, peers), "the counts of the worker that lives")
        if not kind.startswith("hypercorn"):  # which ends with a worker that was killed
            eventually(lambda: serves(port), "a worker that lets in another one")
        for peer in peers:
            peer.reset()
        eventually(lambda: total.total("HTTP") == 0, "the end of all")


def is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def test_a_worker_that_serves_one_at_a_time(tmp_path: Path, total: InboundAudit) -> None:
    with start(tmp_path, "gunicorn-sync") as (_, port), Peer("127.0.0.1", port) as first:
        eventually(lambda: total.total("HTTP") == 1, "the silent one")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hello"
        connection.close()
        eventually(lambda: total.total("HTTP") == 1, "the end of the second")
        first.close()
        eventually(lambda: total.total("HTTP") == 0, "the end of both")


@pytest.mark.parametrize("kind", ["gunicorn-gthread", "gunicorn-sync"])
def test_gunicorn_with_tls(tmp_path: Path, kind: str, total: InboundAudit) -> None:
    issued = authority().issue_cert("localhost")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    client = ssl.create_default_context()
    authority().configure_trust(client)
    options = ["--certfile", str(tmp_path / "certificate.pem"), "--keyfile", str(tmp_path / "key.pem")]
    with start(tmp_path, kind, *options) as (_, port), Peer("127.0.0.1", port) as silent:
        eventually(lambda: total.total("HTTP") == 1, "the silent one")
        with Peer("127.0.0.1", port) as peer:
            peer.socket = client.wrap_socket(peer.socket, server_hostname="localhost")
            peer.send(GET)
            while b"hello" not in peer.socket.recv(65536):
                pass
            if kind == "gunicorn-gthread":  # it keeps the connection
                assert total.total("HTTP") == 2
            peer.socket.close()
        eventually(lambda: total.total("HTTP") == 1, "the end of the second")
        silent.close()
        eventually(lambda: total.total("HTTP") == 0, "the end of both")


def test_workers_that_accept_by_the_descriptor_are_refused() -> None:
    pytest.importorskip("gunicorn")
    from gunicorn.workers.base_async import AsyncWorker

    from inbound_audit.listeners.adapters.gunicorn import count

    with pytest.raises(TypeError, match="AsyncWorker would count nothing"):
        count(AsyncWorker.__new__(AsyncWorker), lambda: None)  # type: ignore[arg-type]
