"""Functions that set the reply to a session: ``ec_action``, ``ec_disconnect``, ``ec_tarpit``, ``ec_log``."""

from __future__ import annotations

import re
from typing import Annotated

from inbound_audit._ipcount import parse_duration
from inbound_audit.errors import PolicyError
from inbound_audit.policy.verdict import MAX_CODE, MAX_TARPIT_S, MIN_CODE
from inbound_audit.sieve.functions import AsText, Reader, function, functions
from inbound_audit.sieve.run import Run
from inbound_audit.sieve.tree import At
from inbound_audit.sieve.values import Value, number, text

_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]+")


def _code(value: Value) -> int:
    """Reads an SMTP reply code. Raises PolicyError."""
    found = number(value)
    if not MIN_CODE <= found <= MAX_CODE:
        raise PolicyError(f"{found} is not an SMTP reply code from {MIN_CODE} to {MAX_CODE}")
    return found


def _reason(value: Value) -> str:
    """Reads the text of a reply: lines, without any other control character."""
    return _CONTROLS.sub(" ", text(value)).strip("\n")


def _line(value: Value) -> str:
    """Reads a text for the log, on one line."""
    return _reason(value).replace("\n", " ")


def _seconds(value: Value) -> float:
    """Reads a time: seconds, which may have a fraction, or a duration such as ``"5m"``. Raises PolicyError."""
    try:
        found = parse_duration(text(value))
    except ValueError as error:
        raise PolicyError(str(error)) from None
    if found > MAX_TARPIT_S:
        raise PolicyError(f"{text(value)!r} is more than {MAX_TARPIT_S} seconds")
    return found


Code = Annotated[int, Reader(_code)]
Reason = Annotated[str, Reader(_reason)]
Line = Annotated[str, Reader(_line)]
Seconds = Annotated[float, Reader(_seconds)]


def ec_action(run: Run, at: At, code: Code, reason: Reason, counter: AsText = "") -> None:
    run.reply(code, reason)
    run.line = at.line
    run.host.hit(at, counter)


def ec_disconnect(run: Run, at: At, code: Code = 0, reason: Reason = "", counter: AsText = "") -> None:
    """Without arguments the connection ends after the reply that is set elsewhere."""
    if code:
        run.reply(code, reason, refused=True)
    run.leave, run.line = True, at.line
    run.host.hit(at, counter)


def ec_tarpit(run: Run, at: At, seconds: Seconds, counter: AsText = "") -> None:
    """Of several the longest is waited."""
    run.tarpit = max(run.tarpit, seconds)
    run.line = run.line or at.line
    run.host.hit(at, counter)


def ec_log(run: Run, at: At, message: Line) -> None:
    run.host.log(at, message)


REPLIES = {
    "ec_action": function(ec_action, ends=True),
    "ec_disconnect": function(ec_disconnect, takes=(0, 2, 3), ends=True),
    **functions(ec_tarpit, ec_log),
}
