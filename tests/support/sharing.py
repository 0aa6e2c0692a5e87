"""What the tests of shared mode have in common: a directory of their own, and processes that follow orders.

A worker is a Python process that runs, in one namespace, the code that a test sends it, and answers with what an
expression is worth. It can be forked, and the child is a worker too. It may be killed at any time: its process group
goes with the test in any case.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import itertools
import logging
import mmap
import os
import pickle
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import TypeVar

from tests.support import forking  # noqa: F401  before the package
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit, Session, errors
from inbound_audit._ipcount import Audit, SeriesStore  # noqa: F401  the code that tests send uses it
from inbound_audit.series import requests  # noqa: F401  a worker that becomes another user may not read the package
from inbound_audit.shared import directory_of
from inbound_audit.shared.control import client
from inbound_audit.shared.directory import Directory

FULL = os.environ.get("INBOUND_AUDIT_FAULTS") == "full"
"""`make faults` asks for the long form of every test; `make test` takes the short one."""

Number = TypeVar("Number", int, float)

NAME = "mail"
ROOT = Path(__file__).parents[2]

HEADER = 65536  # bytes of an owner's file before its first section
BLOCKS = 4096  # where the blocks of a section begin
STEADY = "198.51.100.0/24"  # where sessions only move about: their number never changes


def rounds(short: Number, full: Number) -> Number:
    return full if FULL else short


# ---- workers


class WorkerError(Exception):
    """An error in a worker: `kind` is the name of the exception's class."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Worker:
    """A process that follows orders. Made by `Workers`."""

    def __init__(self, crew: Workers, connection: Connection) -> None:
        self._crew = crew
        self._connection = connection
        self.pid: int = connection.recv()
        self._pidfd = os.pidfd_open(self.pid)  # the number may be another process's when this one is gone

    def start(self, code: str, **names: object) -> None:
        """Sends code to be run with these names set; `result` waits for it."""
        self._connection.send((code, names))

    def result(self) -> object:
        """What the code is worth, if it is an expression. Raises WorkerError when it raised."""
        if not self._connection.poll(2 * PATIENCE):
            raise AssertionError(f"worker {self.pid} does not answer")
        try:
            kind, value = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise AssertionError(f"worker {self.pid} is gone: {self._crew.words()}") from error
        if kind:
            raise WorkerError(kind, value)
        return value

    def do(self, code: str, **names: object) -> object:
        self.start(code, **names)
        return self.result()

    def fork(self) -> Worker:
        """Its child, a worker as well."""
        self.do("fork()")
        return self._crew.next()

    def kill(self, number: int = signal.SIGKILL) -> None:
        signal.pidfd_send_signal(self._pidfd, number)

    def freeze(self) -> None:
        """SIGSTOP, and all its threads stand still."""
        self.kill(signal.SIGSTOP)
        eventually(lambda: stands(self.pid), "SIGSTOP")

    def thaw(self) -> None:
        self.kill(signal.SIGCONT)

    def dismiss(self) -> None:
        """Ends it, and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            self.kill(signal.SIGSTOP)  # so that the number is still its own
            os.killpg(self.pid, signal.SIGKILL)
        self.await_end()
        os.close(self._pidfd)
        self._connection.close()

    def await_end(self) -> None:
        """Until it is dead, also where somebody else is its parent."""
        eventually(lambda: is_dead(self.pid), f"the end of {self.pid}")


def is_dead(pid: int) -> bool:
    """No such process, or one that has let go of everything and waits for its parent."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state in "ZX" and len(os.listdir(f"/proc/{pid}/task")) == 1  # the last of its threads
    except (FileNotFoundError, ProcessLookupError):
        return True


class Workers:
    """The workers of a test."""

    def __init__(self, *, everybody: bool = False) -> None:
        self._directory = tempfile.mkdtemp(prefix="crew-")
        self._listener = Listener(f"{self._directory}/socket", "AF_UNIX", backlog=64)
        if everybody:  # also workers that run as other users
            os.chmod(self._directory, 0o711)
            os.chmod(f"{self._directory}/socket", 0o777)
        self._stderr = open(f"{self._directory}/stderr", "w+")  # noqa: SIM115
        self._crew: list[Worker] = []  # a worker whose connection is closed ends

    def __call__(self, setup: str = "") -> Worker:
        """A new process that has run `setup`."""
        return self.hire(1, setup)[0]

    def hire(self, n: int, setup: str = "") -> list[Worker]:
        """`n` new processes, side by side."""
        for _ in range(n):
            cradle().ask(f"{self._directory}/socket", self._stderr.name, dict(os.environ))
        hired = [self.next() for _ in range(n)]
        for worker in hired:
            worker.start(setup)
        for worker in hired:
            worker.result()
        return hired

    def next(self) -> Worker:
        self._crew.append(Worker(self, self._listener.accept()))
        return self._crew[-1]

    def words(self) -> str:
        """What they have written to stderr."""
        return Path(self._stderr.name).read_text()

    def close(self) -> None:
        for worker in self._crew:
            worker.dismiss()
        self._listener.close()
        self._stderr.close()
        shutil.rmtree(self._directory)


class Cradle:
    """A process that has imported everything and counts nothing. Workers are forked from it, which takes no time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests.support.sharing import breed; breed()"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            stdin=subprocess.PIPE,
        )

    def ask(self, *how: object) -> None:
        """One more worker."""
        assert self._process.stdin
        pickle.dump(how, self._process.stdin)
        self._process.stdin.flush()

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@functools.cache
def cradle() -> Cradle:
    made = Cradle()
    atexit.register(made.close)
    return made


def breed() -> None:
    """The cradle's side, which ends when the tests do."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for its children
    while True:
        try:
            address, stderr, environment = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            os.environ.clear()
            os.environ.update(environment)
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(os.open(stderr, os.O_WRONLY | os.O_APPEND), 2)
            work(address)


def work(address: str) -> None:
    """The worker's side, which ends with the process."""
    complaints: list[str] = []
    space: dict[str, object] = {**globals(), "complaints": complaints}
    listen = logging.Handler(logging.WARNING)
    listen.emit = lambda record: complaints.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("inbound_audit").addHandler(listen)
    connection = Client(address, "AF_UNIX")
    connection.send(os.getpid())

    def fork() -> None:
        nonlocal connection
        if os.fork() == 0:
            os.setsid()
            connection.close()
            connection = Client(address, "AF_UNIX")
            connection.send(os.getpid())
            serve()

    def serve() -> None:
        while True:
            try:
                code, names = connection.recv()
            except EOFError:
                os._exit(0)
            if code == "fork()":
                fork()
                connection.send(("", None))
                continue
            space.update(names)
            try:
                answer = "", run(code, space)
            except Exception as error:
                answer = type(error).__name__, str(error)
            connection.send(answer)

    serve()


def run(code: str, space: dict[str, object]) -> object:
    try:
        expression = compile(code.strip(), "<test>", "eval")
    except SyntaxError:
        exec(compile(code, "<test>", "exec"), space)
        return None
    return eval(expression, space)


# ---- what is counted


def sessions_of(listener: object, n: int, prefix: str = "10.1") -> list[Session]:
    """`n` sessions from `n` hosts, 65,536 at most."""
    return [listener.session(f"{prefix}.{i >> 8}.{i & 255}") for i in range(n)]  # type: ignore[attr-defined]


def look(audit: Audit, cidrs: list[str], services: tuple[str, ...] = ("SMTP", "IMAP")) -> dict[str, object]:
    """All that can be asked of an audit about some prefixes."""
    return {
        service: (
            audit.total(service),
            [audit.inbound_session_count(cidr, service) for cidr in cidrs],
            sorted(audit.top(1 << 20, service_type=service)),
            audit.top(3, service_type=service, prefixlen=(16, 32))[:1],
            audit.tree(service),
        )
        for service in services
        if service in audit.service_types
    }


# Asks about many prefixes in turn, so many times, and answers the most that was seen.
DEEP = """
local cdef, address, handle = ...
local ffi = require("ffi")
ffi.cdef(cdef)
local count = ffi.cast("ia_session_count_fn", address)
local ac = ffi.cast("const ia_ac *", handle)
return function(cidrs, rounds)
    local list, most = {}, 0
    for cidr in cidrs:gmatch("%S+") do list[#list + 1] = cidr end
    for i = 1, rounds do
        local cidr = list[i % #list + 1]
        local n = tonumber(count(ac, cidr, #cidr, nil, 0))
        if n > most then most = n end
    end
    return most
end
"""


def request_one(
    place: Directory, owner_id: str, message: Mapping[str, object], timeout: float = client.TIMEOUT_S
) -> client.Answer:
    """What one process answers. Raises SharedStateError without an answer."""
    answer = client.request_all(place, [owner_id], message, timeout)[owner_id]
    if isinstance(answer, errors.SharedStateError):
        raise answer
    return answer


def count_in_a_child(connection: Connection, n: int) -> None:
    """In a child of multiprocessing: opens `n` sessions, reports that, and holds them until the order to end."""
    audit = InboundAudit(shared=NAME, capacity=1 << 24)
    sessions = sessions_of(audit.listener("SMTP", "mx"), n)
    connection.send(len(sessions))
    connection.recv()


class Churn:
    """Threads that open, close and move sessions at random, and others that watch what everybody counts.

    All of them can be paused: then what they hold is known. Per thread at most `most` sessions are open.
    The first thread of each process has `steady` more, that move about in `STEADY` and never end.
    """

    def __init__(self, audit: InboundAudit, seed: int, *, threads: int, most: int, steady: int, everybody: int) -> None:
        self.audit = audit
        self.listeners = [audit.listener("SMTP", "mx"), audit.listener("SMTP", "submission"), audit.listener("IMAP")]
        self.most = everybody * (threads * most + steady)
        self.all_steady = everybody * steady
        # A reader that gives up on a writer which lost its processor in mid-move sees one more, in each tree.
        self.slack = everybody * len(self.listeners)
        self.faults: list[str] = []
        self.asked = 0
        rng = random.Random(seed)
        self.steady = [self.listeners[0].session(self._steady_host(rng)) for _ in range(steady)]
        self.asking = self.steady[0]
        self._held: list[list[Session]] = [self.steady] + [[] for _ in range(threads)]
        self._turn = threading.Condition()
        self._go = False
        self._end = False
        self._resting = 0
        jobs = [(self._churn, (random.Random(f"{seed} {i}"), self._held[i + 1], most, i == 0)) for i in range(threads)]
        self._threads = [threading.Thread(target=self._run, args=job) for job in [*jobs, (self._watch, ())]]
        for thread in self._threads:
            thread.start()

    def go(self) -> None:
        with self._turn:
            self._go = True
            self._turn.notify_all()

    def rest(self) -> list[tuple[str, str, str]]:
        """Stops all threads where nothing is in flight. Service, listener and address of each session that is open."""
        with self._turn:
            self._go = False
            assert self._turn.wait_for(lambda: self._resting == len(self._threads), PATIENCE), self.faults
        return [(s.service_type, s.listener_name, s.remote_ip) for held in self._held for s in held]

    def own_counts(self) -> list[tuple[str, str, str, int]]:
        """What some of our sessions count without an argument."""
        held = [session for held in self._held for session in held[:10]]
        return [(s.service_type, s.listener_name, s.remote_ip, s.inbound_session_count()) for s in held]

    def end(self) -> None:
        with self._turn:
            self._end = self._go = True
            self._turn.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self, job: Callable[..., Iterator[None]], args: tuple[object, ...]) -> None:
        try:
            steps = job(*args)
            while not self._end:
                if self._go:
                    next(steps)
                    continue
                with self._turn:
                    self._resting += 1
                    self._turn.notify_all()
                    self._turn.wait_for(lambda: self._go)
                    self._resting -= 1
        except BaseException as error:
            self.faults.append(repr(error))
            raise

    @staticmethod
    def _steady_host(rng: random.Random) -> str:
        return f"198.51.100.{rng.randrange(256)}"

    def _host(self, rng: random.Random) -> str:
        if rng.random() < 0.6:
            return f"10.{rng.randrange(3)}.{rng.randrange(4)}.{rng.randrange(256)}"
        return f"2001:db8:{rng.randrange(3)}::{rng.randrange(1 << 14):x}"

    def _churn(self, rng: random.Random, mine: list[Session], most: int, wanders: bool) -> Iterator[None]:
        goal = 0
        for turn in itertools.count():
            if turn % 256 == 0:
                goal = rng.choice((0, 3, 40, most))
            if wanders and rng.random() < 0.3:
                rng.choice(self.steady).rebind(self._steady_host(rng))
            elif len(mine) < goal:
                mine.append(rng.choice(self.listeners).session(self._host(rng)))
            elif mine and (len(mine) > goal or rng.random() < 0.5):
                mine.pop(rng.randrange(len(mine))).close()
            elif mine:
                rng.choice(mine).rebind(self._host(rng))
            yield

    def _watch(self) -> Iterator[None]:
        """In between no sum is below zero, or above what there can be; and what never ends is always there."""
        from tests.unit.core.test_concurrency import lua_reader

        ask = lua_reader(self.asking)
        while True:
            total = self.audit.total()
            steady = self.audit.inbound_session_count(STEADY)
            least, most, _ = ask(STEADY, self.all_steady, 500)
            below = ask("10.1.0.0/17", 0, 500)
            self.asked += 1002
            if not (0 <= total <= self.most + self.slack and 0 <= below[0] <= below[1] <= self.most + self.slack):
                self.faults.append(f"total {total}, in 10.1.0.0/17 {below}, at most {self.most}")
            if not self.all_steady <= min(steady, least) <= max(steady, most) <= self.all_steady + self.slack:
                self.faults.append(f"steady: {steady}, {least} to {most}, not {self.all_steady}")
            time.sleep(0.0005)
            yield


# ---- the files, as another process sees them


def owner_files(name: str = NAME) -> list[str]:
    """Paths of all that are there now."""
    directory = Path(directory_of(name))
    return sorted(str(path) for path in directory.glob("*.owner")) if directory.exists() else []


class OwnerFile:
    """Somebody's file, to be read and damaged."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.bytes = mmap.mmap(self.fd, os.fstat(self.fd).st_size, prot=mmap.PROT_READ)
        (self.stride,) = struct.unpack_from("=Q", self.bytes, 16)

    @staticmethod
    def pid_in(path: str) -> int:
        """What its owner said its process id is."""
        with open(path, "rb") as file:
            return int(struct.unpack_from("=I", file.read(64), 28)[0])

    @property
    def sections(self) -> int:
        return int(struct.unpack_from("=I", self.bytes, 24)[0])

    def seq(self, section: int = 0) -> int:
        return int(struct.unpack_from("=Q", self.bytes, HEADER + section * self.stride)[0])

    def set_seq(self, value: int, section: int = 0) -> None:
        os.pwrite(self.fd, struct.pack("=Q", value), HEADER + section * self.stride)

    def damage(self, rng: random.Random, places: list[tuple[int, int]]) -> None:
        damage(self.fd, rng, places)

    def restore(self, before: bytes) -> None:
        write_pages(self.fd, before)

    def close(self) -> None:
        self.bytes.close()
        os.close(self.fd)


def damage(fd: int, rng: random.Random, places: list[tuple[int, int]]) -> None:
    """Changes some bytes of a file at some of these places (first byte, and the byte behind the last).

    A word from somewhere else is worse than noise: it may lead to a block that is there, and round in circles.
    """
    for _ in range(rng.choice((1, 3, 50))):
        at = rng.randrange(*rng.choice(places))
        if rng.random() < 0.3:
            size = rng.choice((4, 8, 16, 64))
            other = rng.randrange(*rng.choice(places))
            os.pwrite(fd, os.pread(fd, size, other - other % size), at - at % size)
        else:
            byte = (os.pread(fd, 1, at) or b"\0")[0]
            os.pwrite(fd, bytes([rng.choice((rng.randrange(256), byte ^ 1 << rng.randrange(8), 255, 0))]), at)


def write_pages(fd: int, data: bytes) -> None:
    """Gives a file back its size and its bytes; a page of zeros is taken for a hole that nobody has written to."""
    os.ftruncate(fd, len(data))
    for at in range(0, len(data), BLOCKS):
        page = data[at : at + BLOCKS]
        if page.count(0) < len(page):
            os.pwrite(fd, page, at)


def file_of(pid: int, name: str = NAME) -> OwnerFile:
    """The file of the owner that says it has this process id."""
    for path in owner_files(name):
        with contextlib.suppress(FileNotFoundError, struct.error):
            if OwnerFile.pid_in(path) == pid:
                return OwnerFile(path)
    raise AssertionError(f"{pid} has no file in {owner_files(name)}")


class FalseOwner:
    """A locked file with what bytes we like: a live owner's, as far as others can tell, that nobody mends."""

    def __init__(self, data: bytes, number: int = 0, name: str = NAME) -> None:
        self.path = f"{directory_of(name)}/{number:016x}.owner"
        self._data = data
        self.fd = os.open(f"{self.path}.new", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.restore()
        fcntl.fcntl(self.fd, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))  # F_OFD_SETLK
        os.rename(f"{self.path}.new", self.path)

    def damage(self, rng: random.Random, places: list[tuple[int, int]]) -> None:
        damage(self.fd, rng, places)

    def restore(self) -> None:
        write_pages(self.fd, self._data)

    def close(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        os.close(self.fd)


def held_of(pid: int | str = "self") -> tuple[list[str], list[str], int]:
    """What a process has of owners' files: mappings (their inodes), descriptors (their names); and all its mappings."""
    inodes, lines = [], 0
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        lines += 1
        fields = line.split(None, 5)
        if len(fields) == 6 and "/inbound_audit-" in fields[5]:
            inodes.append(fields[4])
    return inodes, open_files(pid), lines


def open_files(pid: int | str = "self") -> list[str]:
    """The names of what a process holds descriptors of; of one that has ended: none."""
    names = []
    with contextlib.suppress(FileNotFoundError):
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                names.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
    return names


def names_of_threads() -> list[str]:
    """Of those of this process that audits have started. A thread may end a moment after its last audit."""
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("inbound_audit"))


def stands(pid: int) -> bool:
    """Whether all threads of a process are stopped."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            if (task / "stat").read_text().rpartition(")")[2].split()[0] not in "Tt":
                return False
    return True


def fewest_files(pid: int) -> int:
    """How many descriptors a process keeps: the least of many looks, as a thread that looks around opens and closes
    files at any time."""
    return min(len(os.listdir(f"/proc/{pid}/fd")) for _ in range(100))


def open_sockets(pid: int) -> int:
    """How many of them are sockets: a thread that looks around opens and closes other files at any time."""
    return sum(name.startswith("socket:") for name in open_files(pid))
