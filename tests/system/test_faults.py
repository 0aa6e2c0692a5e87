"""Shared mode when processes are killed and stopped, files damaged, and there is no room.

Each test has a short form, and a long one for `make faults`, which also tells what it measured. No test of the short
form fails because the machine was slow.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest
from tests.support.forking import UNDER_ASAN
from tests.support.sharing import (
    BLOCKS,
    FULL,
    HEADER,
    NAME,
    STEADY,
    FalseOwner,
    OwnerFile,
    Worker,
    WorkerError,
    fewest_files,
    file_of,
    held_of,
    look,
    owner_files,
    rounds,
    sessions_of,
)
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit, Limits, Session
from inbound_audit.errors import InboundAuditError
from inbound_audit.shared import View, directory_of

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="shared mode needs Linux"),
    pytest.mark.timeout(600 if FULL else 300),
]

JOIN = "from inbound_audit import InboundAudit, Limits\naudit = InboundAudit(shared=NAME, capacity=1 << 28)\n"
MX = JOIN + "mx = audit.listener('SMTP', 'mx')\n"


@pytest.fixture
def tell(capsys):
    """Shows what was measured, in the long form."""

    def say(text: str) -> None:
        if FULL:
            with capsys.disabled():
                print(f"\n    {text}", end=" ")

    return say


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


# ---- processes that churn

CIDRS = ["10.0.0.0/8", "10.0.0.0/9", "10.1.2.0/23", "10.2.0.0/16", "2001:db8::/32", "2001:db8:1::/48", STEADY]
PROCESSES, THREADS, MOST, MOVERS = 4, 8, 150, 20


def test_sums_are_exact_whenever_all_pause(hire, tell):
    """Four processes, eight threads each: random opens, closes and moves. In between, no sum is out of its bounds."""
    seed = random.randrange(1 << 30)
    options = f"threads={THREADS}, most={MOST}, steady={MOVERS}, everybody={PROCESSES}"
    crew = hire.hire(PROCESSES, JOIN)
    for i, worker in enumerate(crew):
        worker.start(f"churn = Churn(audit, {seed + i}, {options})")
    for worker in crew:
        worker.result()
    pauses = sessions = 0
    end = time.monotonic() + rounds(1.5, 20)
    with View(NAME) as view:
        while time.monotonic() < end:
            together(crew, "churn.go()")
            time.sleep(random.uniform(0.05, 0.5))
            held = [row for rows in together(crew, "churn.rest()") for row in rows]
            check_all(crew, view, held)
            pauses += 1
            sessions += len(held)
    together(crew, "churn.end()")
    assert together(crew, "churn.faults + complaints") == [[]] * PROCESSES, seed
    asked = sum(together(crew, "churn.asked"))
    tell(f"{pauses} pauses with {sessions // pauses} sessions in the mean, {asked} counts in between")


def together(crew: list[Worker], code: str) -> list:
    """Has all of them run it at the same time."""
    for worker in crew:
        worker.start(code)
    return [worker.result() for worker in crew]


def check_all(crew: list[Worker], view: View, held: list[tuple[str, str, str]]) -> None:
    """Everybody counts exactly the sessions that are held: Python, a view from outside, and LuaJIT without the GIL."""
    with InboundAudit(capacity=1 << 28) as truth:
        sessions = [truth.listener(service, name).session(ip) for service, name, ip in held]
        expected = look(truth, CIDRS)
        assert look(view, CIDRS) == expected
        for worker, seen in zip(crew, together(crew, f"look(audit, {CIDRS!r})"), strict=True):
            assert seen == expected, worker.pid
        asked = [(cidr, truth.inbound_session_count(cidr)) for cidr in CIDRS]
        code = "from tests.support.threads import lua_reader\nask = lua_reader(churn.asking)\n"
        code += f"seen = [ask(cidr, n, 300) for cidr, n in {asked!r}]"
        together(crew, code)
        assert together(crew, "seen") == [[(n, n, 0) for _, n in asked]] * len(crew)
        for service, name, ip, n in [row for rows in together(crew, "churn.own_counts()") for row in rows]:
            assert n == held.count((service, name, ip)), (service, name, ip)
        for session in sessions:
            session.close()


# ---- processes that die


def test_a_killed_process_is_counted_no_more(hire, tell):
    """`kill -9` with 10,000 open sessions: how long until no process counts them."""
    crew = hire.hire(3, MX + "own = sessions_of(mx, 5, '10.9')")
    code = """
def until(n):
    while audit.total() != n:
        time.sleep(0.0005)
    return time.monotonic()
"""
    together(crew, code)
    worst = 0.0
    for _ in range(rounds(2, 25)):
        victim = hire(MX + "many = sessions_of(mx, 10_000)")
        with View(NAME) as view:
            assert view.total() == 10_015
        assert together(crew, "audit.total()") == [10_015] * 3
        for worker in crew:
            worker.start("until(15)")
        began = time.monotonic()
        victim.kill()
        worst = max(worst, *(worker.result() - began for worker in crew))
        assert not owner_of(victim)
    assert together(crew, "complaints") == [[]] * 3
    tell(f"counted no more after {milliseconds(worst)} at worst")
    if FULL:
        assert worst < 1


def owner_of(worker: Worker) -> bool:
    """Somebody's file says that it is this worker's."""
    with View(NAME) as view:
        return any(owner.pid == worker.pid for owner in view.owners)


NURSERY = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
from inbound_audit import InboundAudit

def child(seed):
    pid = os.fork()
    if pid:
        return pid
    rng = random.Random(seed)
    if 'audit' in globals():  # first as a child of who counts
        mine = sessions_of(mx, rng.randrange(500))
    while True:
        with InboundAudit(shared=NAME, capacity=1 << 24) as another:
            for i in range(rng.randrange(1, 5)):
                listener = another.listener(rng.choice(["SMTP", "Control"]), str(i))
                held = sessions_of(listener, rng.randrange(500))
                for session in held[:rng.randrange(500)]:
                    session.close()
"""


def test_killed_and_started_again_and_again(hire, place, tell):
    """At any moment of joining, counting and leaving: nothing is left over in those that live, or in the directory."""
    crew = hire.hire(2, MX + "own = sessions_of(mx, 7, '10.9')\n" + NURSERY)
    nursery = hire(NURSERY)
    rng = random.Random(1)
    worst = 0.0

    def only_the_living() -> bool:
        return together(crew, "audit.total(), audit.total('Control')") == [(14, 0)] * 2 and len(owner_files()) == 2

    # What is kept for good is kept after the first ones: a listener's range of addresses is used again a second later.
    before: list[tuple[int, int]] = []
    for turn in range(rounds(20, 500)):
        pids = [rng.choice((*crew, nursery)).do(f"child({rng.random()})") for _ in range(rng.randrange(1, 3))]
        time.sleep(rng.random() ** 3 * 0.1)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        eventually(only_the_living, "the right count")
        worst = max(worst, time.monotonic() - began)
        if turn == rounds(10, 100):
            before = [left_over(worker.pid) for worker in crew]
    for worker, (names, mappings) in zip(crew, before, strict=True):
        # One that comes and goes may have been among them, or is now, where a thread stands in the middle of a scan.
        eventually(lambda pid=worker.pid, most=names: left_over(pid)[0] <= most, "no more files than before")
        eventually(lambda pid=worker.pid, most=mappings + 60: left_over(pid)[1] <= most, "no more mappings than before")
        worker.do("mx._check()")
    for path in map(Path, place.rglob("*")):
        assert path.is_dir() or str(path.with_suffix(".owner")) in owner_files()  # its socket lies beside it
    assert together(crew, "complaints") == [[]] * 2
    with View(NAME) as view:
        assert look(view, ["10.9.0.0/24"])["SMTP"][:2] == (14, [14])
    tell(f"counts were right again after {milliseconds(worst)} at worst")


def left_over(pid: int) -> tuple[int, int]:
    """Numbers of descriptors and of mappings, once those of owners' files are of owners that live: what a process has
    of a dead one goes a moment after its counts."""
    found: list[tuple[int, int]] = []

    def only_the_living() -> bool:
        inodes, names, mappings = held_of(pid)
        found.append((fewest_files(pid), mappings))
        living = {os.stat(path).st_ino for path in owner_files()}
        # One has a name: the other's. Its own was made without one.
        return {int(inode) for inode in inodes} <= living and sum(name.endswith(".owner") for name in names) == 1

    eventually(only_the_living, "the end of what it had of the dead")
    return found[-1]


CHAOS = """
import gc, signal, threading
from inbound_audit import InboundAudit
from inbound_audit.errors import InboundAuditError
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
audit = InboundAudit(shared=NAME, capacity=1 << 24)
mx = audit.listener('SMTP', 'mx')
own = sessions_of(mx, 7, '10.9')
errors = []

def another(rng):
    with InboundAudit(shared=NAME, capacity=1 << 20) as more:
        sessions = sessions_of(more.listener(), rng.randrange(30))
        assert more.total() >= len(sessions)
        if rng.random() < 0.5:
            for session in sessions:
                session.close()

def forked(rng, generation):
    seed = rng.random()
    if os.fork():
        return
    try:
        signal.alarm(60)
        rng = random.Random(seed)
        ages = [rng.random() for _ in range(rng.randrange(1, 3))]
        threads = [threading.Thread(target=life, args=(random.Random(age), age, generation + 1)) for age in ages]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            os.write(2, repr(errors).encode())
        if rng.random() < 0.3:
            os.kill(os.getpid(), signal.SIGKILL)
    finally:
        os._exit(0)

def life(rng, seconds, generation):
    end = time.monotonic() + seconds
    held = []
    try:
        while time.monotonic() < end:
            what = rng.random()
            if what < 0.5:
                listener = audit.listener(rng.choice(('SMTP', 'Control')), str(rng.randrange(12)))
                held += sessions_of(listener, rng.randrange(40))
            elif what < 0.85:
                while held and rng.random() < 0.97:
                    held.pop(rng.randrange(len(held))).close()
            elif what < 0.9:
                another(rng)
            elif what < 0.92:
                InboundAudit(shared=NAME, capacity=1 << 20)
                gc.collect()
            elif what < 0.94 and generation < 2:
                forked(rng, generation)
            elif what < 0.95:
                for path in owner_files()[:2]:
                    with contextlib.suppress(OSError):
                        os.unlink(path)
            else:
                audit.top(5), audit.tree(), audit.total()
    except BaseException as error:
        errors.append(repr(error))
    for session in held:
        session.close()

def lives(seed, seconds):
    threads = [threading.Thread(target=life, args=(random.Random(seed + i), seconds, 0)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors
"""


@pytest.mark.skipif(not FULL, reason="takes its time: make faults")
@pytest.mark.skipif(UNDER_ASAN, reason="AddressSanitizer's locks don't outlive a fork beside other threads")
def test_everything_at_once(hire):
    """Threads that open, close and fork, audits that come and go, files that are removed, processes that are stopped
    and killed: afterwards all is counted as it is, and nothing is left.
    """
    crew = hire.hire(3, CHAOS)
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    for i, worker in enumerate(crew):
        worker.start(f"lives({seed + 10 * i}, 20)")
    end = time.monotonic() + 20
    while time.monotonic() < end:
        worker = rng.choice(crew)
        worker.kill(signal.SIGSTOP)
        time.sleep(rng.random() * 0.05)
        worker.kill(signal.SIGCONT)
        time.sleep(rng.random() * 0.1)
    assert [worker.result() for worker in crew] == [[]] * 3, seed

    def only_what_stays() -> bool:
        together(crew, "gc.collect()")  # audits without a reference
        counts = together(crew, "audit.total(), audit.total('Control')")
        return counts == [(21, 0)] * 3 and len(owner_files()) == 3

    eventually(only_what_stays, "the right count")
    removed = f"{directory_of(NAME)}: our file was removed; we count in a new one"
    assert [text for complaints in together(crew, "complaints") for text in complaints if text != removed] == []
    for worker in crew:
        worker.do("mx._check()")
        assert worker.do("[t.name for t in threading.enumerate()]") == ["MainThread", "inbound_audit"]
    assert "Error" not in hire.words()


# ---- processes that stand still

READER = (
    MX
    + """
from tests.support.threads import lua_reader
own = sessions_of(mx, 1, '10.9')
ask = lua_reader(own[0])

def timed(job):
    began = time.perf_counter()
    found = job()
    return found, time.perf_counter() - began

def times(n):
    rows = [timed(audit.total) for _ in range(n)]
    rows += [timed(lambda: audit.inbound_session_count('10.1.0.0/16')) for _ in range(n)]
    return rows

def lua_times(n):
    return [timed(lambda: ask('10.1.0.0/16', 0, 1)[0]) for _ in range(n)]
"""
)


def test_a_stopped_process_in_mid_update_delays_no_reader(hire, tell):
    """Its file says that it is in the middle of a change, for ever: its last count is what is counted."""
    victim = hire(MX + "many = sessions_of(mx, 3000)")
    reader = hire(READER)
    file = file_of(victim.pid)
    first, all_times, lua = [], [], []
    for _ in range(rounds(5, 50)):
        victim.freeze()
        file.set_seq(file.seq() + 1)
        found, seconds = reader.do("timed(audit.total)")
        assert found == 3001
        first.append(seconds)
        for found, seconds in reader.do("times(500)"):
            assert found in (3000, 3001)
            all_times.append(seconds)
        for found, seconds in reader.do("lua_times(500)"):
            assert found == 3000
            lua.append(seconds)
        assert reader.do("len(audit.tree()), audit.top(1, prefixlen=(16, 48))")[1] == [(3000, "10.1.0.0/16")]
        file.set_seq(file.seq() + 1)
        victim.thaw()
        victim.do("mx._check()")
        assert reader.do("audit.total()") == 3001
    for what, seconds in (("the first count", first), ("counts", all_times), ("LuaJIT's", lua)):
        median, worst = statistics.median(seconds), max(seconds)
        tell(f"{what}: median {milliseconds(median)}, worst of {len(seconds)} {milliseconds(worst)}")
        if FULL:
            assert median < 0.001
    file.close()


def test_a_process_is_stopped_while_it_changes_its_tree(hire, tell):
    """SIGSTOP at random moments, until some of them were in mid-update: what does not change is counted as it is."""
    victim = hire(
        MX
        + """
import itertools, threading
many = sessions_of(mx, 300)
movers = sessions_of(mx, 50, '10.2')
def churn(seed):
    rng = random.Random(seed)
    while True:
        for i in range(100):
            rng.choice(movers).rebind(f"10.2.{rng.randrange(5)}.{rng.randrange(256)}")
            mx.session(f"10.3.{rng.randrange(5)}.{rng.randrange(256)}").close()
threading.Thread(target=churn, args=(1,), daemon=True).start()
"""
    )
    reader = hire(READER)
    file = file_of(victim.pid)
    odd, stops, slowest = 0, 0, 0.0
    while odd < rounds(3, 40) and stops < rounds(2000, 20_000):
        time.sleep(random.random() * 0.002)
        victim.freeze()
        stops += 1
        if file.seq() & 1:
            odd += 1
            for code, least, most in (
                ("audit.inbound_session_count('10.1.0.0/16')", 300, 300),
                ("ask('10.1.0.0/16', 300, 1)[0]", 300, 300),
                ("audit.inbound_session_count('10.2.0.0/16')", 50, 51),
                ("audit.inbound_session_count('10.3.0.0/16')", 0, 1),
                ("audit.total()", 351, 353),
            ):
                found, seconds = reader.do(f"timed(lambda: {code})")
                assert least <= found <= most, code
                slowest = max(slowest, seconds)
        victim.thaw()
    tell(f"{odd} of {stops} stops were in mid-update; slowest count {milliseconds(slowest)}")
    assert odd or not FULL
    file.close()


@pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
def test_a_reader_that_is_stopped_in_mid_walk(hire, v6):
    """What it stands in is something else when it goes on: it asks again, and takes no sound file for a damaged one."""
    host = (
        "f'2001:db8:{rng.randrange(4)}::{rng.randrange(2000):x}'"
        if v6
        else "f'10.{rng.randrange(4)}.0.{rng.randrange(256)}'"
    )
    writer = hire(
        MX
        + f"""
import threading
steady = sessions_of(mx, 20, '198.51')
def churn():
    rng = random.Random(1)
    while not ended:
        held = [mx.session({host}) for _ in range(rng.choice((3, 30, 300)))]
        rng.shuffle(held)
        for session in held:
            session.close()
ended = []
threading.Thread(target=churn).start()
"""
    )
    readers = hire.hire(
        2,
        MX
        + f"""
from inbound_audit import _ipcount
from tests.support.threads import luajit
own = sessions_of(mx, 1, '10.9')
runtime = luajit.LuaRuntime()
ask = runtime.execute(DEEP, _ipcount.LUA_CDEF, float(_ipcount.lua_abi()['ia_session_count']), float(own[0]._handle))
def deep(seed):
    rng = random.Random(seed)
    cidrs = ' '.join(f"{{{host}}}/{{rng.randrange({"100, 129" if v6 else "25, 33"})}}" for _ in range(500))
    end = time.monotonic() + {rounds(0.5, 10)}
    most = 0
    while time.monotonic() < end:
        most = max(most, ask(cidrs, 100_000))
    return most, audit.inbound_session_count('198.51.0.0/16')
""",
    )
    for i, reader in enumerate(readers):
        reader.start(f"deep({i})")
    pauses = random.Random(2)
    for _ in range(rounds(70, 1500)):
        for reader in readers:
            reader.kill(signal.SIGSTOP)
            time.sleep(pauses.choice((0, 0.0001, 0.001)))
            reader.kill(signal.SIGCONT)
        time.sleep(0.002)
    for most, steady in [reader.result() for reader in readers]:
        assert most <= 300
        assert steady == 20
    writer.do("ended.append(1)")
    assert [worker.do("complaints") for worker in (writer, *readers)] == [[]] * 3
    eventually(lambda: readers[0].do("audit.total()") == 22, "the right count")


# ---- damaged files


DAMAGE = """
import threading
from inbound_audit.errors import InboundAuditError
from inbound_audit.shared import View, directory_of
from tests.support.threads import lua_reader

own = sessions_of(mx, 3, '10.9')
cidrs = ["10.1.0.0/16", "10.1.2.0/25", "2001:db8::/32", "2001:db8::7", "10.1.1.1"]
end, passes, counted, errors = [], [0, 0, 0], [0, 0, 0], set()
ask = lua_reader(own[0])

def answers_or_raises(job, *args, **names):
    try:
        return job(*args, **names)
    except InboundAuditError as error:
        errors.add(str(error))

def read(number, audit, refresh):
    while not end:
        answers_or_raises(refresh)
        counted[number] += audit.inbound_session_count("10.0.0.0/8") > 3
        for service in ("SMTP", "IMAP"):
            for cidr in cidrs:
                answers_or_raises(audit.inbound_session_count, cidr, service)
            answers_or_raises(audit.total, service)
            answers_or_raises(audit.top, 5, service_type=service)
            answers_or_raises(audit.top, 5, service_type=service, prefixlen=(24, 64))
            answers_or_raises(audit.tree, service)
        passes[number] += 1

def read_in_lua():
    ask = lua_reader(own[0])
    while not end:
        counted[2] += ask("10.0.0.0/8", 0, 1)[0] > 3
        for cidr in cidrs:
            ask(cidr, 0, 200)
        passes[2] += 1

def guarded(*job):
    try:
        job[0](*job[1:])
    except BaseException as error:
        errors.add(f"BROKEN {error!r}")
        raise

view = View(NAME)
def refresh():
    view.refresh()
    for owner in view.owners:
        owner.listeners
jobs = [(read, 0, audit, audit._membership.scan), (read, 1, view, refresh), (read_in_lua,)]
readers = [threading.Thread(target=guarded, args=job) for job in jobs]
for thread in readers:
    thread.start()
"""
DAMAGE_ENDS = """
end.append(1)
for thread in readers:
    thread.join()
"""
CROWD = """
many = sessions_of(mx, 1000)
more = [audit.listener("IMAP").session(f"2001:db8::{i % 9:x}:{i:x}") for i in range(1000)]
"""


def places_in(file: OwnerFile) -> list[tuple[int, int]]:
    """Where a file has bytes that mean something, as often as they are to be damaged."""
    found = [(0, 48)]
    for section in range(file.sections):
        start = HEADER + section * file.stride
        found += 2 * [(start, start + 40)] + [(start + 40, start + 264)] + 20 * [(start + BLOCKS, start + 40_000)]
    return found


def test_damaged_bytes_crash_no_process(hire, tell):
    """A live owner's file is flipped, cut, stretched, replaced and removed: readers answer or raise, and go on."""
    victim = hire(MX.replace("1 << 28", "1 << 20") + CROWD)
    file = file_of(victim.pid)
    places, data = places_in(file), bytes(file.bytes)
    file.close()
    victim.kill()
    reader = hire(MX)
    eventually(lambda: len(owner_files()) == 1, "the victim's end")
    owner = FalseOwner(data)
    reader.do(DAMAGE)
    truth = expected(reader)
    assert truth[0]["SMTP"][0] == 1003
    rng = random.Random(2)
    turns, exact = rounds(200, 10_000), 0
    for turn in range(turns):
        if turn % 8 == 0:
            owner.restore()
            if turn % 40 == 0:
                eventually(lambda: expected(reader) == truth, "the right count")
                exact += 1
        what = rng.random()
        if what < 0.85:
            owner.damage(rng, places)
        elif what < 0.92:
            os.ftruncate(owner.fd, rng.choice((0, 5, BLOCKS, HEADER, rng.randrange(len(data)), 2 * len(data))))
        else:
            # Its end, by another file's coming to its place or without; another one takes up.
            if what < 0.95:
                Path(f"{owner.path}.other").write_bytes(rng.randbytes(100))
                os.rename(f"{owner.path}.other", owner.path)
            owner.close()
            owner = FalseOwner(data if what < 0.98 else rng.randbytes(rng.choice((0, 70_000))), turn + 1)
            if what >= 0.98:
                time.sleep(0.005)
                owner.close()
                owner = FalseOwner(data, turns + turn + 1)
        time.sleep(0.001)
    owner.restore()
    eventually(lambda: expected(reader) == truth, "the right count")
    eventually(lambda: min(reader.do("passes")) > 10, "that each reader has gone on")
    reader.do(DAMAGE_ENDS)
    errors, passes, counted = reader.do("sorted(errors), passes, counted")
    assert not [error for error in errors if error.startswith("BROKEN")]
    owner.close()
    eventually(lambda: reader.do("audit.total(), audit.total('IMAP')") == (3, 0), "the false owner's end")
    tell(f"{turns} changes, {exact} times exact in between; passes of three readers beside them: {passes}")
    tell(f"of these saw sessions of the victim: {counted}")


def expected(reader: Worker) -> tuple:
    return reader.do("look(audit, cidrs), look(view, cidrs), ask(cidrs[0], 0, 1)[0]")


def test_a_file_is_cut_while_it_is_let_go(hire):
    """Readers without the GIL meet the end of a file at the moment at which its owner is counted no more."""
    with InboundAudit(shared=NAME, capacity=1 << 20) as audit:
        sessions = sessions_of(audit.listener("SMTP", "mx"), 1000)
        data = Path(owner_files()[0]).read_bytes()
        for session in sessions:
            session.close()
    reader = hire(MX + READ_ON)
    reader.do("owner = FalseOwner(data)", data=data)
    reader.do(f"read_on({rounds(0.7, 10)})")
    eventually(lambda: reader.do("audit.total()") == 1001, "the right count")


READ_ON = """
import threading
from tests.support.threads import lua_reader
own = sessions_of(mx, 1, '10.9')

def read_on(seconds):
    end, ended = time.monotonic() + seconds, threading.Event()

    def read():
        ask = lua_reader(own[0])
        while not ended.is_set():
            ask('10.1.2.0/25', 0, 20_000)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    looks = 0
    while time.monotonic() < end or looks <= 10:
        audit._membership.scan()
        os.ftruncate(owner.fd, HEADER)
        audit._membership.scan()
        owner.restore()
        looks += 1
    ended.set()
    for thread in threads:
        thread.join()
"""


def test_who_is_damaged_itself_does_not_crash(hire):
    """It opens and closes in a tree that somebody writes into: it answers, or raises, and so do others."""
    reader = hire(READER)
    for seed in range(rounds(4, 100)):
        victim = hire(MX.replace("1 << 28", "1 << 22") + CROWD + OPEN_AND_CLOSE)
        file = file_of(victim.pid)
        rng, places = random.Random(seed), [place for place in places_in(file) if place[0] > HEADER]
        for _ in range(20):
            file.damage(rng, places)
            victim.do("open_and_close()")
            with contextlib.suppress(WorkerError):
                reader.do("look(audit, cidrs)", cidrs=CIDRS)
        file.close()
        victim.kill()
    eventually(lambda: reader.do("audit.total()") == 1, "their end")


OPEN_AND_CLOSE = """
from inbound_audit.errors import InboundAuditError
def open_and_close():
    for i in range(100):
        try:
            if many:
                many.pop(random.randrange(len(many))).close()
            many.append(mx.session(random.randbytes(random.choice((4, 16)))))
            many.extend(sessions_of(mx, 1))
        except InboundAuditError:
            pass
"""


def test_a_damaged_owner_is_counted_again(hire):
    """What somebody does to the file of a process that lives: it is counted exactly when that is undone, or mended."""
    victim = hire(MX.replace("1 << 28", "1 << 22") + CROWD)
    reader = hire(READER)
    truth = reader.do("look(audit, cidrs)", cidrs=CIDRS)
    rng = random.Random(3)

    def exact() -> None:
        eventually(lambda: reader.do("look(audit, cidrs)") == truth, "the right count")
        assert victim.do("look(audit, cidrs)", cidrs=CIDRS) == truth
        with View(NAME) as view:
            assert look(view, CIDRS) == truth

    for _ in range(rounds(5, 50)):
        # Flipped while it stands, and put right.
        victim.freeze()
        file = file_of(victim.pid)
        before, places = bytes(file.bytes), places_in(file)
        for _ in range(20):
            file.damage(rng, places)
            with contextlib.suppress(InboundAuditError):
                reader.do("audit._membership.scan(), look(audit, cidrs)")
        file.restore(before)
        file.close()
        victim.thaw()
        exact()
        victim.do("mx._check()")
        # Removed, or another file in its place: it makes a new one.
        path = next(path for path in owner_files() if OwnerFile.pid_in(path) == victim.pid)
        if rng.random() < 0.5:
            os.unlink(path)
        else:
            Path(f"{path}.other").write_bytes(rng.randbytes(rng.choice((0, 100, 100_000))))
            os.rename(f"{path}.other", path)
        eventually(lambda: len(owner_files()) == 2 and path not in owner_files(), "another file")  # noqa: B023
        exact()
    # Cut short: its sessions are lost, for itself too, and no others.
    file = file_of(victim.pid)
    os.ftruncate(file.fd, rng.choice((0, HEADER, HEADER + BLOCKS)))
    file.close()
    victim.do("sessions_of(mx, 100, '10.5') and None")
    eventually(lambda: victim.do("[text for text in complaints if 'cut short' in text]"), "that it is noticed")
    eventually(lambda: victim.do("audit.total()") == 1 == reader.do("audit.total()"), "the loss")
    victim.do("for session in many + more: session.close()")
    victim.do("again = sessions_of(mx, 100)")
    assert victim.do("audit.total()") == 101
    eventually(lambda: reader.do("audit.total()") == 101, "the right count")
    victim.do("mx._check()")


def test_a_window_that_is_damaged_while_it_gives_up_detail_ends_its_walk(hire):
    """Its hosts are written over with lower ones: an add returns or raises, and its process goes on."""
    victim = hire("import random, struct\n" + MX)
    file = file_of(victim.pid)
    victim.do("audit.series.define('s', 'ip', 1000, 1, max_bytes=1 << 14)")
    victim.do("hosts = [bytes([200]) + random.randbytes(15) for _ in range(100)]")
    victim.do("for host in hosts: audit.series.add('s', host)")
    with open(file.path, "r+b") as data:
        hosts = [struct.pack("=QQ", *struct.unpack(">QQ", host)) for host in victim.do("hosts")]
        whole = data.read()
        start = whole.index(hosts[0]) & -BLOCKS  # one window is small; the file is large and nearly empty
        held = whole[start - BLOCKS : start + (1 << 20)]
        for i, host in enumerate(hosts, 1):
            data.seek(start - BLOCKS + held.index(host))
            data.write(struct.pack("=QQ", 1, i))
    file.close()
    victim.do(ADD_TO_DAMAGED)
    assert victim.do("audit.total()") == 0


ADD_TO_DAMAGED = """
from inbound_audit.errors import InboundAuditError
for i in range(60):
    try:
        audit.series.add('s', random.randbytes(16))
    except InboundAuditError:
        pass
"""


# ---- no room


FILL = """
hosts = random.Random(5)
many = []
def fill():
    while True:
        many.append(mx.session(hosts.randbytes(16)))
"""


def no_room_test(victim: Worker, other: Worker, take_room, give_room) -> None:
    """`victim` has room for some hundreds of sessions, and `take_room` takes what is left."""
    take_room()
    with pytest.raises(WorkerError, match="CapacityError"):
        victim.do("fill()")
    n = victim.do("len(many)")
    assert n > 50
    assert victim.do("audit.total()") == other.do("audit.total()") == n
    victim.do("mx._check()")
    with pytest.raises(WorkerError, match="CapacityError"):
        victim.do("audit.listener('SMTP', 'other').session('192.0.2.7')")
    assert victim.do("audit.total()") == other.do("audit.total()") == n
    # What is closed can be opened again, with no more room than before.
    for _ in range(3):
        victim.do("ended = [many.pop(random.randrange(len(many))) for _ in range(50)]")
        victim.do("for session in ended: session.close()")
        assert other.do("audit.total()") == n - 50
        victim.do("many += [mx.session(session.remote_ip) for session in ended]")
        assert victim.do("audit.total()") == other.do("audit.total()") == n
    give_room()
    victim.do("many += sessions_of(mx, 2000)")
    assert victim.do("audit.total()") == other.do("audit.total()") == n + 2000
    assert victim.do("audit.listener('SMTP', 'other').session('192.0.2.7').inbound_session_count()") == 1
    victim.do("for session in many: session.close()")
    victim.do("mx._check(), many.clear()")
    assert other.do("audit.total()") == 0
    victim.do("many += sessions_of(mx, 2000)")
    assert victim.do("audit.total()") == other.do("audit.total()") == 2000
    assert victim.do("complaints") == other.do("complaints") == []


def test_a_process_that_may_write_no_larger_files(hire):
    victim = hire("import resource\n" + MX + FILL)
    other = hire(JOIN)
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, ({}, resource.RLIM_INFINITY))"
    no_room_test(
        victim,
        other,
        lambda: victim.do(limit.format(HEADER + 200_000)),
        lambda: victim.do(limit.format("resource.RLIM_INFINITY")),
    )


def test_a_series_that_finds_no_room_at_first(hire):
    """What was made of it is used when it is defined again: nobody else believes in two trees for one window."""
    victim = hire("import resource\n" + MX)
    other = hire(JOIN)
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, ({}, resource.RLIM_INFINITY))"
    define = "audit.series.define('s', 'cidr', 1 << 20, 1000)"
    victim.do("ac = mx.session('192.0.2.7')")
    for sections in (3, 4, 50):
        victim.do(limit.format(sections << 28))
        with pytest.raises(Exception, match=r"CapacityError.*File too large"):
            victim.do(define)
        other.do("audit._drop_dead_owners()")
    victim.do(limit.format("resource.RLIM_INFINITY"))
    victim.do(define)
    other.do(define)
    victim.do("audit.series.add('s', '192.0.2.7', 3)")
    other.do("audit._drop_dead_owners()")
    assert other.do("audit.series.count('s', '192.0.2.7')") == 3
    assert other.do("audit.total()") == victim.do("audit.total()") == 1
    victim.do("SeriesStore(audit).check()")
    assert victim.do("complaints") == other.do("complaints") == []


@pytest.fixture
def small_disk(place: Path) -> Iterator[Path]:
    """The audit's files lie in a file system that holds one MiB."""
    if os.geteuid():
        pytest.skip("to mount needs root")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_file_system(small_disk, hire):
    victim, other = hire(MX + FILL), hire(JOIN)
    filler = small_disk / "filler"

    no_room_test(victim, other, lambda: fill_up(filler), filler.unlink)


def fill_up(filler: Path) -> None:
    """Takes all the room that is left in its file system."""
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_who_finds_no_room_at_all(small_disk, hire):
    """Neither a process that comes later, nor a child that opens its first session, nor who has lost its file."""
    parent = hire(MX + "many = sessions_of(mx, 3)")
    child = parent.fork()
    other = hire("")
    filler = small_disk / "filler"
    fill_up(filler)
    for _ in range(3):
        with pytest.raises(WorkerError, match="CapacityError"):
            other.do(JOIN)
        with pytest.raises(WorkerError, match="CapacityError"):
            child.do("mx.session('192.0.2.7')")
        assert child.do("audit.total()") == parent.do("audit.total()") == 3
    assert len(owner_files()) == 1
    names = held_of(other.pid)[1]
    os.unlink(owner_files()[0])
    eventually(lambda: parent.do("complaints"), "a complaint")
    filler.unlink()
    eventually(owner_files, "its return")
    other.do(JOIN)
    assert other.do("audit.total()") == 3
    # Three of them for processes that ask it.
    eventually(lambda: len(held_of(other.pid)[1]) <= len(names) + 9, "no more files than before")
    assert child.do("mx.session('192.0.2.7').inbound_session_count('/0')") == 4
    eventually(lambda: parent.do("audit.total()") == 3, "the right count")
    parent.do("mx._check()")


# ---- limits


def open_up_to_a_limit(seed: int, most: int, seconds: float, accepted, peak, barrier) -> None:
    """One of the processes that open sessions from one address, as many as a limit lets in."""
    limits = Limits({"/32": most})
    audit = InboundAudit(shared=NAME, capacity=1 << 24)
    mx = audit.listener()
    barrier.wait()
    end = time.monotonic() + seconds

    def work(number: int) -> None:
        rng = random.Random(seed + number)
        held: list[Session] = []
        while time.monotonic() < end:
            session = mx.session("192.0.2.7")
            if limits.validate_connect(session):
                with accepted.get_lock():
                    accepted.value += 1
                    peak.value = max(peak.value, accepted.value)
                held.append(session)
            else:
                session.close()
            while held and rng.random() < 0.4:
                with accepted.get_lock():
                    accepted.value -= 1
                held.pop(rng.randrange(len(held))).close()
        for session in held:
            with accepted.get_lock():
                accepted.value -= 1
            session.close()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    barrier.wait()


def test_a_limit_holds_over_the_sum(place, tell):
    """Sessions from one address, at four processes and four threads each: never more than are let in."""
    most = 50
    spawn = get_context("spawn")
    accepted, peak, barrier = spawn.Value("q", 0), spawn.Value("q", 0), spawn.Barrier(4, timeout=200)
    processes = [
        spawn.Process(
            target=open_up_to_a_limit, args=(100 * i, most, rounds(0.7, 15), accepted, peak, barrier), daemon=True
        )
        for i in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0] * 4
    assert 0 < peak.value <= most
    assert accepted.value == 0
    tell(f"at most {peak.value} of {most} at a time")
