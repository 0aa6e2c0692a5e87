"""The bytes between a mail server and a milter: frames, what is negotiated, and replies.

The protocol is Sendmail's (libmilter, mfdef.h), in version 6 as Postfix speaks it. A frame is its length in 4 bytes, a
letter and data; strings in the data end with a zero byte.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from inbound_audit.listeners.mail_server import ProtocolError, Reader

MAX_FRAME_BYTES = 1 << 20
"""The largest piece of a body that the protocol knows (MILTER_MAX_DATA_SIZE of 1 MiB); a frame that is longer is
refused before its data is read."""

MAX_TEXT_BYTES = 4096
"""A name or an address: Postfix reads lines of 2,048 bytes."""

VERSION, MIN_VERSION = 6, 2

# The actions that may be negotiated: none changes a message, one names the macros that are wanted.
CHOOSES_MACROS = 0x100

# What the mail server is asked to leave out (NO_), or not to wait for an answer to (UNANSWERED_).
NO_HELO, NO_RCPT, NO_BODY, NO_HEADERS, NO_END_OF_HEADERS = 0x02, 0x08, 0x10, 0x20, 0x40
NO_UNKNOWN, NO_DATA = 0x100, 0x200
UNANSWERED_HEADER, UNANSWERED_BODY = 0x80, 0x80000

CONTINUE = b"\0\0\0\1c"

_LENGTH = struct.Struct("!I")
_NEGOTIATION = struct.Struct("!III")
_PORT = struct.Struct("!H")


class Frames(Reader):
    """Cuts what comes in from one mail server into frames. Holds at most one frame and what came with its end."""

    max_waiting_bytes = 2 * MAX_FRAME_BYTES
    too_much = "sends on without an answer"  # a mail server waits for one before it goes on

    def take(self) -> tuple[bytes, bytes] | None:
        """The letter and the data of the next frame; None if it has not come whole. Raises ProtocolError."""
        buffer = self._buffer
        if len(buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(buffer)
        if not 0 < length <= MAX_FRAME_BYTES:
            raise ProtocolError(f"a frame of {length} bytes: expected 1 to {MAX_FRAME_BYTES}")
        end = _LENGTH.size + length
        if len(buffer) < end:
            return None
        letter, data = bytes(buffer[4:5]), bytes(buffer[5:end])
        del buffer[:end]
        return letter, data


def frame(letter: bytes, data: bytes = b"") -> bytes:
    return _LENGTH.pack(1 + len(data)) + letter + data


def strings(data: bytes) -> list[str]:
    """The strings of a frame. A mail client may have sent any byte, so none is refused. Raises ProtocolError."""
    if not data.endswith(b"\0"):
        raise ProtocolError("a string without its end")
    parts = data[:-1].split(b"\0")
    if max(map(len, parts)) > MAX_TEXT_BYTES:
        raise ProtocolError(f"a text of more than {MAX_TEXT_BYTES} bytes")
    return [part.decode("utf-8", "replace") for part in parts]


def macros(data: bytes) -> tuple[str, dict[str, str]]:
    """Of which command they are, and their values by name, without braces. Raises ProtocolError."""
    found = strings(data[1:]) if len(data) > 1 else []
    names = (name.strip("{}") for name in found[::2])
    return data[:1].decode("latin-1"), dict(zip(names, found[1::2], strict=False))


def connection(data: bytes) -> tuple[str, int] | str | None:
    """The client, as `getpeername` returns it; None if the mail server does not know it. Raises ProtocolError."""
    _, zero, rest = data.partition(b"\0")
    family = rest[:1]
    if not zero or family not in (b"4", b"6", b"L", b"U"):
        raise ProtocolError("a connection of no family")
    if family == b"U":
        return None
    if len(rest) < 4:
        raise ProtocolError("a connection without an address")
    address = strings(rest[3:])[0]
    if family == b"L":
        return address
    (port,) = _PORT.unpack_from(rest, 1)
    return address.removeprefix("IPv6:"), port  # with which Sendmail begins those of IPv6


class Negotiated:
    """What a mail server and a milter have agreed on."""

    def __init__(self, data: bytes, wanted: int, wanted_macros: Mapping[int, str]) -> None:
        """`wanted`: of the NO_ and UNANSWERED_ bits; those that the server does not have are left out.
        `wanted_macros`: names by the number of their command. Raises ProtocolError."""
        if len(data) < _NEGOTIATION.size:
            raise ProtocolError("a negotiation that is too short")
        version, actions, offered = _NEGOTIATION.unpack_from(data)
        if version < MIN_VERSION:
            raise ProtocolError(f"version {version} of the protocol: expected {MIN_VERSION} to {VERSION}")
        self._version, self._actions, self._agreed = min(version, VERSION), actions & CHOOSES_MACROS, wanted & offered
        self._macros = wanted_macros if self._actions else {}

    def answers(self, unanswered: int) -> bool:
        """Whether the server waits for an answer to what has this bit."""
        return not self._agreed & unanswered

    def reply(self) -> bytes:
        names = b"".join(_LENGTH.pack(at) + text.encode() + b"\0" for at, text in self._macros.items())
        return frame(b"O", _NEGOTIATION.pack(self._version, self._actions, self._agreed) + names)


def refusal(reply: bytes) -> bytes:
    """The frame that refuses with an SMTP reply, which may have several lines. Mail servers read it as a format of
    printf, in which a percent sign is written twice."""
    return frame(b"y", reply.replace(b"%", b"%%") + b"\0")


PROGRESS = frame(b"p")
"""The milter still works on the end of a message: the mail server goes on waiting."""
