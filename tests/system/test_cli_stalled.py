"""What reads the report or the errors of `serve` may stand still: that holds no session up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.command_line import COMMAND, environment
from tests.support.listening import Peer
from tests.support.ports import free_ports
from tests.support.waiting import PATIENCE, eventually

WORKERS = ("--workers", "2", "--shared", "stalled") if sys.platform == "linux" else ()


@contextlib.contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe that takes no byte."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writes, b"x" * 512)
    os.set_blocking(writes, True)
    try:
        yield reads, writes
    finally:
        os.close(reads)
        os.close(writes)


def greeted(port: int) -> Peer | None:
    with contextlib.suppress(OSError):
        peer = Peer("127.0.0.1", port)
        if peer.line().startswith(b"220"):
            return peer
        peer.close()
    return None


@contextlib.contextmanager
def service_manager(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What systemd would hear of the service."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(directory / "notify"))
        manager.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(directory / "notify"))
        yield manager


@pytest.mark.parametrize("options", [(), WORKERS], ids=["alone", "workers"])
def test_a_report_that_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]) -> None:
    monkeypatch.setenv("INBOUND_AUDIT_SHM", str(tmp_path))
    (port,) = free_ports(1)
    command = [*COMMAND, "serve", "--json", "--verbose", "--listen", f"127.0.0.1:{port}", "--limit", "/32=1", *options]
    with (
        full_pipe() as (report, stdout),
        full_pipe() as (_, stderr),
        service_manager(tmp_path, monkeypatch) as manager,
        subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environment()) as process,
    ):
        try:
            held: list[Peer] = []
            eventually(lambda: held.extend(filter(None, [greeted(port)])) or held, "the first session")
            with held[0] as peer:
                for _ in range(3):
                    with Peer("127.0.0.1", port) as refused:
                        assert refused.line().startswith(b"421")  # which is logged
                    assert peer.ask(b"NOOP").startswith(b"250")
                while not manager.recv(1 << 16).startswith(b"STATUS=policy"):  # it is said before the line is written
                    pass
                os.set_blocking(report, False)
                lines = b""

                def said() -> bool:
                    nonlocal lines
                    with contextlib.suppress(BlockingIOError):
                        lines += os.read(report, 1 << 20)
                    Peer("127.0.0.1", port).close()  # what happens is worth a line
                    return b'"left_out"' in lines

                eventually(said, "the line that says so")
                assert peer.ask(b"NOOP").startswith(b"250")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
    events = [json.loads(line) for line in lines.lstrip(b"x").splitlines() if line.endswith(b"}")]
    assert next(event for event in events if event["event"] == "left_out")["lines"] >= 1
