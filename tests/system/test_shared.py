"""Shared mode: processes that count together, come and go, and fork; whose directory it may be; what a view tells."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.support.forking import UNDER_ASAN
from tests.support.sharing import (
    HEADER,
    NAME,
    FalseOwner,
    Worker,
    WorkerError,
    Workers,
    fewest_files,
    file_of,
    held_of,
    is_dead,
    look,
    owner_files,
    sessions_of,
)
from tests.support.threads import lua_reader
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit, Limits, _ipcount
from inbound_audit.errors import CapacityError, InboundAuditError, SharedStateError, UnknownServiceType
from inbound_audit.shared import View, directory_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shared mode needs Linux")

as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives files away: needs root")

forks_beside_threads = pytest.mark.skipif(UNDER_ASAN, reason="AddressSanitizer's locks don't outlive a fork")

JOIN = "from inbound_audit import InboundAudit\naudit = InboundAudit(shared=NAME, capacity=1 << 24)\n"
MX = JOIN + "mx = audit.listener('SMTP', 'mx')\n"


@pytest.fixture
def audit(place):
    with InboundAudit(shared=NAME, capacity=1 << 24) as audit:
        yield audit


# ---- what is counted


def test_counts_are_sums(audit, hire):
    """Each of the questions, from inside and from outside, in Python and in LuaJIT."""
    mx = audit.listener("SMTP", "mx")
    ours = [mx.session(ip) for ip in ("192.0.2.7", "192.0.2.8", "2001:db8::7")]
    other = hire(MX)
    other.do(
        "theirs = [mx.session('192.0.2.7'), audit.listener('SMTP', 'submission').session('192.0.2.7'),"
        " audit.listener('IMAP').session('192.0.2.9')]"
    )
    for counts in (audit, View(NAME)):
        assert counts.total() == 5
        assert counts.total("IMAP") == 1
        assert counts.inbound_session_count("192.0.2.7") == 3
        assert counts.inbound_session_count("192.0.2.0/24", "IMAP") == 1
        assert counts.inbound_session_count("192.0.2.0/24", "inbound_cidr") == 4
        assert counts.top(1) == [(3, "192.0.2.7/32")]
        assert counts.tree() == [
            (4, "192.0.2.0/28"),
            (3, "192.0.2.7/32"),
            (1, "192.0.2.8/32"),
            (1, "2001:db8::7/128"),
        ]
        assert counts.tree("IMAP") == [(1, "192.0.2.9/32")]
    assert other.do("look(audit, ['192.0.2.0/29'])") == look(audit, ["192.0.2.0/29"])
    # No argument: the listeners of one service and name, in all processes.
    assert ours[0].inbound_session_count() == other.do("theirs[0].inbound_session_count()") == 2
    assert other.do("theirs[1].inbound_session_count()") == 1
    assert mx.total == other.do("mx.total") == 4
    assert mx.inbound_session_count() == other.do("mx.inbound_session_count()") == 4
    assert mx.inbound_session_count("192.0.2.0/24") == other.do("mx.inbound_session_count('/24', theirs[1])") == 3
    assert other.do("theirs[1].listener.inbound_session_count('/24', theirs[0])") == 1
    assert ours[0].inbound_session_count("/24") == 4
    assert lua_reader(ours[0])("192.0.2.0/24", 4, 100) == (4, 4, 0)
    assert not Limits({"/32": 2}).validate_connect(ours[0])
    assert Limits({"/32": 3}).validate_connect(ours[0])
    ours.pop().close()
    other.do("theirs[0].rebind('192.0.2.8')")
    assert audit.total() == 4
    assert audit.inbound_session_count("192.0.2.8") == 2
    other.do("for session in theirs: session.close()")
    assert (audit.total(), audit.total("IMAP")) == (2, 0)
    for session in ours:
        session.close()
    assert other.do("audit.total()") == 0


def test_names_of_audits_are_worlds_of_their_own(place):
    with InboundAudit(shared="one") as one, InboundAudit(shared="two") as two, InboundAudit() as alone:
        assert (one.shared, two.shared, alone.shared) == ("one", "two", None)
        session = one.listener().session("192.0.2.7")
        assert (one.total(), two.total(), alone.total()) == (1, 0, 0)
        session.close()
        assert directory_of("one") == f"{place}/inbound_audit-one"


def test_two_audits_of_one_process_count_together(place):
    with InboundAudit(shared=NAME) as one, InboundAudit(shared=NAME) as two:
        first, second = one.listener().session("192.0.2.7"), two.listener().session("192.0.2.7")
        assert one.total() == two.total() == first.inbound_session_count() == second.inbound_session_count() == 2
        one.close()
        eventually(lambda: two.total() == 1, "the end of the first")
        assert first.closed
        assert second.inbound_session_count() == 1
        second.close()
    assert owner_files() == []


def test_listeners_and_services_that_come_later_are_seen_at_once(hire):
    """When `listener` has returned, everybody counts what is opened there."""
    crew = hire.hire(3, JOIN)
    for turn in range(8):
        service, name = ("SMTP", f"x{turn}") if turn % 2 else (f"Service{turn}", "x")
        one = crew[turn % 3]
        one.do(f"session = audit.listener({service!r}, {name!r}).session('192.0.2.7')")
        for other in crew:
            assert other.do(f"audit.total({service!r})") == 1
            assert other.do(f"audit.inbound_session_count('192.0.2.0/24', {service!r})") == 1
            assert service in other.do("audit.service_types")
            assert other.do(f"audit.listener({service!r}, {name!r}).total") == 1
        one.do("session.close()")
        assert crew[turn % 2].do(f"audit.total({service!r})") == 0


def test_who_joins_sees_everybody_and_is_seen(hire):
    crew = []
    for n in range(6):
        crew.append(hire(MX + "session = mx.session('192.0.2.7')"))
        assert [worker.do("audit.total()") for worker in crew] == [n + 1] * (n + 1)


def test_many_join_at_the_same_time(hire):
    crew = hire.hire(8, MX + "session = mx.session('192.0.2.7')")
    assert [worker.do("audit.total()") for worker in crew] == [8] * 8
    assert len(owner_files()) == 8


def test_processes_may_differ_in_capacity(hire):
    one = hire(JOIN.replace("1 << 24", "8192") + "mx = audit.listener()\nown = sessions_of(mx, 9)")
    other = hire(JOIN.replace(", capacity=1 << 24", "") + "mx = audit.listener()\nown = sessions_of(mx, 3000)")
    assert one.do("audit.total()") == other.do("audit.total()") == 3009


def test_without_inotify(hire):
    """A user may have 128 of its watches: without one, others are looked at from time to time."""
    deaf = """
from inbound_audit import _ipcount
def watch_directory(path):
    raise OSError
_ipcount.watch_directory = watch_directory
"""
    crew = hire.hire(3, deaf + MX + "own = sessions_of(mx, 3)")
    assert [worker.do("audit.total()") for worker in crew] == [9] * 3
    crew[0].do("session = audit.listener('Brand-new').session('192.0.2.7')")
    assert [worker.do("audit.total('Brand-new')") for worker in crew] == [1] * 3
    crew[0].kill()
    eventually(lambda: [worker.do("audit.total()") for worker in crew[1:]] == [6] * 2, "its end")


def test_a_process_that_closes_its_audit_is_counted_no_more(audit, hire):
    other = hire(MX + "own = sessions_of(mx, 3)")
    assert audit.total() == 3
    other.do("audit.close()")
    eventually(lambda: audit.total() == 0, "its end")
    eventually(lambda: len(owner_files()) == 1, "the end of its file")
    assert other.do("own[0].closed, audit.total(), audit.closed") == (True, 0, True)
    other.do("for session in own: session.close()")
    other.do("audit.close()")
    other.do(MX + "own = sessions_of(mx, 2)")
    assert audit.total() == 2


def test_names_of_listeners_fit_into_64_bytes(audit, hire):
    other = hire(JOIN)
    name = "ü" * 32
    session = audit.listener("SMTP", name).session("192.0.2.7")
    assert other.do(f"audit.listener('SMTP', {name!r}).total") == 1
    with pytest.raises(SharedStateError, match="64 bytes"):
        audit.listener("SMTP", name + "x")
    session.close()
    assert audit.listener("SMTP", "fits").total == 0


def test_refused_arguments(place):
    for name in ("", ".hidden", "a/b", "../x", "-x", "x" * 64, "ü", "a b", "a\n", "\0", 5, b"mail"):
        with pytest.raises(SharedStateError, match=re.escape(repr(name))):
            InboundAudit(shared=name)
        with pytest.raises(SharedStateError, match=re.escape(repr(name))):
            directory_of(name)
        with pytest.raises(SharedStateError, match=re.escape(repr(name))):
            View(name)
    with pytest.raises(SharedStateError, match="group"):
        InboundAudit(group="daemon")
    with pytest.raises(SharedStateError, match="no such group"):
        InboundAudit(shared=NAME, group="no such group")
    with pytest.raises(SharedStateError, match="no such group"):
        InboundAudit(shared=NAME, group=str((1 << 32) - 1))
    with pytest.raises(CapacityError):
        InboundAudit(shared=NAME, capacity=1)
    assert list(place.iterdir()) == []
    for name in ("a", "0", "A.b-c_d", "x" * 63):
        with InboundAudit(shared=name):
            assert Path(directory_of(name)).is_dir()
        assert not Path(directory_of(name)).exists()


def test_systemd_says_where_the_directory_is(monkeypatch):
    monkeypatch.delenv("INBOUND_AUDIT_SHM", raising=False)
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/mail:/run/other")
    assert directory_of(NAME) == f"/run/mail/inbound_audit-{NAME}"
    monkeypatch.setenv("RUNTIME_DIRECTORY", "")
    assert directory_of(NAME) == f"/dev/shm/inbound_audit-{NAME}"
    monkeypatch.setenv("INBOUND_AUDIT_SHM", "/srv/shm")
    assert directory_of(NAME) == f"/srv/shm/inbound_audit-{NAME}"


# ---- a view


def test_a_view_tells_who_counts_what(audit, hire):
    began = time.time()
    other = hire(MX + "own = sessions_of(mx, 3)\naudit.listener('Control', 'ü')")
    sessions = sessions_of(audit.listener(), 2)
    with View(NAME) as view:
        owners = {owner.pid: owner for owner in view.owners}
        assert set(owners) == {os.getpid(), other.pid}
        assert {f"{directory_of(NAME)}/{owner.id}.owner" for owner in view.owners} == set(owner_files())
        assert owners[other.pid].listeners == (("SMTP", "mx", 3), ("Control", "ü", 0))
        assert owners[os.getpid()].listeners[0].total == 2
        assert began - 1 < owners[other.pid].started <= time.time()
        assert [owner.damaged for owner in view.owners] == [None, None]
        # Counts are as of now; who is there, as of the last look.
        other.do("own.pop().close()")
        assert view.total() == 4
        assert sum(row.total for owner in view.owners for row in owner.listeners) == 4
        third = hire(MX + "own = sessions_of(mx, 5)")
        assert view.total() == 4
        view.refresh()
        assert view.total() == 9
        with View(NAME, pid=third.pid) as one:
            assert [owner.pid for owner in one.owners] == [third.pid]
            assert one.total() == 5
            assert one.tree() == [row for row in one.tree() if row[1].startswith("10.1.0.")]
        with pytest.raises(SharedStateError, match=str(os.getppid())):
            View(NAME, pid=os.getppid())
        third.kill()
        third.await_end()
        view.refresh()
        assert view.total() == 4
    view.close()
    assert view.closed
    assert view.total() == 0
    for session in sessions:
        session.close()


def test_a_view_writes_and_removes_nothing(hire):
    victim = hire(MX + "own = sessions_of(mx, 3)")
    directory = Path(directory_of(NAME))

    def state() -> list:
        return [(path.name, path.stat()[:2], path.stat().st_mtime_ns) for path in (directory, *directory.iterdir())]

    before = state()
    with View(NAME) as view:
        assert view.total() == 3
        with pytest.raises(AttributeError):
            view.listener()
        assert state() == before
        victim.kill()
        victim.await_end()
        assert len(owner_files()) == 1
        view.refresh()
        assert (view.total(), view.owners) == (0, [])
        assert len(owner_files()) == 1
    with View(NAME) as view:
        assert (view.total(), view.owners) == (0, [])
    assert len(owner_files()) == 1
    InboundAudit(shared=NAME).close()  # who counts there cleans up
    assert owner_files() == []


def test_a_view_of_nothing(place):
    with pytest.raises(SharedStateError, match=re.escape(f"{place}/inbound_audit-{NAME}")):
        View(NAME)
    assert list(place.iterdir()) == []
    os.mkdir(directory_of(NAME), 0o700)
    with View(NAME) as view, pytest.raises(UnknownServiceType):
        view.total("Nonsense")


def test_what_a_view_holds_goes_with_it(audit, hire, place):
    hire(MX + "own = sessions_of(mx, 3)")
    gc.collect()
    before, (inodes, _, mappings) = ours_of(place), held_of()
    for _ in range(50):
        with View(NAME) as view:
            assert view.total() == 3
    View(NAME)
    gc.collect()
    assert sorted(ours_of(place)) == sorted(before)
    assert sorted(held_of()[0]) == sorted(inodes)
    assert held_of()[2] < mappings + 10


# ---- forks


def test_a_child_starts_empty_and_sees_its_parent(hire):
    parent = hire(MX + "own = sessions_of(mx, 3)")
    child = parent.fork()
    assert len(owner_files()) == 1  # it gets a file with its first session
    assert child.do("audit.total(), mx.total, [session.closed for session in own]") == (3, 3, [True] * 3)
    child.do("for session in own: session.close()")
    assert parent.do("audit.total()") == child.do("audit.total()") == 3
    child.do("mine = sessions_of(mx, 2)")
    assert parent.do("audit.total()") == child.do("audit.total()") == 5
    assert len(owner_files()) == 2
    with View(NAME) as view:
        assert {owner.pid: owner.listeners[0].total for owner in view.owners} == {parent.pid: 3, child.pid: 2}
    parent.do("own.pop().close()")
    child.do("mine.pop().close()")
    assert parent.do("audit.total()") == child.do("audit.total()") == 3
    parent.do("mx._check()")
    child.do("mx._check()")
    child.do("audit.listener('SMTP', 'later').session('192.0.2.7') and None")
    assert parent.do("complaints") == child.do("complaints") == []


@pytest.mark.parametrize("opens", [False, True], ids=["child without a file", "child that counts"])
@pytest.mark.parametrize("dies", ["parent", "child"])
def test_a_death_beside_a_relative_that_lives(hire, audit, dies, opens):
    """A child has inherited its parent's descriptors and mappings: neither keeps the other's counts alive."""
    parent = hire(MX + "own = sessions_of(mx, 30)")
    child = parent.fork()
    if opens:
        child.do("mine = sessions_of(mx, 4)")
    victim, other = (parent, child) if dies == "parent" else (child, parent)
    left = 30 if dies == "child" else 4 if opens else 0
    assert audit.total() == (34 if opens else 30)
    victim.kill()
    eventually(lambda: audit.total() == left == other.do("audit.total()"), "its end")
    eventually(lambda: len(owner_files()) == 1 + (left > 0), "the end of its file")
    other.do("more = sessions_of(mx, 5)")
    assert audit.total() == left + 5


def test_generations(hire, audit):
    """Great-grandchildren; those in between die, in any order, and no other counts change."""
    line = [hire(MX + "mine = sessions_of(mx, 1)")]
    for n in range(1, 5):
        line.append(line[-1].fork())
        if n != 2:  # who has no session of its own yet forks, too
            line[-1].do(f"mine = sessions_of(mx, {10**n})")
    counts = [1, 10, 0, 1000, 10_000]
    for i in (2, 0, 3, 1):
        assert audit.total() == sum(counts) == line[4].do("audit.total()")
        line[i].kill()
        counts[i] = 0
        eventually(lambda: audit.total() == sum(counts) == line[4].do("audit.total()"), "its end")
    line[4].do("mine.clear()")
    assert audit.total() == 0


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(hire, audit, method):
    """Each child of it counts for itself, and is gone when it ends."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("this system has no such method")
    worker = hire(MX + "own = sessions_of(mx, 3)\nimport multiprocessing")
    worker.do(
        f"""
context = multiprocessing.get_context({method!r})
ours, theirs = context.Pipe()
children = [context.Process(target=count_in_a_child, args=(theirs, n)) for n in (10, 100)]
for child in children:
    child.start()
"""
    )
    assert worker.do("sorted(ours.recv() for _ in children)") == [10, 100]
    assert worker.do("audit.total()") == audit.total() == 113
    worker.do("children[0].kill()")
    eventually(lambda: audit.total() == 103 == worker.do("audit.total()"), "the killed one's end")
    worker.do("ours.send('end')")
    worker.do(f"children[1].join({PATIENCE})")
    assert worker.do("children[1].exitcode") == 0
    eventually(lambda: audit.total() == 3 == worker.do("audit.total()"), "the other one's end")
    eventually(lambda: len(owner_files()) == 2, "the end of its file")


def test_a_child_that_ends_by_exit_is_counted_no_more(hire, audit):
    parent = hire(MX + "own = sessions_of(mx, 3)")
    child = parent.fork()
    child.do("mine = sessions_of(mx, 4)")
    assert audit.total() == 7
    child.start("os._exit(0)")
    eventually(lambda: audit.total() == 3 == parent.do("audit.total()"), "its end")


@pytest.mark.parametrize("how", ["close_fds=True", "close_fds=False", "preexec_fn=os.getpid", "posix_spawn", "system"])
def test_other_programs_keep_nobody_alive(hire, audit, how):
    """What a process has started lives on when it is killed, and has none of its descriptors."""
    worker = hire(MX + "own = sessions_of(mx, 3)\nimport subprocess")
    if how == "posix_spawn":
        code = "sleeper = os.posix_spawn('/bin/sh', ['sh', '-c', 'exec sleep 20'], os.environ)"
    elif how == "system":
        code = "os.system('sleep 20 >/dev/null 2>&1 & echo $! >&2')"
    else:
        code = f"sleeper = subprocess.Popen(['sleep', '20'], {how}).pid"
    worker.do(code)
    assert audit.total() == 3
    worker.kill()
    eventually(lambda: audit.total() == 0, "its end")
    eventually(lambda: len(owner_files()) == 1, "the end of its file")


def test_workers_that_are_forked_from_a_master(hire):
    """The master makes the audit and the listeners; its workers count, one is replaced, and the master sees the sum."""
    master = hire(MX)
    outside = hire(JOIN)
    crew = [master.fork() for _ in range(4)]
    for worker in crew:
        worker.start("own = sessions_of(mx, 5)")
    for worker in crew:
        worker.result()
    everybody = [master, outside, *crew]
    assert [worker.do("audit.total()") for worker in everybody] == [20] * 6
    crew[0].kill()
    eventually(lambda: [worker.do("audit.total()") for worker in (master, outside)] == [15] * 2, "its end")
    replaced = master.fork()
    replaced.do("own = sessions_of(mx, 100)")
    assert [worker.do("audit.total()") for worker in (master, outside, replaced, crew[1])] == [115] * 4
    # The other way: each makes its own when it is there.
    later = hire("")
    for child in [later.fork() for _ in range(3)]:
        child.do(MX + "own = sessions_of(mx, 1000)")
    assert master.do("audit.total()") == 3115


@forks_beside_threads
def test_forked_while_threads_open_and_close(hire, audit):
    """Children find their trees whole and empty and all locks free; what the parent counts stays right."""
    worker = hire(MX + "own = sessions_of(mx, 7)\nimport signal, threading")
    files = fewest_files(worker.pid)
    worker.do(
        """
def churn(seed):
    rng = random.Random(seed)
    while not ended:
        listener = audit.listener('SMTP', str(rng.randrange(30)))
        for session in sessions_of(listener, rng.randrange(200), f"10.{seed + 5}"):
            session.close()

def child(n):
    signal.alarm(240)
    status = 1
    try:
        mx._check()
        assert mx.session('192.0.2.7').inbound_session_count() == 1
        mine = sessions_of(mx, 100)
        mx._check()
        assert 107 <= audit.inbound_session_count('10.1.0.0/16')
        status = 0
    finally:
        os._exit(status)

ended = []
threads = [threading.Thread(target=churn, args=(seed,)) for seed in range(2)]
for thread in threads:
    thread.start()
statuses = []
for n in range(10):
    pid = os.fork()
    if pid == 0:
        child(n)
    statuses.append(os.waitpid(pid, 0)[1])
ended.append(1)
for thread in threads:
    thread.join()
"""
    )
    assert worker.do("statuses") == [0] * 10
    assert worker.do("mx._check()") is None
    eventually(lambda: audit.total() == worker.do("audit.total()") == 7, "the children's end")
    eventually(lambda: len(owner_files()) == 2, "the end of their files")
    eventually(lambda: fewest_files(worker.pid) == files, "the end of their descriptors")
    assert worker.do("complaints") == []


@forks_beside_threads
def test_forked_by_several_threads_at_once(hire, audit):
    """Each stops and starts the thread that looks around: afterwards exactly one runs, and does its work."""
    worker = hire(MX + "own = sessions_of(mx, 7)\nimport threading")
    worker.do(
        """
def forks():
    for _ in range(15):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                mine = sessions_of(mx, 3)
                status = 0 if mine[0].inbound_session_count('10.1.0.0/24') >= 10 else 2
            finally:
                os._exit(status)
        statuses.append(os.waitpid(pid, 0)[1])

statuses = []
threads = [threading.Thread(target=forks) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
    )
    assert worker.do("statuses") == [0] * 60
    assert worker.do("[t.is_alive() for t in threading.enumerate() if t.name == 'inbound_audit']") == [True]
    victim = hire(MX + "own = sessions_of(mx, 5)")
    assert audit.total() == worker.do("audit.total()") == 12
    victim.kill()
    eventually(lambda: audit.total() == worker.do("audit.total()") == 7, "its end")
    assert worker.do("complaints") == []


def test_forked_while_another_thread_joins(hire, audit):
    """The child has nothing of an audit that was being made: it does not keep it alive."""
    stopped = hire(JOIN)
    stopped.freeze()  # who comes now waits a second for it
    parent = hire("import threading\nfrom inbound_audit import InboundAudit")
    parent.do(
        """
made = []
def make():
    made.append(InboundAudit(shared=NAME, capacity=1 << 24))
thread = threading.Thread(target=make)
thread.start()
while not len(owner_files()) == 3:
    time.sleep(0.001)
"""
    )
    child = parent.fork()
    parent.do("thread.join()")
    parent.do("own = sessions_of(made[0].listener(), 9)")
    eventually(lambda: audit.total() == 9, "the parent's sessions")
    parent.kill()
    eventually(lambda: audit.total() == 0, "the parent's end")
    assert child.do("os.getpid()") == child.pid
    stopped.thaw()


def test_forked_while_another_thread_waits_to_be_seen(hire, audit):
    stopped = hire(JOIN)
    parent = hire(MX + "own = sessions_of(mx, 3)\nimport threading")
    stopped.freeze()
    parent.do("thread = threading.Thread(target=audit.listener, args=('SMTP', 'later'))\nthread.start()")
    child = parent.fork()
    stopped.thaw()
    child.do("mine = sessions_of(audit.listener('SMTP', 'later'), 2)")
    parent.do("thread.join()")
    assert audit.total() == parent.do("audit.total()") == child.do("audit.total()") == 5
    parent.kill()
    eventually(lambda: audit.total() == child.do("audit.total()") == 2, "the parent's end")


def test_threads_of_a_child_open_its_first_sessions(hire, audit):
    """All at the same time: it gets one file, and each of them is counted."""
    parent = hire(MX + "own = sessions_of(mx, 3)")
    for turn in range(5):
        child = parent.fork()
        child.do(
            """
import threading
barrier = threading.Barrier(8)
mine = []
def first():
    barrier.wait()
    mine.extend(sessions_of(mx, 10))
threads = [threading.Thread(target=first) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
        )
        assert audit.total() == parent.do("audit.total()") == child.do("audit.total()") == 83 + 80 * turn
        assert len(owner_files()) == 3 + turn


def test_several_audits_in_a_process_that_forks(hire, place):
    parent = hire(
        """
from inbound_audit import InboundAudit
audits = [InboundAudit(shared=name, capacity=1 << 24) for name in ('one', 'two', 'two')] + [InboundAudit()]
own = [sessions_of(audit.listener(), 3) for audit in audits]
"""
    )
    child = parent.fork()
    assert child.do("[audit.total() for audit in audits]") == [3, 6, 6, 0]
    child.do("mine = [sessions_of(audit.listener(), 10) for audit in audits]")
    assert child.do("[audit.total() for audit in audits]") == [13, 26, 26, 10]
    assert parent.do("[audit.total() for audit in audits]") == [13, 26, 26, 3]
    parent.kill()
    eventually(lambda: child.do("[audit.total() for audit in audits]") == [10, 20, 20, 10], "the parent's end")


def test_a_child_may_close_the_audit(hire, audit):
    """In a child that ends as Python programs do, and in one that closes what it has inherited."""
    parent = hire(MX + "own = sessions_of(mx, 3)")
    closes = parent.fork()
    closes.do("audit.close()")
    assert audit.total() == parent.do("audit.total()") == 3
    closes.do(MX + "mine = sessions_of(mx, 2)")
    assert audit.total() == parent.do("audit.total()") == 5
    closes.do("audit.close()")
    eventually(lambda: audit.total() == parent.do("audit.total()") == 3, "its end")
    parent.do(
        """
pid = os.fork()
if pid == 0:
    import atexit
    mine = sessions_of(mx, 4)
    atexit._run_exitfuncs()
    os._exit(0)
status = os.waitpid(pid, 0)[1]
"""
    )
    assert parent.do("status") == 0
    eventually(lambda: audit.total() == parent.do("audit.total()") == 3, "the end of the other")
    eventually(lambda: len(owner_files()) == 2, "the end of its file")


# ---- the end


def ours_of(place: Path) -> list[str]:
    """Descriptors of this process that lead into a directory."""
    return [name for name in held_of()[1] if name.startswith(str(place))]


def test_an_audit_that_nobody_holds_gives_everything_back(place):
    InboundAudit(shared=NAME).close()
    before = ours_of(place)
    audit = InboundAudit(shared=NAME, capacity=1 << 24)
    with audit.listener().session("192.0.2.7"):
        assert len(owner_files()) == 1
    del audit
    gc.collect()
    eventually(lambda: (gc.collect(), owner_files())[1] == [], "the end of the file")
    assert ours_of(place) == before == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("inbound_audit")]


def test_sessions_hold_their_audit(place):
    session = InboundAudit(shared=NAME, capacity=1 << 24).listener().session("192.0.2.7")
    gc.collect()
    with View(NAME) as view:
        assert view.total() == 1
    session.close()
    del session
    eventually(lambda: (gc.collect(), owner_files())[1] == [], "the end of the file")


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise ValueError", "session.close()", "del audit, mx"])
def test_a_program_that_ends_leaves_no_file(place, end):
    script = "import sys\nfrom inbound_audit import InboundAudit\n"
    script += f"audit = InboundAudit(shared={NAME!r})\nmx = audit.listener()\nsession = mx.session('192.0.2.7')\n{end}"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == {"sys.exit(3)": 3, "raise ValueError": 1}.get(end, 0)
    assert "SharedStateError" not in run.stderr
    assert "Exception ignored" not in run.stderr
    assert owner_files() == []


# ---- the directory


def test_who_joins_makes_the_directory(place):
    os.umask(os.umask(0o027))
    with InboundAudit(shared=NAME):
        directory = Path(directory_of(NAME))
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert [stat.S_IMODE(os.stat(path).st_mode) for path in owner_files()] == [0o600]
        assert re.fullmatch(r"[0-9a-f]{16}\.owner", Path(owner_files()[0]).name)
    assert not directory.exists()


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o707, 0o770, 0o750, 0o777, 0o2770, 0o1777])
def test_a_directory_that_lets_others_in_is_refused(place, mode):
    directory = Path(directory_of(NAME))
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(SharedStateError, match=re.escape(str(directory))):
        InboundAudit(shared=NAME)
    if mode & 0o007:
        with pytest.raises(SharedStateError, match=re.escape(str(directory))):
            View(NAME)
    assert stat.S_IMODE(directory.stat().st_mode) == mode
    assert list(directory.iterdir()) == []


def test_a_link_is_refused(place):
    elsewhere = place / "elsewhere"
    elsewhere.mkdir(0o700)
    os.symlink(elsewhere, directory_of(NAME))
    for join in (lambda: InboundAudit(shared=NAME), lambda: View(NAME)):
        with pytest.raises(SharedStateError, match="link"):
            join()
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("what", ["file", "fifo", "dangling link"])
def test_what_is_no_directory_is_refused(place, what):
    path = directory_of(NAME)
    if what == "file":
        Path(path).touch()
    elif what == "fifo":
        os.mkfifo(path)
    else:
        os.symlink(place / "nothing", path)
    for join in (lambda: InboundAudit(shared=NAME), lambda: View(NAME)):
        with pytest.raises(SharedStateError, match=re.escape(path)):
            join()
    assert not (place / "nothing").exists()


def test_a_root_that_is_not_there(place, monkeypatch):
    monkeypatch.setenv("INBOUND_AUDIT_SHM", str(place / "nothing"))
    with pytest.raises(SharedStateError, match="nothing"):
        InboundAudit(shared=NAME)


@as_root
def test_another_users_directory_is_refused(place):
    directory = Path(directory_of(NAME))
    directory.mkdir(0o700)
    os.chown(directory, 65534, 65534)
    with pytest.raises(SharedStateError, match="another user"):
        InboundAudit(shared=NAME)
    assert list(directory.iterdir()) == []


@as_root
def test_a_group_counts_together(place):
    """Users that have a group in common; the directory and the files are the group's, and no other user's."""
    group, gid = "daemon", 1
    place.chmod(0o1777)
    crew = Workers(everybody=True)
    join = MX.replace("shared=NAME", "shared=NAME, group='daemon'")

    def as_user(uid: int, gid: int, groups: list[int], code: str = "") -> Worker:
        """A process of another user, that has imported all before it became that: Python may be root's alone."""
        worker = crew("import inbound_audit.shared.membership\nfrom inbound_audit.shared import View")
        worker.do(f"os.setgroups({groups}), os.setgid({gid}), os.setuid({uid})")
        worker.do(code)
        return worker

    try:
        one = as_user(65534, gid, [], join + "own = sessions_of(mx, 3)")
        directory = Path(directory_of(NAME))
        assert stat.S_IMODE(directory.stat().st_mode) == 0o3770
        assert (directory.stat().st_uid, directory.stat().st_gid) == (65534, gid)
        other = as_user(12345, 65534, [gid], join + "own = sessions_of(mx, 4)")
        assert one.do("audit.total()") == other.do("audit.total()") == 7
        for path in map(os.stat, owner_files()):
            assert (stat.S_IMODE(path.st_mode), path.st_gid) == (0o640, gid)
        assert as_user(12346, gid, []).do("View(NAME).total()") == 7
        stranger = as_user(12347, 65534, [])
        for code in (join, MX, "View(NAME)"):
            with pytest.raises(WorkerError, match="SharedStateError"):
                stranger.do(code)
        with pytest.raises(SharedStateError, match="another user"):
            InboundAudit(shared=NAME)
        with pytest.raises(SharedStateError, match=group):
            InboundAudit(shared=NAME, group="mail")
        with InboundAudit(shared=NAME, group=group) as audit:  # root may, and is seen
            session = audit.listener().session("192.0.2.7")
            assert audit.total() == one.do("audit.total()") == 8
            session.close()
        one.kill()
        eventually(lambda: other.do("audit.total()") == 4, "its end")
        assert len(owner_files()) == 2  # the directory is sticky: a member removes its own files alone
        as_user(65534, gid, [], join)
        eventually(lambda: len(owner_files()) == 2, "the removal by a process of the same user")
    finally:
        crew.close()


# ---- what stands in the directory


def with_field(data: bytes, fmt: str, at: int, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(fmt, changed, at, value)
    return bytes(changed)


@pytest.fixture
def living(place):
    """The bytes of an owner's file with three sessions, whose owner has ended."""
    with InboundAudit(shared=NAME, capacity=1 << 20) as audit:
        sessions = sessions_of(audit.listener("SMTP", "mx"), 3)
        data = Path(owner_files()[0]).read_bytes()
        for session in sessions:
            session.close()
    return data


FOREIGN = {
    "layout": lambda data: with_field(data, "=I", 8, 3),
    "layout of a section": lambda data: with_field(data, "=I", HEADER + 48, 3),
    "byte order": lambda data: data[:16][::-1][8:] + data[8:12][::-1] + data[12:16][::-1] + data[16:],
}
DAMAGED = {
    "magic": lambda data: with_field(data, "=Q", 0, 5),
    "byte order mark": lambda data: with_field(data, "=I", 12, 5),
    "stride": lambda data: with_field(data, "=Q", 16, 12345),
    "small stride": lambda data: with_field(data, "=Q", 16, 0),
    "large stride": lambda data: with_field(data, "=Q", 16, 1 << 62),
    "number of sections": lambda data: with_field(data, "=I", 24, 1 << 31),
    "more sections than there are": lambda data: with_field(data, "=I", 24, 5),
    "magic of a section": lambda data: with_field(data, "=Q", HEADER + 40, 5),
    "size of a name": lambda data: with_field(data, "=I", HEADER + 64, 65),
    "no name": lambda data: with_field(data, "=I", HEADER + 64, 0),
    "size of the other name": lambda data: with_field(data, "=I", HEADER + 68, 1 << 31),
    "name": lambda data: with_field(data, "=B", HEADER + 72, 7),
    "nothing": lambda data: b"",
    "no section": lambda data: data[:HEADER],
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN.keys())
def test_another_version_is_not_joined(living, change):
    """Who would count only some of the others does not count with them; who is there says so, and counts the rest."""
    with InboundAudit(shared=NAME, capacity=1 << 24) as audit:
        session = audit.listener().session("192.0.2.7")
        owner = FalseOwner(change(living))
        try:
            name = Path(owner.path).name
            with pytest.raises(SharedStateError, match=name):
                InboundAudit(shared=NAME)
            with View(NAME) as view:
                assert view.total() == 1
                assert [other.damaged is None for other in view.owners] == [False, True]
            assert audit.total() == 1
        finally:
            owner.close()
        InboundAudit(shared=NAME).close()
        session.close()


@pytest.mark.parametrize("change", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_told_and_harms_nobody(living, change, caplog):
    with InboundAudit(shared=NAME, capacity=1 << 24) as audit:
        session = audit.listener().session("192.0.2.7")
        owner = FalseOwner(change(living))
        try:
            with InboundAudit(shared=NAME, capacity=1 << 24) as other, View(NAME) as view:
                for counts in (audit, other, view):
                    assert 1 <= counts.total() <= 4
                    assert 1 <= sum(n for n, _ in counts.top(100)) <= 4
                assert len(view.owners) == 3
                if counts.total() == 1:
                    assert view.owners[0].damaged
                with other.listener().session("192.0.2.7") as second:
                    assert second.inbound_session_count("/32") == 2
                    assert audit.inbound_session_count("192.0.2.7") == 2
                os.pwrite(owner.fd, living, 0)
                eventually(lambda: (view.refresh(), audit.total(), view.total())[1:] == (4, 4), "the right count")
                assert [owner.damaged for owner in view.owners] == [None] * 3
        finally:
            owner.close()
        eventually(lambda: audit.total() == 1, "its end")
        assert set(audit.service_types) == set(InboundAudit().service_types)
        session.close()


def test_other_names_in_the_directory_harm_nobody(audit, hire, place):
    """Whatever lies there under the name of an owner's file, or under another one."""
    directory = Path(directory_of(NAME))
    os.mkfifo(directory / "0000000000000001.owner")
    (directory / "0000000000000002.owner").mkdir()
    (place / "target").write_bytes(b"x" * 100_000)
    os.symlink(place / "target", directory / "0000000000000003.owner")
    os.symlink(directory / "loop", directory / "loop")
    os.symlink("/dev/zero", directory / "0000000000000004.owner")
    for name in ("README", "0000000000000005.owner.old", "000000000000000A.owner", "x.owner", "0" * 200):
        (directory / name).write_bytes(b"x" * 70_000)
    (directory / os.fsdecode(b"\xff\xfe.owner")).touch()
    before = {path.name for path in directory.iterdir()}
    other = hire(MX + "own = sessions_of(mx, 3)")
    assert audit.total() == 3
    with View(NAME) as view:
        assert (view.total(), len(view.owners)) == (3, 2)
    other.kill()
    eventually(lambda: audit.total() == 0, "its end")
    eventually(lambda: {path.name for path in directory.iterdir()} == before, "the end of its file")
    assert (place / "target").stat().st_size == 100_000


def test_dead_files_are_removed_by_who_comes(place):
    """A file without a lock, whatever is in it."""
    directory = Path(directory_of(NAME))
    directory.mkdir(0o700)
    (directory / "0000000000000001.owner").write_bytes(b"")
    (directory / "0000000000000002.owner").write_bytes(bytes(100_000))
    with View(NAME) as view:
        assert (view.total(), view.owners) == (0, [])
    assert len(owner_files()) == 2
    with InboundAudit(shared=NAME):
        assert len(owner_files()) == 1


def test_one_file_under_two_names_is_counted_once(audit, hire):
    other = hire(MX + "own = sessions_of(mx, 3)")
    path = next(path for path in owner_files() if path == file_of(other.pid).path)
    os.link(path, f"{directory_of(NAME)}/0000000000000001.owner")
    later = hire(JOIN)

    def are_counted_once() -> bool:
        return audit.total() == other.do("audit.total()") == later.do("audit.total()") == 3

    for change in (lambda: None, lambda: os.unlink(path)):
        change()
        eventually(are_counted_once)
        time.sleep(0.3)
        assert are_counted_once()


@pytest.mark.parametrize("what", ["files", "directory"])
def test_removed_under_running_processes(hire, what):
    """As systemd does it when a user's last session ends (RemoveIPC=): they come back, with all that they count."""
    crew = hire.hire(3, MX + "own = sessions_of(mx, 3)")
    idle = hire(JOIN)
    for turn in range(2):
        before = set(owner_files())
        if what == "files":
            for path in before:
                os.unlink(path)
        else:
            eventually(remove_directory, "its end")
        eventually(lambda: len(set(owner_files()) - before) == 4, "new files")  # noqa: B023
        crew[turn].do("own.append(mx.session('192.0.2.7'))")
        for worker in (*crew, idle):
            eventually(lambda: worker.do("audit.total()") == 10 + turn, "the right count")  # noqa: B023
        with View(NAME) as view:
            assert view.total() == 10 + turn
        later = hire(JOIN)
        assert later.do("audit.total()") == 10 + turn
        later.do("audit.close()")
        crew[turn].do("mx._check()")
    for worker in crew:
        worker.do("while own: own.pop().close()")
    # Until its next scan it may count a removed file, whose counts stand still, in place of the new one.
    eventually(lambda: idle.do("audit.total()") == 0, "the scan of the idle one")
    crew[0].kill()
    eventually(lambda: len(owner_files()) == 3, "the end of its file")


def remove_directory() -> bool:
    """With all that is in it. False if a file was added meanwhile."""
    with contextlib.suppress(OSError):
        shutil.rmtree(directory_of(NAME))
        return True
    return False


def test_out_of_descriptors(hire, audit):
    """A server at its limit: it goes on, counts, and does not count the dead."""
    worker = hire(MX + "own = sessions_of(mx, 3)\nimport resource")
    victim = hire(MX + "own = sessions_of(mx, 4)")
    assert worker.do("audit.total()") == 7
    worker.do(
        """
most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, most[1]))
taken = []
try:
    while True:
        taken.append(os.open('/dev/null', os.O_RDONLY))
except OSError:
    pass
"""
    )
    victim.kill()
    eventually(lambda: worker.do("audit.total()") == audit.total() == 3, "the victim's end")
    worker.do("own.append(mx.session('192.0.2.7'))")
    assert audit.total() == 4
    later = hire(MX + "own = sessions_of(mx, 5)")
    worker.do("while taken: os.close(taken.pop())")
    eventually(lambda: worker.do("audit.total()") == 9, "the right count")
    later.kill()
    eventually(lambda: worker.do("audit.total()") == 4, "the right count")


def test_a_worker_that_stands_still_keeps_nobody_out(hire, audit):
    """Who is stopped can't say that it has seen a newcomer: those wait a bounded time, then count."""
    stopped = hire(MX + "own = sessions_of(mx, 3)")
    stopped.freeze()
    later = hire(MX + "own = sessions_of(mx, 4)")
    assert audit.total() == later.do("audit.total()") == 7
    stopped.thaw()
    eventually(lambda: stopped.do("audit.total()") == 7, "what it has missed")
    stopped.freeze()
    stopped.kill()
    eventually(lambda: is_dead(stopped.pid) and audit.total() == 4, "its end")


def test_close_beside_other_threads(place):
    """Threads that open, ask and make listeners while the audit is closed: they get an error, or were in time."""
    for _ in range(5):
        audit = InboundAudit(shared=NAME, capacity=1 << 24)
        errors = []

        def work(number, audit=audit, errors=errors):
            try:
                for i in range(10_000):
                    listener = audit.listener("SMTP", f"{number} {i % 20}")
                    for session in sessions_of(listener, 20):
                        session.close()
                    audit.top(3)
            except InboundAuditError:
                pass
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        audit.close()
        for thread in threads:
            thread.join()
        assert errors == []
        assert owner_files() == []


def test_a_scan_beside_the_end_of_an_audit_logs_nothing(place, caplog):
    """The audit has left its file, and the membership has not left the directory yet."""
    audit = InboundAudit(shared=NAME)
    membership = audit._membership
    _ipcount.Audit.close(audit)
    membership.run_once()
    assert caplog.records == []
    audit.close()
