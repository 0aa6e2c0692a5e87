"""Nodes of a cluster for the tests of engines: an engine with what it has called, here or in a process of its own.

As a script it is such a process: `python -m tests.support.engine_nodes zenoh '{"cluster": "eu", ...}'` prints calls as
lines of JSON, and reads commands as lines of JSON.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

from tests.support.waiting import eventually

from inbound_audit.cluster.engine import Engine, EngineSettings, open_engine

SNAPSHOT_PARTS = 3


def free_ports(number: int) -> list[int]:
    """Ports that nothing listens at."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Calls:
    """What an engine has called."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.frames: list[tuple[str, bytes]] = []
        self.links: list[bool] = []
        self.gone: list[str] = []

    def heard(self, node: str, frame: bytes) -> bool:
        return (node, frame) in self.frames

    @property
    def up(self) -> bool:
        return bool(self.links) and self.links[-1]

    def snapshot(self) -> list[bytes]:
        return [f"{self.node}{part}".encode().ljust(1000 * part, b".") for part in range(SNAPSHOT_PARTS)]


class Node(Calls):
    """An engine in this process."""

    def __init__(self, engine: Engine, node: str) -> None:
        super().__init__(node)
        self.engine = engine
        engine.open(
            lambda name, frame: self.frames.append((name, frame)),
            lambda: self.snapshot(),  # a test may put another in its place
            self.links.append,
            self.gone.append,
        )

    def publish(self, frame: bytes) -> bool:
        return self.engine.publish(frame)

    def ask(self, node: str, timeout_s: float = 1.0) -> list[bytes] | None:
        return self.engine.ask(node, timeout_s)

    def close(self) -> None:
        self.engine.close()


class NodeProcess(Calls):
    """An engine in a process of its own, which can be killed and stopped."""

    def __init__(self, kind: str, settings: EngineSettings) -> None:
        super().__init__(settings.node)
        self._answers: list[Any] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.engine_nodes", kind, json.dumps(settings._asdict())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()
        eventually(lambda: self.links, f"{self.node} opened its engine")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            what, value = json.loads(line)
            if what == "frame":
                self.frames.append((value[0], bytes.fromhex(value[1])))
            else:
                {"link": self.links, "gone": self.gone, "answer": self._answers}[what].append(value)

    def _send(self, *words: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()

    def _command(self, *words: object) -> Any:
        before = len(self._answers)
        self._send(*words)
        eventually(lambda: len(self._answers) > before, f"{self.node} did {words[0]}")
        return self._answers[-1]

    def publish(self, frame: bytes) -> bool:
        return self._command("publish", frame.hex())

    def ask(self, node: str, timeout_s: float = 1.0) -> list[bytes] | None:
        parts = self._command("ask", node, timeout_s)
        return None if parts is None else [bytes.fromhex(part) for part in parts]

    def ask_without_waiting(self, node: str) -> None:
        self._send("ask", node, 60.0)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reading.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def close(self) -> None:
        """Ends the engine; the process follows at the end of its input."""
        if self._process.poll() is None:
            self._command("close")
        self.kill()


def _serve(kind: str, settings: EngineSettings) -> None:
    lock = threading.Lock()

    def say(what: str, value: object) -> None:
        with lock:
            print(json.dumps((what, value)), flush=True)

    engine = open_engine(kind, settings)
    engine.open(
        lambda node, frame: say("frame", (node, frame.hex())),
        Calls(settings.node).snapshot,
        lambda up: say("link", up),
        lambda node: say("gone", node),
    )
    for line in sys.stdin:
        match json.loads(line):
            case ["publish", frame]:
                say("answer", engine.publish(bytes.fromhex(frame)))
            case ["ask", node, timeout_s]:
                parts = engine.ask(node, timeout_s)
                say("answer", None if parts is None else [part.hex() for part in parts])
            case ["close"]:
                engine.close()
                say("answer", True)


if __name__ == "__main__":
    _serve(sys.argv[1], EngineSettings(**json.loads(sys.argv[2])))
