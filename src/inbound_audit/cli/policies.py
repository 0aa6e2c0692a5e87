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
    """Makes the policy that the settings name, again at each reload; keeps figures over all that it has made."""

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
        return self._policy.would_refuse if isinstance(self._policy, Limits) else self._would_refuse

    def monitors(self) -> tuple[str, ...]:
        """The monitors of the settings, and those that limits over time need or a policy in Lua asks for. Raises
        Failure."""
        path, present = self._settings.policy, self._settings.monitor
        if path is None:
            return (*present, *(limits_of(self._settings).monitors_for(present) if self._settings.limits else ()))
        return present + monitors_of(path, present)

    def make(self, audit: InboundAudit | None = None) -> Limits | ScriptPolicy | DryRun:
        """Raises Failure, which names the file, if the policy can't be loaded or does not fit `audit`."""
        settings = self._settings
        if settings.policy is None:
            self._policy = limits = limits_of(settings)
            return limits
        try:
            policy = load_policy(
                settings.policy,
                on_error=settings.on_error,
                audit=audit,
                search=settings.policy_dir,
                max_hook_ms=settings.max_hook_ms,
            )
        except (ImportError, PolicyError) as error:
            raise Failure(f"--policy: {error}") from None
        self._errors_before, self._policy = self.errors, policy
        return DryRun(policy, self._would_refuse) if settings.dry_run else policy

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
