"""Functions that set the reply to a session: ``ec_action``, ``ec_disconnect``, ``ec_tarpit``, ``ec_log``."""

from __future__ import annotations

import re

from inbound_audit._ipcount import parse_duration
from inbound_audit.errors import PolicyError
from inbound_audit.sieve.faults import At
from inbound_audit.sieve.functions import Function, Parameter
from inbound_audit.sieve.run import Run
from inbound_audit.sieve.values import Value, number, text

MIN_CODE, MAX_CODE = 200, 599
MAX_TARPIT_S = 86400
"""A day: no client waits longer."""

_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]+")


def code(value: Value) -> int:
    """Reads an SMTP reply code. Raises PolicyError."""
    found = number(value)
    if not MIN_CODE <= found <= MAX_CODE:
        raise PolicyError(f"{found} is not an SMTP reply code from {MIN_CODE} to {MAX_CODE}")
    return found


def reason(value: Value) -> str:
    """Reads the text of a reply: lines, without any other control character."""
    return _CONTROLS.sub(" ", text(value)).strip("\n")


def line(value: Value) -> str:
    """Reads a text for the log, on one line."""
    return reason(value).replace("\n", " ")


def seconds(value: Value) -> float:
    """Reads a time: seconds, which may have a fraction, or a duration such as ``"5m"``. Raises PolicyError."""
    try:
        found = parse_duration(text(value))
    except ValueError as error:
        raise PolicyError(str(error)) from None
    if found > MAX_TARPIT_S:
        raise PolicyError(f"{text(value)!r} is more than {MAX_TARPIT_S} seconds")
    return found


def ec_action(run: Run, at: At, code: int, reason: str, counter: str | None = None) -> None:
    run.reply.set(code, reason)
    run.host.hit(at, counter)


def ec_disconnect(run: Run, at: At, code: int | None = None, reason: str = "", counter: str | None = None) -> None:
    """Without arguments the connection ends after the reply that is set elsewhere."""
    reply = run.reply
    if code is not None:
        reply.set(code, reason, refused=True)
    reply.leave = True
    run.host.hit(at, counter)


def ec_tarpit(run: Run, at: At, seconds: float, counter: str | None = None) -> None:
    """Of several the longest is waited."""
    run.reply.tarpit = max(run.reply.tarpit, seconds)
    run.host.hit(at, counter)


def ec_log(run: Run, at: At, message: str) -> None:
    run.host.log(at, message)


_REPLY = (Parameter("code", code), Parameter("reason", reason), Parameter("counter", text))

REPLIES = {
    "ec_action": Function(ec_action, _REPLY, (2, 3), placed=True, ends=True),
    "ec_disconnect": Function(ec_disconnect, _REPLY, (0, 2, 3), placed=True, ends=True),
    "ec_tarpit": Function(ec_tarpit, (Parameter("seconds", seconds), Parameter("counter", text)), (1, 2), placed=True),
    "ec_log": Function(ec_log, (Parameter("message", line),), (1,), placed=True),
}
