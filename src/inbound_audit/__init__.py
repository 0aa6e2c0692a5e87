"""How many sessions are open right now from this address, or from any prefix around it?

Answered by a native radix trie in tens of nanoseconds at accept time, per service and listener, to Python and to the
Lua policy that decides whether a connection may stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inbound_audit import errors
from inbound_audit._ipcount import Listener, PrefixCounter, Session
from inbound_audit.audit import InboundAudit
from inbound_audit.policy.limits import Limits
from inbound_audit.policy.verdict import Verdict

if TYPE_CHECKING:
    from inbound_audit.lua.policy import LuaPolicy
    from inbound_audit.sieve.policy import SievePolicy

__all__ = [
    "InboundAudit",
    "Limits",
    "Listener",
    "LuaPolicy",
    "PrefixCounter",
    "Session",
    "SievePolicy",
    "Verdict",
    "errors",
]


def __getattr__(name: str) -> object:
    # lupa loads a megabyte of LuaJIT, and lark is an extra; who has no such policy does not pay for it.
    if name == "LuaPolicy":
        from inbound_audit.lua.policy import LuaPolicy

        return LuaPolicy
    if name == "SievePolicy":
        from inbound_audit.sieve.policy import SievePolicy

        return SievePolicy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
