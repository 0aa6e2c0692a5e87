"""What a policy returns: let in, slow down, or refuse."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from inbound_audit.errors import PolicyError

REFUSAL_CODE = 421
REFUSAL_TEXT = "connection limit exceeded"
DENIED_TEXT = "access denied"
"""Of the reply to whom an override denies."""
REFUSED_BY_SCRIPT = "refused by policy"

MIN_CODE, MAX_CODE = 200, 599
MAX_TARPIT_S = 86400
"""A day: no client waits longer."""
MAX_TEXT = 8192
"""Characters of a reply. A line of a reply has 512 octets at most (RFC 5321, 4.5.3.1.5), so these are some lines."""

# A text has lines, without any other control character: none of them may begin a reply of its own.
_FORBIDDEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A policy's answer for one session or one command; true if the client is let in, false if it is refused.

    `code` and `text` are the SMTP reply of a refusal (the reference's stock policy replies ``421 connection limit
    exceeded``). `tarpit` is the time in seconds that the listener waits before it goes on, whatever the verdict is.
    `disconnect` ends the connection after the reply. A `code` of 0 is the listener's own, a text of several lines has
    line feeds between them.

    Raises PolicyError for a value that no listener could carry out: a code that is not 0 or from 200 to 599, a text
    with other control characters, half a surrogate pair or more than `MAX_TEXT` characters, a tarpit that is not from
    0 to `MAX_TARPIT_S`. All verdicts are checked here, whatever policy they come from.
    """

    accepted: bool = True
    code: int = 0
    text: str = ""
    tarpit: float = 0.0
    disconnect: bool = False

    def __post_init__(self) -> None:
        accepted, code, text, tarpit, disconnect = (self.accepted, self.code, self.text, self.tarpit, self.disconnect)
        if type(accepted) is not bool or type(disconnect) is not bool:
            raise PolicyError(f"a verdict of {accepted!r} and disconnect {disconnect!r}: expected True or False")
        if type(code) is not int or (code and not MIN_CODE <= code <= MAX_CODE):
            raise PolicyError(f"code {code!r}: is not an SMTP reply code from {MIN_CODE} to {MAX_CODE}")
        if not isinstance(text, str) or len(text) > MAX_TEXT or _FORBIDDEN.search(text):
            shown = repr(text[:40] if isinstance(text, str) else text)
            raise PolicyError(f"text {shown}: is not a text of {MAX_TEXT} characters, in lines without controls")
        if type(tarpit) not in (int, float) or not 0 <= tarpit <= MAX_TARPIT_S:
            raise PolicyError(f"tarpit {tarpit!r}: is not a number of seconds from 0 to {MAX_TARPIT_S}")

    def __bool__(self) -> bool:
        return self.accepted

    @property
    def lets_in(self) -> bool:
        """Whether the client may go on: a verdict that disconnects refuses, whatever else it says."""
        return self.accepted and not self.disconnect


ACCEPT = Verdict()
REFUSE = Verdict(accepted=False, code=REFUSAL_CODE, text=REFUSAL_TEXT, disconnect=True)
DENIED = Verdict(accepted=False, code=REFUSAL_CODE, text=DENIED_TEXT, disconnect=True)
"""For whom an override denies, where no policy has another code."""

# The verdicts for a policy that failed. The client learns nothing of the reason.
UNAVAILABLE = Verdict(False, REFUSAL_CODE, "service not available, try again later", disconnect=True)
LOCAL_ERROR = Verdict(False, 451, "requested action aborted: local error in processing")


def reply_code(verdict: Verdict) -> int:
    """The code of a refusal: 421 in place of one that does not refuse."""
    return verdict.code if 400 <= verdict.code <= 599 else REFUSAL_CODE


def smtp_lines(verdict: Verdict, text: str, detail: str = "") -> bytes:
    """The reply line, or lines (RFC 5321, 4.2.1), of a refusal, without the last CRLF.

    The reply always refuses and is always well-formed: the text's lines become reply lines, characters outside of
    ASCII become question marks, and a code other than 4xx or 5xx becomes 421. `detail`: the last two numbers of an
    enhanced status code (RFC 3463), such as ``"7.0"``.
    """
    code = reply_code(verdict)
    status = f"{code // 100}.{detail} " if detail else ""
    *before, last = text.splitlines() or [""]
    return "\r\n".join([*(f"{code}-{status}{line}" for line in before), f"{code} {status}{last}"]).encode(
        "ascii", "replace"
    )


@lru_cache(maxsize=256)
def cached_verdict(accepted: bool, code: int, text: str | bytes, tarpit: float, disconnect: bool) -> Verdict:
    """The verdict of a script. A script refuses with the same few replies, so each of them is made once.

    Raises PolicyError.
    """
    shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return Verdict(accepted, code, shown if accepted or shown else REFUSED_BY_SCRIPT, tarpit, disconnect)
