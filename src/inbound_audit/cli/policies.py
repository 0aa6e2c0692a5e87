"""The policy that the command line asks for: made at start, made anew at a reload, and without teeth in a dry run."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from inbound_audit import Limits
from inbound_audit.policy.limits import STOCK_LIMITS
from inbound_audit.policy.verdict import ACCEPT, Message, Verdict

if TYPE_CHECKING:
    from inbound_audit import InboundAudit, LuaPolicy, Session, SievePolicy
    from inbound_audit.cli.settings import Choice, Settings
    from inbound_audit.listeners import Policy

SIEVE = (".sieve", ".siv")
"""How the name of a policy in Sieve ends; any other is one in Lua."""


class Policies:
    """Makes the policy that the settings ask for, again and again; keeps figures over all that it has made."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._script: LuaPolicy | SievePolicy | None = None
        self._errors_before = 0
        self.would_refuse: Counter[str] = Counter()

    @property
    def reloadable(self) -> bool:
        return self._settings.policy is not None

    @property
    def errors(self) -> int:
        """Hooks of scripts that failed; of a policy that was replaced, those until then."""
        return self._errors_before + (self._script.errors if self._script else 0)

    def make(self, audit: InboundAudit | None = None) -> Policy:
        """Raises Failure, which names the file, when the policy is missing, unreadable or does not compile, or defines
        a series that `audit` has otherwise.

        A Lua policy is closed when neither this object nor a session holds it any more.
        """
        settings = self._settings
        if settings.policy is None:
            limits = Limits(settings.limits, exempt=settings.exempt, dry_run=settings.dry_run)
            self.would_refuse = limits.would_refuse
            return limits
        policy = _load(settings.policy, settings.on_error, audit)
        self._errors_before, self._script = self.errors, policy
        return DryRun(policy, self.would_refuse) if settings.dry_run else policy

    def describe(self) -> str:
        if self._script is not None:
            words = f"{self._settings.policy} ({self._script.implementation})"
        else:
            limits = STOCK_LIMITS if self._settings.limits is None else self._settings.limits
            words = " ".join(f"{lengths}={most}" for lengths, most in limits.items()) or "no limits"
        return words + ", as a dry run" * self._settings.dry_run

    def close(self) -> None:
        if self._script is not None:
            self._script.close()


def _load(path: str, on_error: Choice, audit: InboundAudit | None) -> LuaPolicy | SievePolicy:
    """Raises Failure."""
    # Each brings a library that the other has no use for.
    if path.lower().endswith(SIEVE):
        from inbound_audit.cli.sieves import load as load_sieve

        return load_sieve(path, on_error)
    from inbound_audit.cli.scripts import load

    return load(path, on_error, audit)


class DryRun:
    """Asks a policy all that a listener would ask it, lets everything pass, and counts by hook what it would not have.

    Tarpits are not waited out, and what the policy adds to the greeting is left out: nobody notices it.
    """

    def __init__(self, policy: LuaPolicy | SievePolicy, would_refuse: Counter[str]) -> None:
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
        self._ask("end_session", ac)

    def _ask(self, hook: str, *arguments: object) -> Verdict:
        """A policy without that hook has nothing to say."""
        ask = getattr(self._policy, hook, None)
        answer: Verdict | None = None if ask is None else ask(*arguments)
        return ACCEPT if answer is None else answer

    def _pass(self, hook: str, *arguments: object) -> Verdict:
        verdict = self._ask(hook, *arguments)
        if not verdict.accepted or verdict.disconnect:
            self.would_refuse[hook] += 1
        return ACCEPT
