"""What a policy answers: let in, slow down, or refuse; and the message that later hooks are told about."""

from __future__ import annotations

from dataclasses import dataclass, field

REFUSAL_CODE = 421
REFUSAL_TEXT = "connection limit exceeded"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A policy's answer for one session or one command; true when let in, false when refused.

    `code` and `text` are the SMTP reply of a refusal (the reference's stock policy answers ``421 connection limit
    exceeded``). `tarpit` asks the listener to wait that many seconds before it goes on, whatever the verdict is.
    `disconnect` says that the connection ends after the reply.
    """

    accepted: bool = True
    code: int = 0
    text: str = ""
    tarpit: float = 0.0
    disconnect: bool = False

    def __bool__(self) -> bool:
        return self.accepted


ACCEPT = Verdict()
REFUSE = Verdict(accepted=False, code=REFUSAL_CODE, text=REFUSAL_TEXT, disconnect=True)


@dataclass(slots=True)
class Message:
    """The message of a running SMTP transaction, as far as it is known when a hook is asked."""

    mailfrom: str = ""
    rcptto: list[str] = field(default_factory=list)
    size: int = 0
