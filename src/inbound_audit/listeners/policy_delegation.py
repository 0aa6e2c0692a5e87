"""Postfix's policy delegation protocol (SMTPD_POLICY_README): a policy is asked about clients that others count.

    server = await loop.create_unix_server(PolicyServers(guard), "/run/inbound-audit/policy")

A request is lines of name=value and an empty line, an answer `action=...` and an empty line. A connection is one of
Postfix, with requests about one client after another, so it counts none.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from inbound_audit.listeners.mail_server import (
    MailServerConnection,
    MailServers,
    ProtocolError,
    Reader,
    reply_with_status,
)
from inbound_audit.listeners.smtp_hooks import questions
from inbound_audit.policy.message import Message
from inbound_audit.policy.verdict import ACCEPT, Verdict

if TYPE_CHECKING:
    from inbound_audit.listeners.guard import Guard

MAX_REQUEST_BYTES = 1 << 16
"""Postfix sends some 30 attributes; the longest are addresses and names of certificates."""

IDLE_S = 3600.0
"""Seconds without a request: Postfix closes its connections after 1,000 (smtpd_policy_service_max_ttl)."""

NO_OPINION = "DUNNO"
UNAVAILABLE = "DEFER_IF_PERMIT 4.3.0 service not available, try again later"

_COMMANDS = {"EHLO": "EHLO", "HELO": "EHLO", "MAIL": "MAIL", "RCPT": "RCPT", "END-OF-MESSAGE": "DATA"}
_TEXTS = {"EHLO": "helo_name", "MAIL": "sender", "RCPT": "recipient"}


class Requests(Reader):
    """Cuts what comes in into requests. Holds at most `MAX_REQUEST_BYTES` and what came with their end."""

    max_waiting_bytes = MAX_REQUEST_BYTES
    too_much = f"more than {MAX_REQUEST_BYTES} bytes wait"

    def take(self) -> bytes | None:
        """The lines of the next request; None if it has not come whole."""
        if self._buffer.startswith(b"\n"):
            end = 0
        else:
            end = self._buffer.find(b"\n\n") + 1
            if not end:
                return None
        lines = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return lines


def attributes_of(lines: bytes) -> dict[str, str]:
    """The attributes of a request; of one that is there twice the last value. Raises ProtocolError."""
    values = {}
    for line in lines.decode("utf-8", "replace").split("\n")[:-1]:
        name, equals, value = line.partition("=")
        if not (name and equals) or "\0" in line:
            raise ProtocolError("a line that is no name=value")
        values[name] = value
    if values.get("request") != "smtpd_access_policy":
        raise ProtocolError("a request that is not smtpd_access_policy")
    return values


class PolicyServers(MailServers):
    """Makes the protocol of each connection of Postfix. With `records` a refusal is a rejection in the windows."""

    def __init__(self, guard: Guard, *, records: bool = False) -> None:
        super().__init__(guard)
        self.records = records

    def __call__(self) -> PolicyServer:
        return PolicyServer(self, self.records)


class PolicyServer(MailServerConnection):
    """One connection of Postfix."""

    idle_s = IDLE_S

    def __init__(self, servers: MailServers, records: bool) -> None:
        super().__init__(servers, Requests())
        self._records = records

    def __str__(self) -> str:
        return "a mail server's policy client"

    def _handle(self, question: bytes) -> None:
        try:
            verdict, tarpit = self._ask(attributes_of(question))
        except ProtocolError as error:
            self._complain(error)
            self._write(self._answer_without_a_policy())
            return
        answer = _answer(NO_OPINION if verdict.lets_in else _refusal(verdict))
        if tarpit > 0:
            self._write_later(answer, tarpit)
        else:
            self._write(answer)

    def _ask(self, values: dict[str, str]) -> tuple[Verdict, float]:
        """The first verdict that refuses, or the last, and the sum of the tarpits."""
        admission = self._servers.guard.visit(*_ends(values))
        admission.records = self._records
        try:
            admission.describe(values)
            verdict = admission.evaluate()
            tarpit = verdict.tarpit
            if not verdict.lets_in:
                return verdict, tarpit
            command = _COMMANDS.get(values.get("protocol_state", ""), "")
            text = values.get(_TEXTS.get(command, ""), "")
            cipher = values.get("encryption_cipher", "")
            for hook, arguments in questions(command, text, lambda: _message(command, values), cipher):
                verdict = admission.hook(hook, *arguments)
                tarpit += verdict.tarpit
                if not verdict.lets_in:
                    break
            return verdict, tarpit
        finally:
            admission.close()

    def _answer_without_a_policy(self) -> bytes:
        return _answer(NO_OPINION if self._servers.guard.on_error is ACCEPT else UNAVAILABLE)

    def _broken(self, error: ProtocolError) -> None:
        """Postfix gets an answer before its connection ends, if one can be meant for it."""
        if len(self._reader):
            self._write(self._answer_without_a_policy())
        self._complain(error)
        self.end()

    def _complain(self, error: ProtocolError) -> None:
        self._servers.guard.refusals.report(logging.INFO, "%s has sent %s", self, error)


def _ends(values: dict[str, str]) -> tuple[tuple[str, int] | None, tuple[str, int] | None]:
    """The client and the server's own side; None for what Postfix does not know."""
    client, server = (
        (values[f"{side}_address"], _port(values.get(f"{side}_port", "")))
        if values.get(f"{side}_address", "") not in ("", "unknown")
        else None
        for side in ("client", "server")
    )
    return client, server


def _port(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 and int(text) < 65536 else 0


def _message(command: str, values: dict[str, str]) -> Message:
    """What is known: one recipient at most, and the size that MAIL announced, or the real one at the message's end."""
    recipient, size = values.get("recipient", ""), values.get("size", "")
    return Message(
        mailfrom=values.get("sender", ""),
        rcptto=[recipient] if recipient and command == "DATA" else [],
        size=int(size) if size.isascii() and size.isdecimal() and len(size) < 20 else 0,
    )


def _refusal(verdict: Verdict) -> str:
    """The reply as an action (access(5)), which has one line."""
    first, *others = reply_with_status(verdict).decode("ascii").split("\r\n")
    return " ".join([first[:3] + " " + first[4:], *(line[4:] for line in others)])


def _answer(action: str) -> bytes:
    return f"action={action}\n\n".encode("ascii")
