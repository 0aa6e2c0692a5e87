"""What the policy says in the course of one SMTP session, and how that is carried out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from inbound_audit.listeners.proxy import real_client
from inbound_audit.policy.message import Message
from inbound_audit.policy.verdict import ACCEPT, REFUSAL_CODE, REFUSAL_TEXT, Verdict

if TYPE_CHECKING:
    from aiosmtpd.proxy_protocol import ProxyData

    from inbound_audit._ipcount import Session
    from inbound_audit.listeners.guard import Admission
    from inbound_audit.listeners.smtp import SMTP


def smtp_reply(verdict: Verdict) -> bytes:
    """The reply line, or lines (RFC 5321, 4.2.1), of a refusal, without the last CRLF.

    Whatever the policy's text is, it stays one reply of a code that refuses: lines are joined as SMTP joins them,
    what is not ASCII becomes a question mark, and another code than 4xx or 5xx becomes 421.
    """
    code = _reply_code(verdict)
    lines = (verdict.text or REFUSAL_TEXT).splitlines() or [""]
    reply = "\r\n".join([*(f"{code}-{line}" for line in lines[:-1]), f"{code} {lines[-1]}"])
    return reply.encode("ascii", "replace")


def _reply_code(verdict: Verdict) -> int:
    return verdict.code if 400 <= verdict.code <= 599 else REFUSAL_CODE


class Dialogue:
    """The policy's part in one SMTP session. `ask` comes before the handler's own hook for each command."""

    __slots__ = ("_admission", "_server")

    def __init__(self, server: SMTP, admission: Admission) -> None:
        self._server = server
        self._admission = admission

    @property
    def session(self) -> Session | None:
        return self._admission.session

    def close(self) -> None:
        self._admission.close()

    def received(self) -> None:
        """A message was accepted."""
        self._admission.record_reception()

    async def ask(self, command: str, args: Sequence[object]) -> bytes | None:
        """The reply that refuses a command, None when it may pass.

        Waits out a tarpit. Where the verdict ends the connection it does not return: the reply is sent, and
        CancelledError ends the session's task, as QUIT does, so that no command is read that came along.
        """
        for hook, arguments in self._questions(command, args):
            verdict = self._admission.hook(hook, *arguments)
            if verdict is ACCEPT:
                continue
            await self._tarpit(verdict)
            if verdict.accepted and not verdict.disconnect:
                continue
            reply = smtp_reply(verdict)
            if verdict.disconnect or _reply_code(verdict) == REFUSAL_CODE:  # 421 closes the channel: RFC 5321, 3.8
                await self.hang_up(reply)
            return reply
        return None

    def _questions(self, command: str, args: Sequence[object]) -> Iterator[tuple[str, tuple[object, ...]]]:
        """The hooks that a command asks and their arguments, apart from the accept construct."""
        if command in ("EHLO", "HELO"):
            yield "validate_ehlo", (args[0],)
        elif command == "MAIL":
            yield "validate_mailfrom", (args[0],)
        elif command == "RCPT":
            yield "validate_rcptto", (args[0], self._message())
        elif command == "DATA":
            message = self._message()
            yield "validate_data", (message,)
            yield "validate_data_spool", (message,)

    def _message(self) -> Message:
        """The message as far as it is known: its size is what MAIL announced until all of it has come."""
        envelope = self._server.envelope
        assert envelope is not None
        content = envelope.original_content
        size = _announced_size(envelope.mail_options) if content is None else len(content)
        return Message(mailfrom=envelope.mail_from or "", rcptto=envelope.rcpt_tos, size=size)

    def greeting(self, replies: Sequence[str]) -> list[str]:
        """The replies to EHLO with the policy's capabilities added and removed.

        The first one names the server; a reply that is no "250" was the handler's way of saying no.
        """
        added, removed = self._admission.capabilities()
        if not (added or removed) or not replies or not all(reply.startswith("250") for reply in replies):
            return list(replies)
        replaced = {_keyword(line) for line in (*added, *removed)}
        kept = [reply[4:] for reply in replies[1:] if _keyword(reply[4:]) not in replaced]
        lines = [replies[0][4:], *added, *kept]
        return [f"250-{line}" for line in lines[:-1]] + [f"250 {lines[-1]}"]

    async def introduce(self, header: ProxyData) -> bool:
        """A believed balancer has named the client: counts it where it belongs and asks the policy. False: refused."""
        client = real_client(header)
        if client is not None:
            self._admission.rebind(client)
        verdict = self._admission.ask()
        await self._tarpit(verdict)
        if not self._admission.let_in:
            await self._server.push(smtp_reply(verdict))
        return self._admission.let_in

    async def hang_up(self, reply: bytes) -> None:
        """Sends a last reply and ends the session's task; never returns."""
        await self._server.push(reply)
        if self._server.transport is not None:
            self._server.transport.close()
        raise asyncio.CancelledError

    async def _tarpit(self, verdict: Verdict) -> None:
        if verdict.tarpit > 0:
            # The wait is ours, so it does not use up the peer's own time.
            self._server._reset_timeout(self._server._timeout_duration + verdict.tarpit)
            await asyncio.sleep(verdict.tarpit)


def _keyword(capability: str) -> str:
    return capability.partition(" ")[0].upper()


def _announced_size(mail_options: Sequence[str]) -> int:
    """SIZE= of the MAIL command (RFC 1870), which aiosmtpd has checked; 0 if there was none."""
    for option in mail_options:
        name, _, value = option.partition("=")
        if name == "SIZE" and value.isdecimal():
            return int(value)
    return 0
