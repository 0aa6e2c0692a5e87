"""Loads a policy script. The suffix of the file names its language."""

from __future__ import annotations

from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from inbound_audit.policy.base import Choice, ScriptPolicy

if TYPE_CHECKING:
    from inbound_audit.audit import InboundAudit

SIEVE_SUFFIXES = (".sieve", ".siv")


def load_policy(
    path: str | PathLike[str], *, on_error: Choice = "accept", audit: InboundAudit | None = None, **options: Any
) -> ScriptPolicy:
    """Loads a policy in Sieve (``.sieve``, ``.siv``) or in Lua (any other suffix).

    With `audit` the policy is checked against it: the monitors that the policy counts with must be there, and its
    series are defined at once. `options` are further arguments of `LuaPolicy` or `SievePolicy`. The policy is closed
    by `close`, or when the last session that may ask it is gone.

    Raises PolicyError, which names the file, if the file is missing, unreadable or wrong or does not fit the audit;
    ImportError if lark, which the extra `sieve` brings, is not installed. Each language is imported when it is needed.
    """
    if fspath(path).lower().endswith(SIEVE_SUFFIXES):
        from inbound_audit.sieve.policy import SievePolicy

        policy: ScriptPolicy = SievePolicy(path, on_error=on_error, **options)
    else:
        from inbound_audit.lua.policy import LuaPolicy

        policy = LuaPolicy(path, on_error=on_error, audit=audit, **options)
    if audit is not None:
        policy.check(audit)
    policy._close_when_collected = True
    return policy
