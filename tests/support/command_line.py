"""What the tests of the command line share: commands as processes of their own, read line by line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tests.support.forked_commands import ForkedCommand, may_be_forked
from tests.support.listening import Peer
from tests.support.waiting import PATIENCE, eventually

COMMAND = (sys.executable, "-m", "inbound_audit")
SHUTDOWN = b"421 4.3.2 service is shutting down\r\n"


def environment() -> dict[str, str]:
    """Without what a developer's or a CI system's own terminal wants of colours and widths."""
    unwanted = {"FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
    return {name: value for name, value in os.environ.items() if name not in unwanted}


def run(
    *arguments: str, given: bytes = b"", cwd: Path | None = None, command: Sequence[str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Runs a command to its end. It is forked, unless it is to be run by `command`."""
    env = environment()
    if command is None and may_be_forked(env):
        return run_forked(arguments, given, cwd, env)
    return subprocess.run(
        [*(command or COMMAND), *arguments],
        input=given,
        capture_output=True,
        timeout=200,
        cwd=cwd,
        env=env,
        check=False,
    )


def run_forked(
    arguments: Sequence[str], given: bytes, cwd: Path | None, env: Mapping[str, str]
) -> subprocess.CompletedProcess[bytes]:
    stdin, gives = os.pipe()
    process, stdout, stderr = ForkedCommand.with_pipes(arguments, env, stdin, cwd)
    os.close(stdin)
    found: dict[str, bytes] = {}

    def give() -> None:
        with contextlib.suppress(BrokenPipeError), open(gives, "wb") as pipe:
            pipe.write(given)

    def keep(name: str, stream: IO[bytes]) -> None:
        with stream:
            found[name] = stream.read()

    jobs = [threading.Thread(target=give)]
    jobs += [threading.Thread(target=keep, args=each) for each in (("stdout", stdout), ("stderr", stderr))]
    for job in jobs:
        job.start()
    try:
        status = process.wait(200)
    except BaseException:
        process.kill()
        raise
    for job in jobs:
        job.join()
    return subprocess.CompletedProcess(["inbound-audit", *arguments], status, found["stdout"], found["stderr"])


def begin(
    arguments: Sequence[str],
    env: Mapping[str, str],
    *,
    command: Sequence[str] | None = None,
    pass_fds: Sequence[int] = (),
) -> tuple[subprocess.Popen[bytes] | ForkedCommand, IO[bytes], IO[bytes]]:
    """Starts a command; returns it, its output and its errors. It is forked, unless it is to be run by `command`."""
    if command is None and may_be_forked(env):
        with open(os.devnull, "rb") as nothing:
            return ForkedCommand.with_pipes(arguments, env, nothing.fileno())
    made = subprocess.Popen(
        [*(command or COMMAND), *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, pass_fds=pass_fds,
    )  # fmt: skip
    assert made.stdout
    assert made.stderr
    return made, made.stdout, made.stderr


HAND_OVER = """
import fcntl, os, sys
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(",")]
for number, fd in enumerate(high, 3):
    os.dup2(fd, number)
    os.close(fd)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)), LISTEN_FDNAMES=":".join("x" * len(high)))
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Starts a command with the sockets of these descriptors, as systemd does (sd_listen_fds(3))."""

PATIENT = ("--worker-timeout", f"{PATIENCE:.0f}s")
"""By default a worker that gets no processor for ten seconds is killed, which would test the machine."""


class Serve:
    """`inbound-audit serve --json` in a process of its own; `events` is what it has reported so far. It is forked,
    unless it is to be run by `command`."""

    command_name = "serve"

    more: tuple[str, ...] = ()
    """Arguments that a fixture adds to those of each server."""

    def __init__(
        self,
        *arguments: str,
        listen: Sequence[str] = ("127.0.0.1:0", "[::1]:0"),
        command: Sequence[str] | None = None,
        hostname: str | None = "mx.example",
        handed: Sequence[socket.socket] = (),
    ) -> None:
        name = ["--hostname", hostname] if hostname else []
        patient = PATIENT if "--workers" in arguments else ()
        addresses = [word for address in listen for word in ("--listen", address)]
        words = [self.command_name, "--json", *name, *addresses, *patient, *self.more, *arguments]
        env = environment()
        if handed:
            numbers = ",".join(str(one.fileno()) for one in handed)
            command = (sys.executable, "-c", HAND_OVER, numbers, *(command or COMMAND))
        handles = [one.fileno() for one in handed]
        self._process, stdout, stderr = begin(words, env, command=command, pass_fds=handles)
        self.events: list[dict[str, Any]] = []
        self.complaints: list[str] = []
        self._readers = [
            self._read(stdout, lambda line: self.events.append(json.loads(line))),
            self._read(stderr, self.complaints.append),
        ]

    @staticmethod
    def _read(stream: IO[bytes] | None, keep: Any) -> threading.Thread:
        def read() -> None:
            assert stream is not None
            with io.TextIOWrapper(stream) as lines:
                for line in lines:
                    keep(line.rstrip("\n"))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        return reader

    def event(self, name: str, number: int = 0) -> dict[str, Any]:
        """The first event of that name (or a later one), as soon as it has come."""
        found: list[dict[str, Any]] = []

        def come() -> bool:
            found[:] = [event for event in list(self.events) if event["event"] == name]
            return len(found) > number or self._process.poll() is not None

        eventually(come, f"the event {name!r}")
        assert len(found) > number, f"no {name!r}; it said {self.events} and {self.complaints}"
        return found[number]

    @property
    def total(self) -> Counter[str]:
        """What the last line of a second says of all that was; nothing before the first."""
        seconds = [event["total"] for event in list(self.events) if event["event"] == "second"]
        return Counter(seconds[-1] if seconds else {})

    def complaint(self, words: str) -> str:
        """The line on standard error that contains these words, as soon as it has come."""
        eventually(lambda: any(words in line for line in self.complaints), f"{words!r} in {self.complaints}")
        return next(line for line in self.complaints if words in line)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [address_of(text) for text in self.event("listening")["addresses"]]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def workers(self) -> list[int]:
        """The process ids of the first workers."""
        pids: list[int] = self.event("listening")["workers"]
        return pids

    def tell(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def end(self) -> int:
        """Waits for the end of the process, and of what it wrote; its exit status."""
        status = self._process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return status

    def stopped(self) -> dict[str, int]:
        """Stops it and returns its totals. Open mail transactions are cut off or not, as `--grace` says."""
        self.tell(signal.SIGTERM)
        assert self.end() == 0
        total: dict[str, int] = self.event("stopped")["total"]
        return total

    def __enter__(self) -> Serve:
        self.event("policy")  # from now on it takes connections and signals
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self.end()


def address_of(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def begun(address: tuple[str, int]) -> Peer:
    """A peer inside of a mail transaction."""
    peer = Peer(*address)
    assert peer.line().startswith(b"220")
    for line in (b"HELO client", b"MAIL FROM:<a@example.net>", b"RCPT TO:<b@example.com>"):
        assert peer.ask(line).startswith(b"250")
    return peer


def lines(rows: Iterable[str]) -> bytes:
    return "".join(row + "\n" for row in rows).encode()


class Manager:
    """A service manager's socket: what it was sent, line by line."""

    def __init__(self, name: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(PATIENCE)
        self.socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self.lines: list[str] = []

    def await_line(self, start: str) -> str:
        """The next line that begins so."""
        while True:
            for line in self.socket.recv(1 << 16).decode().split("\n"):
                self.lines.append(line)
                if line.startswith(start):
                    return line

    def close(self) -> None:
        self.socket.close()
