"""A change that a browser wishes: read from JSON, and whether a person has to confirm it."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from inbound_audit.errors import did_you_mean
from inbound_audit.overrides.entry import exact_prefix, holds_own_addresses, prefix_of

_ACTIONS = ("deny", "allow", "lift")


@dataclass(frozen=True)
class Wish:
    """As `Feed.change` has it."""

    action: str
    prefix: str
    for_s: float | None = None
    why: str = ""
    confirm: bool = False

    @property
    def needs_confirmation(self) -> str:
        """What a person has to confirm; nothing for most wishes."""
        if self.action == "lift":
            return ""
        if self.prefix.endswith("/0"):
            return f"{self.prefix} is every address; confirm that you want to {self.action} them all"
        if self.action == "deny" and holds_own_addresses(self.prefix):
            return f"{self.prefix} holds this machine's own addresses; confirm that you want to deny them, too"
        return ""


_KINDS: dict[str, tuple[type, ...]] = {
    "action": (str,),
    "prefix": (str,),
    "for_s": (float, type(None)),
    "why": (str,),
    "confirm": (bool,),
}


def read_wish(body: bytes) -> Wish:
    """Raises ValueError, and CidrError for a prefix with host bits, too."""
    try:
        found = json.loads(body, parse_int=float)  # a number too large for one is infinite, and refused as that
    except (ValueError, RecursionError):
        raise ValueError("write the change as a JSON object") from None
    members = _checked(found)
    if members["action"] not in _ACTIONS:
        raise ValueError(f"action: {members['action']!r}: write one of {', '.join(_ACTIONS)}")
    return Wish(**members | {"prefix": prefix_of(exact_prefix(members["prefix"]))})


def _checked(found: Any) -> dict[str, Any]:
    known = [one.name for one in fields(Wish)]
    if not isinstance(found, dict) or not {"action", "prefix"} <= found.keys():
        raise ValueError('write the change as a JSON object such as {"action": "deny", "prefix": "192.0.2.0/24"}')
    for name, value in found.items():
        if name not in known:
            raise ValueError(f"{name!r}: no such member{did_you_mean(name, known)} (known: {', '.join(known)})")
        if not isinstance(value, _KINDS[name]):
            raise ValueError(f"{name}: {json.dumps(value)[:60]}: has the wrong type")
    return found
