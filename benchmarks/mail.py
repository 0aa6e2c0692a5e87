"""SMTP connections a second: one server process with a bare aiosmtpd and a guarded one, and a client in another.

Both listeners live in one event loop, so that memory layout, hash seed and the collector are the same for both; the
client keeps several connections in flight, so that the server is what limits. A connection is: connect, read the
banner, QUIT, read the reply, close.

`working` is another server: `inbound-audit serve` with so many workers, for the client in `client`.

    python -m benchmarks.mail      serves; prints the two ports, and answers each line on standard input with the
                                   seconds of processor time it has used so far; ends when standard input does
"""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
IN_FLIGHT = 8
SILENCE_MOST = 20.0  # seconds without any progress after which something is broken
LIMITS = {"/32": 1_000, "/24": 10_000, "/0": 20_000}


# ---- the server's process


async def _serve() -> None:
    from aiosmtpd.handlers import Sink
    from aiosmtpd.smtp import SMTP

    from inbound_audit import InboundAudit, Limits
    from inbound_audit.listeners.guard import Guard
    from inbound_audit.listeners.smtp import protocol_factory

    loop = asyncio.get_running_loop()
    with InboundAudit() as audit:
        guard = Guard(audit.listener("SMTP"), Limits(LIMITS))
        handler = Sink()
        factories = (
            lambda: SMTP(handler, hostname="bench", loop=loop),
            protocol_factory(handler, guard, hostname="bench", loop=loop),
        )
        servers = [await loop.create_server(factory, HOST, 0, backlog=1024) for factory in factories]
        print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
        await loop.run_in_executor(None, _tell_the_time)
        for server in servers:
            server.close()
            await server.wait_closed()
        print(json.dumps({"accepted": guard.accepted, "refused": guard.refused}), flush=True)


def _tell_the_time() -> None:
    for _ in sys.stdin:
        print(process_time(), flush=True)


# ---- that process as its client sees it


class Server:
    """The server's process, as the client sees it: two ports and a processor clock."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.bare, self.guarded = self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the SMTP server of the benchmark ended")
        return json.loads(line)

    def processor_time(self) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._read())

    def stop(self) -> dict[str, int]:
        """What the guard counted."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        counted: dict[str, int] = self._read()
        return counted


@contextmanager
def serving() -> Iterator[Server]:
    command = [sys.executable, "-m", "benchmarks.mail"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Server(process)
        finally:
            process.kill()


# ---- the command line's server, with workers


class Workers:
    """`inbound-audit serve --workers N` as its client sees it: a port and a processor clock. Linux only."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        reported = self._read()
        self.port = int(reported["addresses"][0].rpartition(":")[2])
        self._pids: list[int] = reported.get("workers", [process.pid])
        self.pids = [process.pid, *(pid for pid in self._pids if pid != process.pid)]
        """Of all processes, the supervisor too."""

    def __len__(self) -> int:
        return len(self._pids)

    def _read(self, event: str = "listening") -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            reported: dict[str, Any] = json.loads(line)
            if reported["event"] == event:
                return reported
        raise RuntimeError(f"`inbound-audit serve` ended before it said {event!r}")

    def processor_time(self) -> float:
        """Seconds that all workers have used so far."""
        ticks = 0
        for pid in self._pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self) -> dict[str, int]:
        """What all workers counted."""
        self._process.send_signal(signal.SIGTERM)
        total: dict[str, int] = self._read("stopped")["total"]
        return total


@contextmanager
def working(number: int, *options: str) -> Iterator[Workers]:
    """The command line's server with so many workers, which share their counts; with one as with several."""
    command = [sys.executable, "-m", "inbound_audit", "serve", "--listen", f"{HOST}:0", "--hostname", "bench"]
    command += ["--workers", str(number), "--shared", "bench", "--quiet", "--json", *options]
    with tempfile.TemporaryDirectory(prefix="inbound_audit-bench-", dir="/dev/shm") as place:
        environment = os.environ | {"INBOUND_AUDIT_SHM": place}
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield Workers(process)
            finally:
                # Not a kill while it still runs: its workers would be orphans.
                process.terminate()
                process.communicate(timeout=SILENCE_MOST)


# ---- the client in Python


class _Connection:
    """One connection of the client: what it waits for next."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.connect_ex((HOST, port))
        self.said_quit = False

    def read(self) -> bool:
        """Takes one step; True when the connection is over. Raises RuntimeError for a reply that is not 220 or 221."""
        reply = self.socket.recv(512)
        expected = b"221" if self.said_quit else b"220"
        if not reply.startswith(expected):
            raise RuntimeError(f"expected {expected!r} from the server, not {reply!r}")
        if self.said_quit:
            self.socket.close()
            return True
        self.socket.send(b"QUIT\r\n")
        self.said_quit = True
        return False


def connections_a_second(port: int, number: int) -> float:
    """Makes so many connections, `IN_FLIGHT` at a time. Raises TimeoutError when the server falls silent."""
    started = perf_counter()
    with selectors.DefaultSelector() as selector:
        to_come, open_now = number, 0
        while to_come or open_now:
            while to_come and open_now < IN_FLIGHT:
                connection = _Connection(port)
                selector.register(connection.socket, selectors.EVENT_READ, connection)
                to_come, open_now = to_come - 1, open_now + 1
            ready = selector.select(SILENCE_MOST)
            if not ready:
                raise TimeoutError(f"the server said nothing for {SILENCE_MOST:g} s")
            for key, _ in ready:
                if key.data.said_quit:
                    selector.unregister(key.fileobj)
                    open_now -= 1
                key.data.read()
    return number / (perf_counter() - started)


if __name__ == "__main__":
    asyncio.run(_serve())
