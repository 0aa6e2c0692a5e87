"""Three nodes of a cluster on one machine: listeners, agents, traffic, and what each node counts (`make cluster`).

    python tools/cluster_demo.py [SECONDS]

Needs `pip install inbound-audit[all]` and Linux. Each node has a directory of its own in place of a host of its own. A
line has the sessions of each node as one of them counts them; the last word is the sum over the cluster.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

NODES = ("mx1", "mx2", "mx3")
SESSIONS = 60
COMMAND = [sys.executable, "-m", "inbound_audit"]


def free_ports(number: int) -> list[int]:
    """Ports on which nothing listens now."""
    with contextlib.ExitStack() as held:
        made = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [one.getsockname()[1] for one in made]


class Node:
    """A listener and an agent, which count in a directory of their own."""

    def __init__(self, name: str, root: Path, listen: int, join: list[int]) -> None:
        self.name = name
        self.directory = root / name
        self.directory.mkdir(mode=0o700)
        self.environment = {**os.environ, "INBOUND_AUDIT_SHM": str(self.directory)}
        self.serve = self._start(
            "serve", "--shared", "mail", "--listen", "127.0.0.1:0", "--limit", "/32=1000", "--json", "--quiet"
        )
        joins = [word for port in join for word in ("--join", f"tcp/127.0.0.1:{port}")]
        self.agent = self._start(
            "agent", "mail", "--cluster", "demo", "--node", name, "--listen", f"tcp/127.0.0.1:{listen}", *joins
        )
        self.port = self._port()

    def _start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen([*COMMAND, *arguments], env=self.environment, stdout=subprocess.PIPE, text=True)

    def _port(self) -> int:
        assert self.serve.stdout is not None
        for line in self.serve.stdout:
            event = json.loads(line)
            if event["event"] == "listening":
                return int(event["addresses"][0].rpartition(":")[2])
        raise SystemExit(f"{self.name}: the listener has not started")

    def view(self) -> str:
        """What this node counts: the sessions of each node, and their sum."""
        done = subprocess.run(
            [*COMMAND, "cluster", "mail", "--json"], env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            return f"{self.name}: no agent yet"
        status = json.loads(done.stdout)
        counts = {one["node"]: one["sessions"] for one in status["nodes"]}
        words = "  ".join(f"{name} {counts.get(name, '-')}" for name in NODES)
        return f"{self.name} counts  {words}  in all {status['sessions']}"

    def stop(self) -> None:
        for process in (self.agent, self.serve):
            process.terminate()
        for process in (self.agent, self.serve):
            process.communicate()


def traffic(nodes: list[Node], draw: random.Random) -> Iterator[None]:
    """Sessions from the networks 127.0.0.0/8, which come and go; one step a yield."""
    sessions: list[socket.socket] = []
    with contextlib.ExitStack() as at_end:
        at_end.callback(lambda: [one.close() for one in sessions])
        while True:
            for _ in range(draw.randrange(1, 6)):
                source = f"127.0.{draw.randrange(4)}.{draw.randrange(1, 255)}"
                to = ("127.0.0.1", draw.choice(nodes).port)
                sessions.append(socket.create_connection(to, source_address=(source, 0)))
            while len(sessions) > SESSIONS or (sessions and draw.random() < 0.3):
                sessions.pop(draw.randrange(len(sessions))).close()
            yield


def main(seconds: float) -> None:
    ports = dict(zip(NODES, free_ports(len(NODES)), strict=True))
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="cluster-", dir="/dev/shm") as root, contextlib.ExitStack() as running:
        nodes = []
        for name in NODES:
            others = [port for other, port in ports.items() if other != name]
            nodes.append(Node(name, Path(root), ports[name], others))
            running.callback(nodes[-1].stop)
        steps = running.enter_context(contextlib.closing(traffic(nodes, random.Random(1))))
        while time.monotonic() < end:
            next(steps)
            time.sleep(1)  # each node has received then what was counted
            for node in nodes:
                print(node.view(), flush=True)
            print(flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        main(float(sys.argv[1]) if len(sys.argv) > 1 else float("inf"))
