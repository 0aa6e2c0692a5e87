"""Commands that are forked from a process which has imported the command line: a tenth of what an interpreter costs."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import importlib
import marshal
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TextIO, cast

from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
LIBRARIES = (
    "aiosmtpd.smtp",
    "lupa",
    "rich.table",
    "uvicorn",
    "starlette.applications",
    "inbound_audit.cli.console.commands",
)
"""What commands import when they run. None of them starts a thread."""


class ForkedCommand:
    """A command, as far as tests need what `subprocess.Popen` has. `streams`: standard input, output and error, which
    stay the caller's; `terminal`: they are a terminal, which becomes the command's own."""

    def __init__(
        self,
        arguments: Sequence[str],
        env: Mapping[str, str],
        streams: Sequence[int],
        cwd: Path | None = None,
        terminal: bool = False,
    ) -> None:
        self.returncode: int | None = None
        order = list(arguments), dict(env), str(cwd or os.getcwd()), umask(), terminal
        self._connection, self.pid = starter().start(order, list(streams))

    @classmethod
    def with_pipes(
        cls, arguments: Sequence[str], env: Mapping[str, str], stdin: int, cwd: Path | None = None
    ) -> tuple[ForkedCommand, IO[bytes], IO[bytes]]:
        """One whose output and errors come in pipes."""
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        made = cls(arguments, env, [stdin, out_end, err_end], cwd)
        os.close(out_end)
        os.close(err_end)
        return made, open(out, "rb"), open(err, "rb")

    def poll(self, wait_s: float = 0) -> int | None:
        """Its exit status, or the negative number of a signal; None while it runs."""
        if self.returncode is None and select.select([self._connection], [], [], wait_s)[0]:
            said = self._connection.recv(100)
            assert said, "the process that commands are forked from has ended"
            self.returncode = int(said)
            self._connection.close()
        return self.returncode

    def wait(self, timeout: float = PATIENCE) -> int:
        status = self.poll(timeout)
        if status is None:
            raise subprocess.TimeoutExpired("inbound-audit", timeout)
        return status

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Starter:
    """The process that commands are forked from. It has one thread, and the environment that it was started with."""

    def __init__(self) -> None:
        self.environment = dict(os.environ)
        self._directory = tempfile.mkdtemp(prefix="commands-")
        self._address = f"{self._directory}/socket"
        program = "from tests.support.forked_commands import breed; breed()"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(self._address)
            listening.listen(64)
            self._process = subprocess.Popen(
                [sys.executable, "-c", program], stdin=listening, stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            )  # fmt: skip

    def start(self, order: object, fds: list[int]) -> tuple[socket.socket, int]:
        """A socket that says the exit status of a new command, and its process id."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(PATIENCE)
        connection.connect(self._address)
        socket.send_fds(connection, [marshal.dumps(order)], fds)
        return connection, int(connection.recv(100))

    def script(self) -> str:
        """A program that runs the command line as `python -m inbound_audit` does, with the same streams."""
        return SCRIPT.replace("PYTHON", sys.executable).replace("ADDRESS", repr(self._address))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        shutil.rmtree(self._directory)


SCRIPT = """\
#!PYTHON -ISE
import marshal, os, signal, socket, sys
numbers = signal.SIGINT, signal.SIGTERM
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # until they can be handed on
connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
connection.connect(ADDRESS)
order = sys.argv[1:], dict(os.environ), os.getcwd(), os.umask(0), False
socket.send_fds(connection, [marshal.dumps(order)], [0, 1, 2])
pid = int(connection.recv(100))
for number in numbers:
    signal.signal(number, lambda number, _: os.kill(pid, number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
os.close(1)  # a reader of a pipe sees its end when the command has ended
status = int(connection.recv(100))
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


def umask() -> int:
    """Of this process: to ask the system changes it for a moment, in which other threads make files."""
    (text,) = re.findall(r"^Umask:\t(\d+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(text, 8)


@functools.cache
def starter() -> Starter:
    made = Starter()
    atexit.register(made.close)
    return made


def may_be_forked(env: Mapping[str, str]) -> bool:
    """An interpreter reads variables of its own when it starts, and the loader of programs does."""
    if sys.platform != "linux":
        return False
    before = starter().environment
    names = (name for name in {*env, *before} if name.startswith(("PYTHON", "LD_")))
    return all(env.get(name) == before.get(name) for name in names)


# ---- the side of the process that commands are forked from


def breed() -> None:
    """Forks what is asked for by who connects to the socket that is its standard input. In a child: runs a command, and
    exits."""
    from inbound_audit.cli import main as _

    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    listening = socket.socket(fileno=os.dup(0))
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes)
    callers: dict[int, socket.socket] = {}  # by process id: who is to hear its exit status
    while True:
        ready = select.select([listening, woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            report(callers)
        if listening in ready:
            caller, _ = listening.accept()
            order, streams, _, _ = socket.recv_fds(caller, 1 << 20, 3)
            if not order:  # it has gone
                continue
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for each in (listening, caller, *callers.values()):
                    each.close()
                os.close(woken)
                os.close(wakes)
                sys.exit(become(streams, *marshal.loads(order)))
            callers[pid] = caller
            caller.send(str(pid).encode())
            for fd in streams:
                os.close(fd)


def report(callers: dict[int, socket.socket]) -> None:
    """Says the exit status of each command that has ended."""
    for pid in list(callers):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with callers.pop(pid) as caller, contextlib.suppress(OSError):  # it does not wait any more
                caller.send(str(os.waitstatus_to_exitcode(status)).encode())


def become(
    streams: list[int], arguments: list[str], environment: dict[str, str], directory: str, mask: int, terminal: bool
) -> int:
    """Runs the command line in this process, with these streams."""
    import inbound_audit.__main__ as program

    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    if terminal:  # Ctrl-C goes to those whose terminal it is
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # What they are decides how they are read and written.
    sys.stdin = sys.__stdin__ = opened_again(sys.stdin, "r")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = opened_again(sys.stdout, "w")  # type: ignore[misc]
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(directory)
    os.umask(mask)
    sys.argv[:] = [str(program.__file__), *arguments]
    return program.main()


def opened_again(stream: TextIO, mode: str) -> TextIO:
    return cast(TextIO, open(stream.fileno(), mode, encoding=stream.encoding, errors=stream.errors, closefd=False))
