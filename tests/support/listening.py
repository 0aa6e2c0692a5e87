"""What the tests of listeners share: real sockets in every family, peers that behave badly, servers in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import random
import socket
import struct
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import pytest
from tests.support.effort import effort
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit, Listener, Session, Verdict
from inbound_audit.errors import CapacityError
from inbound_audit.listeners import Guard, pending
from inbound_audit.listeners.pending import GatedFactory, stop_accepting
from inbound_audit.policy.verdict import ACCEPT


class Clock:
    """The time of an audit, in seconds since 1970, which a test sets: `InboundAudit(clock=...)`."""

    def __init__(self, now: float = 1_000_000_800.0) -> None:
        self.now = now  # if nothing is said, windows of a minute, of five and of thirty begin here

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Way:
    """A way to reach a server: where it listens, where the client connects, as what the client is counted."""

    name: str
    listen: str
    connect: str
    counted: str
    dual_stack: bool = False

    def listening(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.listen else socket.AF_INET
        return socket.create_server((self.listen, 0), family=family, dualstack_ipv6=self.dual_stack)


WAYS = (
    Way("ipv4", "127.0.0.1", "127.0.0.1", "127.0.0.1"),
    Way("ipv6", "::1", "::1", "::1"),
    Way("mapped", "::", "127.0.0.1", "127.0.0.1", dual_stack=True),
)
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)


class Peer:
    """A client that speaks bytes."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=PATIENCE)
        self._read = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> bytes:
        """The next line; b"" at the end of the stream, also when that is a reset."""
        try:
            return self._read.readline()
        except ConnectionResetError:
            return b""

    def rest(self) -> bytes:
        return b"".join(iter(self.line, b""))

    def ask(self, line: bytes) -> bytes:
        self.send(line + b"\r\n")
        return self.line()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # a child that was forked meanwhile has a copy of the descriptor
        self._read.close()
        self.socket.close()

    def reset(self) -> None:
        """Ends the connection with RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if sys.platform == "linux":
            # connect() to AF_UNSPEC dissolves the connection whoever else holds the descriptor.
            ctypes.CDLL(None).connect(self.socket.fileno(), bytes(16), 16)
        self._read.close()
        self.socket.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass
class Script:
    """A policy that returns what the test sets, and remembers what it was asked."""

    answers: dict[str, object] = field(default_factory=dict)
    asked: list[tuple[object, ...]] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)

    def validate_connect(self, ac: Session) -> Verdict:
        return self._answer("connect", ac.remote_ip)

    def validate_ehlo(self, ac: Session, text: str) -> Verdict:
        return self._answer("ehlo", text)

    def validate_mailfrom(self, ac: Session, text: str) -> Verdict:
        return self._answer("mailfrom", text)

    def validate_rcptto(self, ac: Session, text: str, message: object) -> Verdict:
        return self._answer("rcptto", text, message)

    def validate_data(self, ac: Session, message: object) -> Verdict:
        return self._answer("data", message)

    def validate_data_spool(self, ac: Session, message: object) -> Verdict:
        return self._answer("data_spool", message)

    def end_session(self, ac: Session) -> None:
        self.ended.append(ac.conn_id)

    def stages(self) -> list[object]:
        return [question[0] for question in self.asked]

    def _answer(self, stage: str, *about: object) -> Verdict:
        self.asked.append((stage, *about))
        answer = self.answers.get(stage, ACCEPT)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]  # nonsense, if the test says so


@pytest.fixture
def audit() -> Iterator[InboundAudit]:
    with InboundAudit(capacity=1 << 22) as audit:
        yield audit


@pytest.fixture
def guard(audit: InboundAudit) -> Iterator[Guard]:
    """A guard without a policy; after the test no session may be left, and none may have been closed twice."""
    guard = Guard(audit.listener("SMTP"))
    yield guard
    eventually(lambda: guard.open == audit.total("SMTP") == 0, "the end of every connection and of its count")
    guard.listener._check()


def fill(listener: Listener, size: int = 16) -> list[Session]:
    """Opens sessions from ever new hosts (16 bytes: IPv6, 4 bytes: IPv4) until there is room for none."""
    hosts = random.Random(1)
    kept: list[Session] = []
    misses = 0
    while misses < 500:
        try:
            kept.append(listener.session(hosts.randbytes(size)))
        except CapacityError:
            misses += 1
    return kept


@contextlib.contextmanager
def warnings_kept() -> Iterator[list[str]]:
    """The texts of all warnings of a block, those of finalizers too."""
    with warnings.catch_warnings(record=True) as kept:
        warnings.simplefilter("always")
        texts: list[str] = []
        yield texts
        gc.collect()
        texts.extend(str(warning.message) for warning in kept)


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.complaints: list[dict[str, object]] = []
        self.loop.set_exception_handler(lambda loop, context: self.complaints.append(context))
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def do(self, work: Callable[[], Awaitable[object]]) -> object:
        """Runs a coroutine function in the loop and returns what it returns."""

        async def run() -> object:
            return await work()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE)

    def __enter__(self) -> LoopThread:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.do(self._end_all)
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(PATIENCE)
            self.loop.close()

    async def _end_all(self) -> None:
        """Ends tasks and connections. What a closed loop leaves open would be collected in a later test, and fail it.

        Servers are closed already (`stop_accepting`).
        """
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        transports = list(self.loop._transports.values())  # type: ignore[attr-defined]
        for transport in transports:
            transport.abort()
        while any(transport.get_extra_info("socket").fileno() >= 0 for transport in transports):  # noqa: ASYNC110
            await asyncio.sleep(0)  # no event says that a transport has closed its socket


@pytest.fixture
def quick_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that does not answer a close over TLS is waited for a fifth of the time."""
    monkeypatch.setattr(pending, "CLOSE_TIMEOUT_S", pending.CLOSE_TIMEOUT_S / 5)


ACCEPTORS = ("loop", "gate")[: effort(1, 2) if sys.platform == "linux" else 1]
"""Who accepts for the servers of `serving`, and for controllers. A module's tests run with each by the fixture
`acceptor`, and in the quick profile with the loop alone."""

_acceptor = "loop"


@pytest.fixture(params=ACCEPTORS)
def acceptor(request: pytest.FixtureRequest) -> Iterator[str]:
    global _acceptor
    _acceptor = request.param
    yield request.param
    _acceptor = "loop"


def accepts_by_gate() -> bool:
    return _acceptor == "gate"


@contextlib.contextmanager
def serving(
    factory: Callable[[], asyncio.BaseProtocol], way: Way, ssl: object = None
) -> Iterator[tuple[LoopThread, tuple[str, int]]]:
    """A `create_server` server for a protocol factory; yields its loop and where to connect."""
    with LoopThread() as thread, way.listening() as listening:

        async def start() -> asyncio.AbstractServer:
            if accepts_by_gate() and isinstance(factory, GatedFactory):
                return factory.gate([listening]).serve(thread.loop, factory, ssl=ssl)
            return await thread.loop.create_server(factory, sock=listening, ssl=ssl)  # type: ignore[call-overload]

        address = (way.connect, listening.getsockname()[1])
        server = thread.do(start)
        try:
            yield thread, address
        finally:
            thread.do(lambda: stop_accepting(server))  # type: ignore[arg-type]
