"""The policy's part in one SMTP session: which hook each command asks, and what becomes of the verdict."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from inbound_audit.listeners.proxy import real_client
from inbound_audit.listeners.smtp_hooks import Question, announced_size, questions
from inbound_audit.policy.message import Message
from inbound_audit.policy.verdict import ACCEPT, REFUSAL_CODE, REFUSAL_TEXT, Verdict, reply_code, smtp_lines

if TYPE_CHECKING:
    from aiosmtpd.proxy_protocol import ProxyData

    from inbound_audit.listeners.admission import Admission
    from inbound_audit.listeners.smtp import SMTP


@functools.lru_cache(maxsize=256)
def smtp_reply(verdict: Verdict) -> bytes:
    """`smtp_lines`, with a text if the verdict has none."""
    return smtp_lines(verdict, verdict.text or REFUSAL_TEXT)


@functools.lru_cache(maxsize=256)
def refusal_line(verdict: Verdict) -> bytes:
    """`smtp_reply` with its last CRLF."""
    return smtp_reply(verdict) + b"\r\n"


class SMTPPolicy:
    """Asks the policy of one SMTP session. `check_command` comes before the handler's own hook for each command."""

    __slots__ = ("_server", "admission")

    def __init__(self, server: SMTP, admission: Admission) -> None:
        self._server = server
        self.admission = admission

    async def check_command(self, command: str, args: Sequence[object]) -> bytes | None:
        """Returns the reply that refuses a command, None if the command may pass.

        Waits out a tarpit. Does not return if the verdict ends the connection: the reply is sent, and CancelledError
        ends the session's task, as QUIT does, so that no command of the same packet is read.
        """
        for hook, arguments in self._questions(command, args):
            verdict = self.admission.hook(hook, *arguments)
            if verdict is ACCEPT:
                continue
            await self._tarpit(verdict)
            if verdict.accepted and not verdict.disconnect:
                continue
            reply = smtp_reply(verdict)
            if verdict.disconnect or reply_code(verdict) == REFUSAL_CODE:  # 421 closes the channel: RFC 5321, 3.8
                self._server.hang_up(reply)
            return reply
        return None

    def _questions(self, command: str, args: Sequence[object]) -> Iterator[Question]:
        cipher = None
        if command in ("EHLO", "HELO") and self._server.transport is not None:
            cipher = self._server.transport.get_extra_info("cipher")
        return questions(command, args[0] if args else None, self._message, cipher[0] if cipher else "")

    def _message(self) -> Message:
        """The message as far as it is known: its size is the one that MAIL announced until all data has come."""
        envelope = self._server.envelope
        assert envelope is not None
        content = envelope.original_content
        size = announced_size(envelope.mail_options) if content is None else len(content)
        return Message(mailfrom=envelope.mail_from or "", rcptto=envelope.rcpt_tos, size=size)

    def greeting(self, replies: Sequence[str]) -> list[str]:
        """The replies to EHLO with the policy's capabilities added and removed.

        The first reply names the server. Replies other than 250 are the handler's refusal and stay as they are.
        """
        added, removed = self.admission.capabilities()
        if not (added or removed) or not replies or not all(reply.startswith("250") for reply in replies):
            return list(replies)
        replaced = {_keyword(line) for line in (*added, *removed)}
        kept = [reply[4:] for reply in replies[1:] if _keyword(reply[4:]) not in replaced]
        lines = [replies[0][4:], *added, *kept]
        return [f"250-{line}" for line in lines[:-1]] + [f"250 {lines[-1]}"]

    async def apply_proxy_header(self, header: ProxyData) -> bool:
        """Moves the count to the client that a trusted balancer names, and asks the policy. False: refused."""
        client = real_client(header)
        if client is not None and not self.admission.rebind(client):
            return False
        verdict = self.admission.evaluate()
        await self._tarpit(verdict)
        if not self.admission.let_in:
            await self._server.push(smtp_reply(verdict))
        return self.admission.let_in

    async def _tarpit(self, verdict: Verdict) -> None:
        if verdict.tarpit > 0:
            # The server waits here, so the wait does not use up the peer's own time.
            self._server._reset_timeout(self._server._timeout_duration + verdict.tarpit)
            await asyncio.sleep(verdict.tarpit)


def _keyword(capability: str) -> str:
    return capability.partition(" ")[0].upper()
