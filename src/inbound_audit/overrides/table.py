"""The overrides of an audit, by prefix: of two changes of one prefix the later one counts, whoever has made it."""

from __future__ import annotations

from collections.abc import Iterable

from inbound_audit._ipcount import MAX_OVERRIDES
from inbound_audit.errors import CapacityError
from inbound_audit.overrides.entry import Decision, Entry, Key


class Table(dict[Key, Entry]):
    """Entries by prefix, those that were lifted too. At most `MAX_OVERRIDES`."""

    def merge(self, entries: Iterable[tuple[Key, Entry]]) -> bool:
        """Takes over what is later. Returns whether anything was. Without room, what would be new is left out."""
        changed = False
        for key, entry in entries:
            before = self.get(key)
            if before is None and len(self) >= MAX_OVERRIDES:
                continue
            if before is None or before.order < entry.order:
                self[key] = entry
                changed = True
        return changed

    def forget(self, now: float) -> None:
        """Drops what says nothing any more."""
        for key in [key for key, entry in self.items() if not entry.is_kept(now)]:
            del self[key]

    def make_room(self) -> None:
        """Room for one more entry: the oldest of those that were lifted goes. Raises CapacityError
        if none was lifted."""
        if len(self) < MAX_OVERRIDES:
            return
        lifted = [(entry.order, key) for key, entry in self.items() if entry.action == "lift"]
        if not lifted:
            raise CapacityError(f"there are {MAX_OVERRIDES} overrides already; lift some")
        del self[min(lifted)[1]]

    def holding(self, now: float) -> list[tuple[Key, Entry]]:
        """The overrides that hold, in the order of their addresses."""
        return sorted(item for item in self.items() if item[1].action != "lift" and item[1].is_kept(now))

    def decisions(self, now: float) -> list[Decision]:
        return [entry.decision for _, entry in self.holding(now)]

    def decision_for(self, address: Key, now: float) -> Decision | None:
        """The longest match of an address, with its whole length. O(bits of the address)."""
        version, packed, width = address
        number = int.from_bytes(packed, "big")
        for length in range(width, -1, -1):
            first = number >> width - length << width - length
            entry = self.get((version, first.to_bytes(len(packed), "big"), length))
            if entry is not None and entry.action != "lift" and entry.is_kept(now):
                return entry.decision
        return None
