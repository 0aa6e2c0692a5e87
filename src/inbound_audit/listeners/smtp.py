"""aiosmtpd: refusal before the banner, a policy that is asked at each stage, the real client behind a balancer.

    controller = Controller(handler, "::", 2525, guard=Guard(audit.listener("SMTP"), Limits()))
    controller.start()

or, in a loop of your own,

    server = await loop.create_server(protocol_factory(handler, guard), "::", 2525)

A refused connection gets the policy's reply in place of the banner, and no SMTP object is made for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

try:
    import aiosmtpd.controller
except ModuleNotFoundError:
    message = "inbound_audit.listeners.smtp needs aiosmtpd: pip install 'inbound-audit[smtp]'"
    raise ModuleNotFoundError(message, name="aiosmtpd") from None

from inbound_audit.listeners.admission import Admission
from inbound_audit.listeners.budget import SessionBudget
from inbound_audit.listeners.guard import Guard
from inbound_audit.listeners.pending import CLOSE_TIMEOUT_S, GatedFactory, stop_accepting, until
from inbound_audit.listeners.proxy import TrustedProxies
from inbound_audit.listeners.smtp_data import MESSAGE_MEMORY_BYTES, MessageMemory
from inbound_audit.listeners.smtp_dialogue import SHUTDOWN_REPLY
from inbound_audit.listeners.smtp_policy import refusal_line
from inbound_audit.listeners.smtp_session import SMTP

__all__ = ["SMTP", "Controller", "SMTPFactory", "SessionBudget", "protocol_factory"]

DELIVERY_TIMEOUT_S = 5.0
"""Seconds that a stop waits for messages that are being stored."""

STOP_TIMEOUT_S = DELIVERY_TIMEOUT_S + 2 * CLOSE_TIMEOUT_S
"""The most seconds that a stop takes after its grace."""

BACKLOG = 512
"""Connections that wait in the kernel until a server accepts them."""


class SMTPFactory(GatedFactory):
    """What `protocol_factory` returns: makes a server object per accepted connection, and ends them all.

    `stop`, `cut` and `shut_down` must be called in the event loop; close the listening sockets first.
    """

    def __init__(
        self,
        handler: Any,
        guard: Guard,
        *,
        proxy_from: Iterable[str] = (),
        budget: SessionBudget | None = None,
        message_memory: int = MESSAGE_MEMORY_BYTES,
        smtp_class: Callable[..., SMTP] = SMTP,
        **kwargs: Any,
    ) -> None:
        budget = SessionBudget.taken_from(kwargs, budget)
        self.proxy_from = tuple(proxy_from)
        proxies = TrustedProxies(self.proxy_from)
        super().__init__(guard, self._make_session, refusal_line, proxies.expects_header, budget.max_early_bytes)
        self.budget = budget
        self.memory = MessageMemory(message_memory, budget)
        self._handler = handler
        self._proxies = proxies
        self._smtp_class = smtp_class
        # Never looked up: aiosmtpd would ask the resolver, in the event loop and for each connection.
        self._kwargs = {**kwargs, "hostname": kwargs.get("hostname") or socket.gethostname()}
        self._sessions: weakref.WeakSet[SMTP] = weakref.WeakSet()
        self._deliveries: set[asyncio.Task[Any]] = set()

    def _make_session(self, admission: Admission) -> SMTP:
        session = self._smtp_class(
            self._handler,
            admission,
            proxied=self._proxies.expects_header(admission),
            budget=self.budget,
            memory=self.memory,
            **self._kwargs,
        )
        session.deliveries = self._deliveries
        self._sessions.add(session)
        return session

    def change(self, *, budget: SessionBudget, message_memory: int, hostname: str | None) -> None:
        """Exchanges what later sessions are made with; the memory of messages is that of open ones, too.

        Raises ValueError, and exchanges nothing, if not even one message has room.
        """
        self.memory.resize(message_memory, budget)
        self.budget, self.max_early_bytes = budget, budget.max_early_bytes
        self._kwargs["hostname"] = hostname or socket.gethostname()

    def present(self, context: ssl.SSLContext | None) -> None:
        """Presents another certificate in all later handshakes, those of open sessions too; None: there are none."""
        self._kwargs["tls_context"] = context
        for session in list(self._sessions):
            session.tls_context = context

    def stop(self) -> int:
        """Sends 421 to the sessions between two transactions, and to new connections, and closes them.

        The other sessions get their 421 when their transaction has ended. Returns how many they are.
        """
        self.close_pending(SHUTDOWN_REPLY + b"\r\n")
        return sum(session.stop() for session in list(self._sessions))

    def cut(self, *, storing: bool = True) -> int:
        """Sends 421 to all sessions and closes them. Returns how many were inside a transaction.

        With `storing` false, sessions whose message is being stored are left out.
        """
        sessions = [session for session in self._sessions if storing or not session.storing]
        inside = sum(session.in_transaction for session in sessions)
        for session in sessions:
            session.end(SHUTDOWN_REPLY)
        return inside

    async def shut_down(self, grace: float = 0.0, cut: asyncio.Event | None = None) -> int:
        """`stop`, then `cut` for the transactions that have not ended after `grace` seconds, or when `cut` is set.

        A message that is being stored is stored, recorded and answered before this returns, if that takes at most
        `DELIVERY_TIMEOUT_S`. Returns how many transactions were cut.
        """
        self.stop()
        cut = cut or asyncio.Event()
        await until(lambda: cut.is_set() or not self._in_transaction(), grace)
        number = self.cut(storing=False)
        await until(lambda: not self._deliveries and not self._in_transaction(), DELIVERY_TIMEOUT_S)
        number += self.cut()
        await until(lambda: not self.guard.open, 2 * CLOSE_TIMEOUT_S)
        return number

    def _in_transaction(self) -> int:
        return sum(session.in_transaction for session in list(self._sessions))


def protocol_factory(handler: Any, guard: Guard, **kwargs: Any) -> SMTPFactory:
    """A protocol factory for `loop.create_server`.

    `kwargs` may be:

    proxy_from      networks (prefixes) from which every connection must begin with a PROXY header, version 1 or 2: it
                    is counted for the balancer until the header has come, then for the real client, and the policy is
                    asked only then; a PROXY header from elsewhere is refused
    budget          a `SessionBudget`; its fields may also be given as keyword arguments of their own
    message_memory  bytes that the messages of all sessions have together; beyond them 451
    smtp_class      a class derived from `SMTP`
    hostname        the name in the banner; without it the machine's own name as the kernel has it is used, and no name
                    is ever resolved

    and aiosmtpd's for its SMTP class. Raises CidrError for an entry of `proxy_from` that is not a prefix, and
    ValueError or TypeError for what is no budget.
    """
    return SMTPFactory(handler, guard, **kwargs)


class Controller(aiosmtpd.controller.Controller):
    """aiosmtpd's controller (a server in a thread of its own) with a guard; the arguments of `protocol_factory`.

    Unlike the original it can listen on port 0, and does not connect to itself when it starts: `addresses` says where
    it listens, and only clients are counted. `start` fails at once if it can't listen. `server_hostname` is the name in
    the banner. With `gate` a gate accepts, and refuses by `Limits` without Python (`listeners.gate`); with TLS from the
    first byte it closes what it refuses without a reply, before the handshake.

    Raises TypeError for a gate and a `factory` of a class that derives from this one: the gate does not call it.
    """

    def __init__(
        self,
        handler: Any,
        hostname: str | None = None,
        port: int = 8025,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        guard: Guard,
        gate: bool = False,
        **kwargs: Any,
    ) -> None:
        if gate and type(self).factory is not Controller.factory:
            raise TypeError(f"{type(self).__name__} has a factory of its own, which a gate does not call")
        super().__init__(handler, hostname, port, loop, **kwargs)
        self.guard = guard
        self._wants_gate = gate
        try:
            self._factory = SMTPFactory(handler, guard, **self.SMTP_kwargs)
        except BaseException:
            if loop is None:
                self.loop.close()
            raise

    def factory(self) -> Any:
        return self._factory()

    def _create_server(self) -> Any:
        return self._accept_by_gate() if self._wants_gate else super()._create_server()

    async def _accept_by_gate(self) -> asyncio.AbstractServer:
        """On the sockets that asyncio binds, before it listens there."""
        bound = await self.loop.create_server(self._factory, self.hostname, self.port, start_serving=False)
        with contextlib.ExitStack() as undo:
            with contextlib.closing(bound):
                sockets = [undo.enter_context(socket.socket(fileno=os.dup(one.fileno()))) for one in bound.sockets]
            for listening in sockets:
                listening.listen(BACKLOG)
            refusal = None if self.ssl_context else self._factory.refusal  # it is refused before a handshake
            gate = undo.enter_context(self._factory.gate(sockets, refusal=refusal))
            server = gate.serve(self.loop, self._factory, ssl=self.ssl_context)
            undo.pop_all()
        return server

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Address and port of each socket that is listened on; empty unless started."""
        sockets = getattr(self.server, "sockets", ())
        return [listening.getsockname()[:2] for listening in sockets]

    def stop(self, no_assert: bool = False) -> None:
        """Ends all sessions with 421 4.3.2, and stops the thread and its loop. Idempotent.

        A message that is being stored is stored, recorded and answered first.
        """
        try:
            if not self.loop.is_closed():
                if self.loop.is_running() and threading.current_thread() is not self._thread:
                    asyncio.run_coroutine_threadsafe(self._end_sessions(), self.loop).result()
                super().stop(no_assert)
                self.loop.close()  # when `start` had failed, its thread left without doing so
        finally:
            self.guard.close_all()

    async def _end_sessions(self) -> None:
        if self.server is not None:
            await stop_accepting(self.server)
        await self._factory.shut_down()

    def _run(self, ready_event: threading.Event) -> None:
        try:
            super()._run(ready_event)
        finally:
            ready_event.set()  # `start` need not wait for a thread that could not listen

    def _trigger_server(self) -> None:
        """Makes one server object in the loop's thread, so that wrong arguments fail in `start`."""
        if self._thread_exception is not None:
            raise self._thread_exception
        self.loop.call_soon_threadsafe(self._rehearse)

    def _rehearse(self) -> None:
        try:
            self.smtpd = self._factory.make(Admission(self.guard, None))
        except Exception as error:
            self._thread_exception = error
        finally:
            self._factory_invoked.set()
