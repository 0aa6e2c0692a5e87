"""The system has no thread to give (RLIMIT_NPROC, TasksMax=): the error says so, and what runs goes on as it was."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from pathlib import Path

import pytest
from tests.support.waiting import eventually

from inbound_audit import InboundAudit
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.maildir import Maildir
from inbound_audit.cli.report import Report
from inbound_audit.cli.serve import serve
from inbound_audit.cli.server import Server
from inbound_audit.cli.service import parts
from inbound_audit.cli.settings import Settings
from inbound_audit.listeners.time_limit import TimeLimit, time_limited
from inbound_audit.process import BackgroundThread, shared_lock, start_missing_threads

CAUSE = "can't start new thread"
POLICY = """
local policy = {{}}
function policy:validate_connect(ac, vctx) vctx:set_code({}, "x") end
msys.registerModule("policy", policy)
"""


class NoThreads:
    """While it is set, no thread starts but those by names that are let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.asked: list[str] = []

    def set(self) -> None:
        self._monkeypatch.setattr(threading.Thread, "start", self._refuse)

    def lift(self) -> None:
        self._monkeypatch.undo()

    def _refuse(self) -> None:
        raise RuntimeError(CAUSE)


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> NoThreads:
    return NoThreads(monkeypatch)


def settings_of(monkeypatch: pytest.MonkeyPatch, *options: str) -> Settings:
    taken: list[Settings] = []
    with monkeypatch.context() as patched:
        patched.setattr("inbound_audit.cli.server.run", taken.append)
        serve.main([*options, "--listen", "127.0.0.1:0", "--quiet"], standalone_mode=False)
    return taken[0]


def test_a_reload_of_serve(
    no_threads: NoThreads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    policy = tmp_path / "policy.lua"
    policy.write_text(POLICY.format(451))
    with parts(settings_of(monkeypatch, "--policy", str(policy))) as (audit, policies):
        server = Server(settings_of(monkeypatch, "--policy", str(policy)), audit, policies, Report(False))
        before = server._guard.policy
        policy.write_text(POLICY.format(550))
        no_threads.set()
        problem = asyncio.run(server._reload())
        assert problem == (logging.ERROR, f"not reloaded, the old policy and certificate stay in use: {CAUSE}")
        assert server._guard.policy is before
        no_threads.lift()
        made: list[object] = []
        load = policies.load
        monkeypatch.setattr(policies, "load", lambda *given: made.append(load(*given)) or made[-1])
        assert asyncio.run(server._reload()) is None
        assert [server._guard.policy] == made  # once, although there were two orders
        assert server._guard.policy is not before
        server.close()


def test_a_maildir(no_threads: NoThreads, tmp_path: Path) -> None:
    no_threads.set()
    with pytest.raises(Failure, match=CAUSE):
        Maildir(str(tmp_path / "mail"))
    no_threads.lift()
    box = Maildir(str(tmp_path / "mail"))
    no_threads.set()  # it has its thread
    box._writer.submit(box._store, "Subject: x\n\n").result()
    assert len(list((tmp_path / "mail" / "new").iterdir())) == 1
    box.close()


def test_series_are_saved_by_the_next_call_that_finds_a_thread(
    no_threads: NoThreads, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with InboundAudit(state=tmp_path) as audit:
        no_threads.set()
        audit.series.define("kept", "ip", 60, 2, persist=True)
        assert [CAUSE in line for line in caplog.messages] == [True]
        audit.series.add("kept", "192.0.2.7")
        audit.series.save()
        no_threads.lift()
        assert not _runs("inbound_audit state")
        audit.series.save()
        eventually(lambda: _runs("inbound_audit state"))
        assert audit.series.count("kept", "192.0.2.7") == 1


def test_a_thread_that_runs_starts_those_that_are_missing(no_threads: NoThreads) -> None:
    def job(thread: BackgroundThread) -> None:
        while thread.wait(None) is not None:
            with shared_lock:
                start_missing_threads()

    running, missing = (BackgroundThread(name, job) for name in ("running", "missing"))
    running.enter(1)
    no_threads.set()
    with pytest.raises(RuntimeError, match=CAUSE):
        missing.enter(1)
    running.wake()
    assert not missing.runs
    no_threads.lift()
    running.wake()
    eventually(lambda: missing.runs)
    missing.leave(1)
    running.leave(1)
    start_missing_threads()
    assert not missing.runs


def test_who_starts_what_is_missing_undoes_no_end() -> None:
    ends = threading.Event()

    def start_all_the_time() -> None:
        while not ends.is_set():
            start_missing_threads()

    def job(thread: BackgroundThread) -> None:
        while thread.wait(None) is not None:
            pass

    thread = BackgroundThread("ended", job)
    starting = threading.Thread(target=start_all_the_time)
    starting.start()
    try:
        for _ in range(100):
            thread.enter(1)
            thread.stop()
            thread.start()
            thread.leave(1)
            assert not thread.runs
    finally:
        ends.set()
        starting.join()


def test_a_time_limit(no_threads: NoThreads) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        no_threads.set()
        with pytest.raises(RuntimeError, match=CAUSE), time_limited(ours, TimeLimit(session_s=0.2)):
            pytest.fail("a connection without a limit")
        no_threads.lift()
        with time_limited(ours, TimeLimit(session_s=0.2)):
            assert ours.recv(1) == b""  # it is shut down: the thread is there


def _runs(name: str) -> bool:
    return any(thread.name == name for thread in threading.enumerate())
