"""The overrides of this host in the cluster: what is said of them, and what is taken of those of other nodes.

Each node has all overrides of the cluster. Of two changes of a prefix the later one counts on every node, so it does
not matter in which order, or how often, a node hears of them. A change is said once, by the node on which it was made.
Each node says now and then a digest of all that it has; who has something else asks that node for all of it, as for a
snapshot. Where a node has more than another has room for, they never agree: so it is asked less and less often.

Lock rule: `_lock` is held for a few assignments. `carry_out` waits for a disk, so it has a thread of its own; all other
methods are the agent's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from hashlib import blake2b
from math import inf
from typing import NamedTuple

from inbound_audit._ipcount import MAX_OVERRIDES
from inbound_audit.cluster.frames import MAX_RECORDS_BYTES, Frame
from inbound_audit.cluster.node_state import NodeState
from inbound_audit.errors import InboundAuditError
from inbound_audit.log_limiter import LogLimiter
from inbound_audit.overrides.entry import Entry, Key, parse_line
from inbound_audit.overrides.files import lines_of, read_entries
from inbound_audit.overrides.table import Table

logger = logging.getLogger("inbound_audit.cluster")
_failures = LogLimiter(logger)

MIN_PAUSE_S = 0.1
"""Seconds from one frame to the next, at least."""
DIGEST_S, DIGEST_PER_NODE_S = 1.0, 0.1
"""Seconds from one digest to the next, at least and per node: those of all nodes are at most ten a second."""
SETTLE_S = 1.0
"""After a change of what this host has, the digests that come in may be older than it: so long none is compared."""
MAX_UNSETTLED_S = 5.0
"""After its begin a node waits no longer for the end of changes before it asks another one for what it lacks."""
MIN_ASK_S, MAX_ASK_S = 1.0, 60.0
"""From one request to the next of the same node. It doubles while that node and this one do not agree."""

MAX_WAITING_BYTES, MAX_WAITING_LINES = 16 << 20, 2 * MAX_OVERRIDES
"""What waits of other nodes for `carry_out`, at most; of one node, half of it."""
MAX_AHEAD_S = 86400.0
"""What a node says to have been done later than so long after now is not taken: its clock is wrong."""

WORD = 1 << 64
"""Digests are sums modulo this."""


class _Held(NamedTuple):
    entry: Entry
    line: bytes
    digest: int


class _Size(NamedTuple):
    """Of lines that wait."""

    bytes: int
    lines: int

    def and_of(self, more: _Size) -> _Size:
        return _Size(self.bytes + more.bytes, self.lines + more.lines)

    def fits(self, part: int) -> bool:
        """Whether it is within the part (1: the whole, 2: a half) of the bounds."""
        return self.bytes <= MAX_WAITING_BYTES // part and self.lines <= MAX_WAITING_LINES // part


_NOTHING = _Size(0, 0)


class HostOverrides:
    """`table` returns what the host has now, another table once that has changed; `take` takes over what is later, or
    raises InboundAuditError.

    `clock` is monotonic, `utc` the time that overrides end by; both in seconds.
    """

    def __init__(
        self,
        table: Callable[[], Table],
        take: Callable[[Iterable[tuple[Key, Entry]]], object],
        clock: Callable[[], float] = time.monotonic,
        utc: Callable[[], float] = time.time,
    ) -> None:
        self.digest = 0
        """Of all that this host has."""
        self._table, self._take = table, take
        self._seen: Table | None = None
        self._ends_at = inf
        """When the first of what was seen says nothing any more."""
        self._clock, self._utc = clock, utc
        self._lock = threading.Lock()
        self._held: dict[Key, _Held] = {}
        self._lines: set[bytes] = set()
        self._unsaid: dict[Key, bytes] = {}
        self._changed_at = self._spoke_at = float("-inf")
        self._began_at = clock()
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._waits = _NOTHING
        self._waits_of: dict[str, _Size] = {}  # of each node
        self._wanted: dict[str, NodeState] = {}

    def __len__(self) -> int:
        """How many this host has, those that were lifted too."""
        return len(self._held)

    # ---- what is said

    def words(self, now: float, nodes: int) -> bytes | None:
        """The lines that are to be said now, b"" for a digest alone; None: nothing is."""
        with self._lock:
            if self._unsaid and now >= self._spoke_at + MIN_PAUSE_S:
                self._spoke_at = now
                return self._next_lines()
            if self._held and now >= self._spoke_at + max(DIGEST_S, DIGEST_PER_NODE_S * nodes):
                self._spoke_at = now
                return b""
            return None

    def _next_lines(self) -> bytes:
        said: list[bytes] = []
        room = MAX_RECORDS_BYTES
        for key, line in list(self._unsaid.items()):
            room -= len(line)
            if room < 0:
                break
            said.append(line)
            del self._unsaid[key]
        return b"".join(said)

    def parts(self) -> list[bytes]:
        """All lines, for the answer to a node that has something else."""
        with self._lock:
            lines = [held.line for held in self._held.values()]
        found: list[list[bytes]] = [[]]
        room = MAX_RECORDS_BYTES
        for line in lines:
            if len(line) > room:
                found.append([])
                room = MAX_RECORDS_BYTES
            found[-1].append(line)
            room -= len(line)
        return [b"".join(part) for part in found]

    # ---- what is heard

    def heard(self, state: NodeState, frame: Frame, now: float) -> None:
        """Takes a frame of a node that is counted."""
        if frame.records:
            self.put(state.name, frame.records)
        elif frame.digest == self.digest:
            state.overrides_pause /= 2
        elif self._compares(state, now) and now >= max(state.overrides_ask_at, state.ask_at):
            state.overrides_pause = min(max(2 * state.overrides_pause, MIN_ASK_S), MAX_ASK_S)
            state.overrides_ask_at = now + state.overrides_pause
            self._wanted[state.name] = state

    def _compares(self, state: NodeState, now: float) -> bool:
        """Whether a digest that differs says that something was missed: not while changes come in, unless these have
        not ended for long."""
        settled = not self._waiting and now >= self._changed_at + SETTLE_S
        return settled or now >= max(state.overrides_ask_at + MAX_ASK_S, self._began_at + MAX_UNSETTLED_S)

    def put(self, node: str, lines: bytes) -> None:
        """Lines of a node, for `carry_out`. Beyond a bound they are dropped, which a digest shows."""
        more = _Size(len(lines), lines.count(b"\n"))
        with self._lock:
            all, own = self._waits.and_of(more), self._waits_of.get(node, _NOTHING).and_of(more)
            if all.fits(1) and own.fits(2):
                self._waiting.append((node, lines))
                self._waits, self._waits_of[node] = all, own

    def asks(self, asked: Collection[str]) -> list[str]:
        """The nodes that are to be asked now for all that they have, but those that were `asked` already."""
        wanted, self._wanted = self._wanted, {}
        return [name for name in wanted if name not in asked]

    # ---- on a thread of its own

    def carry_out(self) -> None:
        """Takes over what has come in, and finds what is to be said. O(overrides) after a change, else O(1)."""
        with self._lock:
            waiting, self._waiting = list(self._waiting), deque()
            self._waits = _NOTHING
            self._waits_of.clear()
        found = Table()
        for node, lines in waiting:
            found.merge(self._new(node, lines))
        if found:
            try:
                self._take(found.items())
            except InboundAuditError as error:
                _failures.report(logging.WARNING, "overrides of other nodes are not taken: %s", error)
        self._look(found)

    def _new(self, node: str, lines: bytes) -> list[tuple[Key, Entry]]:
        """The entries that may be taken."""
        unknown = b"".join(line for end in lines_of(lines) if (line := end + b"\n") not in self._lines)
        now = self._utc()
        found = [item for item in read_entries(f"node {node}", unknown, parse_line) if item[1].is_kept(now)]
        taken = [item for item in found if _may_be(item[1], now + MAX_AHEAD_S)]
        if len(taken) < len(found):
            words = "node %s: overrides that were made at a time to come are left out: is its clock right?"
            _failures.report(logging.WARNING, words, node, kind=node)
        return taken

    def _look(self, taken: Table) -> None:
        """Notes what the host has. What has changed and was not `taken` of other nodes is to be said."""
        table, now = self._table(), self._utc()
        if table is self._seen and now < self._ends_at:
            return
        self._seen = table
        entries = {key: entry for key, entry in table.items() if entry.is_kept(now)}
        self._ends_at = min((entry.kept for entry in entries.values() if entry.kept is not None), default=inf)
        gone = self._held.keys() - entries.keys()
        changed = [
            (key, entry) for key, entry in entries.items() if key not in self._held or self._held[key].entry != entry
        ]
        new = {key: _held(entry) for key, entry in changed}
        if not (gone or new):
            return
        with self._lock:
            self._changed_at = self._clock()
            for key in gone | (new.keys() & self._held.keys()):
                before = self._held.pop(key)
                self._lines.discard(before.line)
                self._unsaid.pop(key, None)
                self.digest = (self.digest - before.digest) % WORD
            for key, held in new.items():
                self._held[key] = held
                self._lines.add(held.line)
                self.digest = (self.digest + held.digest) % WORD
                if taken.get(key) != held.entry:
                    self._unsaid[key] = held.line


def _may_be(entry: Entry, latest: float) -> bool:
    """Whether an entry was made until then."""
    return max(entry.changed / 1e9, entry.since) <= latest


def _held(entry: Entry) -> _Held:
    line = entry.line()
    return _Held(entry, line, int.from_bytes(blake2b(line, digest_size=8).digest(), "little"))
