"""The dialogue of one SMTP session within its budget: lines are read, commands are called, replies are sent.

aiosmtpd has the commands; this file has what a peer can make long, large or many. What a peer can provoke is logged at
INFO at the most. The private members of aiosmtpd and asyncio that listeners use are listed in
tests/unit/listeners/test_aiosmtpd_members.py.
"""

from __future__ import annotations

import asyncio
import binascii
import functools
import logging
from base64 import b64decode, b64encode
from typing import Any, NoReturn

import aiosmtpd.smtp
from aiosmtpd.smtp import ALLOWED_BEFORE_STARTTLS, MISSING

from inbound_audit.listeners.budget import SessionBudget
from inbound_audit.listeners.pending import close_transport, takes_replies
from inbound_audit.listeners.smtp_data import IncomingMessage, MessageMemory
from inbound_audit.listeners.smtp_reader import READ_BYTES, CommandReader, LineTooLong
from inbound_audit.listeners.smtp_usage import Usage

logger = logging.getLogger("inbound_audit.listeners")

MAX_AUTH_BYTES = 12288
"""Bytes of a line of AUTH, if a command line may not be longer anyway: RFC 4954, section 4."""

SHUTDOWN_REPLY = b"421 4.3.2 service is shutting down"  # RFC 5321, 3.8

MAX_PATH = 512
"""Characters of an address with its brackets: twice those of RFC 5321, 4.5.3.1.3. The time that `email` takes to parse
one grows with their square."""

_TIMED_OUT = b"421 4.4.2 timeout exceeded"
_TOO_LONG = b"500 5.5.2 line too long"
TOO_MANY_RECIPIENTS = b"452 4.5.3 too many recipients"
"""No error of the peer, which sends the message for the others and goes on with the rest: RFC 5321, 4.5.3.1.10."""


class _Session(aiosmtpd.smtp.Session):
    """aiosmtpd's session, without the warning that its `login_data` logs at each successful AUTH."""

    login_data = None


class Dialogue(aiosmtpd.smtp.SMTP):
    """aiosmtpd's server for one connection, with a reader, timers and counters of its own.

    `stopping` is true once the server stops: the session then ends where no transaction is open.
    """

    line_length_limit = READ_BYTES  # what asyncio's stream keeps; lines have the limits of the budget

    def __init__(self, handler: Any, budget: SessionBudget, memory: MessageMemory, **kwargs: Any) -> None:
        super().__init__(handler, timeout=budget.idle_s, data_size_limit=budget.max_message_bytes, **kwargs)
        self.budget = budget
        self.stopping = self._greeted = False
        self._memory = memory
        self._session_end = self._deadline = self.loop.time() + budget.session_s
        self._usage = Usage(budget)
        self._message = IncomingMessage(budget, memory)
        """The message of the last DATA command."""

    @property
    def in_transaction(self) -> bool:
        """Whether a MAIL command was accepted and its message has neither come nor been given up."""
        return self.transport is not None and self.envelope is not None and bool(self.envelope.mail_from)

    # ---- the end

    def end(self, reply: bytes = b"") -> None:
        """Sends a last reply, closes the connection and cancels the session's task."""
        transport = self.transport
        if isinstance(transport, asyncio.WriteTransport):
            if reply and takes_replies(transport):
                transport.write(reply + b"\r\n")
            close_transport(transport)
        if self._handler_coroutine is not None:
            self._handler_coroutine.cancel()

    def hang_up(self, reply: bytes) -> NoReturn:
        """`end`, for the session's own task: no further command is read."""
        self.end(reply)
        raise asyncio.CancelledError

    def _hang_up_if(self, reply: bytes | None) -> None:
        """`hang_up` with a reply, if there is one."""
        if reply is not None:
            self.hang_up(reply)

    # ---- time

    def _reset_timeout(self, duration: float | None = None) -> None:
        """The session ends `duration` seconds from now (by default the idle time), unless this is called again."""
        self._deadline = min(self.loop.time() + (duration or self.budget.idle_s), self._session_end)
        timer = self._timeout_handle
        # A timer that comes too early waits again: most commands need no new one.
        if timer is None or timer.when() > self._deadline:
            if timer is not None:
                timer.cancel()
            self._timeout_handle = self.loop.call_at(self._deadline, self._timeout_cb)

    def _timeout_cb(self) -> None:
        if self.loop.time() < self._deadline:
            self._timeout_handle = self.loop.call_at(self._deadline, self._timeout_cb)
        else:
            self.end(_TIMED_OUT if self._greeted else b"")

    def _received(self, number: int) -> None:
        """Bytes of a message give time, at the least rate; never more than the idle time (as in Postfix)."""
        most = min(self.loop.time() + self.budget.idle_s, self._session_end)
        self._deadline = min(self._deadline + number / self.budget.min_bytes_per_second, most)

    # ---- lines and replies

    async def _read_line(self) -> bytes | None:
        """The next line without its end; None if it was too long, for which a reply has been sent."""
        reader: CommandReader = self._reader  # type: ignore[assignment]
        if reader.has_line():
            await asyncio.sleep(0)  # a peer that sends many commands at once holds no other peer up
        self._reset_timeout()
        most = max(self.budget.max_command_bytes, MAX_AUTH_BYTES if self._auth_methods else 0)
        try:
            line = await reader.line(most, self._line_begun)
        except LineTooLong as error:
            if not error.ended:
                self.hang_up(_TOO_LONG)
            line = None
        finally:
            self._reset_timeout()
        if line is None:
            await self.push(_TOO_LONG)
            return None
        return line.rstrip(b"\r\n")

    def _line_begun(self) -> None:
        self._reset_timeout(min(self.budget.command_s, self.budget.idle_s))

    async def push(self, status: str | bytes) -> None:
        """Sends a reply, and waits until the peer has read enough of the replies before it."""
        if not takes_replies(self.transport):
            raise asyncio.CancelledError
        if isinstance(status, str):
            status = status.encode("utf-8" if self.enable_SMTPUTF8 else "ascii", "replace")
        assert isinstance(status, bytes)  # a handler's answer
        if status.startswith((b"4", b"5")) and status != TOO_MANY_RECIPIENTS:
            self._usage.record_error()
        self._writer.write(status + b"\r\n")
        await self._writer.drain()

    # ---- commands

    async def _handle_client(self) -> None:
        try:
            if not await self._begin():
                return
            self._greeted = True
            await self.push(f"220 {self.hostname} {self.__ident__}")
            while True:
                self._hang_up_if(self._usage.check_errors())
                if self.stopping and not self.in_transaction:
                    self.hang_up(SHUTDOWN_REPLY)
                line = await self._read_line()
                if line is not None:
                    await self._serve(line)
        except OSError as error:
            logger.debug("a peer has left: %s", error)

    async def _begin(self) -> bool:
        """What comes before the banner. Returns whether the session goes on."""
        raise NotImplementedError

    async def _serve(self, line: bytes) -> None:
        """Carries one command out. An exception of the handler's becomes a reply."""
        name, _, rest = line.partition(b" ")
        command, argument = (self._text(name) or "").upper(), self._text(rest.strip())
        self._hang_up_if(self._usage.record_command(command, command in self._smtp_methods))
        if len(line) + 2 > (MAX_AUTH_BYTES if command == "AUTH" else self.budget.max_command_bytes):
            await self.push(_TOO_LONG)
        elif not (command.isascii() and command.isalnum()) or b"\r" in line:
            await self.push("500 Error: bad syntax")
        elif argument is None:
            await self.push("500 Error: strict ASCII mode")
        elif await self._may_call(command):
            try:
                await self._smtp_methods[command](argument or None)
            except Exception as error:
                if isinstance(error, OSError) and not takes_replies(self.transport):
                    raise  # the peer's end, not the handler's error
                await self.push(await self.handle_exception(error))

    def _text(self, words: bytes) -> str | None:
        """What a peer sent as text; None if it is not ASCII, unless SMTPUTF8 is on."""
        if self.enable_SMTPUTF8:
            return words.decode("utf-8", "surrogateescape")
        return words.decode("ascii") if words.isascii() else None

    async def _may_call(self, command: str) -> bool:
        """Whether a command may be called; otherwise a reply has been sent. The replies are aiosmtpd's."""
        if not self._tls_handshake_okay and command != "QUIT":
            await self.push("554 Command refused due to lack of security")
        elif self.require_starttls and not self._tls_protocol and command not in ALLOWED_BEFORE_STARTTLS:
            await self.push("530 Must issue a STARTTLS command first")
        elif command not in self._smtp_methods:
            await self.push(f'500 Error: command "{command[:20]}" not recognized')
        elif self._enforce_call_limit and self._usage.calls[command] > self._call_limit_base.get(
            command, self._call_limit_default
        ):
            self.hang_up(f"421 4.7.0 {command} sent too many times".encode())
        else:
            return True
        return False

    # ---- DATA

    @functools.wraps(aiosmtpd.smtp.SMTP.smtp_DATA)
    async def smtp_DATA(self, arg: str | None) -> None:
        if await self.check_helo_needed() or await self.check_auth_needed("DATA"):
            return
        assert self.envelope is not None
        if not self.envelope.rcpt_tos:
            await self.push("503 Error: need RCPT command")
        elif arg:
            await self.push("501 Syntax: DATA")
        else:
            self._message = IncomingMessage(self.budget, self._memory)
            try:
                reply = await self._receive(self._message)
            finally:
                if not self._message.kept:
                    self._message.release()
                self._set_post_data_state()  # type: ignore[no-untyped-call]
            await self.push(reply)

    async def _receive(self, message: IncomingMessage) -> str | bytes:
        """Reads a message and hands it to the handler. Returns the reply."""
        self._usage.record_message()
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        reader: CommandReader = self._reader  # type: ignore[assignment]
        await reader.message(message, self._received)
        self._reset_timeout()
        if message.is_endless:
            self.hang_up(message.refusal or b"")
        if message.refusal is not None:
            return message.refusal
        content = message.content()
        assert self.envelope is not None
        self.envelope.original_content = self.envelope.content = content
        if self._decode_data:
            if not self.enable_SMTPUTF8 and not content.isascii():
                return "500 Error: strict ASCII mode"
            self.envelope.content = content.decode("utf-8", "surrogateescape")
        del content
        status = await self._call_handler_hook("DATA")
        return "250 OK" if status is MISSING else status

    # ---- AUTH, and what aiosmtpd's parsers do not expect

    async def challenge_auth(
        self, challenge: str | bytes, encode_to_b64: bool = True, log_client_response: bool = False
    ) -> Any:
        """aiosmtpd's challenge, with a bounded answer, which is never logged. Returns the answer, or MISSING."""
        challenge = challenge.encode() if isinstance(challenge, str) else challenge
        await self.push(b"334 " + (b64encode(challenge) if encode_to_b64 else challenge))
        answer = await self._read_line()
        if answer is None:
            return MISSING
        if answer.strip() == b"*":
            await self.push("501 5.7.0 Auth aborted")
            return MISSING
        try:
            return b64decode(answer.strip(), validate=True)
        except binascii.Error:
            await self.push("501 5.5.2 Can't decode base64")
            return MISSING

    def _create_session(self) -> aiosmtpd.smtp.Session:
        return _Session(self.loop)

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        if (arg.rfind(">") + 1 or len(arg)) > MAX_PATH:
            return None, None
        try:
            return super()._getaddr(arg)
        except Exception as error:  # `email` promises none for what is no address: "<" alone is an IndexError
            logger.debug("an address can't be parsed: %r", error)
            return None, None

    def _getparams(self, params: Any) -> Any:
        """The parameters of MAIL or RCPT. AUTH= of MAIL is accepted and not used (RFC 4954, section 5)."""
        if not all(param.isascii() for param in params):
            return None  # aiosmtpd takes "\u00b2" for a digit
        found = super()._getparams(params)
        if found and not self.in_transaction and isinstance(found.get("AUTH"), str):
            del found["AUTH"]
        return found
