"""The policy of the command line: made at start, and made anew at a reload."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from inbound_audit._ipcount import parse_monitor
from inbound_audit.cli.failure import Failure
from inbound_audit.errors import PolicyError
from inbound_audit.policy.dry_run import DryRun
from inbound_audit.policy.limits import Limits
from inbound_audit.policy.load import SIEVE_SUFFIXES, load_policy

if TYPE_CHECKING:
    from inbound_audit import InboundAudit
    from inbound_audit.cli.settings import Settings
    from inbound_audit.policy.base import ScriptPolicy


def limits_of(settings: Settings) -> Limits:
    """Raises PolicyError."""
    return Limits.from_options(
        settings.limits, dict(settings.network), exempt=settings.exempt, dry_run=settings.dry_run
    )


def monitors_of(path: str, present: Iterable[str] = ()) -> tuple[str, ...]:
    """The monitors that a policy in Lua asks for, beside those that are `present`. Raises Failure."""
    if path.lower().endswith(SIEVE_SUFFIXES):
        return ()
    from inbound_audit.lua.needs import needed_monitors

    known = {parse_monitor(monitor) for monitor in present}
    try:
        return tuple(asked for asked in needed_monitors(path) if parse_monitor(asked) not in known)
    except PolicyError as error:
        raise Failure(f"--policy: {error}") from None


class Policies:
    """Makes the policy that settings name, again at each reload; keeps figures over all that were in use."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._policy: Limits | ScriptPolicy | None = None
        self._errors_before = 0
        self._would_refuse: Counter[str] = Counter()

    @property
    def reloadable(self) -> bool:
        return self._settings.policy is not None

    @property
    def errors(self) -> int:
        """Hooks of scripts that failed; of a policy that was replaced, those until then."""
        return self._errors_before + getattr(self._policy, "errors", 0)

    @property
    def would_refuse(self) -> Counter[str]:
        limits = self._policy
        return self._would_refuse + limits.would_refuse if isinstance(limits, Limits) else self._would_refuse

    def monitors(self, settings: Settings | None = None) -> tuple[str, ...]:
        """The monitors of the settings, and those that limits over time need or a policy in Lua asks for. Raises
        Failure."""
        settings = settings or self._settings
        path, present = settings.policy, settings.monitor
        if path is None:
            return (*present, *(limits_of(settings).monitors_for(present) if settings.limits else ()))
        return present + monitors_of(path, present)

    def make(self, audit: InboundAudit | None = None) -> Limits | ScriptPolicy | DryRun:
        """The policy of the settings, in use from now on. Raises Failure."""
        policy = self.load(self._settings, audit)
        self.use(self._settings, policy)
        return self.asked(self._settings, policy)

    def load(self, settings: Settings, audit: InboundAudit | None = None) -> Limits | ScriptPolicy:
        """Raises Failure, which names the file, if the policy can't be loaded or does not fit `audit`."""
        if settings.policy is None:
            return limits_of(settings)
        try:
            return load_policy(
                settings.policy,
                on_error=settings.on_error,
                audit=audit,
                search=settings.policy_dir,
                max_hook_ms=settings.max_hook_ms,
            )
        except (ImportError, PolicyError) as error:
            raise Failure(f"--policy: {error}") from None

    def asked(self, settings: Settings, policy: Limits | ScriptPolicy) -> Limits | ScriptPolicy | DryRun:
        """What is asked of a policy: with `dry_run` a script refuses nothing."""
        dry = settings.dry_run and not isinstance(policy, Limits)
        return DryRun(policy, self._would_refuse) if dry else policy

    def use(self, settings: Settings, policy: Limits | ScriptPolicy) -> None:
        """Another policy is in use: the figures of the one before are complete."""
        self._errors_before = self.errors
        if isinstance(self._policy, Limits):
            self._would_refuse += self._policy.would_refuse
        self._settings, self._policy = settings, policy

    def describe(self) -> str:
        policy = self._policy
        if isinstance(policy, Limits):
            words = policy.describe()
        else:
            words = f"{self._settings.policy} ({getattr(policy, 'implementation', 'not loaded')})"
        return words + ", as a dry run" * self._settings.dry_run

    def close(self) -> None:
        if self._policy is not None:
            self._policy.close()
