"""Which hooks of a policy each command of SMTP asks, whatever listener it comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from inbound_audit.policy.message import Message

Question = tuple[str, tuple[object, ...]]
"""A hook's name, and its arguments after the session."""


def questions(command: str, text: object, message: Callable[[], Message], cipher: str = "") -> Iterator[Question]:
    """The hooks that a command asks. `text` is the client's name or an address, `cipher` that of a session with TLS.

    DATA asks when the message has come. A command without hooks asks none.
    """
    if command in ("EHLO", "HELO"):
        if cipher:
            yield "validate_tls", (cipher,)
        yield "validate_ehlo", (text,)
    elif command == "MAIL":
        yield "validate_mailfrom", (text,)
    elif command == "RCPT":
        yield "validate_rcptto", (text, message())
    elif command == "DATA":
        received = message()
        yield "validate_data", (received,)
        yield "validate_data_spool", (received,)


def announced_size(mail_options: Sequence[str]) -> int:
    """SIZE= of the MAIL command (RFC 1870), as its server has checked it; 0 without one."""
    for option in mail_options:
        name, _, value = option.partition("=")
        if name.upper() == "SIZE" and value.isascii() and value.isdecimal() and len(value) < 20:
            return int(value)
    return 0
