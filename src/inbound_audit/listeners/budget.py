"""The budget of a session: the most of everything that one connection may use before it is ended."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any


def check_bound(name: str, value: object) -> None:
    """Raises TypeError or ValueError unless `value` is a number above 0, and a whole one unless it is in seconds."""
    whole = not name.endswith("_s")
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise TypeError(f"{name}={value!r}: expected a {'whole ' if whole else ''}number")
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}={value!r}: expected a number above 0")


def _bound(default: float, option: str, postfix: str, beyond: str, what: str) -> Any:
    """A field with its words: the option of `serve`, Postfix's parameter, the reply beyond it, and what it bounds."""
    words = {"option": option, "postfix": postfix, "beyond": beyond, "what": what}
    return field(default=default, metadata=words)


@dataclass(frozen=True, kw_only=True)
class SessionBudget:
    """What one session may use. The defaults are Postfix's where it has one.

    Names ending in `_s` are seconds (any positive number), names ending in `_bytes` are bytes; all others are whole
    numbers from 1 on. Raises TypeError or ValueError for any other value.
    """

    idle_s: float = _bound(
        300.0, "--timeout", "smtpd_timeout", "421 4.4.2", "Time without a command, or without a read of a reply"
    )
    command_s: float = _bound(
        60.0, "--command-timeout", "smtpd_per_request_deadline", "421 4.4.2",
        "Time from the first byte of a command to the end of its line",
    )  # fmt: skip
    session_s: float = _bound(7200.0, "--session-timeout", "", "421 4.4.2", "Time of a session in all")
    tls_s: float = _bound(
        60.0,
        "--tls-timeout",
        "smtpd_starttls_timeout",
        "the connection is closed",
        "Time of a STARTTLS handshake, 60s at the most",
    )
    proxy_s: float = _bound(
        5.0,
        "--proxy-timeout",
        "smtpd_upstream_proxy_timeout",
        "the connection is closed",
        "Time until a balancer's PROXY header is here",
    )
    min_bytes_per_second: int = _bound(
        500, "--min-rate", "smtpd_min_data_rate", "421 4.4.2",
        "Bytes per second of a message; a slower peer uses up its --timeout",
    )  # fmt: skip
    max_early_bytes: int = _bound(
        1 << 16, "--max-early", "", "reading waits", "Bytes that are read before the banner, during a tarpit"
    )
    max_command_bytes: int = _bound(2048, "--max-command-line", "line_length_limit", "500", "Bytes of a command line")
    max_line_bytes: int = _bound(1000, "--max-line", "", "500", "Bytes of a line of a message, its CRLF included")
    max_message_bytes: int = _bound(10_240_000, "--max-size", "message_size_limit", "552 5.3.4", "Bytes of a message")
    max_recipients: int = _bound(
        1000, "--max-recipients", "smtpd_recipient_limit", "452 4.5.3", "Recipients of a message"
    )
    max_idle_commands: int = _bound(
        100, "--max-commands", "smtpd_junk_command_limit", "421 4.7.0",
        "Commands other than MAIL, RCPT and DATA between two messages",
    )  # fmt: skip
    max_errors: int = _bound(
        20, "--max-errors", "smtpd_hard_error_limit", "421 4.7.0",
        "Replies of 4xx and 5xx between two messages, but 452 4.5.3",
    )  # fmt: skip
    max_commands: int = _bound(10_000, "--max-session-commands", "", "421 4.7.0", "Commands of a session")
    max_messages: int = _bound(1000, "--max-messages", "", "421 4.7.0", "Messages of a session")
    max_auth_attempts: int = _bound(5, "--max-auth", "", "421 4.7.0", "AUTH commands of a session")

    def __post_init__(self) -> None:
        for each in fields(self):
            check_bound(each.name, getattr(self, each.name))

    @classmethod
    def taken_from(cls, options: dict[str, Any], budget: SessionBudget | None = None) -> SessionBudget:
        """Removes the budget's fields from keyword arguments. Returns `budget`, or the default one, with their values.

        Raises TypeError or ValueError for a value that is not allowed.
        """
        names = {name: _SYNONYMS.get(name, name) for name in options}
        given = {field: options.pop(name) for name, field in names.items() if field in _NAMES}
        return replace(budget or cls(), **given) if given else budget or cls()


_NAMES = frozenset(each.name for each in fields(SessionBudget))
_SYNONYMS = {"timeout": "idle_s", "data_size_limit": "max_message_bytes", "proxy_timeout": "proxy_s"}
"""Earlier names, of which the first two are aiosmtpd's."""
