"""The gate: threads that accept, count, ask the limits and refuse in native code, without Python.

    with socket.create_server(("", 2525)) as listening, Gate(listener, Limits({"/32": 10}), [listening]) as gate:
        while connections := gate.get():
            for connection, session in connections:
                serve(connection, session)

Under a flood most of what a server in Python does is to accept connections and to refuse them. A gate does that without
the GIL, and Python gets only those that may stay, already counted. `Gate` says what becomes of each connection.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, cast

from inbound_audit._ipcount import MAX_GATE_SOCKETS, GateRules, NativeGate, NetworkMap
from inbound_audit.errors import named_keywords
from inbound_audit.listeners.filtered_socket import take_off_left
from inbound_audit.listeners.gate_forks import Batches
from inbound_audit.listeners.gate_log import GateLog
from inbound_audit.listeners.gate_reply import BUSY as BUSY
from inbound_audit.listeners.gate_reply import GateRefusal
from inbound_audit.listeners.gate_rules import is_native as is_native
from inbound_audit.listeners.gate_rules import rules_of
from inbound_audit.listeners.shed import Shed, Shedder
from inbound_audit.policy.limits import Limits
from inbound_audit.process import ProcessLock, Stage, register, wait_before_forks
from inbound_audit.shedding import ShedNetwork

if TYPE_CHECKING:
    import asyncio
    import contextlib

    from inbound_audit._ipcount import Listener, Session
    from inbound_audit.audit import InboundAudit
    from inbound_audit.listeners.aio import CountedCallback
    from inbound_audit.listeners.forward import Forwarder
    from inbound_audit.listeners.gate_server import GateServer
    from inbound_audit.listeners.guard import Guard
    from inbound_audit.policy.base import ConnectPolicy

Linger = Literal["close", "abort", "drain"]

MAX_WAIT_S = 1.0
"""Seconds of the longest wait: a signal may come to another thread, and its handler waits for this one."""

MAX_TAKEN = 64
"""Connections that `get` and `take` return at once, unless they are asked for another number."""


class Gate(NativeGate):
    """Accepts the connections of listening sockets, and refuses those that are over a limit, without Python.

    `limits` is a `Limits`, or None: then every connection is let in, counted. It may be exchanged while the gate runs.
    `sockets` are at most 256 listening sockets of any family. They stay the caller's and are made non-blocking; the
    gate leaves one that the caller closes. `threads` accept at the same time.

    Each connection is counted in `listener`, then the limits are asked.

    let in      it waits, counted, until `get`, `take` or `serve` fetches it
    refused     it gets the refusal, is closed, and is counted no more
    queue full  `backlog` connections wait already: it is refused as too busy

    `refusal` is what a refused peer is sent: "smtp" (a reply line), "http" (429, and 503 if the server is busy), bytes,
    a function from the Verdict to bytes, a text, or None for nothing. In a text ``{code}``, ``{text}`` (of the limits),
    ``{address}``, ``{limit}`` (its name) and ``{count}`` are replaced, and ``{{`` is a brace.

    `linger` says how a refused connection is closed: "close"; "abort" by a reset; or "drain" after the peer has closed,
    at most a second later, because a peer that has sent something that was not read may lose the reply otherwise. A
    thread drains 512 sockets at once; one more resets the one that has waited longest. None is "drain" for HTTP and
    "close" for all else.

    Connections from `proxy_from` begin with a PROXY header: they are counted for the balancer and let in, and whoever
    reads the header moves the count and asks the policy. `guard` has the gate's figures in its own, and its `when_full`
    decides about connections that can't be counted. Peers without an address (Unix sockets) are let in uncounted.

    With `shed`, prefixes that a limit keeps refusing are dropped before they are accepted, as `Shed` says (True: its
    defaults); `shed` then lists them.

    opened      connections that were accepted: those in the next three, sooner or later
    accepted    that were let in
    refused     that were over a limit, could not be counted, or waited when the gate was closed
    queue_full  for which the queue had no room
    uncounted   without an address, or without room in the counts
    failures    connections that were lost, and times when none could be accepted: no descriptor was left, or the
                system reported an error
    lost        descriptors of the gate that other code of the process has closed; it makes them anew
    waiting     that are in the queue now
    forwarded   of the accepted, those that went to a forwarder

    If the audit's `clock` is a Python function, each connection of an audit with monitors calls it, with the GIL.

    Any thread may use it; `close` may be called by a signal handler. A child of a fork has no gate: there it is closed.
    Raises OSError (also where the system has no epoll), CidrError, ValueError, TypeError, CapacityError, and
    PolicyError if the audit has no room for a monitor of `limits`.
    """

    @named_keywords
    def __init__(
        self,
        listener: Listener,
        limits: Limits | None,
        sockets: Iterable[socket.socket],
        *,
        refusal: GateRefusal = "smtp",
        backlog: int = 1024,
        proxy_from: Iterable[str] = (),
        threads: int = 1,
        linger: Linger | None = None,
        guard: Guard | None = None,
        shed: bool | Shed = False,
    ) -> None:
        self.listener, self.sockets, self.proxy_from = listener, tuple(sockets), tuple(proxy_from)
        self._refusal = refusal
        self._balancers = NetworkMap([(cidr, 1) for cidr in self.proxy_from])
        self._lock, self._log = ProcessLock(), GateLog()
        self._shedder = Shedder(Shed() if shed is True else shed) if shed else None
        self.guard: Guard | None = None
        self._follows = False
        if guard is not None:
            self._belong_to(guard, limits)
        _check(self.sockets)
        self._begin(
            self._rules(limits),
            backlog=_number("backlog", backlog, 1 << 20),
            threads=_number("threads", threads, 64),
            linger=linger or ("drain" if refusal == "http" else "close"),
        )
        if guard is not None:
            guard.add_gate(self)

    def _begin(self, rules: GateRules, *, backlog: int, threads: int, linger: Linger) -> None:
        """Accepts from now on, until the gate is closed or collected."""
        take_off_left(self.sockets)
        for listening in self.sockets:
            os.set_blocking(listening.fileno(), False)  # its timeout in Python stays
        self._open(
            self.listener,
            [listening.fileno() for listening in self.sockets],
            rules,
            socket.socket,
            backlog=backlog,
            threads=threads,
            linger=linger,
            refusals=None if self._shedder is None else self._shedder.refusals,
        )
        register(self, Stage.COUNTS, Gate._leave, Gate.close)
        self._batches = Batches(self)
        wait_before_forks(self._batches)
        if self._shedder is not None:
            self._shedder.begin(self)

    def join(self, guard: Guard) -> None:
        """The guard of the connections that this gate lets in, as if the gate had been made with it. Again with the
        same guard: the same. Raises ValueError if it has another one, or one of another listener."""
        with self._lock:
            if self.guard is not None and self.guard is not guard:
                raise ValueError(f"{guard!r}: {self!r} has another guard")
            if self.guard is None:
                self._belong_to(guard, self.limits)
                self._exchange(self._rules(self.limits))
                guard.add_gate(self)

    def _belong_to(self, guard: Guard, limits: Limits | None) -> None:
        if guard.listener is not self.listener:
            raise ValueError(f"{guard.listener!r}: the guard counts in another listener than {self.listener!r}")
        self.guard, self._log.refusals = guard, guard.refusals
        self._follows = limits is None or limits is guard.policy

    @property
    def limits(self) -> Limits | None:
        """What is asked about later connections. Setting it waits for at most a batch of each thread."""
        return cast("Limits | None", self._asked_limits)

    @limits.setter
    def limits(self, limits: Limits | None) -> None:
        with self._lock:
            self._exchange(self._rules(limits))

    def follow(self, policy: ConnectPolicy | None) -> None:
        """The guard's policy was exchanged. A gate that has no limits of its own exchanges those that it asks."""
        if self._follows:
            self.limits = policy if is_native(policy) else None

    def forward_to(self, forwarder: Forwarder | None) -> None:
        """Later connections that may stay go to a forwarder, and not to `get`, `take` and `serve`; None: to
        these again.

        Waits for at most a batch of each thread. Raises ValueError for a forwarder that counts in another listener.
        """
        if forwarder is not None and forwarder.listener is not self.listener:
            raise ValueError(f"{forwarder!r}: counts in another listener than {self!r}")
        with self._lock:
            self._forward_to(forwarder)

    def _rules(self, limits: Limits | None) -> GateRules:
        return rules_of(cast("InboundAudit", self.listener.audit), limits, self._refusal, self._balancers, self.guard)

    def get(self, timeout_s: float | None = None, most: int = MAX_TAKEN) -> list[tuple[socket.socket, Session | None]]:
        """Waits for connections: at least one, unless the time is over or the gate is closed.

        The sockets are as `socket.accept` returns them. A session is None for a connection that is not counted. The
        caller closes both. Any number of threads may wait. Raises ValueError for a `most` below 1.
        """
        _number("most", most, 1 << 20)
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            closed = self.closed  # before the report, which closes a gate that has lost its queue
            taken = self._released(most)
            self.report()
            left = deadline - time.monotonic()
            if taken or closed or self._is_held or left <= 0:
                return [(connection, session) for connection, session, _ in taken]
            self._wait(min(left, MAX_WAIT_S))

    def take(self, most: int = MAX_TAKEN) -> list[tuple[socket.socket, Session | None]]:
        """The connections that wait, at most `most`, with sockets that do not block. Never waits.

        `fileno` is readable while there are any, so an event loop can watch it. It is also readable once a second while
        something is to be logged.
        """
        return [(connection, session) for connection, session, _ in self.take_asked(most)]

    def take_asked(self, most: int = MAX_TAKEN) -> list[tuple[socket.socket, Session | None, Limits | None]]:
        """As `take`, with the limits that were asked, for `Guard.receive`. None for a balancer, for a connection
        without a count, and if the limits were exchanged since."""
        taken = self._released(most)
        for connection, _, _ in taken:
            connection.setblocking(False)
        self.report()
        return cast("list[tuple[socket.socket, Session | None, Limits | None]]", taken)

    def _released(self, most: int) -> list[tuple[socket.socket, Session | None, Any]]:
        taken = self._take(most)
        if self._shedder is not None:
            for connection, _, _ in taken:
                self._shedder.release(connection)
        return taken

    @property
    def shed(self) -> list[ShedNetwork]:
        """The networks whose SYN are dropped now, those that were refused most often first."""
        return [] if self._shedder is None else self._shedder.networks

    def close(self) -> None:
        """Stops accepting and dropping, refuses what waits, and waits for the threads. The listening sockets stay the
        caller's. Idempotent."""
        if self._shedder is not None:
            self._shedder.close()
        super().close()
        if self.guard is not None and self.guard.decisions is not None:
            self.guard.decisions.end_gate(self)

    def serve(
        self, loop: asyncio.AbstractEventLoop, factory: Callable[[], asyncio.BaseProtocol] | CountedCallback, **tls: Any
    ) -> GateServer:
        """Serves what is let in by a protocol factory, in an event loop of asyncio or uvloop, from now on.

        A factory of `listeners.aio.counted` or `listeners.smtp.protocol_factory`, or a callback of `counted_callback`,
        asks its guard's policy about each connection, unless that is the gate's limits; any other factory is called for
        each, and asks the policy of the gate's guard, if it has one. `tls` are the arguments of
        `connect_accepted_socket`: ``ssl=`` and its timeouts. The server's `close` closes the gate and its sockets.

        Call it in the thread of the loop. Raises ValueError for a guard other than the gate's.
        """
        from inbound_audit.listeners.gate_server import GateServer

        return GateServer(self, loop, factory, **tls)

    def stand_in(self, loop: asyncio.AbstractEventLoop, **options: Any) -> contextlib.AbstractContextManager[None]:
        """For servers that call `loop.create_server` themselves, as uvicorn does. Within the block they get what the
        gate lets in if they give it a socket of the gate (``sock=``); any other call is as without the gate.

            with gate.stand_in(asyncio.get_running_loop()):
                await uvicorn.Server(config).serve(sockets=[listening])

        Each connection is counted as by `listeners.aio.counted`, which also has the `options`.
        """
        from inbound_audit.listeners.gate_server import standing_in

        return standing_in(self, loop, **options)

    def report(self, *, last: bool = False) -> None:
        """Logs what the gate has refused and lost since the last line, at most one line each per 10 seconds. Closes a
        gate that has lost a descriptor of its queue to other code.

        `last`: also what it would report by itself within a second.
        """
        if self._is_lost:
            self._log.report_end()
            self.close()
        elif last or self._has_news:
            self._log.report(self)

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.waiting} waiting"
        return f"<Gate of {self.listener.service_type}/{self.listener.name}: {state}>"


def gate_of(guard: Guard, sockets: Iterable[socket.socket], **options: Any) -> Gate:
    """A gate of a guard that asks the guard's policy, if that is a `Limits`. Raises what `Gate` raises."""
    policy = guard.policy
    return Gate(guard.listener, policy if is_native(policy) else None, sockets, guard=guard, **options)


def _check(sockets: tuple[socket.socket, ...]) -> None:
    """Raises ValueError unless all listen for connections, and accept them as they are: without TLS."""
    if len(sockets) > MAX_GATE_SOCKETS:
        raise ValueError(f"{len(sockets)} sockets: a gate accepts from at most {MAX_GATE_SOCKETS}; make two")
    for listening in sockets:
        if listening.type != socket.SOCK_STREAM or not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError(f"{listening!r}: does not listen for connections")
        if isinstance(listening, socket.socket) and type(listening).accept is not socket.socket.accept:
            raise ValueError(
                f"{listening!r}: a gate does not call its `accept`; give the gate a plain socket, and wrap what it "
                "lets in, as `serve` does with ssl="
            )


def _number(name: str, value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"{name}={value!r}: expected a whole number from 1 to {most}")
    return value
