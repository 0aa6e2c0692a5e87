"""Nodes of a cluster for the tests of engines: an engine with what it has called, here or in a process of its own.

As a script it is such a process: it reads commands as lines of JSON, and writes what is called as lines of JSON. Zenoh
is opened in such processes alone: its threads stay, and other tests of the same run fork.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from hashlib import sha256
from typing import Any, TypeVar

from tests.support.waiting import eventually

from inbound_audit.cluster.engine import Engine, EngineSettings, open_engine

_T = TypeVar("_T")

PARTS = (2, 1000, 2000)
"""Lengths of the parts of a snapshot, unless a test sets others."""


def snapshot(node: str, lengths: tuple[int, ...]) -> list[bytes]:
    return [f"{node} {part}"[:length].encode().ljust(length, b".") for part, length in enumerate(lengths)]


def seen(frame: bytes) -> bytes:
    """A frame, or what stands for a long one: lines between processes are short enough for a pipe to take them whole,
    since a pipe of a process that is stopped in the middle of a write was seen to lose bytes."""
    return frame if len(frame) <= 1000 else sha256(frame).digest()


class Calls:
    """What an engine has called."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.lengths = PARTS
        self.frames: list[tuple[str, bytes]] = []
        self.links: list[bool] = []
        self.gone: list[str] = []
        self.asked: list[bool] = []
        self.longest = 0
        """Bytes of the longest frame."""

    def note(self, node: str, frame: bytes, length: int) -> None:
        self.frames.append((node, frame))
        self.longest = max(self.longest, length)

    def heard(self, node: str, frame: bytes) -> bool:
        return (node, seen(frame)) in self.frames

    @property
    def up(self) -> bool:
        return bool(self.links) and self.links[-1]

    def snapshot(self) -> list[bytes]:
        """In the order of their content: an engine may deliver them in another one."""
        return sorted(map(seen, snapshot(self.node, self.lengths)))


class Node(Calls):
    """An engine in this process."""

    def __init__(self, engine: Engine, node: str) -> None:
        super().__init__(node)
        self._engine = engine
        engine.open(
            lambda name, frame: self.note(name, seen(frame), len(frame)), self._ask, self.links.append, self.gone.append
        )

    def _ask(self) -> list[bytes]:
        self.asked.append(True)
        return snapshot(self.node, self.lengths)

    def offer(self, *lengths: int) -> None:
        """The snapshot has parts of these lengths from now on."""
        self.lengths = lengths

    def publish(self, frame: bytes, times: int = 1) -> bool:
        """Whether all were taken."""
        return sum(self._engine.publish(frame) for _ in range(times)) == times

    def ask(self, node: str, timeout_s: float = 1.0) -> list[bytes] | None:
        parts = self._engine.ask(node, timeout_s)
        return None if parts is None else sorted(map(seen, parts))

    def close(self) -> None:
        self._engine.close()


class Host:
    """A process that opens one engine after the other."""

    def __init__(self) -> None:
        self.calls: Calls | None = None
        self.log: list[str] = []
        self._answers: list[Any] = []
        self._sent = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.engine_nodes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            what, value = json.loads(line)
            calls = self.calls
            if what in ("answer", "log"):
                {"answer": self._answers, "log": self.log}[what].append(value)
            elif calls is not None and what == "frame":
                calls.note(value[0], bytes.fromhex(value[1]), value[2])
            elif calls is not None:
                {"link": calls.links, "gone": calls.gone, "asked": calls.asked}[what].append(value)

    def send(self, *words: object) -> None:
        self._sent += 1
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()

    def command(self, *words: object) -> Any:
        self.send(*words)
        number = self._sent  # each is answered, in this order
        eventually(lambda: len(self._answers) >= number or self._process.poll() is not None, f"an answer to {words[0]}")
        assert self._process.poll() is None, f"the process ended by {words[0]}"
        return self._answers[number - 1]

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def exit(self) -> int:
        """Lets the process end by itself, as a program does. Returns its exit status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        eventually(lambda: self._process.poll() is not None, "the process ends")
        return self._process.returncode

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reading.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # what was not written has no reader
                pipe.close()


class Hosts:
    """Processes that wait for an engine to be opened, so that a test need not start its own."""

    def __init__(self) -> None:
        self._all: list[Host] = []
        self._idle: list[Host] = []

    def take(self) -> Host:
        if not self._idle:
            self._all.append(Host())
            return self._all[-1]
        return self._idle.pop()

    def give_back(self, host: Host) -> None:
        host.calls = None
        host.log = []
        self._idle.append(host)

    def kill(self) -> None:
        for host in self._all:
            host.kill()


class NodeProcess(Calls):
    """An engine in a process of its own, which can be killed and stopped."""

    def __init__(self, hosts: Hosts, kind: str, settings: EngineSettings) -> None:
        super().__init__(settings.node)
        self._hosts = hosts
        self._host: Host | None = hosts.take()
        self._host.calls = self
        self.host.command("open", kind, settings)
        assert self.links, f"{self.node} was told of its link before `open` returned"

    @property
    def host(self) -> Host:
        assert self._host is not None, f"{self.node} has ended"
        return self._host

    @property
    def log(self) -> str:
        return "\n".join(self.host.log)

    def offer(self, *lengths: int) -> None:
        self.lengths = lengths
        self.host.command("offer", lengths)

    def publish(self, frame: bytes, times: int = 1) -> bool:
        return bool(self.host.command("publish", frame.hex(), times))

    def ask(self, node: str, timeout_s: float = 1.0) -> list[bytes] | None:
        parts = self.host.command("ask", node, timeout_s)
        return None if parts is None else sorted(map(bytes.fromhex, parts))

    def lingering(self) -> int:
        """How many connections of the process hold up the thread that closes them, if the other end is cut off."""
        number: int = self.host.command("lingering")
        return number

    def connections(self) -> set[tuple[int, int]]:
        """The ports of each connection, its own first."""
        return {(own, other) for own, other in self.host.command("connections")}

    def end_link(self, ports: tuple[int, int]) -> None:
        self.host.command("end_link", ports)

    def ask_without_waiting(self, node: str) -> None:
        self.host.send("ask", node, 5.0)

    def signal(self, number: signal.Signals) -> None:
        self.host.signal(number)

    def kill(self) -> None:
        host, self._host = self._host, None
        if host is not None:
            host.kill()

    def close(self) -> None:
        """Ends the engine; the process is there for another one."""
        self.host.command("close")

    def exit(self) -> int:
        """The exit status of the process, which ends by itself."""
        host, self._host = self.host, None
        return host.exit()

    def end(self) -> None:
        """Ends what has not been killed."""
        if self._host is not None:
            self._host.command("close")
            self._hosts.give_back(self._host)
            self._host = None


class Forger:
    """A process that speaks Zenoh, is configured as a node but for access control, and keeps to no rule."""

    def __init__(self, hosts: Hosts, settings: EngineSettings, **paths: object) -> None:
        self._hosts = hosts
        self._host = hosts.take()
        self._host.command("forge", settings, paths)

    def run(self, expression: str) -> Any:
        """The value of an expression in that process, which has its session as `session`."""
        return self._host.command("run", expression)

    def close(self) -> None:
        self.run("session.close()")
        self._hosts.give_back(self._host)


class Served:
    """The process of a `Host`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, Any] = {}
        self._lengths = PARTS
        self._engine: Engine | None = None

    def say(self, what: str, value: object) -> None:
        line = json.dumps((what, value)).encode() + b"\n"
        with self._lock:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()

    def _ask(self) -> list[bytes]:
        self.say("asked", True)
        return snapshot(self._node, self._lengths)

    def do(self, word: str, *rest: Any) -> object:
        return getattr(self, f"_do_{word}")(*rest)

    def _do_open(self, kind: str, fields: list[Any]) -> None:
        settings = settings_of(fields)
        self._node, self._lengths = settings.node, PARTS
        self._engine = open_engine(kind, settings)
        self._engine.open(
            lambda node, frame: self.say("frame", (node, seen(frame).hex(), len(frame))),
            self._ask,
            lambda up: self.say("link", up),
            lambda node: self.say("gone", node),
        )

    def _do_offer(self, lengths: list[int]) -> None:
        self._lengths = tuple(lengths)

    def _do_publish(self, frame: str, times: int) -> bool:
        assert self._engine is not None
        return sum(self._engine.publish(bytes.fromhex(frame)) for _ in range(times)) == times

    def _do_ask(self, node: str, timeout_s: float) -> list[str] | None:
        assert self._engine is not None
        parts = self._engine.ask(node, timeout_s)
        return None if parts is None else [seen(part).hex() for part in parts]

    def _do_lingering(self) -> int:
        def lingers(one: socket.socket) -> int:
            on: int = struct.unpack("ii", one.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))[0]
            return on

        return sum(connections(lingers))

    def _do_connections(self) -> list[list[int]]:
        return connections(lambda one: [one.getsockname()[1], one.getpeername()[1]])

    def _do_end_link(self, ports: list[int]) -> None:
        connections(
            lambda one: [one.getsockname()[1], one.getpeername()[1]] == ports and one.shutdown(socket.SHUT_RDWR)
        )

    def _do_close(self) -> None:
        assert self._engine is not None
        self._engine.close()

    def _do_forge(self, fields: list[Any], paths: dict[str, object]) -> None:
        import zenoh

        from inbound_audit.cluster.zenoh_settings import configuration

        config = zenoh.Config()
        for path, value in (configuration(settings_of(fields)) | paths).items():
            if path != "access_control":
                config.insert_json5(path, json.dumps(value))
        self._names = {"session": zenoh.open(config)}

    def _do_run(self, expression: str) -> object:
        return eval(expression, self._names)


def connections(about: Callable[[socket.socket], _T]) -> list[_T]:
    """What is said about each TCP connection of this process."""
    found = []
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            one = socket.socket(fileno=int(name))
            try:
                if isinstance(one.getpeername(), tuple):
                    found.append(about(one))
            finally:
                one.detach()
    return found


def settings_of(fields: list[Any]) -> EngineSettings:
    return EngineSettings(*(tuple(field) if isinstance(field, list) else field for field in fields))


class _Said(logging.Handler):
    def __init__(self, served: Served) -> None:
        super().__init__()
        self._served = served

    def emit(self, record: logging.LogRecord) -> None:
        self._served.say("log", record.getMessage())


if __name__ == "__main__":
    served = Served()
    logging.getLogger("inbound_audit").addHandler(_Said(served))
    for line in sys.stdin:
        served.say("answer", served.do(*json.loads(line)))
