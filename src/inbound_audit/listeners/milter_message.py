"""The message of a mail server's transaction, as a milter is sent its parts."""

from __future__ import annotations

from collections.abc import Sequence

from inbound_audit.listeners.mail_server import ProtocolError
from inbound_audit.listeners.smtp_hooks import announced_size
from inbound_audit.policy.message import Message

MAX_ENVELOPE_BYTES = 8 << 20
"""The addresses of one message; each also counts as `_ADDRESS_BYTES`."""

_ADDRESS_BYTES = 100


class MessageParts:
    """`envelope` is what hooks get: its size is the one that MAIL announced until all data has come."""

    def __init__(self, sender: str, options: Sequence[str]) -> None:
        self.envelope = Message(mailfrom=self.address(sender), rcptto=[], size=announced_size(options))
        self._kept = 0
        self._received = 0

    @staticmethod
    def address(text: str) -> str:
        """Without its angle brackets, as in an SMTP session."""
        return text[1:-1] if text.startswith("<") and text.endswith(">") else text

    def check_room(self, address: str) -> None:
        """Raises ProtocolError beyond `MAX_ENVELOPE_BYTES`: no mail server allows so many recipients."""
        if self._kept + len(address) + _ADDRESS_BYTES > MAX_ENVELOPE_BYTES:
            raise ProtocolError("a message of too many recipients")

    def add_recipient(self, address: str) -> None:
        self._kept += len(address) + _ADDRESS_BYTES
        self.envelope.rcptto.append(address)

    def add_header(self, name: bytes, value: bytes) -> None:
        # "name: value" and CRLF; the lines of a folded value end with a line feed here, with CRLF in the message.
        self._received += len(name) + len(value) + value.count(b"\n") + 4

    def add_body(self, data: bytes) -> None:
        self._received += len(data)

    def finish(self) -> None:
        """All data has come, unless the mail server has left it out as no hook asks about it."""
        if self._received:
            self.envelope.size = self._received + 2  # the empty line between header and body
