"""What a policy would decide about a new connection of a client now, and by what. Nothing is counted or recorded."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from inbound_audit.listeners.gate_rules import is_native
from inbound_audit.policy.base import ConnectPolicy, ScriptPolicy
from inbound_audit.policy.dry_run import DryRun

if TYPE_CHECKING:
    from inbound_audit._ipcount import Listener, Session
    from inbound_audit.inquiries import Answer
    from inbound_audit.policy.limits import Limits


def would_decide(
    listener: Listener, policy: ConnectPolicy | None, address: str, *, asks_scripts: bool = False
) -> Answer:
    """As JSON: `let_in`, which is None if only the policy itself knows, `policy`, and for limits their counts; and
    `override`, if one holds for the address, which decides whatever the policy says.

    A script is run if `asks_scripts`. Raises AddressError. O(limits).
    """
    session = listener.visit(address)
    about = _by_policy(listener, policy, session, asks_scripts=asks_scripts)
    decision = session.decision
    if decision is not None:
        about |= {"override": decision._asdict(), "let_in": decision.action == "allow"}
    return about


def decides_by(listener: Listener, policy: ConnectPolicy | None) -> Answer:
    """As JSON: `policy`, of limits the `arguments` from which `Limits` makes them again, of a script its path.
    O(limits + listed prefixes)."""
    inner, about = _about(listener, policy)
    return {**about, "arguments": inner.arguments} if is_native(inner) else about


def _about(listener: Listener, policy: ConnectPolicy | None) -> tuple[ConnectPolicy | None, Answer]:
    """The policy itself, without a dry run around it, and what it is."""
    inner = policy.policy if isinstance(policy, DryRun) else policy
    about: Answer = {"service": listener.service_type, "listener": listener.name}
    about["dry_run"] = isinstance(policy, DryRun) or bool(getattr(policy, "dry_run", False))
    if isinstance(inner, ScriptPolicy):
        return inner, {**about, "policy": inner.implementation, "script": str(inner.path)}
    name = None if inner is None else "Limits" if is_native(inner) else type(inner).__name__
    return inner, {**about, "policy": name}


def _by_policy(listener: Listener, policy: ConnectPolicy | None, session: Session, *, asks_scripts: bool) -> Answer:
    inner, about = _about(listener, policy)
    if inner is None:
        return {**about, "let_in": True}
    if is_native(inner):
        return {**about, **_by_limits(inner, session)}
    about["let_in"] = None
    if asks_scripts and isinstance(inner, ScriptPolicy):
        verdict = inner.validate_connect(session)
        about |= {"let_in": verdict.lets_in, "code": verdict.code, "text": verdict.text, "tarpit": verdict.tarpit}
    return about


def _by_limits(policy: Limits, session: Session) -> Answer:
    """`over`: the first limit that a new connection would be over."""
    network, states = policy.states(session)
    over = next((state.limit for state in states if state.over), None)
    found: Answer = {"network": network, "limits": [asdict(state) for state in states]}
    if over is not None:
        found["over"] = over
    return {**found, "let_in": over is None or policy.dry_run}
