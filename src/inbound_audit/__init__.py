"""How many sessions are open right now from this address, or from any prefix around it?

Answered by a native radix trie in tens of nanoseconds at accept time, per service and listener, to Python and to the
Lua policy that decides whether a connection may stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inbound_audit import errors
from inbound_audit._ipcount import Listener, PrefixCounter, Session
from inbound_audit.audit import InboundAudit
from inbound_audit.policy.dry_run import DryRun
from inbound_audit.policy.limits import Limits
from inbound_audit.policy.load import load_policy
from inbound_audit.policy.verdict import Verdict

if TYPE_CHECKING:
    from inbound_audit.lua.policy import LuaPolicy
    from inbound_audit.sieve.policy import SievePolicy

    __version__: str

__all__ = [
    "DryRun",
    "InboundAudit",
    "Limits",
    "Listener",
    "LuaPolicy",
    "PrefixCounter",
    "Session",
    "SievePolicy",
    "Verdict",
    "errors",
    "load_policy",
]

# Each of them brings a library that a program without such a policy does not need.
_LAZY = {"LuaPolicy": "inbound_audit.lua.policy", "SievePolicy": "inbound_audit.sieve.policy"}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("inbound-audit")
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
