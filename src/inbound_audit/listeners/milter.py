"""A milter: the mail clients of Postfix or Sendmail are counted, and the policy is asked about each, over their socket.

    factory = MilterFactory(Guard(audit.listener("SMTP"), Limits()))
    server = await loop.create_unix_server(factory, "/run/inbound-audit/milter")

A mail server connects here once for each of its clients. The client is counted from then until that connection is
closed. No library has the protocol in a form that can be used here: docs/howto/postfix.md says why.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from inbound_audit.listeners import milter_protocol as protocol
from inbound_audit.listeners.mail_server import (
    MailServerConnection,
    MailServers,
    ProtocolError,
    reply_with_status,
)
from inbound_audit.listeners.milter_message import MessageParts
from inbound_audit.listeners.milter_protocol import CONTINUE, Frames, Negotiated
from inbound_audit.listeners.smtp_hooks import questions
from inbound_audit.policy.base import has_hook
from inbound_audit.policy.message import Message
from inbound_audit.policy.verdict import ACCEPT, Verdict

if TYPE_CHECKING:
    from inbound_audit.listeners.admission import Admission
    from inbound_audit.policy.base import ConnectPolicy

IDLE_S = 7210.0
"""Seconds without a frame of a client (libmilter's own default): one that sends nothing ends earlier in the mail
server."""

_NEVER = protocol.NO_END_OF_HEADERS | protocol.NO_UNKNOWN | protocol.NO_DATA
_CONNECT, _HELO, _MAIL = 0, 1, 2
_MACROS = {
    _CONNECT: "{client_addr} {client_port} {daemon_addr} {daemon_port}",
    _HELO: "{cipher}",
    _MAIL: "{client_addr}",
}


def _wanted(policy: ConnectPolicy | None) -> int:
    """What a mail server is to leave out, as the policy has no hook for it."""
    wanted = _NEVER
    if not has_hook(policy, "validate_ehlo", "validate_tls"):
        wanted |= protocol.NO_HELO
    if not has_hook(policy, "validate_rcptto", "validate_data", "validate_data_spool"):
        wanted |= protocol.NO_RCPT
    if not has_hook(policy, "validate_data", "validate_data_spool"):
        return wanted | protocol.NO_HEADERS | protocol.NO_BODY
    return wanted | protocol.UNANSWERED_HEADER | protocol.UNANSWERED_BODY


class MilterFactory(MailServers):
    """Makes the protocol of each connection of a mail server, for `loop.create_server`, and ends them all."""

    def __call__(self) -> Milter:
        return Milter(self)


class Milter(MailServerConnection):
    """One connection of a mail server, which is one mail client of it."""

    def __init__(self, servers: MailServers) -> None:
        super().__init__(servers, Frames())
        self._negotiated: Negotiated | None = None
        self._policy: ConnectPolicy | None = None
        self._admission: Admission | None = None
        self._macros: dict[str, str] = {}
        self._message: MessageParts | None = None
        self._refusal: bytes | None = None  # the answer to all that follows

    def __str__(self) -> str:
        return "a mail server" if self._admission is None else f"a mail server, with {self._admission}"

    @property
    def idle_s(self) -> float:
        """A mail server names a client soon after the negotiation, and the next one soon after the last."""
        return super().idle_s if self._admission is None else IDLE_S

    @property
    def in_transaction(self) -> bool:
        """Whether a message has begun and not ended, or an answer waits."""
        return self._message is not None or super().in_transaction

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._leave()

    # ---- frames

    def _handle(self, question: tuple[bytes, bytes]) -> None:
        letter, data = question
        if letter == b"O":
            self._negotiate(data)
            return
        if self._negotiated is None:
            raise ProtocolError("begins without a negotiation")
        handle = _HANDLERS.get(letter)
        if handle is None:
            raise ProtocolError(f"an unknown command {letter!r}")
        if self._refusal is not None and letter in _QUESTIONS:
            if self._needs_answer(_QUESTIONS[letter]):
                self._write(self._refusal)
        else:
            handle(self, data)

    def _negotiate(self, data: bytes) -> None:
        self._policy = self._servers.guard.policy
        self._negotiated = Negotiated(data, _wanted(self._policy), _MACROS)
        self._write(self._negotiated.reply())

    def _define(self, data: bytes) -> None:
        _, values = protocol.macros(data)
        self._macros.update((name, value) for name, value in values.items() if name in _KEPT)

    def _connect(self, data: bytes) -> None:
        peer: Any = protocol.connection(data)
        self._leave()
        if not isinstance(peer, tuple):  # a Unix socket of the mail server, or unknown: the macro may know
            peer = self._client() or peer
        guard = self._servers.guard
        self._admission = admission = guard.enter(peer, self._local())
        # What was negotiated suits this policy; it may have been exchanged since.
        admission.policy = self._policy
        self._answer(self._judge(admission))

    def _helo(self, data: bytes) -> None:
        self._ask("EHLO", protocol.strings(data)[0], cipher=self._macros.get("cipher", ""))

    def _mail(self, data: bytes) -> None:
        self._follow_client()
        sender, *options = protocol.strings(data)
        self._message = MessageParts(sender, options)
        if self._refusal is not None:
            self._write(self._refusal)
            self._end_message()
        elif not self._ask("MAIL", self._message.envelope.mailfrom):
            self._end_message()

    def _rcpt(self, data: bytes) -> None:
        message = self._begun()
        recipient = message.address(protocol.strings(data)[0])
        message.check_room(recipient)
        if self._ask("RCPT", recipient):
            message.add_recipient(recipient)

    def _header(self, data: bytes) -> None:
        name, value = [*data.split(b"\0"), b""][:2]
        self._begun().add_header(name, value)
        if self._needs_answer(protocol.UNANSWERED_HEADER):
            self._write(CONTINUE)

    def _body(self, data: bytes) -> None:
        self._begun().add_body(data)
        if self._needs_answer(protocol.UNANSWERED_BODY):
            self._write(CONTINUE)

    def _end_of_message(self, data: bytes) -> None:
        message = self._begun()
        message.add_body(data)
        message.finish()
        accepted = self._ask("DATA", None)
        if accepted and self._admission is not None:
            self._admission.record_reception()
        self._end_message()

    def _continue(self, data: bytes) -> None:
        """What no hook is asked about, of a mail server that can't leave it out."""
        self._write(CONTINUE)

    def _abort(self, data: bytes) -> None:
        self._end_message()

    def _quit(self, data: bytes) -> None:
        self._transport.close()

    def _quit_for_another(self, data: bytes) -> None:
        """The next client of the mail server comes on the same connection."""
        self._leave()
        self._macros.clear()

    # ---- the policy

    def _ask(self, command: str, text: str | None, cipher: str = "") -> bool:
        """Asks the hooks of a command, and answers. Returns whether it is let in."""
        admission, tarpit = self._counted(), 0.0
        verdict = ACCEPT
        for hook, arguments in questions(command, text, self._known_message, cipher):
            verdict = admission.hook(hook, *arguments)
            tarpit += verdict.tarpit
            if not verdict.lets_in:
                break
        self._answer(verdict, tarpit, progress=command == "DATA")
        return verdict.lets_in

    def _answer(self, verdict: Verdict, tarpit: float | None = None, *, progress: bool = False) -> None:
        """Answers after the wait of a tarpit, which is the verdict's own if there is no sum of several."""
        tarpit = verdict.tarpit if tarpit is None else tarpit
        answer = CONTINUE
        if not verdict.lets_in:
            answer = protocol.refusal(reply_with_status(verdict))
            if verdict.disconnect:
                self._refusal = answer
        if tarpit <= 0:
            self._write(answer)
            return
        if progress:
            self._write(protocol.PROGRESS)
        self._write_later(answer, tarpit)

    def _judge(self, admission: Admission) -> Verdict:
        """Asks about the client; a refusal is the answer to all that it does from now on."""
        verdict = admission.evaluate()
        if not verdict.lets_in:
            self._refusal = protocol.refusal(reply_with_status(verdict))
        return verdict

    def _follow_client(self) -> None:
        """Moves the count, and asks again, if the mail server has another address for its client by now."""
        client, admission = self._client(), self._counted()
        session = admission.session
        if client is None or session is None or _is_same(client[0], session.remote_ip):
            return
        if admission.rebind(client):  # or else it has logged that the macro says no address
            self._judge(admission)

    # ---- state

    def _needs_answer(self, unanswered: int) -> bool:
        return self._negotiated is not None and self._negotiated.answers(unanswered)

    def _counted(self) -> Admission:
        if self._admission is None:
            raise ProtocolError("a command without a connection")
        return self._admission

    def _begun(self) -> MessageParts:
        if self._message is None:
            raise ProtocolError("a part of a message that has not begun")
        return self._message

    def _known_message(self) -> Message:
        return self._begun().envelope

    def _client(self) -> tuple[str, int] | None:
        address = self._macros.get("client_addr", "").removeprefix("IPv6:")
        return (address, _port(self._macros.get("client_port", ""))) if address not in ("", "unknown") else None

    def _local(self) -> tuple[str, int] | None:
        address = self._macros.get("daemon_addr", "").removeprefix("IPv6:")
        return (address, _port(self._macros.get("daemon_port", ""))) if address else None

    def _end_message(self) -> None:
        self._message = None
        self._macros.pop("client_addr", None)
        self._end_if_stopping()

    def _leave(self) -> None:
        """Ends the count of the client."""
        admission, self._admission, self._message, self._refusal = self._admission, None, None, None
        if admission is not None:
            admission.close()


def _is_same(one: str, other: str) -> bool:
    """Whether two texts are one address."""
    try:
        return one == other or ipaddress.ip_address(one) == ipaddress.ip_address(other)
    except ValueError:
        return False


def _port(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0


_KEPT = {"client_addr", "client_port", "daemon_addr", "daemon_port", "cipher"}

_HANDLERS = {
    b"D": Milter._define,
    b"C": Milter._connect,
    b"H": Milter._helo,
    b"M": Milter._mail,
    b"R": Milter._rcpt,
    b"L": Milter._header,
    b"B": Milter._body,
    b"E": Milter._end_of_message,
    b"N": Milter._continue,
    b"T": Milter._continue,
    b"U": Milter._continue,
    b"A": Milter._abort,
    b"Q": Milter._quit,
    b"K": Milter._quit_for_another,
}

_QUESTIONS = {
    b"H": 0,
    b"M": 0,
    b"R": 0,
    b"L": protocol.UNANSWERED_HEADER,
    b"B": protocol.UNANSWERED_BODY,
    b"E": 0,
    b"N": 0,
    b"T": 0,
    b"U": 0,
}
"""What gets an answer, and the bit that says it gets none."""
