"""A dry run: a policy is asked everything, and refuses nothing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from inbound_audit.policy.base import Capabilities, ConnectPolicy, Policy, evaluate
from inbound_audit.policy.reason import Reason
from inbound_audit.policy.verdict import ACCEPT, Verdict

if TYPE_CHECKING:
    from inbound_audit._ipcount import Session
    from inbound_audit.audit import InboundAudit


class DryRun(Policy):
    """Calls every hook of another policy and lets every client in.

    `would_refuse` counts by hook what the policy would have refused. Tarpits are not waited out, and capabilities are
    left as they are, so that clients notice nothing of the policy.
    """

    def __init__(self, policy: ConnectPolicy, would_refuse: Counter[str] | None = None) -> None:
        self.policy = policy
        self.would_refuse: Counter[str] = Counter() if would_refuse is None else would_refuse
        self._explains = False
        self._last = threading.local()  # the session that this thread would have refused last, and the verdict

    @property
    def explains(self) -> bool:
        return self._explains

    @explains.setter
    def explains(self, value: bool) -> None:
        self._explains = value
        if hasattr(self.policy, "explains"):
            self.policy.explains = value

    def explain(self, ac: Session) -> Reason | None:
        reason: Reason | None = getattr(self.policy, "explain", _no_reason)(ac)
        conn_id, verdict = getattr(self._last, "refused", (0, None))
        self._last.refused = 0, None
        return replace(reason or Reason("policy"), would_refuse=verdict) if conn_id == ac.conn_id else None

    def capabilities(self, ac: Session) -> Capabilities:
        self._call("capabilities", ac)
        return (), ()

    def attributes(self, ac: Session, values: Mapping[str, str]) -> None:
        self._call("attributes", ac, values)

    def end_session(self, ac: Session) -> None:
        self._call("end_session", ac)

    def prepare(self, audit: InboundAudit) -> None:
        self._call("prepare", audit)

    def check(self, audit: InboundAudit) -> None:
        self._call("check", audit)

    def close(self) -> None:
        self._call("close")

    def _call(self, method: str, *arguments: object) -> None:
        call = getattr(self.policy, method, None)
        if call is not None:
            call(*arguments)


def _passing(hook: str) -> Callable[..., Verdict]:
    def validate(self: DryRun, *arguments: object) -> Verdict:
        verdict = evaluate(self.policy, hook, *arguments)
        if not verdict.lets_in:
            self.would_refuse[hook] += 1
            if self._explains:
                self._last.refused = cast("Session", arguments[0]).conn_id, verdict
        return ACCEPT

    return validate


def _no_reason(_: object) -> None:
    """Of a policy without `explain`."""


# Every hook of the base that decides, those that are added to it later as well.
for _hook in vars(Policy):
    if _hook.startswith("validate_"):
        setattr(DryRun, _hook, _passing(_hook))
