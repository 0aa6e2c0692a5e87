"""Why a policy has answered as it did: what the decision log says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inbound_audit.policy.verdict import Verdict

if TYPE_CHECKING:
    from inbound_audit.overrides.entry import Decision


@dataclass(frozen=True, slots=True)
class Reason:
    """What decided about a session. `by` is "limit", "script", "policy" or "override".

    Of a limit: its name, the prefix that it counts (None: the whole network or listener), what it counted and the
    maximum. Of a script: its path and the line that decided, if that is known. Of an override: its prefix, and the
    reason that was given for it (`why`). `would_refuse` is the verdict that a dry run has not carried out.
    """

    by: str
    limit: str | None = None
    prefix: str | None = None
    count: int | None = None
    most: int | None = None
    script: str | None = None
    line: int | None = None
    why: str | None = None
    would_refuse: Verdict | None = None


def override_reason(decision: Decision | None) -> Reason:
    """Of an override. None: it has ended since."""
    if decision is None:
        return Reason("override")
    return Reason("override", prefix=decision.prefix, why=decision.why or None)
