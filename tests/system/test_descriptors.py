"""Descriptors that other code closes: no file of the program is written to or closed, and counting goes on.

A scenario is a script of its own: it closes descriptors as a daemon does, opens files of its own, which get the same
numbers, and counts on. At its end each of its files must be open, and hold only what the script wrote.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from inbound_audit.descriptor import FIRST, Descriptor, open_file, pipe

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="shared mode needs Linux")]

BEGIN = """
import faulthandler, gc, logging, os, select, signal, socket, sys, time
if sys.stderr:
    faulthandler.dump_traceback_later(110, exit=True)
from inbound_audit import InboundAudit
from inbound_audit.shared import View
from tests.support.waiting import eventually

sizes = {}
count = 0

def occupy(n=40):
    '''Files, pipes, sockets and others of the program: they get the numbers that are free.'''
    global count
    count += 1
    made = [os.open(f"mine-{count}-{i}", os.O_RDWR | os.O_CREAT | os.O_EXCL) for i in range(n)]
    for fd in made:
        os.write(fd, b"mine")
        sizes[fd] = os.fstat(fd)
    for fd in (*os.pipe(), os.eventfd(0), *(s.detach() for s in socket.socketpair()), select.epoll().detach()
               if hasattr(select.epoll, "detach") else os.eventfd(7)):
        sizes[fd] = os.fstat(fd)
    return made

def check_files():
    for fd, before in sizes.items():
        now = os.fstat(fd)
        assert (now.st_dev, now.st_ino, now.st_size) == (before.st_dev, before.st_ino, before.st_size), (fd, now)

def sessions(listener, n, block=0):
    return [listener.session(f"10.{block}.{i >> 8}.{i & 255}") for i in range(n)]
"""

END = """
check_files()
gc.collect()
check_files()
print("good")
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Runs a scenario; its output has to end with "good"."""
    for name in ("shm", "state", "files"):
        (tmp_path / name).mkdir(mode=0o700)

    def run_scenario(body: str, *, inherit: str = "", end: str = END) -> str:
        code = BEGIN + textwrap.dedent(body) + end
        (tmp_path / "scenario.py").write_text(code)
        env = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "INBOUND_AUDIT_SHM": str(tmp_path / "shm"),
            "INBOUND_AUDIT_STATE": str(tmp_path / "state"),
        }
        command = [sys.executable, "-X", "dev", str(tmp_path / "scenario.py")]
        if inherit:
            command = ["sh", "-c", f'exec "$@" {inherit}', "sh", *command]
        done = subprocess.run(
            command, cwd=tmp_path / "files", env=env, timeout=150, capture_output=True, text=True, check=False
        )
        result = done.stdout + (tmp_path / "files" / "out").read_text() if inherit else done.stdout
        assert done.returncode == 0, done.stderr + result
        assert "Exception ignored" not in done.stderr, done.stderr
        assert result.endswith("good\n"), done.stderr + result
        return done.stderr

    return run_scenario


CLOSE = {
    "all": "os.closerange(3, 256)",
    "lowest": "os.closerange(3, 8)",
    "even": "[os.close(fd) for fd in map(int, os.listdir('/proc/self/fd')) if fd > 2 and fd % 2 == 0 and exists(fd)]",
    "odd": "[os.close(fd) for fd in map(int, os.listdir('/proc/self/fd')) if fd > 2 and fd % 2 and exists(fd)]",
}
EXISTS = """
def exists(fd):
    return os.path.exists(f"/proc/self/fd/{fd}")
"""


@pytest.mark.parametrize("close", CLOSE)
def test_a_shared_audit_counts_on_in_its_file(run: Callable[..., str], close: str) -> None:
    """The file grows by 13 times what it had; another process sees every session."""
    run(
        EXISTS
        + f"""
        audit = InboundAudit(shared="x")
        listener = audit.listener("SMTP")
        {CLOSE[close]}
        occupy()
        kept = sessions(listener, 20000)
        assert audit.total() == View("x").total() == 20000
        check_files()
        control = audit.listener("Control")  # needs a section of its own
        more = sessions(control, 20000, 1)
        assert View("x").total("Control") == 20000
        kept.clear()
        eventually(lambda: View("x").total() == 0)
        audit.close()
        assert os.listdir(os.environ["INBOUND_AUDIT_SHM"]) == []
        """.replace("\n        ", "\n")
    )


@pytest.mark.parametrize("close", CLOSE)
def test_others_are_found_and_lost_as_before(run: Callable[..., str], close: str) -> None:
    """A scanner whose descriptors are gone neither takes a live owner for dead nor a dead one for alive."""
    run(
        EXISTS
        + f"""
        import subprocess
        other = '''
        import sys
        from inbound_audit import InboundAudit
        audit = InboundAudit(shared="x")
        kept = [audit.listener("SMTP").session("192.0.2.7") for _ in range(7)]
        print("there", flush=True)
        sys.stdin.read()
        '''
        def start():
            made = subprocess.Popen([sys.executable, "-c", other], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            made.stdout.readline()
            return made
        audit = InboundAudit(shared="x")
        listener = audit.listener("SMTP")
        before = start()
        eventually(lambda: audit.total() == 7)
        view = View("x")
        pipes = {{before.stdin.fileno(), before.stdout.fileno()}}
        for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
            if fd > 2 and fd not in pipes and exists(fd):
                {"pass" if close == "all" else "continue" if close == "lowest" else "pass"}
                os.close(fd)
        occupy()
        time.sleep(0.5)
        assert audit.total() == 7
        view.refresh()
        assert view.total() == 7
        after = start()
        eventually(lambda: audit.total() == 14)
        for process in (before, after):
            process.kill()
            process.wait()
            for end in (process.stdin, process.stdout):
                end.close()
        eventually(lambda: audit.total() == 0)
        view.close()
        audit.close()
        """.replace("\n        ", "\n")
    )


def test_a_daemon_that_forks_twice_and_closes_all(run: Callable[..., str]) -> None:
    run(
        """
        audit = InboundAudit(shared="x", state=os.environ["INBOUND_AUDIT_STATE"])
        listener = audit.listener("SMTP")
        audit.series.define("s", "ip", 300, 6, persist=True, serialize=True)
        audit.series.add("s", "192.0.2.1")
        read, write = os.pipe()
        if os.fork():
            os.close(write)
            result = os.read(read, 100)
            assert result == b"good", result
            audit.close()
        else:
            os.setsid()
            if os.fork():
                os._exit(0)
            os.dup2(write, 100)
            os.closerange(3, 100)
            os.closerange(101, 256)
            occupy(60)
            kept = sessions(listener, 20000)
            audit.series.add("s", "192.0.2.2", 5)
            audit.series.save()
            assert View("x").total() == 20000
            time.sleep(0.5)
            check_files()
            audit.close()
            gc.collect()
            check_files()
            os.write(100, b"good")
            os._exit(0)
        """.replace("\n        ", "\n")
    )


def test_started_without_standard_streams(run: Callable[..., str]) -> None:
    run(
        """
        audit = InboundAudit(shared="x", state=os.environ["INBOUND_AUDIT_STATE"])
        listener = audit.listener("SMTP")
        audit.series.define("s", "ip", 300, 6, persist=True, serialize=True)
        held = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in range(3) if os.path.exists(f"/proc/self/fd/{fd}")}
        assert not [name for name in held.values() if "inbound" in name or "state" in name], held
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        kept = sessions(listener, 20000)
        audit.series.add("s", "192.0.2.2", 5)
        audit.series.save()
        assert View("x").total() == 20000
        check_files()
        audit.close()
        gc.collect()
        open("out", "w").write("good\\n")
        os._exit(0)
        """.replace("\n        ", "\n"),
        inherit="<&- >&- 2>&-",
        end="",
    )


@pytest.mark.parametrize("times", [1, 3])
def test_persisted_and_logged_series(run: Callable[..., str], times: int) -> None:
    """Snapshots and lines of the change log go where they belong, and another process does not take us for dead."""
    run(
        f"""
        from inbound_audit.persist import read_log
        state = os.environ["INBOUND_AUDIT_STATE"]
        audit = InboundAudit(state=state)
        audit.series.define("s", "ip", 300, 6, persist=True, serialize=True)
        audit.series.add("s", "192.0.2.1", 3)
        audit.series.save()
        for i in range({times}):
            sizes.clear()
            os.closerange(3, 256)
            occupy()
            audit.series.add("s", "192.0.2.2", 5)
            audit.series.save()
            check_files()
        other = InboundAudit(state=state)
        other.series.define("s", "ip", 300, 6, persist=True)
        assert other.series.count("s", "0.0.0.0/0", 0, 5) == 0
        other.close()
        assert [entry.by for entry in read_log(state + "/s.log")] == [3] + {times} * [5]
        audit.close()
        again = InboundAudit(state=state)
        again.series.define("s", "ip", 300, 6, persist=True)
        assert again.series.count("s", "0.0.0.0/0", 0, 5) == 3 + {times} * 5
        again.close()
        """.replace("\n        ", "\n")
    )


def test_a_process_is_asked_as_before(run: Callable[..., str]) -> None:
    """The control socket, and the pipe that wakes its thread, are made anew."""
    run(
        """
        from inbound_audit.shared.control import client
        audit = InboundAudit(shared="x")
        os.closerange(3, 256)
        occupy()
        view = View("x")
        owner = view.owners[0].id
        request = {"do": "add", "series": "s", "interval": 300, "num_windows": 6, "key": "192.0.2.1", "count": 2}
        def asked():
            try:
                return client.request_all(view.place, [owner], request)[owner]["ok"]
            except Exception:
                return False
        eventually(asked)
        assert audit.series.count("s", "192.0.2.1", 0, 5) == 2
        view.close()
        audit.close()
        """.replace("\n        ", "\n")
    )


def test_a_fork_and_the_end_of_threads_without_their_pipes(run: Callable[..., str]) -> None:
    run(
        """
        audit = InboundAudit(shared="x", state=os.environ["INBOUND_AUDIT_STATE"])
        listener = audit.listener("SMTP")
        audit.series.define("s", "ip", 300, 6, persist=True)
        kept = sessions(listener, 10)
        os.closerange(3, 256)
        occupy()
        child = os.fork()
        if child == 0:
            signal.alarm(110)
            check_files()
            eventually(lambda: audit.total() == 10)
            own = sessions(listener, 5, 1)
            assert audit.total() == 15
            check_files()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        eventually(lambda: audit.total() == 10)
        audit.close()
        """.replace("\n        ", "\n")
    )


# ---- the class


def test_a_number_below_the_first_one_is_moved() -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(0)
        low = os.dup(read)  # gets number 0
        made = Descriptor(low)
        os._exit(0 if low == 0 and made.number >= FIRST and not os.path.exists("/proc/self/fd/0") else 1)
    os.close(read)
    os.close(write)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("kind", ["file", "pipe", "inotify"])
def test_a_number_that_has_become_another_files_is_neither_used_nor_closed(tmp_path: Path, kind: str) -> None:
    from inbound_audit._ipcount import watch_directory

    (tmp_path / "other").mkdir()
    if kind == "file":
        made = open_file(tmp_path / "a", os.O_RDWR | os.O_CREAT)
        replacement = os.open(tmp_path / "b", os.O_RDWR | os.O_CREAT)
    elif kind == "pipe":
        made, _ = pipe()
        replacement, _ = os.pipe()
    else:
        made = Descriptor(watch_directory(str(tmp_path)))
        replacement = watch_directory(str(tmp_path / "other"))
    number = made.number
    os.dup2(replacement, number)
    assert not made.is_ours
    with pytest.raises(OSError, match="closed by other code"):
        _ = made.number
    made.close()
    made.close()
    os.fstat(number)
    os.close(number)
    os.close(replacement)


def test_a_lost_descriptor_does_not_close_its_successor(tmp_path: Path) -> None:
    """The same file is opened again and gets the same number."""
    lost = open_file(tmp_path, os.O_RDONLY)
    number = lost.number
    os.close(number)
    assert not lost.is_ours
    again = open_file(tmp_path, os.O_RDONLY)
    assert again.number == number
    assert lost.current is None
    lost.close()
    del lost
    assert again.number == number


@pytest.mark.parametrize("kind", ["epoll", "eventfd"])
def test_other_anonymous_descriptors_are_not_taken_for_a_watch(tmp_path: Path, kind: str) -> None:
    from inbound_audit._ipcount import watch_directory

    made = Descriptor(watch_directory(str(tmp_path)))
    number = made.number
    with select.epoll() as epoll:
        replacement = epoll.fileno() if kind == "epoll" else os.eventfd(0)
        os.dup2(replacement, number)
        assert not made.is_ours
        made.close()
        os.close(number)
