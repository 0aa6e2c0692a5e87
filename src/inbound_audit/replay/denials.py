"""What limits that say ``then deny for`` have denied in a replay, until some time of the log."""

from __future__ import annotations

from inbound_audit import InboundAudit
from inbound_audit._ipcount import MAX_OVERRIDES, parse_prefix, publish_overrides, take_denials
from inbound_audit.overrides.entry import Key, around

Denial = tuple[str, float, str]
"""A prefix, until when it is denied, and why."""


class DenyingAudit(InboundAudit):
    """An audit whose denials no thread carries out: `Denials` does, by the clock of a log."""

    def _carry_out_denials(self) -> None:
        return


class Denials:
    """The denials of an audit: at most MAX_OVERRIDES hold at once, as live.

    The map of the audit has those alone that hold for the address that is asked next: to make one of all of them, as a
    live audit does a few times a second, takes milliseconds.
    """

    def __init__(self, audit: InboundAudit) -> None:
        self._audit = audit
        self._held: dict[Key, Denial] = {}
        self._lengths: dict[int, set[int]] = {4: set(), 6: set()}
        self._published: list[Denial] = []

    def __len__(self) -> int:
        return len(self._held)

    def take(self, now: float) -> None:
        """Denies what limits want denied now."""
        for prefix, seconds, why in take_denials(self._audit):
            key = parse_prefix(prefix)
            if key not in self._held and len(self._held) >= MAX_OVERRIDES:
                self._held = {each: denial for each, denial in self._held.items() if denial[1] > now}
            if key in self._held or len(self._held) < MAX_OVERRIDES:
                self._held[key] = prefix, now + seconds, why
                self._lengths[key[0]].add(key[2])

    def publish(self, address: str, now: float) -> str | None:
        """Makes the map of the audit as it is for an address. Returns why the longest match is denied; None: no prefix
        around it is. O(lengths that were ever denied)."""
        key = parse_prefix(address)
        prefixes = around(key, sorted(self._lengths[key[0]], reverse=True))
        held = [self._held[prefix] for prefix in prefixes if prefix in self._held]
        found = [denial for denial in held if denial[1] > now]
        if not found:
            return None
        if found != self._published:
            rows = [(prefix, "deny network", int(until * 1e6)) for prefix, until, _ in found]
            publish_overrides(self._audit, rows)
            self._published = found
        return found[0][2]
