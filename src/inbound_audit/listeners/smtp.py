"""aiosmtpd: refusal before the banner, a policy that is asked at each stage, the real client behind a balancer.

    controller = Controller(handler, "::", 2525, guard=Guard(audit.listener("SMTP"), Limits()))
    controller.start()

or, in a loop of one's own,

    server = await loop.create_server(protocol_factory(handler, guard), "::", 2525)

A refused connection gets the policy's reply in place of the banner, and no SMTP object is made for it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import aiosmtpd.controller
import aiosmtpd.smtp
from aiosmtpd.smtp import MISSING, TLSSetupException

from inbound_audit._ipcount import Session
from inbound_audit.listeners.dialogue import Dialogue, smtp_reply
from inbound_audit.listeners.door import Door
from inbound_audit.listeners.guard import Admission, Guard
from inbound_audit.listeners.proxy import HEADER_TIMEOUT, TrustedProxies
from inbound_audit.policy.verdict import Verdict


class SMTP(aiosmtpd.smtp.SMTP):
    """aiosmtpd's server for one connection that a guard has let in; made by `protocol_factory` or `Controller`.

    `proxied` says that the peer is a trusted balancer whose PROXY header comes first, within so many seconds. All else
    is as in aiosmtpd.
    """

    def __init__(self, handler: Any, admission: Admission, *, proxied: float | None = None, **kwargs: Any) -> None:
        super().__init__(handler, proxy_protocol_timeout=proxied, **kwargs)
        _check_handler(handler, self._ehlo_hook_ver)
        self._dialogue = Dialogue(self, admission)
        # These two make aiosmtpd call `_call_handler_hook` for every command, whatever hooks the handler has.
        self._ehlo_hook_ver = "new"
        self._handle_hooks.setdefault("DATA", _take_message)
        self._smtp_methods["PROXY"] = functools.partial(_refuse_proxy, self, admission)

    @property
    def inbound_session(self) -> Session | None:
        """The accept construct of this connection, for handlers; None when it is not counted."""
        return self._dialogue.session

    def __dir__(self) -> Iterable[str]:
        # For each connection aiosmtpd goes through all attributes of its new server, twice, for names that begin so:
        # half of what a connection costs it. Telling it only those pays for all that is done here, and more.
        kind: Any = type(self)
        return super().__dir__() if "_dialogue" in self.__dict__ else _commands(kind)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        in_clear = self._original_transport is None
        super().connection_made(transport)
        if in_clear:  # and not once more after STARTTLS
            assert self._handler_coroutine is not None
            self._handler_coroutine.add_done_callback(functools.partial(_served, self))

    def connection_lost(self, error: Exception | None) -> None:
        waiters = [*getattr(self, "_drain_waiters", ())]
        try:
            super().connection_lost(error)
        finally:
            for waiter in waiters:
                # aiosmtpd cancels the task that was to be told of a reset while it wrote: then nobody asks.
                if waiter.done() and not waiter.cancelled():
                    waiter.exception()
            self._dialogue.close()

    async def _call_handler_hook(self, command: str, *args: Any) -> Any:
        if command == "PROXY" and not await self._dialogue.introduce(*args):
            return False
        refusal = await self._dialogue.ask(command, args)
        if refusal is not None:
            if command in ("EHLO", "HELO"):
                assert self.session is not None
                self.session.host_name = None  # or an earlier greeting would still open the door for MAIL
            return [refusal] if command == "EHLO" else refusal
        if command == "EHLO":
            return await self._greet(*args)
        answer = await super()._call_handler_hook(command, *args)
        if command == "DATA" and _is_success(answer):
            self._dialogue.received()
        return True if command == "PROXY" and answer is MISSING else answer

    async def _greet(self, hostname: str, replies: list[str]) -> list[str]:
        if "EHLO" in self._handle_hooks:
            replies = await super()._call_handler_hook("EHLO", hostname, replies)
        else:
            assert self.session is not None
            self.session.host_name = hostname
        return self._dialogue.greeting(replies)

    @functools.wraps(aiosmtpd.smtp.SMTP.smtp_STARTTLS)
    async def smtp_STARTTLS(self, arg: str) -> None:
        await super().smtp_STARTTLS(arg)
        if _handshake_unfinished(self):
            # The connection went away in mid-handshake, which asyncio does not tell: nothing would ever come again.
            raise TLSSetupException


@functools.cache
def _commands(kind: Any) -> list[str]:
    return [name for name in dir(kind) if name.startswith(("auth_", "smtp_"))]


def _handshake_unfinished(server: SMTP) -> bool:
    """STARTTLS was begun, and `connection_made` has not come a second time."""
    return server._tls_protocol is not None and server.session is not None and server.session.ssl is None


def _served(server: SMTP, task: asyncio.Task[None]) -> None:
    """The task that serves a connection has ended, perhaps before its first step: so does the connection."""
    if server.transport is not None:
        server.transport.close()
        if _handshake_unfinished(server):
            server.connection_lost(None)  # as aiosmtpd does: asyncio reports no loss before the handshake is over


async def _take_message(server: SMTP, session: object, envelope: object) -> object:
    """The DATA hook of a handler that has none: aiosmtpd then answers 250."""
    return MISSING


def _is_success(answer: object) -> bool:
    """What the handler answers to DATA becomes a 2xx reply: the message is its own from now on."""
    return answer is MISSING or (isinstance(answer, (str, bytes)) and answer[:1] in ("2", b"2"))


async def _refuse_proxy(server: SMTP, admission: Admission, arg: str | None) -> None:
    """PROXY as an SMTP command: from a peer of whom no header is expected, or a second one."""
    admission.report(logging.WARNING, "%s sent a PROXY header, which is not believed", admission.peer)
    await server._dialogue.hang_up(b"554 5.7.1 PROXY is not accepted from this address")


def _check_handler(handler: object, ehlo_hook: str | None) -> None:
    """Refuses the two deprecated forms of aiosmtpd that leave no place to ask a policy."""
    if ehlo_hook == "old":
        raise TypeError(f"{type(handler).__name__}.handle_EHLO takes 4 arguments: use the form with 5")
    if hasattr(handler, "process_message") and not hasattr(handler, "handle_DATA"):
        raise TypeError(f"{type(handler).__name__}.process_message is deprecated: use handle_DATA")


def _farewell(verdict: Verdict) -> bytes:
    return smtp_reply(verdict) + b"\r\n"


def protocol_factory(
    handler: Any,
    guard: Guard,
    *,
    proxy_from: Iterable[str] = (),
    proxy_timeout: float = HEADER_TIMEOUT,
    smtp_class: Callable[..., SMTP] = SMTP,
    **kwargs: Any,
) -> Door:
    """A protocol factory for `loop.create_server`; `kwargs` are aiosmtpd's for its SMTP class.

    Every connection from the networks of `proxy_from` begins with a PROXY header (version 1 or 2, within
    `proxy_timeout` seconds): it is counted for the balancer until the header has come, then for the real client, and
    the policy is asked only then. A PROXY header from elsewhere is refused.

    Raises CidrError for an entry of `proxy_from` that is no prefix.
    """
    return _door(handler, guard, TrustedProxies(proxy_from, proxy_timeout), smtp_class, kwargs)


def _door(
    handler: Any, guard: Guard, proxies: TrustedProxies, smtp_class: Callable[..., SMTP], kwargs: dict[str, Any]
) -> Door:
    kwargs.setdefault("hostname", socket.getfqdn())  # aiosmtpd would ask the resolver for each connection

    def make(admission: Admission) -> SMTP:
        proxied = proxies.timeout if proxies.expects_header(admission) else None
        return smtp_class(handler, admission, proxied=proxied, **kwargs)

    return Door(guard, make, _farewell, proxies.expects_header)


class Controller(aiosmtpd.controller.Controller):
    """aiosmtpd's controller (a server in a thread of its own) with a guard; the arguments of `protocol_factory`.

    Unlike the original it can listen on port 0, and does not connect to itself when it starts: `addresses` tells where
    it listens, and no connection is counted that nobody made. `start` fails at once if it can't listen.
    """

    def __init__(
        self,
        handler: Any,
        hostname: str | None = None,
        port: int = 8025,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        guard: Guard,
        proxy_from: Iterable[str] = (),
        proxy_timeout: float = HEADER_TIMEOUT,
        smtp_class: Callable[..., SMTP] = SMTP,
        **kwargs: Any,
    ) -> None:
        proxies = TrustedProxies(proxy_from, proxy_timeout)  # before a loop is made, which nobody would close
        super().__init__(handler, hostname, port, loop, **kwargs)
        self.guard = guard
        self._servers: weakref.WeakSet[SMTP] = weakref.WeakSet()
        self._smtp_class = smtp_class
        self._door = _door(handler, guard, proxies, self._serve, self.SMTP_kwargs)

    def _serve(self, *args: Any, **kwargs: Any) -> SMTP:
        server = self._smtp_class(*args, **kwargs)
        self._servers.add(server)
        return server

    def factory(self) -> Any:
        return self._door()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Address and port of each socket that is listened on; empty unless started."""
        sockets = getattr(self.server, "sockets", ())
        return [listening.getsockname()[:2] for listening in sockets]

    def cancel_tasks(self, stop_loop: bool = True) -> None:
        super().cancel_tasks(stop_loop)
        self._door.dismiss()
        for server in list(self._servers):
            transport = server.transport
            if isinstance(transport, asyncio.WriteTransport) and transport.get_extra_info("sslcontext") is not None:
                transport.abort()  # its end would wait for the peer's consent

    def stop(self, no_assert: bool = False) -> None:
        """Stops the thread and its loop; sessions that had no time to end are counted no more. Idempotent."""
        try:
            if not self.loop.is_closed():
                super().stop(no_assert)
                self.loop.close()  # when `start` had failed, its thread left without doing so
        finally:
            self.guard.close_all()

    def _run(self, ready_event: threading.Event) -> None:
        try:
            super()._run(ready_event)
        finally:
            ready_event.set()  # `start` need not wait for a thread that could not listen

    def _trigger_server(self) -> None:
        """Makes one server object in the loop's thread, so that arguments which make no sense fail in `start`."""
        if self._thread_exception is not None:
            raise self._thread_exception
        self.loop.call_soon_threadsafe(self._rehearse)

    def _rehearse(self) -> None:
        try:
            self.smtpd = self._door.make(Admission(self.guard, None))
        except Exception as error:
            self._thread_exception = error
        finally:
            self._factory_invoked.set()
