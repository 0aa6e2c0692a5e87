"""The message of a running SMTP transaction."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Message:
    """The message as far as it is known when a hook is called. `size` is in bytes."""

    mailfrom: str = ""
    rcptto: list[str] = field(default_factory=list)
    size: int = 0
