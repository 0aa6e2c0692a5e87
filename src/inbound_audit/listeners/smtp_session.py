"""aiosmtpd's server for one connection, with the policy asked at each stage and an end for every wait.

The private members of aiosmtpd 1.4 that this file uses are listed in tests/unit/listeners/test_aiosmtpd_members.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Iterable
from typing import Any

import aiosmtpd.smtp
from aiosmtpd.smtp import MISSING, TLSSetupException

from inbound_audit._ipcount import Session
from inbound_audit.listeners.admission import Admission
from inbound_audit.listeners.budget import SessionBudget
from inbound_audit.listeners.pending import close_transport, limit_tls_close
from inbound_audit.listeners.proxy import HeaderError, read_header
from inbound_audit.listeners.smtp_data import MESSAGE_MEMORY_BYTES, MessageMemory
from inbound_audit.listeners.smtp_dialogue import SHUTDOWN_REPLY, TOO_MANY_RECIPIENTS, Dialogue
from inbound_audit.listeners.smtp_policy import SMTPPolicy
from inbound_audit.listeners.smtp_reader import RECEIVE_BYTES, CommandReader

_NEEDS_AUTHENTICATOR = (aiosmtpd.smtp.SMTP.auth_LOGIN, aiosmtpd.smtp.SMTP.auth_PLAIN)


class SMTP(Dialogue):
    """aiosmtpd's server for one accepted connection; made by `protocol_factory` or `Controller`.

    `proxied`: a trusted balancer's connection, which begins with a PROXY header. `budget` bounds the session; its
    fields may also be given as keyword arguments. `memory` is what the sessions of a factory share. All else is as in
    aiosmtpd, except that AUTH is offered only with an authenticator.
    """

    def __init__(
        self,
        handler: Any,
        admission: Admission,
        *,
        proxied: bool = False,
        budget: SessionBudget | None = None,
        memory: MessageMemory | None = None,
        **kwargs: Any,
    ) -> None:
        budget = SessionBudget.taken_from(kwargs, budget)
        super().__init__(handler, budget, memory or MessageMemory(MESSAGE_MEMORY_BYTES, budget), **kwargs)
        _check_handler(handler, self._ehlo_hook_ver)
        self._policy = SMTPPolicy(self, admission)
        self._proxied = proxied
        self.storing = False
        """Whether the session waits for the handler's DATA hook."""
        self.deliveries: set[asyncio.Task[Any]] = set()
        """DATA hooks of the handler that are running; the factory puts one set for all its sessions here."""
        # Makes aiosmtpd call `_call_handler_hook` for EHLO, whatever hooks the handler has.
        self._ehlo_hook_ver = "new"
        self._smtp_methods["PROXY"] = functools.partial(_refuse_proxy, self, admission)
        self._remove_unusable_auth()

    @property
    def inbound_session(self) -> Session | None:
        """The accept construct of this connection, for handlers; None when it is not counted."""
        return self._policy.admission.session

    def stop(self) -> bool:
        """Ends the session of a server that stops (RFC 5321, 3.8): at once, or when its transaction has ended.

        Returns whether the session is inside a transaction.
        """
        if self.in_transaction:
            self.stopping = True
            return True
        self.end(SHUTDOWN_REPLY)
        return False

    # ---- what aiosmtpd and asyncio call

    def __dir__(self) -> Iterable[str]:
        # For each connection aiosmtpd looks through all attributes of its new server, twice, for names with these
        # prefixes: half of what a connection costs. Listing only those names saves more than this class costs.
        kind: Any = type(self)
        return super().__dir__() if "_policy" in self.__dict__ else _command_names(kind)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        in_clear = self._original_transport is None
        super().connection_made(transport)
        limit_tls_close(transport)
        if hasattr(transport, "max_size"):
            transport.max_size = RECEIVE_BYTES
        if in_clear:  # and not once more after STARTTLS
            assert self._handler_coroutine is not None
            self._handler_coroutine.add_done_callback(functools.partial(_task_ended, self))

    def _cb_client_connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader.__class__ = CommandReader
        super()._cb_client_connected(reader, writer)

    def eof_received(self) -> bool | None:
        """The peer sends nothing more: what has come is served, then the reader ends the session.

        A TLS connection can't be half-closed: asyncio closes it.
        """
        if self.transport is None or self.transport.get_extra_info("sslcontext") is not None:
            return super().eof_received()
        return asyncio.StreamReaderProtocol.eof_received(self)

    def connection_lost(self, error: Exception | None) -> None:
        waiters = [*getattr(self, "_drain_waiters", ())]
        try:
            super().connection_lost(error)
        finally:
            for waiter in waiters:
                # aiosmtpd cancels the task that waited for a write, so nothing else retrieves the exception.
                if waiter.done() and not waiter.cancelled():
                    waiter.exception()
            self._policy.admission.close()

    async def _call_handler_hook(self, command: str, *args: Any) -> Any:
        assert self.session is not None
        assert self.envelope is not None
        if command == "RCPT" and len(self.envelope.rcpt_tos) >= self.budget.max_recipients:
            return TOO_MANY_RECIPIENTS
        refusal = await self._policy.check_command(command, args)
        if refusal is not None:
            if command in ("EHLO", "HELO"):
                self.session.host_name = None  # or MAIL would be accepted after an earlier greeting
            return [refusal] if command == "EHLO" else refusal
        if command == "EHLO":
            return await self._greet(*args)
        if command == "DATA":
            return await self._deliver()
        return await super()._call_handler_hook(command, *args)

    async def _begin(self) -> bool:
        """Waits for a trusted balancer's PROXY header, and applies it. Returns whether the session goes on."""
        if not self._proxied:
            return True
        assert self.session is not None
        self._reset_timeout(self.budget.proxy_s)
        try:
            header = self.session.proxy_data = await read_header(self._reader)  # type: ignore[arg-type]  # see _cb_client_connected
        except HeaderError as error:
            self._policy.admission.report(
                logging.INFO, "%s sent a broken PROXY header: %s", self.inbound_session, error
            )
            return False
        self._reset_timeout()
        if not await self._policy.apply_proxy_header(header):
            return False
        answer = await super()._call_handler_hook("PROXY", header)
        return answer is MISSING or bool(answer)

    async def _greet(self, hostname: str, replies: list[str]) -> list[str]:
        if not self._auth_methods:
            replies = [reply for reply in replies if not reply.startswith("250-AUTH ")]
        if "EHLO" in self._handle_hooks:
            replies = await super()._call_handler_hook("EHLO", hostname, replies)
        else:
            assert self.session is not None
            self.session.host_name = hostname
        return self._policy.greeting(replies)

    async def handle_exception(self, error: Exception) -> str:
        """The reply to a command on which the handler has failed; the handler's own, if it has one for that."""
        try:
            if hasattr(self.event_handler, "handle_exception"):
                return str(await self.event_handler.handle_exception(error))
        except Exception as second:
            error = second
        self._policy.admission.report_handler_error(error)
        return f"500 Error: ({type(error).__name__}) {' '.join(str(error).split())}"

    async def _deliver(self) -> Any:
        """Runs the handler's DATA hook in a task of its own, which ends even if the session is cancelled.

        A message may be stored already when its session ends, so storing and recording must not be separated.
        """
        delivery = self.loop.create_task(self._store())
        self.deliveries.add(delivery)
        delivery.add_done_callback(self.deliveries.discard)
        message = self._message
        message.kept = True
        delivery.add_done_callback(lambda _: message.release())
        self.storing = True
        try:
            return await asyncio.shield(delivery)
        finally:
            self.storing = False

    async def _store(self) -> Any:
        answer = await super()._call_handler_hook("DATA")
        if _is_success(answer):
            self._usage.record_accepted()
            self._policy.admission.record_reception()
        return answer

    @functools.wraps(aiosmtpd.smtp.SMTP.smtp_STARTTLS)
    async def smtp_STARTTLS(self, arg: str) -> None:
        if self._tls_protocol is not None:
            await self.push("503 5.5.1 TLS is active already")
            return
        self._reset_timeout(min(self.budget.tls_s, self.budget.idle_s))
        with contextlib.suppress(TLSSetupException):
            await super().smtp_STARTTLS(arg)
        if _handshake_unfinished(self):
            # The handshake failed, or the connection was lost meanwhile, which asyncio does not report.
            self.hang_up(b"")

    # ---- AUTH

    def _remove_unusable_auth(self) -> None:
        """Without an authenticator, removes the mechanisms that need one, and AUTH if no mechanism is left."""
        if self._auth_callback is aiosmtpd.smtp.login_always_fail and "AUTH" not in self._handle_hooks:
            for name, mechanism in list(self._auth_methods.items()):
                if getattr(mechanism.method, "__func__", None) in _NEEDS_AUTHENTICATOR:
                    del self._auth_methods[name]
        if not self._auth_methods:
            self._smtp_methods.pop("AUTH", None)


@functools.cache
def _command_names(kind: Any) -> list[str]:
    return [name for name in dir(kind) if name.startswith(("auth_", "smtp_"))]


def _handshake_unfinished(server: SMTP) -> bool:
    """Whether STARTTLS was begun and `connection_made` has not come a second time."""
    return server._tls_protocol is not None and server.session is not None and server.session.ssl is None


def _task_ended(server: SMTP, task: asyncio.Task[None]) -> None:
    """Closes the connection whose task has ended, perhaps before its first step."""
    if isinstance(server.transport, asyncio.WriteTransport):
        close_transport(server.transport)
        if _handshake_unfinished(server):
            server.connection_lost(None)  # as aiosmtpd does: asyncio reports no loss before the handshake is over


def _is_success(answer: object) -> bool:
    """Whether the handler's answer to DATA becomes a 2xx reply: the message is the handler's from then on."""
    return answer is MISSING or (isinstance(answer, (str, bytes)) and answer[:1] in ("2", b"2"))


async def _refuse_proxy(server: SMTP, admission: Admission, arg: str | None) -> None:
    """PROXY as an SMTP command: from a peer that is not trusted, or a second header."""
    admission.report(logging.INFO, "%s sent a PROXY header, which is not believed", admission.peer)
    server.hang_up(b"554 5.7.1 PROXY is not accepted from this address")


def _check_handler(handler: object, ehlo_hook: str | None) -> None:
    """Refuses the two deprecated forms of aiosmtpd in which no policy can be asked. Raises TypeError."""
    if ehlo_hook == "old":
        raise TypeError(f"{type(handler).__name__}.handle_EHLO takes 4 arguments: use the form with 5")
    if hasattr(handler, "process_message") and not hasattr(handler, "handle_DATA"):
        raise TypeError(f"{type(handler).__name__}.process_message is deprecated: use handle_DATA")
