"""aiosmtpd's server for one connection, with the policy asked at each stage and an end for every wait.

The private members of aiosmtpd 1.4 that this file uses are listed in tests/unit/listeners/test_aiosmtpd_members.py.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import aiosmtpd.smtp
from aiosmtpd.smtp import MISSING, TLSSetupException

from inbound_audit._ipcount import Session
from inbound_audit.listeners.guard import Admission
from inbound_audit.listeners.pending import close_transport, limit_tls_close
from inbound_audit.listeners.smtp_policy import SMTPPolicy

MAX_RECIPIENTS = 1000
"""Recipients of one message, as Postfix's smtpd_recipient_limit has it; RFC 5321, 4.5.3.1.8, asks for 100 or more."""

MAX_IDLE_COMMANDS = 100
"""Commands other than MAIL, RCPT and DATA between two messages, as Postfix's smtpd_junk_command_limit has it."""

SHUTDOWN_REPLY = b"421 4.3.2 service is shutting down"  # RFC 5321, 3.8

_TRANSACTION = ("MAIL", "RCPT", "DATA", "PROXY", "QUIT")
_NEEDS_AUTHENTICATOR = (aiosmtpd.smtp.SMTP.auth_LOGIN, aiosmtpd.smtp.SMTP.auth_PLAIN)


class CommandReader(asyncio.StreamReader):
    """aiosmtpd's reader. It ends the session's task if the transport is closing, or at the end of what a peer has sent.

    `before_command` is called before each command is read, if it is set.
    """

    before_command: Callable[[], None] | None = None

    async def readuntil(self, separator: Any = b"\n") -> bytes:
        if self.before_command is not None and separator == b"\n":  # smtp_DATA reads lines up to CRLF
            self.before_command()
        if self._transport.is_closing():  # type: ignore[attr-defined]  # aiosmtpd itself has closed it, and reads on
            raise asyncio.CancelledError
        try:
            return await super().readuntil(separator)
        except asyncio.IncompleteReadError:
            raise asyncio.CancelledError from None


class SMTP(aiosmtpd.smtp.SMTP):
    """aiosmtpd's server for one accepted connection; made by `protocol_factory` or `Controller`.

    `proxied` is the number of seconds that a trusted balancer has for its PROXY header, None for any other peer.
    `max_recipients` is the most recipients of a message, `max_idle_commands` the most commands other than MAIL, RCPT
    and DATA between two messages. All else is as in aiosmtpd, except that AUTH is offered only with an authenticator.
    """

    def __init__(
        self,
        handler: Any,
        admission: Admission,
        *,
        proxied: float | None = None,
        max_recipients: int = MAX_RECIPIENTS,
        max_idle_commands: int = MAX_IDLE_COMMANDS,
        **kwargs: Any,
    ) -> None:
        super().__init__(handler, proxy_protocol_timeout=proxied, **kwargs)
        _check_handler(handler, self._ehlo_hook_ver)
        self._policy = SMTPPolicy(self, admission)
        self._max_recipients = max_recipients
        self._max_idle_commands = max_idle_commands
        self._idle_commands = 0
        self.storing = False
        """Whether the session waits for the handler's DATA hook."""
        self.deliveries: set[asyncio.Task[Any]] = set()
        """DATA hooks of the handler that are running; the factory puts one set for all its sessions here."""
        # These two make aiosmtpd call `_call_handler_hook` for every command, whatever hooks the handler has.
        self._ehlo_hook_ver = "new"
        self._handle_hooks.setdefault("DATA", _take_message)
        self._smtp_methods["PROXY"] = functools.partial(_refuse_proxy, self, admission)
        self._remove_unusable_auth()

    @property
    def inbound_session(self) -> Session | None:
        """The accept construct of this connection, for handlers; None when it is not counted."""
        return self._policy.admission.session

    @property
    def in_transaction(self) -> bool:
        """Whether a MAIL command was accepted and its message has neither come nor been given up."""
        return self.transport is not None and self.envelope is not None and bool(self.envelope.mail_from)

    def stop(self) -> bool:
        """Ends the session of a server that stops (RFC 5321, 3.8): at once, or when its transaction has ended.

        Returns whether the session is inside a transaction.
        """
        if self.in_transaction:
            self._reader.before_command = self._end_unless_in_transaction  # type: ignore[attr-defined]
            return True
        self.end(SHUTDOWN_REPLY)
        return False

    def end(self, reply: bytes = b"") -> None:
        """Sends a last reply, closes the connection and cancels the session's task."""
        transport = self.transport
        if isinstance(transport, asyncio.WriteTransport):
            if reply and not transport.is_closing():
                transport.write(reply + b"\r\n")
            close_transport(transport)
        if self._handler_coroutine is not None:
            self._handler_coroutine.cancel()

    def hang_up(self, reply: bytes) -> NoReturn:
        """`end`, for the session's own task: no further command is read."""
        self.end(reply)
        raise asyncio.CancelledError

    def _end_unless_in_transaction(self) -> None:
        if not self.in_transaction:
            self.hang_up(SHUTDOWN_REPLY)

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

    def _timeout_cb(self) -> None:
        self.end()

    async def _call_handler_hook(self, command: str, *args: Any) -> Any:
        if command == "PROXY" and not await self._policy.apply_proxy_header(*args):
            return False
        assert self.session is not None
        assert self.envelope is not None
        self._check_budget(command)
        if command == "RCPT" and len(self.envelope.rcpt_tos) >= self._max_recipients:
            return "452 4.5.3 too many recipients"
        refusal = await self._policy.check_command(command, args)
        if refusal is not None:
            if command in ("EHLO", "HELO"):
                self.session.host_name = None  # or MAIL would be accepted after an earlier greeting
            return [refusal] if command == "EHLO" else refusal
        if command == "EHLO":
            return await self._greet(*args)
        if command == "DATA":
            return await self._deliver()
        answer = await super()._call_handler_hook(command, *args)
        return True if command == "PROXY" and answer is MISSING else answer

    def _check_budget(self, command: str) -> None:
        if command not in _TRANSACTION:
            self._idle_commands += 1
            if self._idle_commands > self._max_idle_commands:
                self.hang_up(b"421 4.7.0 too many commands without a message")

    async def _greet(self, hostname: str, replies: list[str]) -> list[str]:
        if not self._auth_methods:
            replies = [reply for reply in replies if not reply.startswith("250-AUTH ")]
        if "EHLO" in self._handle_hooks:
            replies = await super()._call_handler_hook("EHLO", hostname, replies)
        else:
            assert self.session is not None
            self.session.host_name = hostname
        return self._policy.greeting(replies)

    async def _deliver(self) -> Any:
        """Runs the handler's DATA hook in a task of its own, which ends even if the session is cancelled.

        A message may be stored already when its session ends, so storing and recording must not be separated.
        """
        delivery = self.loop.create_task(self._store())
        self.deliveries.add(delivery)
        delivery.add_done_callback(self.deliveries.discard)
        self.storing = True
        try:
            return await asyncio.shield(delivery)
        finally:
            self.storing = False

    async def _store(self) -> Any:
        answer = await super()._call_handler_hook("DATA")
        if _is_success(answer):
            self._idle_commands = 0
            self._policy.admission.record_reception()
        return answer

    @functools.wraps(aiosmtpd.smtp.SMTP.smtp_STARTTLS)
    async def smtp_STARTTLS(self, arg: str) -> None:
        await super().smtp_STARTTLS(arg)
        if _handshake_unfinished(self):
            # The connection was lost during the handshake, which asyncio does not report: nothing would ever come.
            raise TLSSetupException

    # ---- AUTH

    def _remove_unusable_auth(self) -> None:
        """Without an authenticator, removes the mechanisms that need one, and AUTH if no mechanism is left."""
        if self._auth_callback is aiosmtpd.smtp.login_always_fail and "AUTH" not in self._handle_hooks:
            for name, mechanism in list(self._auth_methods.items()):
                if getattr(mechanism.method, "__func__", None) in _NEEDS_AUTHENTICATOR:
                    del self._auth_methods[name]
        if not self._auth_methods:
            self._smtp_methods.pop("AUTH", None)

    def _getparams(self, params: Any) -> Any:
        """The parameters of MAIL or RCPT. AUTH= of MAIL is accepted and not used (RFC 4954, section 5)."""
        found = super()._getparams(params)
        if found and not self.in_transaction and isinstance(found.get("AUTH"), str):
            del found["AUTH"]
        return found


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


async def _take_message(server: SMTP, session: object, envelope: object) -> object:
    """The DATA hook of a handler without one: aiosmtpd then replies 250."""
    return MISSING


def _is_success(answer: object) -> bool:
    """Whether the handler's answer to DATA becomes a 2xx reply: the message is the handler's from then on."""
    return answer is MISSING or (isinstance(answer, (str, bytes)) and answer[:1] in ("2", b"2"))


async def _refuse_proxy(server: SMTP, admission: Admission, arg: str | None) -> None:
    """PROXY as an SMTP command: from a peer that is not trusted, or a second header."""
    admission.report(logging.WARNING, "%s sent a PROXY header, which is not believed", admission.peer)
    server.hang_up(b"554 5.7.1 PROXY is not accepted from this address")


def _check_handler(handler: object, ehlo_hook: str | None) -> None:
    """Refuses the two deprecated forms of aiosmtpd in which no policy can be asked. Raises TypeError."""
    if ehlo_hook == "old":
        raise TypeError(f"{type(handler).__name__}.handle_EHLO takes 4 arguments: use the form with 5")
    if hasattr(handler, "process_message") and not hasattr(handler, "handle_DATA"):
        raise TypeError(f"{type(handler).__name__}.process_message is deprecated: use handle_DATA")
