"""The policy that the command line asks for: made at start, made anew at a reload, and without teeth in a dry run."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from inbound_audit import Limits
from inbound_audit.limits import STOCK_LIMITS
from inbound_audit.verdict import ACCEPT, Message, Verdict

if TYPE_CHECKING:
    from inbound_audit import LuaPolicy, Session
    from inbound_audit.cli.settings import Settings
    from inbound_audit.listeners import Policy


class Policies:
    """Makes the policy that the settings ask for, again and again; keeps figures over all that it has made."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lua: LuaPolicy | None = None
        self._errors_before = 0
        self.would_refuse: Counter[str] = Counter()

    @property
    def reloadable(self) -> bool:
        return self._settings.policy is not None

    @property
    def errors(self) -> int:
        """Hooks of Lua policies that failed; of a policy that was replaced, those until then."""
        return self._errors_before + (self._lua.errors if self._lua else 0)

    def make(self) -> Policy:
        """Raises Failure, which names the file, when the policy is missing, unreadable or does not compile.

        A Lua policy is closed when neither this object nor a session holds it any more.
        """
        settings = self._settings
        if settings.policy is None:
            limits = Limits(settings.limits, exempt=settings.exempt, dry_run=settings.dry_run)
            self.would_refuse = limits.would_refuse
            return limits
        from inbound_audit.cli.scripts import load

        policy = load(settings.policy, settings.on_error)
        self._errors_before, self._lua = self.errors, policy
        return DryRun(policy, self.would_refuse) if settings.dry_run else policy

    def describe(self) -> str:
        if self._lua is not None:
            words = f"{self._settings.policy} ({self._lua.implementation})"
        else:
            limits = STOCK_LIMITS if self._settings.limits is None else self._settings.limits
            words = " ".join(f"{lengths}={most}" for lengths, most in limits.items()) or "no limits"
        return words + ", as a dry run" * self._settings.dry_run

    def close(self) -> None:
        if self._lua is not None:
            self._lua.close()


class DryRun:
    """Asks a policy all that a listener would ask it, lets everything pass, and counts by hook what it would not have.

    Tarpits are not waited out, and what the policy adds to the greeting is left out: nobody notices it.
    """

    def __init__(self, policy: LuaPolicy, would_refuse: Counter[str]) -> None:
        self._policy = policy
        self.would_refuse = would_refuse

    def validate_connect(self, ac: Session) -> Verdict:
        return self._pass("validate_connect", ac)

    def validate_ehlo(self, ac: Session, text: str) -> Verdict:
        return self._pass("validate_ehlo", ac, text)

    def validate_mailfrom(self, ac: Session, text: str) -> Verdict:
        return self._pass("validate_mailfrom", ac, text)

    def validate_rcptto(self, ac: Session, text: str, message: Message) -> Verdict:
        return self._pass("validate_rcptto", ac, text, message)

    def validate_data(self, ac: Session, message: Message) -> Verdict:
        return self._pass("validate_data", ac, message)

    def validate_data_spool(self, ac: Session, message: Message) -> Verdict:
        return self._pass("validate_data_spool", ac, message)

    def end_session(self, ac: Session) -> None:
        self._policy.end_session(ac)

    def _pass(self, hook: str, *arguments: object) -> Verdict:
        verdict: Verdict = getattr(self._policy, hook)(*arguments)
        if not verdict.accepted or verdict.disconnect:
            self.would_refuse[hook] += 1
        return ACCEPT
