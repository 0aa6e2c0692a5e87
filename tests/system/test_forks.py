"""A fork gives the child counts of its own, which are empty, whatever other threads were doing."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from tests.support.threads import lua_adder, running
from tests.support.timing import shown

from inbound_audit import InboundAudit, PrefixCounter
from inbound_audit._ipcount import SeriesStore

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
ADDERS = 3


@pytest.fixture
def audit(clock):
    with InboundAudit(monitors=["10,3", "7,1", "60,5"], clock=clock, capacity=1 << 20) as audit:
        yield audit


@pytest.fixture
def series(audit):
    audit.series.define("s", "cidr", 10, 3)
    audit.series.define("t", "string", 10, 3)
    return audit.series


def test_a_fork_copies_counters_whole():
    """Forked while another thread changes it: the child's copy is sound, and its lock is free."""
    counter = PrefixCounter()
    packed = random.Random(1).randbytes(4 * 20_000)

    def batches(stop):
        while not stop.is_set():
            counter.add_many(packed)

    with running(batches):
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    signal.alarm(100)
                    counter._check()
                    counter.add("192.0.2.7")
                    counter._check()
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(pid, 0)[1] == 0
    counter._check()


def test_forked_in_the_middle_of_a_change():
    """The child's windows are empty and sound, whatever another thread was doing, and its locks are free."""
    calls = []
    with InboundAudit(monitors=["1000000000,2"]) as audit, audit.listener().session("192.0.2.7") as ac:
        audit.series.define("s", "cidr", 1 << 30, 2, max_hosts=100)
        audit.series.add("s", "192.0.2.7", -1)

        def adding(stop: threading.Event, at: int) -> None:
            add = lua_adder(ac)
            while not stop.is_set():
                add("s", f"10.{at}.0.", 256, 50, 1)
                calls.append(at)

        with running(*(functools.partial(adding, at=at) for at in range(ADDERS))):
            for _ in range(20):
                pid = os.fork()
                if pid == 0:
                    status = 1
                    with contextlib.suppress(BaseException):
                        signal.alarm(100)
                        assert audit.series.count("s", "0.0.0.0/0", 0, 1) == 0
                        SeriesStore(audit).check()
                        for i in range(300):
                            audit.series.add("s", bytes((10, 0, i >> 8, i & 255)), 2)
                        audit.series.add("s", "192.0.2.8", -2)
                        audit.listener().session("192.0.2.9").close()
                        SeriesStore(audit).check()
                        assert audit.series.count("s", "0.0.0.0/0") == 598
                        assert audit.connections(0, "0.0.0.0/0") == 1
                        status = 0
                    os._exit(status)
                assert os.waitpid(pid, 0)[1] == 0
        SeriesStore(audit).check()
        assert audit.series.count("s", "0.0.0.0/0") == 256 * len(calls) - 1


def test_a_forked_child_starts_with_empty_windows(audit, clock):
    held = audit.listener().session("192.0.2.7")
    held.record_reception()
    clock.step(10)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            seen = [shown(audit), shown(audit, "receptions")]
            held.close()
            audit.listener().session("192.0.2.8").close()
            seen.append(shown(audit))
            clock.step(10)
            seen.append(shown(audit))
            SeriesStore(audit).check()
            os.write(write, repr(seen).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as answer:
        assert answer.read() == repr([[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]])
    assert os.waitpid(pid, 0)[1] == 0
    assert shown(audit) == shown(audit, "receptions") == [0, 1, 0]
    held.close()


def test_a_forked_child_starts_with_empty_series(audit, series, clock):
    series.add("s", "192.0.2.7")
    series.add("t", "text")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            seen = [series.names, series.count("s", "192.0.2.7"), series.count("t", "text")]
            series.add("s", "192.0.2.8", -2)
            clock.step(10)
            series.add("s", "192.0.2.8")
            seen += [series.count("s", "192.0.2.0/24", v) for v in range(3)]
            SeriesStore(audit).check()
            os.write(write, repr(seen).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as answer:
        assert answer.read() == repr([("s", "t"), 0, 0, 1, -2, 0])
    assert os.waitpid(pid, 0)[1] == 0
    assert [series.count("s", "192.0.2.0/24", v) for v in range(3)] == [1, 0, 0]
    assert re.fullmatch(r"\('s', 't'\)", repr(series.names))


def test_a_forked_child_starts_with_no_sessions(audit):
    """The sockets of its parent's sessions are not the child's to end."""
    listener = audit.listener()
    sessions = [listener.session(f"192.0.2.{i}") for i in range(200)]
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        seen = [audit.total(), sessions[0].closed]
        for session in sessions:
            session.close()
        with listener.session("198.51.100.1") as ac:
            seen += [audit.total(), ac.inbound_session_count("/0")]
        listener._check()
        os.write(write, repr([*seen, audit.total()]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        assert answer.read() == repr([0, True, 1, 1, 0])
    assert os.waitpid(pid, 0)[1] == 0
    assert audit.total() == 200
    for session in sessions:
        session.close()
    assert audit.total() == 0


def in_a_fork(check) -> None:
    """Runs `check` in a child, which has to return from it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            signal.alarm(100)
            check()
            status = 0
        os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def holding(lock: contextlib.AbstractContextManager[object], stop: threading.Event, held: threading.Event) -> None:
    with lock:
        held.set()
        stop.wait()


def test_locks_that_other_threads_hold_are_free_in_a_child(tmp_path):
    """Each lock that Python code of the package holds: a series, a log line, a failure of a policy, a Sieve script."""
    from inbound_audit import LuaPolicy, SievePolicy
    from inbound_audit.log_limiter import LogLimiter
    from inbound_audit.sieve import parse

    script = tmp_path / "p.siv"
    script.write_text("stop;")
    lua = tmp_path / "p.lua"
    lua.write_text('require("msys.core")\nmsys.registerModule("p", {validate_connect = function() error("no") end})')
    limiter = LogLimiter(logging.getLogger("inbound_audit.test"))
    policy = LuaPolicy(lua)
    with InboundAudit() as audit:
        locks = [limiter._lock, audit.series._lock, policy._lock, policy._host.series._lock, parse._one_at_a_time]
        for lock in locks:
            held = threading.Event()
            with running(functools.partial(holding, lock, held=held)):
                assert held.wait(100)

                def use_all() -> None:
                    limiter.report(logging.ERROR, "a line")
                    audit.series.define("s", "ip", 300, 6)
                    SievePolicy(script)
                    with audit.listener().session("192.0.2.7") as ac:
                        policy.validate_connect(ac)

                in_a_fork(use_all)


def test_forked_while_other_threads_run_lua(tmp_path):
    """The child's Lua is not in the middle of a run."""
    from inbound_audit import LuaPolicy

    lua = tmp_path / "p.lua"
    lua.write_text("""
        require("msys.core")
        local p = {kept = 0}
        function p:validate_connect()
          for i = 1, 20000 do p.kept = p.kept + i % 7 end
          return msys.core.VALIDATE_CONT
        end
        msys.registerModule("p", p)
    """)
    policy = LuaPolicy(lua)
    with InboundAudit() as audit:
        listener = audit.listener()

        def asking(stop: threading.Event) -> None:
            while not stop.is_set():
                with listener.session("192.0.2.7") as ac:
                    assert policy.validate_connect(ac)

        def ask() -> None:
            with listener.session("192.0.2.8") as ac:
                assert policy.validate_connect(ac)

        with running(*[asking] * ADDERS):
            for _ in range(20):
                in_a_fork(ask)


@contextlib.contextmanager
def gil_kept() -> Iterator[None]:
    """No thread asks for the GIL in the block. A child in which Python does not know of the fork would give it up to a
    thread that asked for it, and that is not in the child."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    time.sleep(1)  # those who have asked have it, on a busy machine too
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("shared", [False, True])
def test_a_child_that_python_does_not_know_of_sees_no_count_of_its_parent_as_its_own(shared, tmp_path, monkeypatch):
    """Whatever it asks first; in shared mode, the parent's sessions are those of another process."""
    import ctypes

    from inbound_audit import Limits

    monkeypatch.setenv("INBOUND_AUDIT_SHM", str(tmp_path))
    fork = ctypes.PyDLL(None).fork
    with InboundAudit(shared="x" if shared else None) as audit, gil_kept():
        listener = audit.listener()
        kept = [listener.session("192.0.2.7") for _ in range(3)]
        limits = Limits({"/32": 2})
        others = 3 if shared else 0
        rows = [(3, "192.0.2.7/32")] if shared else []
        for check in (
            lambda: audit.total() == others,
            lambda: listener.total == others,
            lambda: listener.inbound_session_count() == others,
            lambda: audit.top() == rows,
            lambda: audit.tree() == rows,
            lambda: kept[0].closed,
            lambda: bool(limits.validate_connect(kept[0])) is not shared,
        ):
            pid = fork()
            if pid == 0:
                status = 1
                with contextlib.suppress(BaseException):
                    signal.alarm(100)
                    status = 0 if check() else 2
                os._exit(status)
            assert os.waitpid(pid, 0)[1] == 0
        assert audit.total() == 3
        for session in kept:
            session.close()
