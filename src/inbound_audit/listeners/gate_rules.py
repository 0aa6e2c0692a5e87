"""What decides in a gate: limits that it can ask, and what it sends to whom it refuses. It keeps no rules itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from inbound_audit._ipcount import GateRules, NetworkMap
from inbound_audit.listeners.gate_reply import BUSY, CLOSING, GateRefusal, reply_parts
from inbound_audit.policy.limits import Limits
from inbound_audit.policy.verdict import DENIED, UNAVAILABLE

if TYPE_CHECKING:
    from inbound_audit.audit import InboundAudit
    from inbound_audit.listeners.guard import Guard


def is_native(policy: object) -> TypeGuard[Limits]:
    """Whether a policy is a `Limits` whose verdict is the native one, so that a gate can ask it."""
    return isinstance(policy, Limits) and type(policy).validate_connect is Limits.validate_connect


def rules_of(
    audit: InboundAudit, limits: Limits | None, refusal: GateRefusal, balancers: NetworkMap, guard: Guard | None
) -> GateRules:
    """Raises TypeError for a policy that is not native, and what `Limits.prepare`, `reply_parts` and `GateRules`
    raise."""
    if limits is not None and not is_native(limits):
        raise TypeError(f"{limits!r}: a gate asks Limits alone; give any other policy to its guard")
    if limits is not None:
        limits.prepare(audit)
    verdict = UNAVAILABLE if limits is None else limits.refusal
    denial = DENIED if limits is None else limits.denial
    return GateRules(
        limits,
        balancers,
        refusal=reply_parts(refusal, verdict, busy=False),
        denial=reply_parts(refusal, denial, busy=False),
        busy=reply_parts(refusal, BUSY, busy=True),
        unavailable=reply_parts(refusal, UNAVAILABLE, busy=True),
        closing=reply_parts(refusal, CLOSING, busy=True),
        dry_run=limits is not None and limits.dry_run,
        refuses_uncounted=guard is not None and guard.refuses_when_full,
    )
