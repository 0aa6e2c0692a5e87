"""Forwarders before one server: what a connection and a gigabyte cost `guard` and HAProxy in processor time.

    python -m benchmarks.forwarding [ROUNDS] [CONNECTIONS] [MEGABYTES]

Both count each client by its address and have a limit that is asked in vain, run on one processor, move bytes in one
thread, and take turns before the same server and with the same client (`forwarding.c`). What counts is the processor
time of the forwarder's process, the kernel's part for it included.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from benchmarks import flood_peers
from benchmarks.flood import Server, running
from benchmarks.scale import OUT

HAPROXY = """\
global
    nbthread 1
    maxconn 4096
defaults
    mode tcp
    timeout client 900s
    timeout server 900s
    timeout connect 5s{splice}
frontend front
    bind 127.0.0.1:{port} backlog 1024
    stick-table type ip size 1m expire 30s store conn_cur
    tcp-request connection track-sc0 src
    tcp-request connection reject if {{ sc0_conn_cur gt 1000000 }}
    default_backend behind
backend behind
    server one 127.0.0.1:{behind}
"""

SPLICE = "\n    option splice-auto"

_SOURCE = Path(__file__).with_suffix(".c")


def ends() -> str:
    """The program of both ends, compiled if it is not there or older than its source."""
    OUT.mkdir(exist_ok=True)
    built = OUT / "forwarding"
    if not built.exists() or built.stat().st_mtime < _SOURCE.stat().st_mtime:
        compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
        subprocess.run([*compiler, "-O2", "-pthread", "-o", str(built), str(_SOURCE)], check=True)
    return str(built)


def serve_guard(behind: int) -> None:
    from inbound_audit import InboundAudit, Limits
    from inbound_audit.listeners.forward import Forwarder, resolve
    from inbound_audit.listeners.gate import Gate

    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    with (
        listening,
        InboundAudit() as audit,
        Forwarder(audit.listener("SMTP"), resolve("127.0.0.1", behind), threads=1) as forwarder,
        Gate(audit.listener("SMTP"), Limits({"/32,/64": 1_000_000}), [listening]) as gate,
    ):
        gate.forward_to(forwarder)
        print(listening.getsockname()[1], flush=True)
        sys.stdin.read()


@contextmanager
def forwarders(behind: int) -> Iterator[dict[str, Server]]:
    """Each that is installed, by name."""
    with ExitStack() as undo:
        command = [sys.executable, "-m", "benchmarks.forwarding", "--serve", str(behind)]
        found = {"guard": undo.enter_context(running(command))}
        path = flood_peers.program("haproxy")
        directory = undo.enter_context(tempfile.TemporaryDirectory())
        for name, splice in (("HAProxy", ""), ("HAProxy, splice", SPLICE)) if path is not None else ():
            (port,) = flood_peers._free_ports(1)
            conf = Path(directory, f"{name}.cfg")
            conf.write_text(HAPROXY.format(port=port, behind=behind, splice=splice))
            pid = undo.enter_context(flood_peers._running([str(path), "-f", str(conf)], port))
            found[name] = Server(pid, port, says=False)
        for server in found.values():
            for task in os.listdir(f"/proc/{server.pid}/task"):
                os.sched_setaffinity(int(task), {max(os.sched_getaffinity(0))})
        yield found


def cost_s(server: Server, what: str, number: int) -> float:
    """Seconds of processor time per connection or byte."""
    before = server.used_s()
    done = subprocess.run([ends(), what, str(server.port), str(number)], check=True, capture_output=True, text=True)
    if int(done.stdout) != number:
        raise RuntimeError(f"{done.stdout.strip()} of {number} {what} were answered")
    return (server.used_s() - before) / number


def measure(rounds: int, connections: int, megabytes: int) -> dict[str, dict[str, list[float]]]:
    """By forwarder and by what: seconds of processor time per connection and per byte, in each round."""
    with running([ends(), "serve"]) as behind, forwarders(behind.port) as servers:
        found: dict[str, dict[str, list[float]]] = {name: {"connections": [], "bytes": []} for name in servers}
        for number in range(rounds + 1):
            for name in servers if number % 2 else reversed(servers):
                for what, size in (("connections", connections), ("bytes", megabytes << 20)):
                    cost = cost_s(servers[name], what, size)
                    if number:  # the first round does not count
                        found[name][what].append(cost)
        return found


def ratios(found: dict[str, dict[str, list[float]]], what: str, name: str = "HAProxy") -> list[float]:
    """How many times as much the guard does per second of processor time, in each round."""
    return [peer / own for own, peer in zip(found["guard"][what], found[name][what], strict=True)]


def main(rounds: int = 5, connections: int = 5_000, megabytes: int = 1_000) -> None:
    found = measure(rounds, connections, megabytes)
    for name, costs in found.items():
        each, byte = median(costs["connections"]), median(costs["bytes"])
        beside = [] if name == "guard" else [f"{median(ratios(found, what, name)):.2f} x" for what in costs]
        print(f"{name:<18} {each * 1e6:7.1f} us a connection {byte * 1e9:7.3f} s a gigabyte  {' '.join(beside)}")
    print(flood_peers.versions()["haproxy"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve_guard(int(sys.argv[2]))
    else:
        main(*map(int, sys.argv[1:]))
