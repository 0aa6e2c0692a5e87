"""A dry run: a policy is asked everything, and refuses nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from inbound_audit.policy.base import Capabilities, ConnectPolicy, Policy, evaluate
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
        if not evaluate(self.policy, hook, *arguments).lets_in:
            self.would_refuse[hook] += 1
        return ACCEPT

    return validate


# Every hook of the base that decides, those that are added to it later as well.
for _hook in vars(Policy):
    if _hook.startswith("validate_"):
        setattr(DryRun, _hook, _passing(_hook))
