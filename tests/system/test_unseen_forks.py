"""Forks that Python's hooks never hear of: the child counts for itself, and a dead parent's counts go.

The C library's `fork` by ctypes is what a server that embeds Python does; `_Fork` and `clone` bypass the handlers of
pthread_atfork.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="shared mode needs Linux")]

FORKS = {
    "fork": "ctypes.PyDLL(None).fork()",
    "fork without the GIL": "ctypes.CDLL(None).fork()",
    "_Fork": "ctypes.PyDLL(None)._Fork()",
    "clone": "ctypes.PyDLL(None).syscall(CLONE, signal.SIGCHLD, 0, 0, 0, 0)",
    "os.fork": "os.fork()",
}

BEGIN = """
import ctypes, gc, logging, os, platform, signal, sys, threading, time, traceback
from inbound_audit import InboundAudit, process
from inbound_audit.shared import View
from tests.support.waiting import end_of, eventually

CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine(), 0)
STATE = os.environ["INBOUND_AUDIT_STATE"]

def sessions(listener, n, block=0):
    return [listener.session(f"10.{block}.{i >> 8}.{i & 255}") for i in range(n)]

def in_child(job):
    '''Runs a job in a child; its process id.'''
    # Python and the C library break in the child if another thread has one of their locks now: not what is tested here.
    paused = set()
    def alone():  # `stop` does not wait for a thread that is busy, and one that had ended may have begun again
        paused.update(thread for thread in list(process._threads) if thread.stop())
        return threading.active_count() == 1
    eventually(alone, "that no other thread is left")
    pid = FORK
    if pid == 0:
        signal.alarm(110)
        status = 1
        try:
            job()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert pid > 0
    for thread in paused:
        thread.start()
    return pid
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str, str], str]:
    """Runs a scenario; its output has to end with "good"."""
    for name in ("shm", "state"):
        (tmp_path / name).mkdir(mode=0o700)

    def run_scenario(body: str, how: str) -> str:
        if how == "_Fork" and os.confstr("CS_GNU_LIBC_VERSION") < "glibc 2.34":
            pytest.skip("the C library has no _Fork")
        (tmp_path / "scenario.py").write_text(BEGIN.replace("FORK", FORKS[how]) + textwrap.dedent(body))
        env = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "INBOUND_AUDIT_SHM": str(tmp_path / "shm"),
            "INBOUND_AUDIT_STATE": str(tmp_path / "state"),
        }
        done = subprocess.run(
            [sys.executable, str(tmp_path / "scenario.py")],
            env=env, timeout=150, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
        assert "damaged" not in done.stderr, done.stderr
        assert done.stdout.endswith("good\n"), done.stderr + done.stdout
        return done.stderr

    return run_scenario


@pytest.mark.parametrize("how", FORKS)
@pytest.mark.parametrize("shared", [None, "x"])
def test_a_child_counts_for_itself(run: Callable[[str, str], str], how: str, shared: str | None) -> None:
    run(
        f"""
        shared = {shared!r}
        audit = InboundAudit(shared=shared, monitors=["300,6"])
        listener = audit.listener("SMTP")
        kept = sessions(listener, 100)
        def job():
            own = sessions(listener, 30, 1)
            eventually(lambda: audit.total() == (130 if shared else 30))
            kept[0].close()
            kept.clear()
            assert listener.total == (130 if shared else 30)
            assert audit.inbound_session_count("10.1.0.0/16") == 30
            if shared:
                eventually(lambda: View(shared).total() == 130)
            assert audit.connections("300,6", "0.0.0.0/0") == (130 if shared else 30)
            listener._check()
        assert end_of(in_child(job)) == 0
        eventually(lambda: audit.total() == 100)
        listener._check()
        more = sessions(listener, 10, 2)
        assert audit.total() == 110
        audit.close()
        print("good")
        """,
        how,
    )


@pytest.mark.parametrize("how", FORKS)
def test_a_child_that_only_asks_has_no_sessions_of_its_own(run: Callable[[str, str], str], how: str) -> None:
    run(
        """
        audit = InboundAudit()
        kept = sessions(audit.listener("SMTP"), 100)
        audit.series.define("s", "ip", 300, 6)
        audit.series.add("s", "192.0.2.1", 3)
        def job():
            assert audit.inbound_session_count("0.0.0.0/0") == 0
            assert audit.series.count("s", "192.0.2.1", 0, 5) == 0
            audit.series.add("s", "192.0.2.1", 2)
            assert audit.series.count("s", "192.0.2.1", 0, 5) == 2
        assert end_of(in_child(job)) == 0
        assert audit.total() == 100
        assert audit.series.count("s", "192.0.2.1", 0, 5) == 3
        print("good")
        """,
        how,
    )


@pytest.mark.parametrize("how", FORKS)
@pytest.mark.parametrize("child_counts", [False, True])
def test_the_counts_of_a_killed_parent_go(run: Callable[[str, str], str], how: str, child_counts: bool) -> None:
    """The child keeps neither its parent's lock nor its file alive."""
    run(
        f"""
        watcher = InboundAudit(shared="x")
        read, write = os.pipe()
        master = os.fork()
        if master == 0:
            audit = watcher
            listener = audit.listener("SMTP")
            kept = sessions(listener, 100)
            def job():
                own = sessions(listener, 30, 1) if {child_counts} else None
                os.write(write, b"x")
                time.sleep(1000)
            child = in_child(job)
            os.write(write, str(child).encode().rjust(10))
            time.sleep(1000)
        said = b""
        while len(said) < 11:
            said += os.read(read, 11 - len(said))
        child = int(said.replace(b"x", b""))
        eventually(lambda: watcher.total() == (130 if {child_counts} else 100))
        os.kill(master, signal.SIGKILL)
        os.waitpid(master, 0)
        eventually(lambda: watcher.total() == (30 if {child_counts} else 0))
        os.kill(child, signal.SIGKILL)
        eventually(lambda: watcher.total() == 0)
        print("good")
        """,
        how,
    )


@pytest.mark.parametrize("how", FORKS)
def test_what_is_persisted_counts_once(run: Callable[[str, str], str], how: str) -> None:
    """The child has a snapshot and a log id of its own, and the parent's stay the parent's."""
    run(
        """
        from inbound_audit.persist import read_log
        audit = InboundAudit(state=STATE)
        audit.series.define("s", "ip", 300, 6, persist=True, serialize=True)
        audit.series.add("s", "192.0.2.1", 3)
        audit.series.save()
        def job():
            audit.series.add("s", "192.0.2.2", 5)
            audit.series.save()
            audit.close()
        assert end_of(in_child(job)) == 0
        audit.series.add("s", "192.0.2.1", 4)
        audit.close()
        entries = list(read_log(STATE + "/s.log"))
        assert sorted(entry.by for entry in entries) == [3, 4, 5]
        assert len({(entry.log, entry.sequence) for entry in entries}) == 3
        again = InboundAudit(state=STATE)
        again.series.define("s", "ip", 300, 6, persist=True)
        assert again.series.count("s", "0.0.0.0/0", 0, 5) == 12
        again.close()
        print("good")
        """,
        how,
    )


@pytest.mark.parametrize("how", FORKS)
def test_a_child_that_ends_takes_nothing_of_its_parents(run: Callable[[str, str], str], how: str) -> None:
    """By the end of Python, by a collected audit, and by `close`, without having counted."""
    run(
        """
        audit = InboundAudit(shared="x", state=STATE)
        listener = audit.listener("SMTP")
        audit.series.define("s", "ip", 300, 6, persist=True)
        audit.series.add("s", "192.0.2.1", 3)
        audit.series.save()
        kept = sessions(listener, 100)
        files = sorted(os.listdir(os.environ["INBOUND_AUDIT_SHM"] + "/inbound_audit-x"))
        def collect():
            global audit, listener, kept
            audit = listener = kept = None
            gc.collect()
        def close():
            audit.close()
        def exit():
            import atexit
            atexit._run_exitfuncs()
        for job in (collect, close, exit):
            assert end_of(in_child(job)) == 0
            now = sorted(os.listdir(os.environ["INBOUND_AUDIT_SHM"] + "/inbound_audit-x"))
            assert now == files, (job, files, now)
            assert View("x").total() == 100
            assert len([name for name in os.listdir(STATE) if name.endswith(".series")]) == 1
        audit.close()
        print("good")
        """,
        how,
    )
