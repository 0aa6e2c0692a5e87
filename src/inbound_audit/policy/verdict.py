"""What a policy returns: let in, slow down, or refuse."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

REFUSAL_CODE = 421
REFUSAL_TEXT = "connection limit exceeded"
REFUSED_BY_SCRIPT = "refused by policy"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A policy's answer for one session or one command; true if the client is let in, false if it is refused.

    `code` and `text` are the SMTP reply of a refusal (the reference's stock policy replies ``421 connection limit
    exceeded``). `tarpit` is the time in seconds that the listener waits before it goes on, whatever the verdict is.
    `disconnect` ends the connection after the reply.
    """

    accepted: bool = True
    code: int = 0
    text: str = ""
    tarpit: float = 0.0
    disconnect: bool = False

    def __bool__(self) -> bool:
        return self.accepted

    @property
    def lets_in(self) -> bool:
        """Whether the client may go on: a verdict that disconnects refuses, whatever else it says."""
        return self.accepted and not self.disconnect


ACCEPT = Verdict()
REFUSE = Verdict(accepted=False, code=REFUSAL_CODE, text=REFUSAL_TEXT, disconnect=True)

# The verdicts for a policy that failed. The client learns nothing of the reason.
UNAVAILABLE = Verdict(False, REFUSAL_CODE, "service not available, try again later", disconnect=True)
LOCAL_ERROR = Verdict(False, 451, "requested action aborted: local error in processing")


@lru_cache(maxsize=256)
def cached_verdict(accepted: bool, code: int, text: str | bytes, tarpit: float, disconnect: bool) -> Verdict:
    """The verdict of a script. A script refuses with the same few replies, so each of them is made once."""
    shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return Verdict(accepted, code, shown if accepted or shown else REFUSED_BY_SCRIPT, float(tarpit), disconnect)
