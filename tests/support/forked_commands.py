"""Commands that are forked from a process which has imported the command line: a tenth of what an interpreter costs."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import importlib
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
LIBRARIES = ("aiosmtpd.smtp", "lupa", "rich.table", "uvicorn", "starlette.applications")
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
        self._status, status_end = os.pipe()
        self.returncode: int | None = None
        try:
            order = (list(arguments), dict(env), str(cwd or os.getcwd()), terminal)
            self.pid, self._pidfd = starter().start(order, [*streams, status_end])
        finally:
            os.close(status_end)

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
        if self.returncode is None and select.select([self._status], [], [], wait_s)[0]:
            said = os.read(self._status, 100)
            assert said, "the process that commands are forked from has ended"
            self.returncode = int(said)
            os.close(self._status)
            os.close(self._pidfd)
        return self.returncode

    def wait(self, timeout: float = PATIENCE) -> int:
        status = self.poll(timeout)
        if status is None:
            raise subprocess.TimeoutExpired("inbound-audit", timeout)
        return status

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Starter:
    """The process that commands are forked from. It has one thread, and the environment that it was started with."""

    def __init__(self) -> None:
        self.environment = dict(os.environ)
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(PATIENCE)
        program = f"from tests.support.forked_commands import breed; breed({theirs.fileno()})"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            )  # fmt: skip

    def start(self, order: object, fds: list[int]) -> tuple[int, int]:
        """The process id of a new command, and a descriptor that stands for it."""
        socket.send_fds(self._socket, [pickle.dumps(order)], fds)
        said, (pidfd,), _, _ = socket.recv_fds(self._socket, 100, 1)
        return int(said), pidfd

    def close(self) -> None:
        self._socket.close()
        self._process.communicate()


@functools.cache
def starter() -> Starter:
    made = Starter()
    atexit.register(made.close)
    return made


def may_be_forked(env: Mapping[str, str]) -> bool:
    """An interpreter reads variables of its own when it starts, and the loader of programs does."""
    before = starter().environment
    names = (name for name in {*env, *before} if name.startswith(("PYTHON", "LD_")) or name == "PATH")
    return all(env.get(name) == before.get(name) for name in names)


# ---- the side of the process that commands are forked from


def breed(number: int) -> None:
    """Forks what is asked for, until there is no test any more. In a child: runs a command, and exits."""
    from inbound_audit.cli import main as _

    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    asked = socket.socket(fileno=number)
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes)
    statuses: dict[int, int] = {}  # by process id: where its exit status is written to
    while True:
        ready = select.select([asked, woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            report(statuses)
        if asked in ready:
            order, fds, _, _ = socket.recv_fds(asked, 1 << 20, 4)
            if not order:
                os._exit(0)
            *streams, status = fds
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                asked.close()
                for fd in (woken, wakes, status, *statuses.values()):
                    os.close(fd)
                sys.exit(become(streams, *pickle.loads(order)))
            statuses[pid] = status
            pidfd = os.pidfd_open(pid)
            socket.send_fds(asked, [str(pid).encode()], [pidfd])
            for fd in (pidfd, *streams):
                os.close(fd)


def report(statuses: dict[int, int]) -> None:
    """Writes the exit status of each command that has ended."""
    for pid, fd in list(statuses.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            os.write(fd, str(os.waitstatus_to_exitcode(status)).encode())
            os.close(statuses.pop(pid))


def become(
    streams: list[int], arguments: list[str], environment: dict[str, str], directory: str, terminal: bool
) -> int:
    """Runs the command line in this process, with these streams."""
    import inbound_audit.__main__ as program

    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    if terminal:  # Ctrl-C goes to those whose terminal it is
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(directory)
    sys.argv[:] = [str(program.__file__), *arguments]
    return program.main()
