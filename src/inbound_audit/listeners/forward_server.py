"""Serves what a gate lets in by a forwarder, in an event loop: `ForwardServer`.

    limits alone         gate --> forwarder                         Python sees no connection
    a script, balancers  gate --> PROXY header --> policy --> forwarder --> the end of the count

In the second case Python code runs once when a connection comes and once when it has ended, and for no byte between.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from inbound_audit.descriptor import Descriptor
from inbound_audit.errors import cause_of
from inbound_audit.listeners.gate_reply import GateRefusal, refusal_of
from inbound_audit.listeners.gate_rules import is_native
from inbound_audit.listeners.gate_server import ServerOfGate
from inbound_audit.listeners.pending import until

if TYPE_CHECKING:
    from inbound_audit.listeners.admission import Admission
    from inbound_audit.listeners.forward import BackEnd, Forwarder
    from inbound_audit.listeners.gate import Gate
    from inbound_audit.listeners.guard import Guard

logger = logging.getLogger("inbound_audit.listeners")

CHECK_S = 1.0
HEADER_S = 10.0
"""Seconds that a balancer has for its PROXY header."""

LOST = (
    "a forwarder takes no connections any more: other code of this process has closed a descriptor without which it "
    "can't go on; those that are open go on"
)

OnChange = Callable[["BackEnd", str], None]
"""Called with a back end and why it is down; with an empty text once it is up again."""


class ForwardServer(ServerOfGate):
    """Serves from now on, until it is closed. Make it in the thread of the event loop.

    The gate has `guard`, and the guard's policy is asked: by the gate where that is limits, else here. `refusal` is as
    for the gate. A back end that is down is tried every `check_s` seconds; `on_change` gets each change. `close` ends
    accepting, and connections go on; `shut_down` ends them.
    """

    _news: Descriptor | None = None

    def __init__(
        self,
        gate: Gate,
        forwarder: Forwarder,
        guard: Guard,
        *,
        refusal: GateRefusal = "smtp",
        check_s: float = CHECK_S,
        on_change: OnChange = lambda back_end, why: None,
    ) -> None:
        self._forwarder, self._guard = forwarder, guard
        self._refusal = functools.partial(refusal_of, refusal)
        self._check_s, self._on_change = check_s, on_change
        self._admissions: dict[int, Admission] = {}  # by the forwarder's numbers
        self._down: dict[BackEnd, str] = {}
        self._probed: set[BackEnd] = set()
        self._undecided: set[Admission] = set()  # in a tarpit, or without the PROXY header that is to come
        self._news = Descriptor(forwarder.second_fileno())
        super().__init__(gate, asyncio.get_running_loop())
        self._loop.add_reader(self._news.number, self._report)
        self.route()
        for back_end in forwarder.back_ends:
            self._start_probe(back_end)

    # ---- what a service asks

    @property
    def accepted(self) -> int:
        """Connections that no Python code has seen: the guard's figure has the others."""
        return self._gate.forwarded

    @property
    def open(self) -> int:
        """Of these, those that are open."""
        return self._forwarder.open - len(self._admissions)

    def route(self) -> None:
        """The guard's policy was exchanged. Without limits of its own the gate sends all to Python."""
        policy = self._guard.policy
        asks = bool(self._gate.proxy_from) or not (policy is None or is_native(policy))
        self._gate.forward_to(None if asks else self._forwarder)

    def route_to_python(self) -> None:
        """Until `route`: each connection waits until the new policy is in use."""
        self._gate.forward_to(None)

    async def wait_closed(self) -> None:
        """Returns at once: no connection waits for a protocol."""

    def stop(self) -> int:
        """Returns how many connections are open: also those that wait for a policy's tarpit or for their header."""
        return self._forwarder.open + len(self._undecided)

    async def shut_down(self, grace: float, cut: asyncio.Event) -> int:
        """Waits until all connections have ended, for `grace` seconds or until `cut` is set, and cuts off the others.
        One that waits for its verdict is forwarded or refused meanwhile. Returns how many were cut off."""
        await until(lambda: not self.stop() or cut.is_set(), grace)
        left = self.stop()
        for task in list(self._tasks):
            task.cancel()
        self.end()
        return left

    def end(self) -> None:
        """Cuts off all connections. Idempotent."""
        self._forwarder.close()
        self._end_admissions()
        if not self._loop.is_closed():
            self._unwatch_news()
        self._leave()

    def _unwatch_news(self) -> None:
        if self._news is not None and self._news.current is not None:
            self._loop.remove_reader(self._news.number)

    def _leave(self) -> None:
        super()._leave()
        news, self._news = self._news, None
        if news is not None:
            news.close()

    def _start(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- connections that Python is asked about

    def _take(self) -> None:
        if self._gate.closed:
            self._gate.report()
            self._unwatch()
            return
        for connection, session, asked in self._gate.take_asked():
            admission = self._guard.receive(session, asked, connection)
            if self._gate.proxy_from and self._is_balancer(admission):
                self._undecided.add(admission)
                self._start(self._read_header(connection, admission))
            else:
                self._ask(connection, admission)

    def _ask(self, connection: socket.socket, admission: Admission) -> None:
        verdict = admission.evaluate()
        if verdict.tarpit > 0:
            self._undecided.add(admission)
            self._start(self._wait(connection, admission, verdict.tarpit))
        else:
            self._decide(connection, admission)

    async def _wait(self, connection: socket.socket, admission: Admission, seconds: float) -> None:
        """A tarpit. A peer that leaves meanwhile is counted no more."""
        left = asyncio.Event()

        def look() -> None:
            self._loop.remove_reader(connection)
            with contextlib.suppress(OSError):
                if connection.recv(1, socket.MSG_PEEK):
                    return  # it has something to say, and is served after the tarpit
            left.set()

        self._loop.add_reader(connection, look)
        try:
            await asyncio.wait_for(left.wait(), seconds)
        except asyncio.TimeoutError:
            self._loop.remove_reader(connection)
            self._decide(connection, admission)
        except asyncio.CancelledError:
            self._loop.remove_reader(connection)
            self._drop(connection, admission)
            raise
        else:
            self._drop(connection, admission)

    def _decide(self, connection: socket.socket, admission: Admission) -> None:
        self._undecided.discard(admission)
        if not admission.let_in:
            self._refuse(connection, admission)
            return
        number = self._forwarder.add(connection, admission.client)
        if number:
            self._admissions[number] = admission
        else:  # too many wait for the forwarder's threads
            self._drop(connection, admission)

    def _refuse(self, connection: socket.socket, admission: Admission) -> None:
        reply = admission.refusal_bytes(self._refusal)
        with contextlib.suppress(OSError):  # a peer that has left is refused all the same
            connection.send(reply)
            connection.shutdown(socket.SHUT_WR)
        admission.close()
        self._forwarder.add_refused(connection)

    def _drop(self, connection: socket.socket, admission: Admission) -> None:
        self._undecided.discard(admission)
        connection.close()
        admission.close()

    # ---- clients behind a balancer

    @functools.cached_property
    def _proxies(self) -> Any:
        from inbound_audit.listeners.proxy import TrustedProxies

        return TrustedProxies(self._gate.proxy_from)

    def _is_balancer(self, admission: Admission) -> bool:
        return bool(self._proxies.expects_header(admission))

    async def _read_header(self, connection: socket.socket, admission: Admission) -> None:
        from inbound_audit.listeners.proxy import HeaderError, read_header, real_client

        try:
            header = await asyncio.wait_for(read_header(cast(Any, _SocketReader(self._loop, connection))), HEADER_S)
            client = real_client(header)
            if client is not None and not admission.rebind(client):
                raise HeaderError("it names no client")
        except (HeaderError, OSError, asyncio.TimeoutError) as error:
            admission.report(logging.INFO, "a PROXY header of %s: %s", admission, error or "none came in time")
            self._drop(connection, admission)
        except BaseException:
            self._drop(connection, admission)
            raise
        else:
            self._ask(connection, admission)

    # ---- what the forwarder reports

    def _report(self) -> None:
        self._end_admissions()
        if self._forwarder.closed:
            self._unwatch_news()
            if self._forwarder._is_lost:
                logger.error(LOST)
                self._start(self._end_admissions_in_time())
            return
        for back_end in self._forwarder.down:
            self._start_probe(back_end)

    async def _end_admissions_in_time(self) -> None:
        """Without the forwarder's word."""
        while self._admissions:
            await asyncio.sleep(self._check_s)
            self._end_admissions()

    def _end_admissions(self) -> None:
        for number in self._forwarder.take_ended():
            admission = self._admissions.pop(number, None)
            if admission is not None:
                admission.close()

    def _start_probe(self, back_end: BackEnd) -> None:
        """A back end has one probe at a time."""
        if back_end not in self._probed:
            self._probed.add(back_end)
            self._start(self._probe(back_end))

    async def _probe(self, back_end: BackEnd) -> None:
        """Until the back end can be reached. One that can is up at once."""
        try:
            await self._wait_until_up(back_end)
        finally:
            self._probed.discard(back_end)

    def _is_down(self, back_end: BackEnd) -> bool:
        return back_end in self._forwarder.down

    async def _wait_until_up(self, back_end: BackEnd) -> None:
        """A client may have failed to reach it since the connection was asked for: then another one is made."""
        known = False
        while (why := await _why_unreachable(self._loop, back_end, self._check_s)) or self._is_down(back_end) != known:
            if why and self._down.get(back_end) != why:
                self._down[back_end] = why
                self._forwarder.mark_down(back_end)
                self._on_change(back_end, why)
            if why:
                await asyncio.sleep(self._check_s)
            known = self._is_down(back_end)
        self._forwarder.mark_up(back_end)
        if self._down.pop(back_end, None) is not None:
            self._on_change(back_end, "")


async def _why_unreachable(loop: asyncio.AbstractEventLoop, back_end: BackEnd, seconds: float) -> str:
    """Empty if a connection can be made."""
    try:
        with socket.socket(back_end.family, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            await asyncio.wait_for(loop.sock_connect(probe, back_end.address), seconds)
    except asyncio.TimeoutError:
        return f"no answer within {seconds:g} s"
    except OSError as error:
        return cause_of(error.errno or 0)  # asyncio's own text does not say
    return ""


class _SocketReader:
    """What `proxy.read_header` reads from: no byte after the header is taken."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
        self._loop, self._connection = loop, connection

    async def readexactly(self, size: int) -> bytes:
        """Raises IncompleteReadError and OSError."""
        found = b""
        while len(found) < size:
            more = await self._loop.sock_recv(self._connection, size - len(found))
            if not more:
                raise asyncio.IncompleteReadError(found, size)
            found += more
        return found

    async def line(self, most: int) -> bytes:
        """A line of at most `most` bytes. Raises what `CommandReader.line` raises, and OSError."""
        from inbound_audit.listeners.smtp_reader import LineTooLong

        found = b""
        while not found.endswith(b"\n"):
            if len(found) == most:
                raise LineTooLong(ended=False)
            found += await self.readexactly(1)
        return found
