"""Sockets that systemd has bound: a service accepts there, and leaves them as they are."""

from __future__ import annotations

import contextlib
import grp
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kilter.protocol import messages as wire
from tests.support.command_line import COMMAND, HAND_OVER, Manager, Serve, begun, environment, run
from tests.support.mail_servers import ALL_STEPS, packed
from tests.support.milters import MilterProcess, PolicydProcess
from tests.support.postfix import Postfix, needs_postfix
from tests.support.waiting import PATIENCE

import inbound_audit.cli
from inbound_audit import InboundAudit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd")

CLI = Path(inbound_audit.cli.__file__).parent
NEGOTIATE = packed(wire.Negotiate(6, wire.ActionFlags(0x1FF), wire.ProtocolFlags(ALL_STEPS)))
REQUEST = b"request=smtpd_access_policy\nprotocol_state=CONNECT\nclient_address=192.0.2.7\n\n"


def start_line(command: str) -> list[str]:
    """The arguments in the unit of a command."""
    (line,) = [
        line
        for line in (CLI / f"inbound-audit-{command}.service").read_text().splitlines()
        if line.startswith("ExecStart=")
    ]
    program, name, *arguments = shlex.split(line.partition("=")[2])
    assert (program, name) == ("/usr/local/bin/inbound-audit", command)
    return arguments


@pytest.fixture(autouse=True)
def _place(place: Path) -> None:
    """Services count in a directory of the test's own."""


@pytest.fixture(params=["inet", "unix"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    if request.param == "inet":
        with socket.create_server(("127.0.0.1", 0)) as bound:
            yield bound
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(tmp_path / "socket"))
            bound.listen()
            yield bound


def ask(listening: socket.socket, said: bytes, process: Callable[[], Serve]) -> bytes:
    """What a service answers to a peer that has connected before its start."""
    with socket.socket(listening.family) as peer:
        peer.settimeout(PATIENCE)
        peer.connect(listening.getsockname())
        peer.sendall(said)
        with process() as service:
            answer = peer.recv(100)
            service.tell(signal.SIGTERM)
            assert service.end() == 0
        return answer


@pytest.mark.parametrize(
    ("kind", "said", "answer"),
    [(MilterProcess, NEGOTIATE, b"O"), (PolicydProcess, REQUEST, b"action=DUNNO")],
    ids=["milter", "policyd"],
)
def test_what_mail_servers_ask_accepts_there_again_and_again(
    listening: socket.socket, kind: type[MilterProcess], said: bytes, answer: bytes
) -> None:
    arguments = start_line(kind.command_name)
    for _ in range(2):  # the second time the first service has ended, and left the socket, and its path, as they were
        assert answer in ask(listening, said, lambda: kind(*arguments, handed=[listening]))


@pytest.mark.parametrize("gate", ["--gate", "--no-gate"])
def test_serve_accepts_there_again_and_again(gate: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        for _ in range(2):
            assert ask(listening, b"", lambda: Serve(gate, listen=(), handed=[listening])).startswith(b"220 ")


def test_several_sockets_are_all_served() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as two,
        Serve(listen=(), handed=[one, two]) as service,
    ):
        assert service.addresses == [one.getsockname()[:2], two.getsockname()[:2]]


@pytest.mark.parametrize("gate", ["--gate", "--no-gate"])
def test_workers_accept_there_again_and_again(gate: str) -> None:
    """A peer that waits is served by a worker that takes the place of another, and by the next start."""
    workers = ("--workers", "2", "--shared", "mail")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with Serve(gate, *workers, listen=(), handed=[listening]) as service:
            with contextlib.ExitStack() as peers:
                for _ in range(8):
                    peers.enter_context(contextlib.closing(begun(listening.getsockname())))
            for pid in service.workers:
                os.kill(pid, signal.SIGKILL)
            with contextlib.closing(begun(listening.getsockname())):
                service.event("restarted", 1)
            service.stopped()
        assert ask(listening, b"", lambda: Serve(gate, *workers, listen=(), handed=[listening])).startswith(b"220 ")


def test_an_address_beside_them_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        service = Serve("--workers", "2", "--shared", "mail", handed=[listening])
        assert service.end() == 1
        service.complaint("--listen and sockets of systemd: leave out --listen")


@needs_postfix
def test_postfix_reaches_the_milter_at_the_socket_of_its_unit() -> None:
    unit = (CLI / "inbound-audit-milter.socket").read_text()
    (line,) = re.findall(r"^#   (smtpd_milters = .*)$", unit, re.MULTILINE)
    (path,) = re.findall(r"^ListenStream=/var/spool/postfix/(.*)$", unit, re.MULTILINE)
    (group,) = re.findall(r"^SocketGroup=(.*)$", unit, re.MULTILINE)
    with Postfix(f"{line}\nmilter_default_action = tempfail") as postfix, socket.socket(socket.AF_UNIX) as listening:
        (postfix.queue / path).parent.mkdir()
        listening.bind(str(postfix.queue / path))
        listening.listen()
        os.chown(postfix.queue / path, 0, grp.getgrnam(group).gr_gid)
        (postfix.queue / path).chmod(0o660)
        with (
            MilterProcess("--limit", "/32=0", handed=[listening]) as milter,
            socket.create_connection(postfix.plain, PATIENCE) as peer,
        ):
            assert peer.recv(100).startswith(b"421 ")
            assert milter.stopped()["refused"] == 1


def test_the_exporter_accepts_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = (sys.executable, "-c", HAND_OVER, str(listening.fileno()), *COMMAND, "metrics", "mail")
        with (
            InboundAudit(shared="mail", capacity=1 << 20),
            subprocess.Popen(
                command, env=environment(), stdout=subprocess.DEVNULL, pass_fds=[listening.fileno()]
            ) as process,
        ):
            try:
                url = "http://{}:{}/healthz".format(*listening.getsockname())
                with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                    assert answer.status == 200
            finally:
                process.terminate()


# ---- the unit of the exporter, which binds for itself


def test_the_exporter_tells_systemd_of_its_life(tmp_path: Path) -> None:
    arguments = start_line("metrics")
    assert arguments[-2:] == ["--listen", "127.0.0.1:9746"]
    notify = {"NOTIFY_SOCKET": f"{tmp_path}/notify", "WATCHDOG_USEC": "200000"}
    with (
        InboundAudit(shared="mail", capacity=1 << 20),
        contextlib.closing(Manager(notify["NOTIFY_SOCKET"])) as manager,
        subprocess.Popen(
            [*COMMAND, "metrics", *arguments[:-1], "127.0.0.1:0"], env=environment() | notify, stdout=subprocess.DEVNULL
        ) as process,
    ):
        try:
            for line in ("READY=1", "WATCHDOG=1", "WATCHDOG=1"):
                manager.await_line(line)
            process.send_signal(signal.SIGTERM)
            manager.await_line("STOPPING=1")
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


def test_the_page_tells_systemd_of_its_life(tmp_path: Path) -> None:
    arguments = start_line("web")
    assert arguments[-2:] == ["--listen", "127.0.0.1:8080"]
    notify = {"NOTIFY_SOCKET": f"{tmp_path}/notify", "WATCHDOG_USEC": "200000"}
    with (
        contextlib.closing(Manager(notify["NOTIFY_SOCKET"])) as manager,
        subprocess.Popen(
            [*COMMAND, "web", *arguments[:-1], "127.0.0.1:0"], env=environment() | notify, stdout=subprocess.DEVNULL
        ) as process,
    ):
        try:
            for line in ("READY=1", "WATCHDOG=1", "WATCHDOG=1"):
                manager.await_line(line)
            process.send_signal(signal.SIGTERM)
            manager.await_line("STOPPING=1")
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


def test_a_user_of_the_exporter_that_is_not_there() -> None:
    done = run("metrics", "mail", "--listen", "127.0.0.1:0", "--user", "no-such-user")
    assert (done.returncode, b"no-such-user" in done.stderr) == (1, True)
