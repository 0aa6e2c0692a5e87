"""`inbound-audit web` in a process of its own, and its clients: by `http.client`, and readers of its events."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import re
import signal
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from tests.support.command_line import begin, environment
from tests.support.waiting import PATIENCE

Event = tuple[str, dict[str, Any]]


class WebServer:
    """`inbound-audit web mail` on a port of its own. As a context it is killed at the end."""

    def __init__(self, *arguments: str, name: str = "mail", listen: str = "127.0.0.1:0") -> None:
        self._process, stdout, stderr = begin(("web", name, "--listen", listen, *arguments), environment())
        self._stdout, self._stderr = io.TextIOWrapper(stdout), io.TextIOWrapper(stderr)
        self.line = self._stdout.readline()
        found = re.fullmatch(r"serving (?:http://127\.0\.0\.1:(\d+)/(?:#token=(\S+))?|unix:(\S+))\n", self.line)
        if found is None:
            self._process.kill()
            with self:
                raise AssertionError(self.line + self._stderr.read())
        self.port = int(found[1] or 0)
        self.token: str | None = found[2]
        self.path: str | None = found[3]

    @property
    def pid(self) -> int:
        return self._process.pid

    def read_line(self) -> str:
        """What it prints after its first line."""
        return self._stdout.readline().rstrip("\n")

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def connect(self) -> socket.socket:
        if self.path is None:
            return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(PATIENCE)
        connected.connect(self.path)
        return connected

    @contextlib.contextmanager
    def opened(
        self, path: str, *, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer to a request, whose body is not read yet."""
        connection = http.client.HTTPConnection("localhost", self.port, timeout=PATIENCE)
        connection.sock = self.connect()
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers))
            with connection.getresponse() as answer:
                yield answer

    def ask(self, path: str, **more: Any) -> tuple[int, Any]:
        """The status and the JSON of an answer."""
        with self.opened(path, **more) as answer:
            return answer.status, json.loads(answer.read())

    @contextlib.contextmanager
    def events(self, query: str = "", **headers: str) -> Iterator[Iterator[Event]]:
        """The events of a stream, one by one."""
        with self.opened(f"/api/events?{query}", headers=headers) as answer:
            assert answer.status == 200, answer.read()
            yield events_of(answer)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status."""
        self._process.send_signal(number)
        return self._process.wait(PATIENCE)

    def complaints(self) -> str:
        """What it has said on standard error, after its end."""
        return self._stderr.read()

    def __enter__(self) -> WebServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)
        self._stdout.close()
        self._stderr.close()


def events_of(lines: Iterator[bytes]) -> Iterator[Event]:
    """Reads a text/event-stream; comments are left out."""
    name = data = ""
    for line in lines:
        key, _, value = line.decode().rstrip("\n").partition(": ")
        if key == "event":
            name = value
        elif key == "data":
            data = value
        elif not key and name:
            yield name, json.loads(data)
            name = ""


class Copy:
    """What a page knows of an audit: the last whole look, and each change since, as the contract of events has it."""

    def __init__(self) -> None:
        self.look: dict[str, Any] = {}

    def take(self, event: Event) -> None:
        name, data = event
        if name == "look":
            self.look = data
        elif name == "change":
            assert data["from"] == self.look["id"] == data["id"] - 1
            rows = {row[0]: row for row in self.look["rows"]}
            for prefix in data["removed"]:
                del rows[prefix]
            rows |= {row[0]: row for row in data["rows"]}
            rest = {key: value for key, value in data.items() if key not in ("removed", "rows", "from")}
            self.look = {**self.look, **rest, "rows": sorted(rows.values(), key=_place)}
        else:
            self.look = {}


def _place(row: list[Any]) -> tuple[int, bytes, int]:
    address, _, length = row[0].partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return int(family), socket.inet_pton(family, address), int(length)
