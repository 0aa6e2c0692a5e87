"""The overrides of an audit, by prefix: of two changes of one prefix the later one counts, whoever has made it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf

from inbound_audit._ipcount import MAX_OVERRIDES
from inbound_audit.errors import CapacityError
from inbound_audit.overrides.entry import Decision, Entry, Key, around, joined


class Table(dict[Key, Entry]):
    """Entries by prefix, those that were lifted too. At most `MAX_OVERRIDES`."""

    def merge(self, entries: Iterable[tuple[Key, Entry]]) -> bool:
        """Takes over what is later. Returns whether anything was. Without room, an override takes the place of what was
        lifted first; all else that is new is left out. O(n log n)."""
        return bool(self.later(entries))

    def later(
        self,
        entries: Iterable[tuple[Key, Entry]],
        most: int = MAX_OVERRIDES,
        most_bytes: float = inf,
        bytes_with_lifts: float = inf,
    ) -> list[tuple[Key, Entry]]:
        """As `merge`, with new prefixes up to `most` that are not lifted, and `most_bytes` of lines. Of a prefix that
        is there, what needs no more bytes is taken beyond that, and a lift up to `bytes_with_lifts`. Returns what was
        taken."""
        used = 0 if most_bytes == inf else sum(len(entry.line()) for entry in self.values())
        overrides = sum(entry.action != "lift" for entry in self.values())
        taken: list[tuple[Key, Entry]] = []
        lifted: Iterator[Key] | None = None
        for key, entry in entries:
            before = self.get(key)
            if before is not None:
                entry = joined(before, entry)
                if entry == before:
                    continue
            more = 0 if most_bytes == inf else len(entry.line()) - (0 if before is None else len(before.line()))
            is_lift = entry.action == "lift"
            room = (bytes_with_lifts if is_lift and before is not None else most_bytes) - used
            if more > (room if before is None else max(room, 0)):
                continue
            if before is None and not is_lift and overrides >= most:
                continue
            if before is None and len(self) >= MAX_OVERRIDES:
                lifted = self._lifted() if lifted is None else lifted
                oldest = None if is_lift else next(lifted, None)
                if oldest is None:
                    continue
                used -= 0 if most_bytes == inf else len(self[oldest].line())
                del self[oldest]
            used += more
            overrides += (not is_lift) - (before is not None and before.action != "lift")
            self[key] = entry
            taken.append((key, entry))
        return taken

    def forget(self, now: float) -> None:
        """Drops what says nothing any more."""
        for key in [key for key, entry in self.items() if not entry.is_kept(now)]:
            del self[key]

    def _lifted(self) -> Iterator[Key]:
        """The prefixes that are lifted now, the oldest first; without those that are not any more when they are due."""
        for order, key in sorted((entry.order, key) for key, entry in self.items() if entry.action == "lift"):
            if key in self and self[key].order == order:
                yield key

    def make_room(self, now: float) -> None:
        """Room for one more entry: the oldest of those that hold no more goes. Raises CapacityError if all hold."""
        if len(self) < MAX_OVERRIDES:
            return
        ended = [(entry.order, key) for key, entry in self.items() if not entry.holds(now)]
        if not ended:
            raise CapacityError(f"there are {MAX_OVERRIDES} overrides already; lift some")
        del self[min(ended)[1]]

    def holding(self, now: float) -> list[tuple[Key, Entry]]:
        """The overrides that hold, in the order of their addresses."""
        return sorted(item for item in self.items() if item[1].holds(now))

    def decisions(self, now: float) -> list[Decision]:
        return [entry.decision for _, entry in self.holding(now)]

    def decision_for(self, address: Key, now: float) -> Decision | None:
        """The longest match of an address, with its whole length. O(bits of the address)."""
        for key in around(address, range(address[2], -1, -1)):
            entry = self.get(key)
            if entry is not None and entry.holds(now):
                return entry.decision
        return None


def table_of(last: dict[Key, Entry]) -> Table:
    """As many as there is room for."""
    if len(last) <= MAX_OVERRIDES:
        return Table(last)
    made = Table()
    made.merge(last.items())
    return made
