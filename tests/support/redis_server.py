"""A Redis server for tests, which can be stopped, killed and started again at the same port."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pytest
from tests.support.ports import free_ports
from tests.support.waiting import eventually

PROGRAM = shutil.which("redis-server")

USER = (
    "user {node} on >secret-{node} resetchannels -@all +ping +select "
    "(+publish &ia:eu:{node} &ia-snap:eu:{node} &ia-ask:eu:*) "
    "(+subscribe +psubscribe +unsubscribe +punsubscribe &ia:eu:* &ia-ask:eu:{node} &ia-snap:eu:*)"
)
"""A user that is kept to the channels of its node, as docs/howto/cluster-engines.md has it."""


class RedisServer:
    """It keeps nothing on disk. `options` are lines of its configuration file; with `tls` it speaks TLS alone.

    `prefix` stands before its command, such as one that enters the network of `address`.
    """

    def __init__(
        self,
        place: Path,
        options: str = "",
        tls: bool = False,
        address: str = "127.0.0.1",
        prefix: Sequence[str] = (),
    ) -> None:
        if PROGRAM is None:
            pytest.skip("needs redis-server (Debian: redis-server)")
        (self.port,) = free_ports(1)
        self.url = f"redis{'s' if tls else ''}://{address}:{self.port}/0"
        self.configuration = place / "redis.conf"
        """What the next start reads."""
        self._command = [*prefix, PROGRAM, str(self.configuration)]
        port = f"port 0\ntls-port {self.port}" if tls else f"port {self.port}"
        self.configuration.write_text(
            f"bind {address}\nprotected-mode no\n{port}\nsave ''\nappendonly no\ndir {place}\n{options}\n"
        )
        self._log = place / "redis.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        ready = b"Ready to accept connections"
        eventually(lambda: ready in self._log.read_bytes() or self._process.poll() is not None, "redis-server started")
        assert self._process.poll() is None, self._log.read_text()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


class Forwarder:
    """A port in front of a server's. `swallow`: what is sent on the connections of now arrives nowhere, as behind a
    firewall that has forgotten them."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._swallowed: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow(self) -> None:
        self._swallowed.update(self._connections)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        for one in (self._listening, *self._connections):
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the end of `_listening`
            while True:
                ends = self._listening.accept()[0], socket.create_connection(("127.0.0.1", self._server))
                self._connections += ends
                for source, target in (ends, ends[::-1]):
                    threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):  # either end may close
            while data := source.recv(1 << 16):
                if source not in self._swallowed:
                    target.sendall(data)
            target.shutdown(socket.SHUT_WR)
