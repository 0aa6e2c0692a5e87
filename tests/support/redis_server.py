"""A Redis server for tests, which can be stopped, killed and started again at the same port."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType

import pytest
from tests.support.engine_nodes import free_ports
from tests.support.waiting import eventually

PROGRAM = shutil.which("redis-server")

USER = (
    "user {node} on >secret-{node} resetchannels -@all +ping +select "
    "(+publish &ia:eu:{node} &ia-snap:eu:{node} &ia-ask:eu:*) "
    "(+subscribe +psubscribe +unsubscribe +punsubscribe &ia:eu:* &ia-ask:eu:{node} &ia-snap:eu:*)"
)
"""A user that is kept to the channels of its node, as docs/howto/cluster-engines.md has it."""


class RedisServer:
    """It keeps nothing on disk. `options` are lines of its configuration file; with `tls` it speaks TLS alone."""

    def __init__(self, place: Path, options: str = "", tls: bool = False) -> None:
        if PROGRAM is None:
            pytest.skip("needs redis-server (Debian: redis-server)")
        (self.port,) = free_ports(1)
        self.url = f"redis{'s' if tls else ''}://127.0.0.1:{self.port}/0"
        self._file = place / "redis.conf"
        port = f"port 0\ntls-port {self.port}" if tls else f"port {self.port}"
        self._file.write_text(f"bind 127.0.0.1\n{port}\nsave ''\nappendonly no\ndir {place}\n{options}\n")
        self._log = place / "redis.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        assert PROGRAM is not None
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([PROGRAM, str(self._file)], stdout=log, stderr=log)
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
