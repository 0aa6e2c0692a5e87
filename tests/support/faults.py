"""One call to the system fails, ends short, or is the last of its process: the library, and how a scenario is run.

`faults.c` lies before the C library (LD_PRELOAD). A process that has imported everything runs the cases of a scenario:

    python -m tests.support.faults SCENARIO full|QUICK_CASES [CLASS...]

A case names a class of calls, a number n, and what becomes of the n-th call: an error, a short result, or SIGKILL.
Each case has a directory of its own and runs in forked processes: partners that count beside it, the subject in which
the fault happens, and a fresh process that reads what was left. The full form takes n from 1 until the subject ends
without having reached the n-th call. With names of classes, only these calls fail.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import functools
import gc
import hashlib
import importlib
import io
import json
import logging
import mmap
import os
import pickle
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import waiting
from tests.support.waiting import end_of

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).with_name("faults.c")

LIMIT_S = 2 * waiting.PATIENCE
"""Seconds after which most cases hang: each takes less than two."""

eventually = functools.partial(waiting.eventually, within_s=LIMIT_S / 4)

MAX_PIPE_ENDS = 4
"""Descriptors that stay open as long as the process lives: its two threads have a pipe each."""

# The errors that Linux's manual pages name for a call, of those that have different reasons.
ERRORS = {
    "open": "EIO ENOSPC EDQUOT EMFILE ENFILE ENOMEM EACCES EINTR",
    "write": "EIO ENOSPC EDQUOT EFBIG EINTR",
    "read": "EIO EINTR",
    "fsync": "EIO ENOSPC EDQUOT EINTR",
    "rename": "EIO ENOSPC EDQUOT EACCES ENOMEM",
    "link": "EIO ENOSPC EDQUOT EACCES EPERM",
    "unlink": "EIO EACCES EPERM EROFS",
    "truncate": "EIO EFBIG EINTR",
    "fallocate": "EIO ENOSPC EDQUOT EFBIG EINTR",
    "mmap": "ENOMEM",
    "madvise": "ENOMEM EIO",
    "lock": "ENOLCK EAGAIN EIO EINTR",
    "dup": "EMFILE",
    "stat": "EIO EACCES",
    "chmod": "EIO EPERM EROFS",
    "mkdir": "EIO ENOSPC EDQUOT EACCES",
    "list": "EIO ENOMEM",
    "socket": "EMFILE ENFILE ENOBUFS",
    "bind": "EACCES EADDRINUSE ENOMEM",
    "listen": "EADDRINUSE",
    "accept": "EMFILE ENFILE ENOBUFS ECONNABORTED EINTR",
    "connect": "EAGAIN ECONNREFUSED",
    "send": "EPIPE ECONNRESET ENOBUFS EAGAIN EINTR",
    "recv": "ECONNRESET ENOMEM EAGAIN EINTR",
    "sockopt": "ENOBUFS",
    "inotify": "EMFILE ENOSPC ENOMEM",
    "pipe": "EMFILE ENFILE",
    "thread": "EAGAIN",
    "fork": "EAGAIN ENOMEM",
}
SHORT = ("write", "read", "send", "recv")
ACTIONS = ("fail", "short", "kill")


class Case(NamedTuple):
    """The `n`-th call of a class; `what` is the name of an error, ``short`` or ``kill``. With 0 nothing fails."""

    call: str
    n: int
    what: str

    @property
    def cause(self) -> str:
        """The system's words for the error; empty for what is none."""
        return os.strerror(getattr(errno, self.what)) if self.what.isupper() else ""

    def __str__(self) -> str:
        return f"{self.call} {self.n} {self.what}"


NOTHING = Case("open", 0, "EIO")


def outcomes(call: str) -> list[str]:
    return [*ERRORS[call].split(), *(["short"] if call in SHORT else []), "kill"]


# ---- the library


def build() -> Path:
    """Compiles the library, unless that was done. Raises CalledProcessError and OSError."""
    made = ROOT / "build" / "support" / f"faults-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}.so"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        new = made.with_suffix(f".{os.getpid()}")
        flags = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run([os.environ.get("CC", "gcc"), *flags, "-o", str(new), str(SOURCE), "-ldl"], check=True)
        os.rename(new, made)
    return made


def environment() -> dict[str, str]:
    """That of a process which has the library before the C library."""
    path = os.pathsep.join([str(ROOT), *sys.path])
    return {**os.environ, "LD_PRELOAD": str(build()), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


class Library:
    """The library as this process has it. Raises AttributeError where it is not preloaded."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.faults_seen.restype = ctypes.c_long
        self._library.faults_arm.argtypes = [ctypes.c_int, ctypes.c_long, *[ctypes.c_int] * 3]
        names = (ctypes.c_char_p * 64).in_dll(self._library, "faults_classes")
        self.classes: list[str] = []
        while (name := names[len(self.classes)]) is not None:
            self.classes.append(name.decode())

    def watch(self, directory: Path | str) -> None:
        """The calls on what lies below this directory matter from now on, and those on sockets."""
        self._library.faults_watch(os.fsencode(directory))

    def arm(self, case: Case, in_children: bool = False) -> None:
        """The fault happens in this process, or in the first that this one forks and that makes so many calls."""
        action = ACTIONS.index(case.what) if case.what in ACTIONS else 0
        error = getattr(errno, case.what, 0)
        self._library.faults_arm(self.classes.index(case.call), case.n, action, error, in_children)

    def disarm(self) -> bool:
        """Whether the call was made."""
        return bool(self._library.faults_disarm())

    def seen(self, in_children: bool = False) -> dict[str, int]:
        """How many calls of each class this process has made since `arm`, or the child that has made most."""
        found = {name: self._library.faults_seen(i, in_children) for i, name in enumerate(self.classes)}
        return {name: n for name, n in found.items() if n}

    def record(self, fd: int) -> None:
        """From now on each change of a file that matters is a line written to `fd`; -1 ends that."""
        self._library.faults_record(fd)

    def note(self, text: str) -> None:
        """A line of the record that is the test's own."""
        self._library.faults_note(text.encode())


# ---- processes


class Tally:
    """Numbers that the processes of a case share, and that outlive each of them."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)

    def __getitem__(self, at: int) -> int:
        return int(struct.unpack_from("q", self._memory, 8 * at)[0])

    def __setitem__(self, at: int, value: int) -> None:
        struct.pack_into("q", self._memory, 8 * at, value)


def forked(job: Callable[[], object]) -> int:
    """A child that does a job: it ends with 0, or with 70 if the job raised. Returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        job()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


class Partner:
    """A process that does what it is asked: it holds an object, whose methods are called by name."""

    def __init__(self, make: Callable[[], object]) -> None:
        asks, tells = os.pipe(), os.pipe()
        self.pid = forked(lambda: _answer(make(), asks[0], tells[1], (asks[1], tells[0])))
        os.close(asks[0])
        os.close(tells[1])
        self._to, self._from = os.fdopen(asks[1], "wb", 0), os.fdopen(tells[0], "rb", 0)

    def ask(self, method: str, *arguments: object) -> Any:
        """What the method returns. Raises what it has raised, as AssertionError.

        A subject that was killed may have left the answer to another question.
        """
        question = random.SystemRandom().random()
        self._to.write(pickle.dumps((question, method, arguments)))
        answered = None
        while answered != question:
            come = io.BytesIO(os.read(self._from.fileno(), 1 << 16))  # answers are short, and come whole
            while come.tell() < len(come.getvalue()):
                answered, failure, answer = pickle.load(come)
        assert not failure, failure
        return answer

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._to.close()
        self._from.close()


def _answer(of: object, asks: int, tells: int, others: tuple[int, ...]) -> None:
    for fd in others:
        os.close(fd)
    with os.fdopen(asks, "rb") as orders, os.fdopen(tells, "wb", 0) as answers:
        while True:
            try:
                question, method, arguments = pickle.load(orders)
            except EOFError:
                return
            try:
                answer = question, "", getattr(of, method)(*arguments)
            except Exception as error:
                answer = question, f"{type(error).__name__}: {error}", None
            answers.write(pickle.dumps(answer))


# ---- a scenario


class Scenario:
    """What is done, and what has to hold afterwards. Subclasses are in `fault_scenarios`.

    The methods run in this order: `before` in the process of the case; `prepare`, `act` and `again` in the subject, of
    which `act` with the fault armed; `after` in the process of the case; `fresh` in a new one.
    """

    calls: frozenset[str] = frozenset()
    """Classes of which the subject makes calls in any case: a run that sees none of one has not tested it."""

    failing: frozenset[str] | None = None
    """The classes that fail; None: each of which the subject makes calls."""

    limit_s = LIMIT_S
    """Seconds after which a case hangs."""

    quick_cases = 20
    """How many cases are the sample that the quick form takes."""

    in_children = False
    """Whether the fault happens in a process that the subject forks."""

    keeps_threads = False
    """Whether a library keeps threads, and descriptors for them, until the process ends."""

    usual: tuple[str, ...] = ()
    """Parts of what is logged without a fault, too."""

    def __init__(self, place: Path, case: Case) -> None:
        self.place = place
        self.state = place / "state"
        self.case = case
        self.tally = Tally()
        self.killed = False
        self.problems: list[str] = []

    def before(self) -> None:
        """Partners, and the files of processes that have ended."""

    def prepare(self) -> None:
        """The subject before the fault."""

    def act(self) -> None:
        """What the fault happens to. What it raises has to name the cause, unless `refused` takes it."""

    def again(self) -> None:
        """The same without a fault succeeds. Everything is closed at the end."""

    def after(self) -> None:
        """What partners count. `killed`: the subject has not got to `again`."""

    def fresh(self) -> None:
        """What a process counts that starts now."""

    # ---- for subclasses

    @contextlib.contextmanager
    def may_fail(self) -> Iterator[None]:
        """A step that may raise an error of the package, or the system's own; it says why."""
        from inbound_audit.cli.failure import Failure
        from inbound_audit.errors import InboundAuditError

        try:
            yield
        except (InboundAuditError, OSError, Failure, MemoryError, RuntimeError) as error:
            self.note_failure(error)

    def note_failure(self, error: BaseException) -> None:
        text = error.format_message() if hasattr(error, "format_message") else str(error)
        if not self.case.cause or not (self.names_cause(text) or isinstance(error, MemoryError)):
            self.problems.append(f"{type(error).__name__} does not name the cause: {text}")

    def names_cause(self, text: str) -> bool:
        """In the system's words, in the package's for memory, or in Python's for threads."""
        others = {"ENOMEM": "address space", "EAGAIN": "can't start new thread"}
        return self.case.cause.lower() in text.lower() or others.get(self.case.what, self.case.cause) in text


class _Complaints(logging.Handler):
    """What the package logs. An error that nobody expected has a traceback."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        self.unexpected: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        if record.exc_info:
            self.unexpected.append(self.format(record))


def held() -> tuple[set[str], int]:
    """The descriptors and the number of threads of this process."""
    return set(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def _left_open(scenario: Scenario, before: tuple[set[str], int]) -> list[str]:
    """Complaints of descriptors and threads that were not there before."""
    problems = []
    if not scenario.keeps_threads:
        with contextlib.suppress(AssertionError):
            eventually(lambda: held()[1] <= before[1], "the end of threads")
    now = held()
    left = [os.readlink(f"/proc/self/fd/{fd}") for fd in now[0] - before[0] if os.path.lexists(f"/proc/self/fd/{fd}")]
    if scenario.keeps_threads:
        left = [name for name in left if name.startswith(str(scenario.place))]
    pipes = [name for name in left if name.startswith("pipe:")]
    if len(pipes) > MAX_PIPE_ENDS or len(left) > len(pipes):
        problems.append(f"descriptors are left: {left}")
    if now[1] > before[1] and not scenario.keeps_threads:
        problems.append(f"threads are left: {threading.enumerate()}")
    return problems


def run_subject(scenario: Scenario, report: int) -> None:
    """The fault, and what the process itself sees of it. Writes a report as JSON."""
    library = Library()
    complaints = _Complaints()
    package = logging.getLogger("inbound_audit")
    package.addHandler(complaints)
    package.propagate = False
    before = held()
    scenario.prepare()
    library.watch(scenario.place)
    library.arm(scenario.case, scenario.in_children)
    try:
        scenario.act()
    finally:
        hit, seen = library.disarm(), library.seen(scenario.in_children)
        library.watch("")
    scenario.again()
    gc.collect()
    problems = scenario.problems + [f"logged a traceback: {text}" for text in complaints.unexpected]
    problems += _left_open(scenario, before)
    # A range that can't be covered keeps its mapping until the audit is freed: a reader may stand in it.
    with open("/proc/self/maps" if scenario.case.call != "mmap" else os.devnull) as maps:
        problems += [f"is still mapped: {line.strip()}" for line in maps if str(scenario.place) in line]
    texts = [text for text in complaints.texts if not any(part in text for part in scenario.usual)]
    if scenario.case.cause and texts and not any(map(scenario.names_cause, texts)):
        problems.append(f"no complaint names the cause: {texts}")
    os.write(report, json.dumps({"hit": hit, "seen": seen, "problems": problems}).encode())


def run_case(make: Callable[[Path, Case], Scenario], case: Case) -> dict[str, Any]:
    """In a process of its own: everything of one case. Returns the subject's report, with what else is wrong."""
    place = Path(tempfile.mkdtemp(prefix="fault-", dir="/dev/shm"))
    os.environ["INBOUND_AUDIT_SHM"] = str(place)
    report: dict[str, Any] = {"hit": True, "seen": {}, "problems": []}
    try:
        scenario = make(place, case)
        scenario.before()
        reads, writes = os.pipe()
        pid = forked(functools.partial(run_subject, scenario, writes))
        os.close(writes)
        with os.fdopen(reads, "rb") as answer:
            said = answer.read()
        status = end_of(pid)
        scenario.killed = status == -signal.SIGKILL
        if said:
            report = json.loads(said)
        if status != 0 and not (scenario.killed and case.what == "kill"):
            report["problems"].append(f"the subject ended with {status}")
        scenario.after()
        if end_of(forked(scenario.fresh)):
            report["problems"].append("a fresh process finds it wrong")
    except Exception:
        report["problems"].append(traceback.format_exc())
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return report


# ---- all cases of a scenario


class Runner:
    """Runs cases, each in a process group of its own that ends with the case, on two cores."""

    def __init__(self, make: type[Scenario]) -> None:
        self._make = make
        self._fork_lock = threading.Lock()
        self.cases = self.faults = 0
        self.calls = 0
        self.failures: list[str] = []

    def run(self, case: Case) -> dict[str, Any]:
        with tempfile.TemporaryFile() as report, tempfile.TemporaryFile() as words:
            with self._fork_lock:
                pid = forked(lambda: self._in_a_group(case, report.fileno(), words.fileno()))
            hangs = self._wait(pid)
            report.seek(0)
            words.seek(0)
            found, said = report.read(), words.read().decode(errors="replace")
        why = "hangs" if hangs else "the process of the case died"
        result = json.loads(found) if found else {"hit": True, "seen": {}, "problems": [why]}
        self.cases += 1
        self.faults += result["hit"] and case.n > 0
        if result["problems"]:
            self.failures.append(f"{case}: {'; '.join(result['problems'])}\n{said}")
        return dict(result)

    def _in_a_group(self, case: Case, report: int, words: int) -> None:
        os.setsid()
        os.dup2(words, 1)
        os.dup2(words, 2)
        faulthandler.dump_traceback_later(self._make.limit_s * 0.8)
        os.write(report, json.dumps(run_case(self._make, case)).encode())

    def _wait(self, pid: int) -> bool:
        """Until the case has ended, and ends what it has left. Returns whether it hangs."""
        poll, pidfd = select.poll(), os.pidfd_open(pid)
        poll.register(pidfd, select.POLLIN)
        hangs = not poll.poll(1000 * self._make.limit_s)
        os.close(pidfd)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        end_of(pid)
        return hangs

    def run_all(self, calls: dict[str, int]) -> None:
        """Each class and outcome, with n from 1 until the fault is not reached."""
        rows = [(call, what) for call in calls for what in outcomes(call)]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda row: self._until_not_reached(*row), rows))

    def _until_not_reached(self, call: str, what: str) -> None:
        n = 1
        while len(self.failures) < 50 and self.run(Case(call, n, what))["hit"]:
            n += 1

    def run_some(self, calls: dict[str, int], number: int) -> None:
        """A sample: each class and outcome as often as the others."""
        rng = random.Random(1)
        rows = [
            Case(call, n, what) for call, most in calls.items() for n in range(1, most + 1) for what in outcomes(call)
        ]
        rng.shuffle(rows)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self.run, rows[:number]))


def main(name: str, form: str, *only: str) -> None:
    from tests.support import agent_scenarios, fault_scenarios

    for module in ("shared.membership", "persist", "series", "cli.server", "shared.control.client"):
        importlib.import_module(f"inbound_audit.{module}")
    make = (fault_scenarios.SCENARIOS | agent_scenarios.SCENARIOS)[name]
    runner = Runner(make)
    began = time.monotonic()
    report = runner.run(NOTHING)
    calls: dict[str, int] = report["seen"]
    failing = {
        call: most for call, most in calls.items() if (not only or call in only) and call in (make.failing or calls)
    }
    missing = sorted(make.calls - set(calls))
    if missing and not runner.failures:
        runner.failures.append(f"the library has seen no call of: {missing}")
    if not runner.failures and form == "full":
        runner.run_all(failing)
    elif not runner.failures:
        runner.run_some(failing, int(form))
    result = {"scenario": name, "calls": sum(calls.values()), "classes": calls, "cases": runner.cases}
    result |= {"faults": runner.faults, "failures": runner.failures, "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
