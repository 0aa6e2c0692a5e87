"""SIGHUP with a configuration file: what can be reloaded is, what can't is named, and a broken file changes nothing."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import sys
import threading
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trustme
from kilter.protocol import messages as wire
from tests.support.command_line import Serve, run
from tests.support.guards import GuardProcess, echo
from tests.support.listening import Peer
from tests.support.mail_servers import ALL_STEPS, packed
from tests.support.milters import MilterProcess, PolicydProcess
from tests.support.sharing import NAME, rounds
from tests.support.toml import document
from tests.support.waiting import PATIENCE, eventually

from inbound_audit.shared import View

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")

WORKERS = ("--workers", "2")
HELD, LOADING = "127.0.0.3", "127.0.0.2"
NEGOTIATE = packed(wire.Negotiate(6, wire.ActionFlags(0x1FF), wire.ProtocolFlags(ALL_STEPS)))
REFUSES = """
local policy = {}
function policy:validate_connect(ac, vctx) vctx:set_code(450, "by the script") return 1 end
msys.registerModule("policy", policy)
"""

both = pytest.mark.parametrize("options", [(), WORKERS], ids=["alone", "workers"])


@pytest.fixture
def file(place: Path, tmp_path: Path) -> Path:
    return tmp_path / "inbound-audit.toml"


def write(file: Path, **keys: Any) -> None:
    """Replaces the file in one step."""
    new = file.with_suffix(".new")
    new.write_text(document({"shared": NAME}, **keys))
    new.replace(file)


def reload(server: Serve) -> None:
    """Returns when the server has said what became of it."""
    before = answers(server)
    server.tell(signal.SIGHUP)
    eventually(lambda: answers(server) > before, f"an answer to the signal after {server.complaints}")


def answers(server: Serve) -> int:
    return sum(event["event"] == "reloaded" for event in server.events) + sum(
        "stay in use" in line or "stays in use" in line for line in server.complaints
    )


def banner(server: Serve) -> bytes:
    with Peer(*server.addresses[0]) as peer:
        return peer.line()


@both
def test_what_can_be_reloaded_is(file: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1")
    made.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "chain.pem"))
    (tmp_path / "refuses.lua").write_text(REFUSES)
    write(file, serve={"limit": {"/32,/64": 0}})
    with Serve("--config", str(file), *options, hostname=None) as server:
        assert banner(server).startswith(b"421 ")
        write(file, serve={"limit": {"/32,/64": 9}, "hostname": "one.example", "max-command-line": 100, "grace": "1s"})
        reload(server)
        with Peer(*server.addresses[0]) as open_one:
            assert open_one.line().startswith(b"220 one.example")
            assert open_one.ask(b"NOOP " + b"x" * 200).startswith(b"500")
            write(
                file,
                serve={
                    "limit": {"/32,/64": 1},
                    "hostname": "two.example",
                    "monitor": ["300,6"],
                    "tls-cert": str(tmp_path / "chain.pem"),
                },
            )
            reload(server)
            assert banner(server).startswith(b"421 ")
            write(file, serve={"limit": {"/32,/64": 1}, "exempt": ["127.0.0.0/8", "::1"], "hostname": "two.example"})
            reload(server)
            assert banner(server).startswith(b"220 two.example")
            assert open_one.ask(b"NOOP").startswith(b"250")
        write(file, serve={"limit": {"/32,/64": 0}, "dry-run": True, "hostname": "two.example"})
        reload(server)
        assert banner(server).startswith(b"220 two.example")
        write(file, serve={"policy": str(tmp_path / "refuses.lua")})
        reload(server)
        assert banner(server) == b"450 by the script\r\n"
        assert server.event("reloaded", 4)["policy"].startswith(str(tmp_path / "refuses.lua"))
        server.stopped()
        expected = ["not reloaded, restart for: serve.monitor"] * 3  # the windows stay, with what they have counted
        assert [line.rpartition('message": "')[2].rstrip('"}') for line in server.complaints] == expected


def test_a_certificate_that_is_new_in_the_file_is_offered(file: Path, tmp_path: Path) -> None:
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "chain.pem"))
    write(file, serve={})
    with Serve("--config", str(file)) as server:
        for keys, offered in ({"tls-cert": str(tmp_path / "chain.pem")}, True), ({}, False):
            write(file, serve=keys)
            reload(server)
            with Peer(*server.addresses[0]) as peer:
                peer.line()
                said = [peer.ask(b"EHLO client")]
                while said[-1][3:4] == b"-":
                    said.append(peer.line())
                assert any(b"STARTTLS" in line for line in said) == offered


@both
def test_what_cannot_be_reloaded_is_named(file: Path, options: tuple[str, ...]) -> None:
    write(file, serve={})
    with Serve("--config", str(file), *options) as server:
        for _ in range(2):
            write(
                file, serve={"capacity": "64M", "gate": False, "service": "x"[:0] or "SMTP"} | {}
            ) if False else write(file, serve={"capacity": "64M", "gate": False, "limit": {"/32,/64": 0}})
            before = len(server.complaints)
            reload(server)
            eventually(lambda n=before: len(server.complaints) > n, "a complaint")
            assert "not reloaded, restart for: serve.capacity, serve.gate" in server.complaints[before]
            assert banner(server).startswith(b"421 ")
        assert len(server.complaints) == 2


@both
def test_a_broken_file_changes_nothing(file: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    write(file, serve={"limit": {"/32,/64": 9}})
    with Serve("--config", str(file), *options) as server:
        address = server.addresses[0]
        with Peer(*address) as held:
            assert held.line().startswith(b"220")
            for text, complaint in (
                ('shared = "mail"\n[serve]\nlimit = {"/32,/64" = "x"}', ':3: serve.limit.\\"/32,/64\\": '),
                ('shared = "mail"\n[serve]\nlimit = {"/32,/64" = 0}\nlimt = 5', ":4: serve.limt: unknown key"),
                (
                    'shared = "mail"\n[serve]\nlimit = {"/32,/64" = 0}\ntls-key = "k"',
                    ":4: serve.tls-key: --tls-key",
                ),
                ("[serve\n", ":1: "),
                (f'shared = "mail"\npolicy = "{tmp_path}/missing.lua"', "missing.lua: "),
                (f'shared = "mail"\nserve.tls-cert = "{tmp_path}/missing.pem"\nlimit = {{"/0" = 0}}', "missing.pem: "),
                (None, "--config"),
            ):
                file.unlink(missing_ok=True)
                if text is not None:
                    file.write_text(text)
                before = len(server.complaints)
                reload(server)
                assert complaint in server.complaints[before], text
                assert banner(server).startswith(b"220")
                assert held.ask(b"NOOP").startswith(b"250")
            assert not any(event["event"] == "reloaded" for event in server.events)
            write(file, serve={"limit": {"/32,/64": 0}})
            reload(server)
            assert banner(server).startswith(b"421")
            assert held.ask(b"NOOP").startswith(b"250")


def test_a_worker_that_is_replaced_has_what_was_reloaded_and_not_what_is_broken(file: Path) -> None:
    write(file, serve={"limit": {"/32,/64": 9}})
    with Serve("--config", str(file), *WORKERS) as server:
        write(file, serve={"limit": {"/32,/64": 0}})
        reload(server)
        file.write_text("[serve")
        reload(server)
        for number, pid in enumerate(server.workers):
            os.kill(pid, signal.SIGKILL)
            server.event("restarted", number)
        for _ in range(8):
            assert banner(server).startswith(b"421 ")


@pytest.mark.parametrize("kind", [MilterProcess, PolicydProcess])
def test_what_mail_servers_ask_reloads(file: Path, tmp_path: Path, kind: type[MilterProcess]) -> None:
    name = kind.command_name
    (tmp_path / "refuses.lua").write_text(REFUSES)
    write(file, **{name: {"limit": {"/32,/64": 9}}})
    with kind("--config", str(file)) as server:
        assert refuses(server) is False
        write(file, **{name: {"policy": str(tmp_path / "refuses.lua"), "service": "IMAP"}})
        reload(server)
        assert server.complaint("restart for").count(f"restart for: {name}.service")
        assert refuses(server) is True
        file.write_text(f"[{name}]\nlimit = 5")
        reload(server)
        assert server.complaint(f":2: {name}.limit: write a table")
        assert refuses(server) is True


def refuses(server: MilterProcess) -> bool:
    with socket.create_connection(server.addresses[0], timeout=PATIENCE) as connection:
        if isinstance(server, PolicydProcess):
            connection.sendall(b"request=smtpd_access_policy\nprotocol_state=CONNECT\nclient_address=192.0.2.7\n\n")
            return connection.recv(1 << 16).startswith(b"action=450")
        return client_of(connection) == b"y"


def client_of(connection: socket.socket) -> bytes:
    """The letter of a milter's answer to a client."""
    connection.sendall(NEGOTIATE + packed(wire.Connect("client.example", ip_address(HELD), 40000)))
    with connection.makefile("rb") as answers:
        found = b""
        for _ in range(2):
            length = int.from_bytes(answers.read(4), "big")
            found = answers.read(length)[:1]
        return found


# ---- under load


def smtp_client(address: tuple[str, int], source: str) -> socket.socket:
    """A session that was let in."""
    connection = socket.create_connection(address, timeout=PATIENCE, source_address=(source, 0))
    line = b""
    while not line.endswith(b"\n"):
        piece = connection.recv(1000)
        assert piece, "the connection was lost"
        line += piece
    assert line.startswith(b"220 "), line
    return connection


def milter_client(address: tuple[str, int], source: str) -> socket.socket:
    connection = socket.create_connection(address, timeout=PATIENCE)
    assert client_of(connection) == b"c"
    return connection


@pytest.mark.parametrize(
    ("kind", "options"),
    [(Serve, ()), (Serve, ("--no-gate",)), (Serve, WORKERS), (MilterProcess, ())],
    ids=["gate", "no-gate", "workers", "milter"],
)
def test_no_connection_is_lost_and_no_count_changes(file: Path, kind: type[Serve], options: tuple[str, ...]) -> None:
    """Limits that let all in take turns; a connection that is refused, or lost, is an error of the test."""
    name = kind.command_name
    tables = [{"limit": {"/32,/64": 1000, "/0": n}, "exempt": [], "grace": "1s"} for n in (5000, 6000)]
    write(file, **{name: tables[0]})
    connect = smtp_client if kind is Serve else milter_client
    made, stop, failed = itertools.count(), threading.Event(), []

    def load() -> None:
        try:
            while not stop.is_set():
                connect(address, LOADING).close()
                next(made)
        except Exception as error:
            failed.append(error)

    with kind("--config", str(file), "--quiet", *options) as server, contextlib.ExitStack() as held, View(NAME) as view:
        address = server.addresses[0]
        for _ in range(20):
            held.enter_context(connect(address, HELD))
        threads = [threading.Thread(target=load) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for number in range(rounds(10, 100)):
                write(file, **{name: tables[1 - number % 2]})
                reload(server)
                assert not failed
                view.refresh()
                if kind is Serve:
                    assert view.inbound_session_count(HELD) == 20
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not failed
        assert server.complaints == []
        total = server.stopped()
        number = next(made) + 20
        assert (total["opened"], total["accepted"], total["refused"]) == (number, number, 0)


def test_the_start_says_what_is_wrong_with_the_file(file: Path) -> None:
    file.write_text('shared = "mail"\n[serve]\nlisten = ["127.0.0.1:0"]\nlimt = 5\nworkers = 0\n')
    done = run("serve", "--config", str(file))
    assert done.returncode == 2
    expected = f"inbound-audit: {file}:4: serve.limt: unknown key; did you mean 'limit'? (and 1"
    assert done.stderr.decode().startswith(expected)
    file.unlink()
    done = run("serve", "--config", str(file))
    assert done.returncode == 1
    assert done.stderr.decode() == f"inbound-audit: --config {file}: no such file or directory\n"


def test_the_file_says_that_the_log_is_json(file: Path) -> None:
    file.write_text('serve.json = true\nserve.listen = ["127.0.0.1:0"]\nserve.maildir = "/proc/none"\n')
    done = run("serve", "--config", str(file), "--no-landlock")
    assert done.returncode == 1
    assert done.stderr.startswith(b'{"time": ')


def test_a_guard_reloads_and_loses_no_connection(file: Path) -> None:
    write(file, guard={"limit": {"/32,/64": 9}, "threads": 1})
    with echo(b"220 x\r\n") as back_end, GuardProcess(back_end.port, "--config", str(file)) as server:
        with smtp_client(server.addresses[0], HELD) as held:
            for number in range(10):
                write(file, guard={"limit": {"/32,/64": number % 2}, "threads": 1 + number % 2})
                reload(server)
                if number % 2:  # one, which is held, and one more is over it
                    # It is said on standard error, and the end of the reload on standard output.
                    eventually(lambda n=number: len(server.complaints) > n // 2, "a complaint")  # type: ignore[misc]
                    assert "not reloaded, restart for: guard.threads" in server.complaints[number // 2]
                with socket.create_connection(server.addresses[0], PATIENCE, (LOADING, 0)) as other:
                    assert other.recv(100).startswith(b"220 " if number % 2 else b"421 ")
                held.sendall(b"%d" % number)
                assert held.recv(100) == b"%d" % number
            file.write_text("guard.thread = 5")
            reload(server)
            assert ":1: guard.thread: unknown key; did you mean 'threads'?" in server.complaints[-1]
        total = server.stopped()
        assert (total["accepted"], total["refused"]) == (6, 5)
