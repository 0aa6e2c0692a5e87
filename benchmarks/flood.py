"""Servers under a flood: processor time per refused connection, beside a C program that does nothing else, and peers.

    python -m benchmarks.flood [ROUNDS] [CONNECTIONS]       the table of refusals alone

The servers take turns, so that what else the machine does falls on all of them. Each is driven by the native client
with 64 connections in flight, and sends the same line, or nothing. What counts is the processor time of the server's
processes, the kernel's part for them included; so a client that is slower changes nothing.
"""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import flood_peers
from benchmarks.client import drive
from benchmarks.scale import OUT

IN_FLIGHT = 64
BACKLOG = 1024
LIMITS = {"/32": 10, "/24": 100, "/0": 0}
"""The first two are asked in vain, the third refuses."""
SPARED = "127.64.0.0/10"
"""Where good clients come from, while 127.128.0.0/10 floods."""

_SOURCE = Path(__file__).with_suffix(".c")


# ---- servers: each prints its port, answers each line with how many it has refused, and ends with its standard input


def _wait(listening: socket.socket, refused: Callable[[], int]) -> None:
    print(listening.getsockname()[1], flush=True)
    for _ in sys.stdin:
        print(refused(), flush=True)


def serve_gate(**options: Any) -> None:
    from inbound_audit import InboundAudit, Limits
    from inbound_audit.listeners.gate import Gate

    listening = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    limits = Limits(LIMITS)
    with listening, InboundAudit() as audit, Gate(audit.listener("SMTP"), limits, [listening], **options) as gate:
        _wait(listening, lambda: gate.refused)


def serve_shedding() -> None:
    from inbound_audit.listeners.shed import Shed

    serve_gate(shed=Shed(refusals_per_s=10, prefixlen=(10, 64), hold_s=3600, max_hold_s=3600, never=()))


def serve_asyncio() -> None:
    import asyncio

    from inbound_audit import InboundAudit, Limits
    from inbound_audit.listeners import Guard
    from inbound_audit.listeners.aio import counted

    async def main() -> None:
        with InboundAudit() as audit:
            guard = Guard(audit.listener("SMTP"), Limits(LIMITS))
            factory = counted(asyncio.Protocol, guard, refusal=f"{flood_peers.LINE}\r\n".encode())
            loop = asyncio.get_running_loop()
            server = await loop.create_server(factory, "127.0.0.1", 0, backlog=BACKLOG)
            await loop.run_in_executor(None, _wait, server.sockets[0], lambda: guard.refused)

    asyncio.run(main())


def serve_smtp() -> None:
    """aiosmtpd behind a gate that refuses all but `SPARED`."""
    import asyncio

    from aiosmtpd.handlers import Sink

    from inbound_audit import InboundAudit, Limits
    from inbound_audit.listeners import Guard
    from inbound_audit.listeners.gate import Gate
    from inbound_audit.listeners.smtp import protocol_factory

    async def main() -> None:
        with InboundAudit() as audit:
            limits = Limits({"/0": 0}, networks={"good": {"prefixes": [SPARED], "limits": {"/32": 100}}})
            guard = Guard(audit.listener("SMTP"), limits)
            factory = protocol_factory(Sink(), guard, hostname="bench")
            loop = asyncio.get_running_loop()
            listening = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
            gate = Gate(guard.listener, limits, [listening], refusal=factory.refusal, guard=guard)
            gate.serve(loop, factory)
            await loop.run_in_executor(None, _wait, listening, lambda: gate.refused)

    asyncio.run(main())


SERVERS: dict[str, Callable[[], None]] = {
    "gate": serve_gate,
    "silent": lambda: serve_gate(refusal=None),
    "gate2": lambda: serve_gate(threads=2),
    "shed": serve_shedding,
    "asyncio": serve_asyncio,
    "smtp": serve_smtp,
}


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
    """A server's processes: the one with that number, and its children. `says` is whether it sends a line."""

    def __init__(self, pid: int, port: int, says: bool, pipes: subprocess.Popen[str] | None = None) -> None:
        self.pid, self.port, self._says, self._pipes = pid, port, says, pipes

    def refused(self) -> int:
        """Connections so far; of a server of ours."""
        assert self._pipes is not None
        assert self._pipes.stdin is not None
        assert self._pipes.stdout is not None
        self._pipes.stdin.write("\n")
        self._pipes.stdin.flush()
        return int(self._pipes.stdout.readline())

    def loop_s(self) -> float:
        """Seconds of processor time of the first thread."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text().split()[0]) / 1e9

    def used_s(self) -> float:
        """Seconds of processor time so far, of all threads."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in (self.pid, *map(int, children)))

    def cost_us(self, connections: int) -> float:
        """Microseconds of processor time per connection."""
        before = self.used_s()
        made = drive(self.port, connections, IN_FLIGHT, ("421",) if self._says else ()).made
        return (self.used_s() - before) / made * 1e6

    def resident(self) -> int:
        """Bytes in memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return 1024 * int(status.partition("VmRSS:")[2].split()[0])


@contextmanager
def running(command: list[str], says: bool = True) -> Iterator[Server]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Server(process.pid, int(process.stdout.readline()), says, process)


def own(kind: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.flood", "--serve", kind]


def measure(rounds: int, connections: int) -> dict[str, list[float]]:
    """Microseconds per connection of each server, in each round."""
    with ExitStack() as undo:
        servers = {
            "C program": undo.enter_context(running(floor())),
            "C program, silent": undo.enter_context(running([*floor(), "nothing"], says=False)),
            "gate": undo.enter_context(running(own("gate"))),
            "gate, silent": undo.enter_context(running(own("silent"), says=False)),
            "gate, 2 threads": undo.enter_context(running(own("gate2"))),
            "asyncio": undo.enter_context(running(own("asyncio"))),
        }
        for name, (pid, port) in undo.enter_context(flood_peers.serving()).items():
            servers[name] = Server(pid, port, says="silent" not in name)
        found: dict[str, list[float]] = {name: [] for name in servers}
        for number in range(rounds + 1):
            order = list(servers) if number % 2 else list(reversed(servers))
            for name in order:
                cost = servers[name].cost_us(connections)
                if number:  # the first round does not count
                    found[name].append(cost)
        return found


def ratios(found: dict[str, list[float]], name: str, base: str) -> list[float]:
    """In each round."""
    return [cost / other for cost, other in zip(found[name], found[base], strict=True)]


def of_floor(found: dict[str, list[float]], name: str) -> float:
    """The median ratio to the C program that sends as much."""
    return median(ratios(found, name, "C program, silent" if "silent" in name else "C program"))


def table(found: dict[str, list[float]]) -> str:
    lines = [f"{'server':<26} {'us of processor time':>22} {'of the C program':>18}"]
    for name, costs in found.items():
        lines.append(f"{name:<26} {median(costs):>13.2f} ({min(costs):.2f}) {of_floor(found, name):>18.2f}")
    return "\n".join(lines)


def main(rounds: int = 7, connections: int = 10_000) -> None:
    print(table(measure(rounds, connections)))
    print("; ".join(f"{name} {version}" for name, version in flood_peers.versions().items()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        SERVERS[sys.argv[2]]()
    else:
        main(*map(int, sys.argv[1:]))
