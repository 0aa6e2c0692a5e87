"""What a gate sends to a peer that it refuses: a reply in parts, which is put together natively for each peer."""

from __future__ import annotations

import logging
import string
from collections.abc import Callable, Sequence
from http import HTTPStatus

from inbound_audit.errors import did_you_mean
from inbound_audit.policy.verdict import DENIED_TEXT, REFUSAL_CODE, Verdict, smtp_lines

logger = logging.getLogger("inbound_audit.listeners")

GateRefusal = str | bytes | Callable[[Verdict], bytes] | None

BUSY = Verdict(False, REFUSAL_CODE, "too busy, try again later", disconnect=True)
"""The refusal of a connection for which the queue has no room."""

CLOSING = Verdict(False, REFUSAL_CODE, "service is shutting down", disconnect=True)
"""The refusal of a connection that waits when the gate is closed."""

RETRY_AFTER_S = 10

_FIELDS = ("code", "text", "address", "limit", "count")


def reply_parts(refusal: GateRefusal, verdict: Verdict, *, busy: bool) -> list[bytes | str]:
    """The parts of a refusal for `GateRules`; none if a function fails, which is logged.

    Raises ValueError for an unknown field of a text, TypeError.
    """
    if callable(refusal):
        return _made(refusal, verdict)
    if refusal is None:
        return []
    if isinstance(refusal, bytes):
        return [refusal]
    if not isinstance(refusal, str):
        raise TypeError(f"refusal={refusal!r}: expected 'smtp', 'http', a text, bytes, a function to bytes, or None")
    known = {"limit": "busy"} if busy else {"limit": "override", "count": "0"} if verdict.text == DENIED_TEXT else {}
    if refusal == "smtp":
        return [smtp_lines(verdict, verdict.text, "3.2" if verdict is CLOSING else "7.0") + b"\r\n"]
    if refusal == "http":
        return [http_refusal(verdict, busy=busy)]
    return _compiled(refusal, {"code": str(verdict.code), "text": verdict.text, **known})


def refusal_of(refusal: GateRefusal, verdict: Verdict, *, busy: bool = False) -> bytes:
    """What a peer is sent whom Python refuses: the parts that are the same for all. Raises as `reply_parts`."""
    return b"".join(part for part in reply_parts(refusal, verdict, busy=busy) if isinstance(part, bytes))


def _made(refusal: Callable[[Verdict], bytes], verdict: Verdict) -> list[bytes | str]:
    """What a function makes of a verdict. A server is not brought down by it, as by no policy."""
    try:
        reply = refusal(verdict)
        if not isinstance(reply, bytes):
            raise TypeError(f"the refusal is not bytes: {reply!r}")
    except Exception:
        logger.exception("the refusal of a gate failed; peers that are refused are sent nothing")
        return []
    return [reply]


def _compiled(template: str, known: dict[str, str]) -> list[bytes | str]:
    """The parts of a text; what is known is put in at once."""
    parts: list[bytes | str] = []
    for literal, field, spec, conversion in string.Formatter().parse(template):
        text = literal
        if field is not None:
            if field not in _FIELDS or spec or conversion:
                raise ValueError(f"refusal={template!r}: has no field {field!r}{did_you_mean(field, _FIELDS)}")
            text += known.get(field, "")
        parts.append(text.encode())
        if field is not None and field not in known:
            parts.append(field)
    return _joined(parts)


def _joined(parts: Sequence[bytes | str]) -> list[bytes | str]:
    """Neighbouring bytes as one part."""
    joined: list[bytes | str] = []
    for part in parts:
        if isinstance(part, bytes) and joined and isinstance(joined[-1], bytes):
            joined[-1] += part
        elif part:
            joined.append(part)
    return joined


def http_refusal(verdict: Verdict, *, busy: bool = False) -> bytes:
    """A response: 503 if the server is busy, the limits' own code if it is one of HTTP's, else 429 (RFC 6585)."""
    code = 503 if busy else 429 if verdict.code == REFUSAL_CODE else verdict.code
    try:
        phrase = HTTPStatus(code).phrase
    except ValueError:
        phrase = ""
    body = f"{verdict.text}\n".encode()
    head = (
        f"HTTP/1.1 {code} {phrase}\r\nRetry-After: {RETRY_AFTER_S}\r\nConnection: close\r\n"
        f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
