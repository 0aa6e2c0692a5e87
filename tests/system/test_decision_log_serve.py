"""`serve --decision-log`: lines of refusals in a file that is renamed, also of several workers, and of dry runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.command_line import Serve, run
from tests.support.listening import Peer
from tests.support.waiting import PATIENCE, eventually


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def refusals(server: Serve, number: int) -> None:
    """So many peers of a server that refuses all."""
    for _ in range(number):
        peer = Peer(*server.addresses[0])
        assert peer.rest().startswith(b"421 ")
        peer.close()


@pytest.mark.usefixtures("both_ways")
def test_a_file_that_is_renamed_is_made_anew(tmp_path: Path):
    path = tmp_path / "new" / "decisions.log"
    with Serve("--limit", "/0=0", "--decision-log", str(path), listen=["127.0.0.1:0"]) as server:
        refusals(server, 2)
        eventually(lambda: len(rows(path)) == 2, "two lines")
        path.rename(tmp_path / "old")
        refusals(server, 1)
        eventually(lambda: len(rows(path)) == 1, "a line in the new file")
        path.unlink()
        os.kill(server.pid, signal.SIGHUP)
        eventually(path.exists, "the file")
        refusals(server, 1)
        server.stopped()
    assert [row["prefix"] for row in rows(tmp_path / "old") + rows(path)] == ["0.0.0.0/0"] * 3
    assert not any("nothing to reload" in line for line in server.complaints)
    assert stat.S_IMODE(path.stat().st_mode) & ~0o640 == 0


@pytest.mark.skipif(sys.platform != "linux", reason="workers count together on Linux")
@pytest.mark.usefixtures("place")
def test_workers_append_to_one_file(tmp_path: Path):
    path = tmp_path / "decisions.log"
    workers = ("--workers", "2", "--shared", "logged")
    with Serve("--limit", "/0=0", "--decision-log", str(path), *workers, listen=["127.0.0.1:0"]) as server:
        refusals(server, 40)
        server.stopped()
    found = rows(path)
    assert len(found) == len({row["port"] for row in found}) == 40


@pytest.mark.usefixtures("both_ways")
def test_a_dry_run_and_what_is_let_in(tmp_path: Path):
    path = tmp_path / "decisions.log"
    options = ("--limit", "/32=0", "--dry-run", "--log-accepted")
    with Serve("--decision-log", str(path), *options, listen=["127.0.0.1:0"]) as server:
        peer = Peer(*server.addresses[0])
        assert peer.line().startswith(b"220 ")
        eventually(lambda: len(rows(path)) == 2, "two lines")
        peer.close()
    assert sorted((row["done"], row.get("by")) for row in rows(path)) == [("accepted", None), ("dry run", "limit")]


@pytest.mark.parametrize("service", ["syslog", "journald"])
def test_a_log_service_is_sent_the_lines(tmp_path: Path, service: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("log")
        receiver.settimeout(PATIENCE)
        with Serve("--limit", "/0=0", "--decision-log", f"{service}:log", listen=["127.0.0.1:0"]) as server:
            refusals(server, 1)
            message = receiver.recv(1 << 16).decode()
    start = "MESSAGE=" if service == "journald" else f"<29>inbound-audit[{server.pid}]: "
    assert message.startswith(start)
    assert json.loads(message.removeprefix(start).splitlines()[0])["client"] == "127.0.0.1"


def test_a_log_service_that_is_not_there_is_named(tmp_path: Path):
    done = run("serve", "--listen", "127.0.0.1:0", "--decision-log", f"syslog:{tmp_path}/none")
    assert done.returncode == 1
    assert f"--decision-log syslog:{tmp_path}/none: no such file" in done.stderr.decode()


def test_a_file_that_can_t_be_opened_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "log"):
        done = run("serve", "--listen", "127.0.0.1:0", "--decision-log", str(path))
        assert done.returncode == 1
        assert f"--decision-log {path}: " in done.stderr.decode()


def test_log_accepted_alone_is_an_error():
    done = run("serve", "--log-accepted")
    assert done.returncode == 2
    assert "--log-accepted needs --decision-log FILE" in done.stderr.decode()
