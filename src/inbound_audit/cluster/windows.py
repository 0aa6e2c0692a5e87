"""The windows of one node as one state, which changes, is compared and is replaced as the tree of its sessions is.

A window that holds nothing is not part of the state. So what is said of a window that leaves the view is that it is
empty, and a node that records nothing says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from inbound_audit.cluster.node_trees import NodeTree, all_records
from inbound_audit.cluster.window_records import (
    MAX_HEAD_BYTES,
    UNFOLDED,
    Levels,
    SeriesKey,
    Window,
    WindowRecords,
    pack,
    unpack,
    weight_of,
)
from inbound_audit.errors import CapacityError

MAX_WINDOWS, MAX_HOSTS = 4096, 1_000_000
"""Of one node and tree of frames. More windows are not said; more hosts are not counted elsewhere."""

MAX_EVENTS = 1 << 30
"""Of one node in one window. All nodes share 2**32 - 1 events of a family in a window: one alone leaves most of them.
"""

MIN_ROOM_BYTES = 64
"""Below this a tree writes no records."""

COPIED_BYTES = 1 << 20
"""Records that are copied at once from one tree to another."""

NO_HOSTS = b"\0\0"
"""Records of no host: the levels of a window have changed, and its hosts have not."""

WORD = 1 << 64
"""Digests are sums modulo this."""

MakeTree = Callable[[Window], NodeTree]
CheckRecords = Callable[[list[bytes]], int]


@dataclass(slots=True, eq=False)
class HeldWindow:
    """What is held of one window."""

    tree: NodeTree
    levels: Levels
    weight: int


class WindowTrees:
    """The windows of one node; implements `node_trees.Counts`. It belongs to one thread.

    Parameters:
        make: returns an empty tree for a window.
        check: `SeriesTrees.check_records`.
        max_windows, max_hosts: bounds of all that is held. Beyond, changes raise CapacityError.
        max_events: the same of one window; what this host says itself is not bounded.
    """

    def __init__(
        self, make: MakeTree, check: CheckRecords, max_windows: int, max_hosts: int, max_events: int = WORD
    ) -> None:
        self.windows: dict[Window, HeldWindow] = {}
        self.hosts = self.total = self.digest = 0
        self.lacks_room = False
        """Some of the last `set_many` were not set."""
        self.handled = 0
        """How many windows were changed, made or dropped."""
        self._make = make
        self._check = check
        self._max_windows, self._max_hosts, self._max_events = max_windows, max_hosts, max_events

    @property
    def folded(self) -> int:
        """How many windows have less than all detail."""
        return sum(held.levels != UNFOLDED for held in self.windows.values())

    def set_many(self, records: bytes) -> int:
        """Sets the counts in these records of windows, and returns how many hosts differed. O(records).

        Raises ValueError for malformed records, and nothing has changed; CapacityError beyond a bound, and some of them
        are set.
        """
        said = unpack(records)
        for one in said:
            self._check([one.records])
        self.handled += len(said)
        self.lacks_room = True
        changes = sum(self._set(*one) for one in said)
        self.lacks_room = False
        return changes

    def replace(self, parts: Sequence[bytes]) -> int:
        """Makes these the only windows, and returns how many hosts differed. A window that one part ends with may go on
        in the next. Raises as `set_many` does; nothing has changed if there are too many windows or hosts."""
        after = self._joined(parts)
        present = sum(self._check(records) for _, records in after.values())
        if present > self._max_hosts or len(after) > self._max_windows:
            raise CapacityError(f"{present:,} hosts in {len(after):,} windows")
        self.handled += len(after) + len(self.windows)
        changes = sum(self._drop(window) for window in list(self.windows) if window not in after)
        for window, (levels, records) in after.items():
            changes += self._change(window, levels, partial(_replace, records))
        return changes

    def empty(self) -> None:
        """Drops all windows. O(windows), and O(hosts) where they are part of a sum."""
        for window in list(self.windows):
            self._drop(window)

    def records(self, after: bytes, max_bytes: int) -> tuple[bytes, bytes]:
        """Returns records of the windows beyond a cursor, and the next cursor: b"" at the begin and at the end. Between
        two calls nothing may change. O(windows x log windows + hosts)."""
        said: list[bytes] = []
        room = max_bytes
        cursor = after[4:]
        for at, (window, held) in list(enumerate(sorted(self.windows.items())))[int.from_bytes(after[:4], "little") :]:
            here = at.to_bytes(4, "little")
            if room < MAX_HEAD_BYTES + MIN_ROOM_BYTES:
                return b"".join(said), here
            records, cursor = held.tree.records(cursor, room - MAX_HEAD_BYTES)
            if records:
                said.append(pack(WindowRecords(window, held.levels, records)))
                room -= len(said[-1])
            if cursor:
                return b"".join(said), here + cursor
        return b"".join(said), b""

    def remake(self, series: SeriesKey | None = None) -> None:
        """Makes the trees of all windows anew, or those of one series, and copies what they hold. The old ones are not
        changed."""
        for window, held in self.windows.items():
            if series is None or window.series == series:
                tree = self._make(window)
                tree.replace(all_records(held.tree, COPIED_BYTES))
                held.tree = tree

    def _joined(self, parts: Sequence[bytes]) -> dict[Window, tuple[Levels, list[bytes]]]:
        """The windows of all parts, with the records of each. Raises ValueError if a part does not continue the one
        before, or says that a window is empty."""
        read = [unpack(part) for part in parts]
        for one, other in pairwise([said for said in read if said]):
            if other[0].window < one[-1].window:
                raise ValueError("a part does not continue the one before")
        after: dict[Window, tuple[Levels, list[bytes]]] = {}
        for window, levels, records in (one for said in read for one in said):
            before, all_of_it = after.setdefault(window, (levels, []))
            if before != levels or not records:
                raise ValueError("a part contradicts the one before, or says that a window is empty")
            all_of_it.append(records)
        return after

    def _set(self, window: Window, levels: Levels, records: bytes) -> int:
        return self._change(window, levels, lambda tree: tree.set_many(records)) if records else self._drop(window)

    def _drop(self, window: Window) -> int:
        held = self.windows.pop(window, None)
        if held is None:
            return 0
        self._account(held, -1)
        hosts = held.tree.hosts
        held.tree.empty()
        return hosts

    def _change(self, window: Window, levels: Levels, change: Callable[[NodeTree], int]) -> int:
        """Makes a change in the tree of a window, and keeps up the sums. Raises CapacityError."""
        held = self.windows.get(window)
        if held is None:
            if len(self.windows) >= self._max_windows:
                raise CapacityError(f"more than {self._max_windows:,} windows")
            held = self.windows[window] = HeldWindow(self._make(window), levels, weight_of(window, levels))
        self._account(held, -1)
        if held.levels != levels:
            held.levels, held.weight = levels, weight_of(window, levels)
        try:
            changes = change(held.tree)
        finally:
            self._account(held, 1)
            if not held.tree.hosts:
                del self.windows[window]
        if self.hosts > self._max_hosts:
            raise CapacityError(f"more than {self._max_hosts:,} hosts")
        if held.tree.total > self._max_events:
            raise CapacityError(f"more than {self._max_events:,} events in a window")
        return changes

    def _account(self, held: HeldWindow, sign: int) -> None:
        """Takes a window out of the sums, or adds it."""
        tree = held.tree
        self.hosts += sign * tree.hosts
        self.total += sign * tree.total
        self.digest = (self.digest + sign * tree.digest * held.weight) % WORD


def _replace(records: Sequence[bytes], tree: NodeTree) -> int:
    return tree.replace(records)
