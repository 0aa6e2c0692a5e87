"""Processor time of a server per refused connection: a gate, beside a C program that does nothing else, and asyncio.

    python -m benchmarks.flood [ROUNDS] [CONNECTIONS]       `make bench-flood`

The servers take turns, so that what else the machine does falls on all of them. Each sends the same line, and is driven
by the native client with 64 connections in flight. What counts is the processor time of the server's process, the
kernel's part for it included; so a client that is slower changes nothing. A server prints its port, and answers each
line on standard input with the seconds of processor time that it has used.
"""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from statistics import median

from benchmarks.client import drive
from benchmarks.scale import OUT

IN_FLIGHT = 64
BACKLOG = 1024
LIMITS = {"/32": 10, "/24": 100, "/0": 0}
"""The first two are asked in vain, the third refuses."""

_SOURCE = Path(__file__).with_suffix(".c")


# ---- servers


def _tell_the_time() -> None:
    for _ in sys.stdin:
        print(time.process_time(), flush=True)


def serve_gate(threads: int) -> None:
    from inbound_audit import InboundAudit, Limits
    from inbound_audit.listeners.gate import Gate

    listening = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    with listening, InboundAudit() as audit, Gate(audit.listener("SMTP"), Limits(LIMITS), [listening], threads=threads):
        print(listening.getsockname()[1], flush=True)
        _tell_the_time()


def serve_asyncio() -> None:
    import asyncio

    from inbound_audit import InboundAudit, Limits
    from inbound_audit.listeners import Guard
    from inbound_audit.listeners.aio import counted

    async def main() -> None:
        with InboundAudit() as audit:
            guard = Guard(audit.listener("SMTP"), Limits(LIMITS))
            factory = counted(asyncio.Protocol, guard, refusal=b"421 4.7.0 connection limit exceeded\r\n")
            loop = asyncio.get_running_loop()
            server = await loop.create_server(factory, "127.0.0.1", 0, backlog=BACKLOG)
            print(server.sockets[0].getsockname()[1], flush=True)
            await loop.run_in_executor(None, _tell_the_time)

    asyncio.run(main())


def floor() -> list[str]:
    """The command of the C program, compiled if it is not there or older than its source."""
    OUT.mkdir(exist_ok=True)
    built = OUT / "flood"
    if not built.exists() or built.stat().st_mtime < _SOURCE.stat().st_mtime:
        compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
        subprocess.run([*compiler, "-O2", "-pthread", "-o", str(built), str(_SOURCE)], check=True)
    return [str(built)]


# ---- measuring


class Server:
    """A server in a process of its own."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def used_s(self) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._read())

    def cost_us(self, connections: int) -> float:
        """Microseconds of processor time per connection."""
        before = self.used_s()
        made = drive(self.port, connections, IN_FLIGHT, ("421",)).made
        return (self.used_s() - before) / made * 1e6

    def close(self) -> None:
        with self._process:  # it ends with its standard input
            pass


def measure(rounds: int, connections: int) -> dict[str, list[float]]:
    """Microseconds per connection of each server, in each round."""
    own = [sys.executable, "-m", "benchmarks.flood", "--serve"]
    commands = {
        "floor": floor(),
        "gate": [*own, "gate"],
        "gate, 2 threads": [*own, "gate2"],
        "asyncio": [*own, "asyncio"],
    }
    servers = {name: Server(command) for name, command in commands.items()}
    try:
        found: dict[str, list[float]] = {name: [] for name in servers}
        for number in range(rounds + 1):
            order = list(servers) if number % 2 else list(reversed(servers))
            for name in order:
                cost = servers[name].cost_us(connections)
                if number:  # the first round does not count
                    found[name].append(cost)
        return found
    finally:
        for server in servers.values():
            server.close()


def main(rounds: int = 7, connections: int = 20_000) -> None:
    found = measure(rounds, connections)
    print(f"{'server':<18} {'us of processor time':>22} {'of the C program':>18}")
    for name, costs in found.items():
        ratio = median(cost / base for cost, base in zip(costs, found["floor"], strict=True))
        print(f"{name:<18} {median(costs):>16.2f} ({min(costs):.2f}) {ratio:>15.2f}")
    against = median(cost / base for cost, base in zip(found["gate"], found["asyncio"], strict=True))
    print(f"bars: the gate at most 1.15 of the C program, and at most 0.35 of asyncio, of which it is {against:.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve_asyncio() if sys.argv[2] == "asyncio" else serve_gate(2 if sys.argv[2] == "gate2" else 1)
    else:
        main(*map(int, sys.argv[1:]))
