"""The bytes of a message, from DATA to CRLF.CRLF: taken piece by piece, in bounded memory and linear time.

The end of a message is CRLF.CRLF and nothing else (RFC 5321, 2.3.8 and 4.1.1.4), as Postfix's
`smtpd_forbid_bare_newline` has it by default: a bare LF is a line's end inside of a message, a bare CR is a blank.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inbound_audit.listeners.budget import SessionBudget

MESSAGE_MEMORY_BYTES = 256 << 20
"""Bytes that the messages of all sessions of a process have together, unless another number is given."""

MAX_SIZE_FACTOR = 4
"""A message is read to its end, and refused, until it is this many times as large as it may be; then it is cut off."""

_END = b"\r\n.\r\n"


class MessageMemory:
    """Bytes that messages may have together, from their first byte until their handler has returned.

    For the sessions of one event loop: no lock is taken. Raises ValueError if not even one message has room.
    """

    def __init__(self, max_bytes: int, budget: SessionBudget) -> None:
        self.resize(max_bytes, budget)
        self.used = 0

    def resize(self, max_bytes: int, budget: SessionBudget) -> None:
        """From now on there are so many. Raises ValueError if not even one message has room."""
        if max_bytes < budget.max_message_bytes:
            raise ValueError(
                f"{max_bytes} bytes for messages are less than one message of {budget.max_message_bytes} bytes"
            )
        self._max_bytes = max_bytes

    def reserve(self, number: int) -> bool:
        """Takes so many bytes. Returns False, and takes none, if there are fewer."""
        if self.used + number > self._max_bytes:
            return False
        self.used += number
        return True

    def release(self, number: int) -> None:
        self.used -= number


class IncomingMessage:
    """One message while it comes in.

    `refusal` is the reply if the message can't be accepted: its bytes are then counted and dropped. A message that is
    too large is refused for that, whatever else is wrong with it.
    """

    def __init__(self, budget: SessionBudget, memory: MessageMemory) -> None:
        self._max_bytes = budget.max_message_bytes
        self._max_line_bytes = budget.max_line_bytes
        self._memory = memory
        self._reserved = 0
        self._content = io.BytesIO()  # unlike a bytearray it becomes bytes without a copy
        self._begun = False
        self._kept = b"\r\n"  # may be the beginning of the end; at first it is the end of the line before the message
        self._line_bytes = 0
        self.size = 0
        """Bytes so far, without the dots that the client added."""
        self.refusal: bytes | None = None
        self.kept = False
        """Whether a delivery, which may outlive the session, will release the memory."""

    @property
    def is_endless(self) -> bool:
        """Whether so much has come that the rest is not worth reading."""
        return self.size > MAX_SIZE_FACTOR * self._max_bytes

    def feed(self, data: bytes) -> bytes | None:
        """Takes what has come. Returns what follows the message, None if its end has not come. Linear in `data`."""
        data = self._kept + data
        end = data.find(_END)
        if end >= 0:
            self._take(data[: end + 2])
            return data[end + len(_END) :]
        # No longer beginning of the end remains in what is taken, so no CRLF and no CRLF with its dot is cut apart.
        kept = next(n for n in range(min(len(_END) - 1, len(data)), -1, -1) if data.endswith(_END[:n]))
        self._kept = data[len(data) - kept :]
        self._take(data[: len(data) - kept])
        return None

    def _take(self, text: bytes) -> None:
        if not text:
            return
        text = _with_crlf(text.replace(b"\r\n.", b"\r\n"))
        if not self._begun:
            self._begun, text = True, text[2:]
        self.size += len(text)
        if self.size > self._max_bytes:
            self._refuse(b"552 5.3.4 a message may have %d bytes" % self._max_bytes)
        elif self.refusal is not None:
            return
        elif self._has_long_line(text):
            self._refuse(b"500 5.5.2 a line may have %d bytes" % self._max_line_bytes)
        elif not self._memory.reserve(len(text)):
            self._refuse(b"451 4.3.1 no memory for the message, try again later")
        else:
            self._reserved += len(text)
            self._content.write(text)

    def _has_long_line(self, text: bytes) -> bool:
        """Goes from one line's end to the last one within reach: twice per `max_line_bytes` at the most."""
        begin = -self._line_bytes  # of the line that reaches into `text`
        while len(text) - begin > self._max_line_bytes:
            end = text.rfind(b"\n", max(begin, 0), begin + self._max_line_bytes)
            if end < 0:
                return True
            begin = end + 1
        last = text.rfind(b"\n", max(begin, 0))
        self._line_bytes = len(text) - (last + 1 if last >= 0 else begin)
        return False

    def _refuse(self, reply: bytes) -> None:
        self.refusal = reply
        self.release()

    def content(self) -> bytes:
        """The message, with CRLF at each line's end and without the added dots. May be called once."""
        content, self._content = self._content, io.BytesIO()
        return content.getvalue()

    def release(self) -> None:
        """Drops what has come, and gives the memory's bytes back. Idempotent."""
        self._content = io.BytesIO()
        self._memory.release(self._reserved)
        self._reserved = 0


def _with_crlf(text: bytes) -> bytes:
    """`text` with CRLF for each bare LF, and a blank for each bare CR; `text` neither cuts a CRLF apart."""
    if text.count(b"\r") == text.count(b"\r\n") == text.count(b"\n"):
        return text
    return text.replace(b"\r\n", b"\n").replace(b"\r", b" ").replace(b"\n", b"\r\n")
