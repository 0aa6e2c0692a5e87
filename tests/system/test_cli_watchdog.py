"""A process of `serve` that hangs: the supervisor replaces a worker, and systemd is told that a process is alive."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.command_line import COMMAND, Manager, Serve, begun
from tests.support.listening import Peer
from tests.support.waiting import PATIENCE, eventually

from inbound_audit.cli.service_manager import ServiceManager

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes of Linux")

WORKERS = ("--workers", "2", "--shared", "watched", "--worker-timeout", "6s")


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INBOUND_AUDIT_SHM", str(tmp_path))


def test_a_worker_that_is_stopped_is_killed_and_replaced() -> None:
    with Serve(*WORKERS) as server:
        victim = server.workers[0]
        os.kill(victim, signal.SIGSTOP)
        try:
            # Some of these go to the stopped worker, whose end resets them; the others are served.
            peers = [Peer(*server.addresses[0]) for _ in range(12)]
            assert server.event("worker")["pid"] == victim
            assert server.event("restarted")["replaces"] == victim
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGCONT)
        server.complaint(f"worker {victim} has been silent for")
        for peer in peers:
            peer.close()
        for _ in range(12):
            with contextlib.closing(begun(server.addresses[0])):
                pass
        assert server.running


def test_a_worker_whose_policy_hangs_is_killed_and_replaced(tmp_path: Path) -> None:
    program = """
import os, sys
from inbound_audit.cli import policies, worker, workers
from inbound_audit.policy.base import Policy
class Hangs(Policy):
    def validate_ehlo(self, ac, text):
        while text == "hang":
            pass
        return super().validate_ehlo(ac, text)
policies.Policies.make = lambda self, audit=None: Hangs()
from inbound_audit.__main__ import main
sys.exit(main())
"""
    with Serve(*WORKERS, command=(sys.executable, "-c", program)) as server:
        hanging = Peer(*server.addresses[0])
        assert hanging.line().startswith(b"220")
        hanging.send(b"EHLO hang\r\n")
        victim = server.event("worker")
        assert (victim["signal"], server.event("restarted")["replaces"]) == ("SIGKILL", victim["pid"])
        server.complaint(f"worker {victim['pid']} has been silent for")
        hanging.close()
        for _ in range(8):
            with contextlib.closing(begun(server.addresses[0])):
                pass


def test_a_supervisor_that_was_stopped_kills_no_worker() -> None:
    with Serve(*WORKERS) as server:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            time.sleep(8)  # longer than the timeout: nothing that the workers send is read
        finally:
            os.kill(server.pid, signal.SIGCONT)
        with contextlib.closing(begun(server.addresses[0])):
            server.tell(signal.SIGHUP)
            server.complaint("nothing to reload")  # it has handled what it had not read
        assert server.stopped()["accepted"] >= 1
        assert not [event for event in server.events if event["event"] == "worker"]


# ---- systemd


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    with tempfile.TemporaryDirectory() as short:
        name = f"{short}/notify" if request.param == "path" else f"@inbound-audit-test-{os.getpid()}"
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        made = Manager(name)
        yield made
        made.close()


@pytest.mark.parametrize("options", [(), WORKERS])
def test_systemd_is_told_of_a_life(manager: Manager, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with Serve(*options) as server:
        manager.await_line("READY=1")
        assert manager.await_line("STATUS=listening on").count(str(server.addresses[0][1])) == 1
        for _ in range(3):
            manager.await_line("WATCHDOG=1")
        peer = begun(server.addresses[0])
        manager.await_line("STATUS=open 1  accepted +1")
        server.tell(signal.SIGTERM)
        manager.await_line("STOPPING=1")
        manager.await_line("STATUS=stopping: 1 in a mail transaction")
        manager.await_line("WATCHDOG=1")  # also while it waits for the transaction
        peer.close()
        assert server.end() == 0
        manager.await_line("STATUS=stopped")
        assert manager.lines.count("READY=1") == 1


@pytest.mark.parametrize("options", [(), WORKERS])
def test_a_short_interval_is_kept(manager: Manager, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]) -> None:
    """A beat per second would need more time for these than `eventually` gives."""
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    with Serve(*options):
        deadline = time.monotonic() + PATIENCE
        for _ in range(200):
            manager.await_line("WATCHDOG=1")
            assert time.monotonic() < deadline


NO_INTERVALS = ["0", "-5", "x", "1e6", "2.5", " ", "9" * 5000, str(2**64 - 1), str(2**64), "\u0661"]


@pytest.mark.parametrize("text", NO_INTERVALS, ids=lambda text: f"{text:.8}")
def test_what_is_no_interval_is_ignored_as_systemd_does(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", text)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert ServiceManager().watchdog_s is None


def test_a_server_says_what_it_ignores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "9" * 5000)
    with Serve() as server, contextlib.closing(begun(server.addresses[0])):
        server.complaint("$WATCHDOG_USEC is ignored")


@pytest.mark.parametrize(("text", "seconds"), [("1", 1e-6), ("1500000", 1.5), (str(2**64 - 2), (2**64 - 2) / 1e6)])
def test_an_interval_in_microseconds(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", text)
    for pid in ("", str(os.getpid())):
        monkeypatch.setenv("WATCHDOG_PID", pid)
        assert ServiceManager().watchdog_s == seconds
    for pid in ("1", "x"):
        monkeypatch.setenv("WATCHDOG_PID", pid)
        assert ServiceManager().watchdog_s is None


def test_a_process_that_hangs_feeds_no_watchdog(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    with Serve() as server:
        manager.await_line("WATCHDOG=1")
        server.tell(signal.SIGSTOP)
        eventually(lambda: Path(f"/proc/{server.pid}/stat").read_text().rpartition(") ")[2][0] == "T", "that it stands")
        manager.socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):  # what was sent before
            while True:
                manager.await_line("WATCHDOG=1")
        manager.socket.settimeout(4)
        with pytest.raises(TimeoutError):
            manager.await_line("WATCHDOG=1")
        server.tell(signal.SIGCONT)
        manager.socket.settimeout(PATIENCE)
        manager.await_line("WATCHDOG=1")


def test_no_watchdog_is_fed_that_is_for_another_process(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    with Serve() as server:
        with contextlib.closing(begun(server.addresses[0])):
            manager.await_line("STATUS=open 1")
        server.tell(signal.SIGTERM)
        assert server.end() == 0
        manager.await_line("STATUS=stopped")
    assert "WATCHDOG=1" not in manager.lines


@pytest.mark.parametrize("name", ["/nowhere/notify", "@nobody-listens-here", "vsock:1:2", ""])
def test_a_service_manager_that_is_not_there_holds_up_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with Serve(command=COMMAND) as server:
        if name.startswith(("/", "@")):
            server.complaint("can't be reached")
        with contextlib.closing(begun(server.addresses[0])):
            pass
