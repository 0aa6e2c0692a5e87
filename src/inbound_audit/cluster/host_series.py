"""The series of this host that a cluster counts: what is said of them, and where other nodes' windows are counted.

A monitor is said and counted if the agent was given its name. A named series says by its `replicate` for whom it is:
the windows for all nodes are one tree of frames, those for managers are another, which only a manager takes.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Collection
from time import monotonic
from weakref import WeakSet

from inbound_audit.cluster.node_trees import ClusterSeries, NodeTree, SeriesTrees
from inbound_audit.cluster.window_records import (
    MAX_HEAD_BYTES,
    SCOPES,
    UNFOLDED,
    SeriesKey,
    Window,
    WindowRecords,
    can_be_said,
    pack,
)
from inbound_audit.cluster.windows import MAX_HOSTS, MAX_WINDOWS, MIN_ROOM_BYTES, NO_HOSTS, WindowTrees
from inbound_audit.errors import CapacityError, SeriesError

logger = logging.getLogger("inbound_audit.cluster")

FOR_ALL, FOR_MANAGERS = 1, 2
"""The trees of frames that have windows. They are also the numbers of `replicate`."""

REFILL_S, RETRY_S = 1.0, 10.0
"""Windows whose sum over the other nodes had no room for a change are summed up anew after REFILL_S at least. What has
found no room then, or at all, is tried again after RETRY_S."""


class HostSeries:
    """The series of this host that the cluster counts. It belongs to one thread.

    Parameters:
        trees: the native core.
        monitors: the monitors that are said and counted, such as ``"300,6"``.
        is_manager: whether the windows that other nodes have for managers are counted here.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        trees: SeriesTrees,
        monitors: Collection[str] = (),
        is_manager: bool = False,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.series: dict[SeriesKey, ClusterSeries] = {}
        self._trees = trees
        self._monitors = frozenset(monitors)
        self._is_manager = is_manager
        self._clock = clock
        self._copies: WeakSet[WindowTrees] = WeakSet()
        self._refill_at: dict[SeriesKey, float] = {}
        """When windows without room may be summed up again."""
        self._lacking: set[SeriesKey] = set()
        """Series of which a window had no room when it was summed up."""
        self._refused: dict[SeriesKey, float] = {}
        """Series for which there is no room at all, and when they are tried again."""
        self.said = {tree: SaidWindows(self, tree) for tree in (FOR_ALL, FOR_MANAGERS)}

    def check(self, parts: list[bytes]) -> int:
        """`SeriesTrees.check_records`."""
        return self._trees.check_records(parts)

    def tree(self, max_hosts: int = 2**32) -> NodeTree:
        """Returns a tree that counts nowhere."""
        return self._trees.said("", max_hosts)

    def takes(self, tree: int) -> bool:
        """Whether this host counts what other nodes say in that tree of frames."""
        return tree == FOR_ALL or self._is_manager

    def copy(self, max_windows: int, max_hosts: int, max_events: int) -> WindowTrees:
        """Returns what another node has, no window at first. Its windows are counted in the series of this host; those
        of series that no process of this host has wait for one."""

        def make(window: Window) -> NodeTree:
            series = self.series.get(window.series)
            return self.tree(max_hosts) if series is None else series.tree(window.number, window.sign, max_hosts)

        made = WindowTrees(make, self.check, max_windows, max_hosts, max_events)
        self._copies.add(made)
        return made

    def find(self) -> None:
        """Finds the series of this host's processes. To be called once a second. O(series)."""
        found: dict[SeriesKey, int] = {}
        for scope, name, interval, slots, replicate in self._trees.replicated():
            key = SeriesKey(scope, name, interval, slots)
            tree = self._tree_of(key, replicate) if can_be_said(key) else None
            if tree is not None:
                found[key] = min(tree, found.get(key, tree))
        for key in found:
            if key not in self.series and self._clock() >= self._refused.get(key, 0.0):
                self._begin(key)
        for said in self.said.values():
            said.keys = [key for key, tree in found.items() if tree == said.number and key in self.series]

    def turn(self) -> None:
        """Goes on to the current windows, and sums up anew what was emptied or had no room. To be called some 20 times
        per second. O(series), and O(hosts) of what is summed up."""
        for key, series in self.series.items():
            before = series.number
            lacks_room = series.is_full or key in self._lacking
            moved = series.advance()
            set_back = moved and series.number <= before
            if set_back or (lacks_room and self._clock() >= self._refill_at.get(key, 0.0)):
                self._fill(key, series)
            elif moved:
                self._fill(key, series, before + 1)

    def move(self, trees: SeriesTrees) -> None:
        """Goes on with another core. What the old one holds is not changed."""
        before, self.series, self._trees = self.series, {}, trees
        self._refused.clear()
        for copy in self._copies:
            copy.remake()
        for key in before:
            self._begin(key)
        for said in self.said.values():
            said.keys = [key for key in said.keys if key in self.series]
            said.move()

    def _tree_of(self, key: SeriesKey, replicate: int) -> int | None:
        """The tree of frames in which a series is said, None if it is not."""
        if SCOPES.index(key.scope) < SCOPES.index("series"):
            is_named = key.name in self._monitors and key.name == f"{key.interval},{key.slots}"
            return FOR_ALL if is_named else None
        return replicate if replicate in (FOR_ALL, FOR_MANAGERS) else None

    def _begin(self, key: SeriesKey) -> None:
        try:
            series = self.series[key] = self._trees.series(*key)
            series.advance()
            for copy in self._copies:
                copy.remake(key)
        except (CapacityError, SeriesError) as error:
            if key not in self._refused:
                logger.warning("%s %s is counted on this host alone: %s", key.scope, key.name, error)
            self._refused[key] = self._clock() + RETRY_S
            if self.series.pop(key, None) is not None:
                self._remake_alone(key)
        else:
            self._fill(key, series)

    def _remake_alone(self, key: SeriesKey) -> None:
        """Makes the trees of a series that is not counted. Without room for them those that are there stay."""
        for copy in self._copies:
            try:
                copy.remake(key)
            except CapacityError as error:
                logger.debug("%s %s keeps its trees: %s", key.scope, key.name, error)

    def _fill(self, key: SeriesKey, series: ClusterSeries, first: int | None = None) -> None:
        """Sums up the windows in view, or those from `first` on."""
        has_room = True
        oldest = series.number - key.slots + 1
        for number in range(oldest if first is None else max(oldest, first), series.number + 1):
            for sign in (0, 1):
                window = Window(key, number, sign)
                held = [copy.windows[window].tree for copy in self._copies if window in copy.windows]
                try:
                    has_room = series.fill(number, sign, held) and has_room
                except CapacityError:
                    has_room = False
        if not has_room and key not in self._lacking:
            logger.warning("%s %s has no room: windows of other nodes are counted in part", key.scope, key.name)
        if not has_room:
            self._lacking.add(key)
        elif first is None:
            self._lacking.discard(key)
        if first is None:
            self._refill_at[key] = self._clock() + (REFILL_S if has_room else RETRY_S)


class SaidWindows:
    """What the processes of this host have in the series of one tree of frames, and what was said of it."""

    def __init__(self, host: HostSeries, number: int) -> None:
        self.number = number
        self.keys: list[SeriesKey] = []
        self.complete = True
        """Whether the last `difference` has asked all windows, and had room for all."""
        self._host = host
        self._said = WindowTrees(lambda window: host.tree(), host.check, 2**32, 2**32)
        self._nothing: NodeTree | None = None
        self._stamps: dict[Window, int] = {}
        """Of windows of which all is said."""
        self._resumed: Window | None = None
        """The window of which the last `difference` had room for a part only."""
        self._first: Window | None = None
        """Where the last one had no room any more: so a window that changes all the time keeps no other one waiting."""

    def said(self) -> WindowTrees:
        """Returns what was said."""
        return self._said

    @property
    def is_too_much(self) -> bool:
        """Whether there are more windows than are said, or more hosts than other nodes take."""
        return len(self._said.windows) >= MAX_WINDOWS or self._said.hosts > MAX_HOSTS

    def changed(self) -> bool:
        """Whether `difference` may find something: to know it, it would have to ask each window."""
        return bool(self.keys or self._said.windows)

    def move(self) -> None:
        """Goes on with another core."""
        self._said.remake()
        self._nothing = None
        self._stamps.clear()
        self._resumed = None

    def difference(self, said: WindowTrees, max_bytes: int) -> bytes:
        """Returns records of the windows that have changed since they were said.

        `complete` is False if some had no room, or those before the first were not asked: after these records were set
        in `said`, the next call goes on there. O(windows), and O(hosts) of windows that have changed.
        """
        found: list[bytes] = []
        room = max_bytes
        in_view = {window for key in self.keys for window in self._windows_of(key)}
        if said.lacks_room:  # which of them were set is not known
            self._stamps.clear()
            self._resumed = None
        if self._resumed not in in_view:
            self._resumed = None
        if in_view:  # before any stamp is noted: there may be no room for it
            self._empty_tree()
        self._stamps = {window: stamp for window, stamp in self._stamps.items() if window in in_view}
        places = MAX_WINDOWS - len(said.windows)
        windows = sorted(in_view | said.windows.keys())
        begin = bisect_left(windows, self._first) if self._first is not None else 0
        self._first = None
        for window in windows[begin:]:
            if room < MAX_HEAD_BYTES + MIN_ROOM_BYTES:
                self._first = window
                break
            if window not in in_view:
                found.append(pack(WindowRecords(window, UNFOLDED, b"")))
            elif window in said.windows or places > 0:
                found.append(self._change_of(window, said, room - MAX_HEAD_BYTES))
                places -= window not in said.windows and found[-1] != b""
            else:
                continue
            room -= len(found[-1])
            if window == self._resumed:
                self._first = window
                break
        self.complete = begin == 0 and self._first is None
        return b"".join(found)

    def _windows_of(self, key: SeriesKey) -> list[Window]:
        newest = self._host.series[key].number
        return [Window(key, number, sign) for number in range(newest - key.slots + 1, newest + 1) for sign in (0, 1)]

    def _change_of(self, window: Window, said: WindowTrees, max_bytes: int) -> bytes:
        series = self._host.series[window.series]
        stamp = series.stamp(window.number, window.sign)
        if self._stamps.get(window) == stamp:
            return b""
        held = said.windows.get(window)
        levels = series.levels(window.number)
        records = series.difference(window.number, window.sign, self._before(said, window), max_bytes)
        self._note(window, stamp, series.complete)
        if not records and held is not None and held.levels != levels:
            records = NO_HOSTS
        return pack(WindowRecords(window, levels, records)) if records else b""

    def _before(self, said: WindowTrees, window: Window) -> NodeTree:
        """What was said of a window. A tree for it is made when there is something to say."""
        held = said.windows.get(window)
        return self._empty_tree() if held is None else held.tree

    def _empty_tree(self) -> NodeTree:
        if self._nothing is None:
            self._nothing = self._host.tree()
        return self._nothing

    def _note(self, window: Window, stamp: int, complete: bool) -> None:
        """A walk that goes on where the last one stopped has not seen what changed before that place."""
        if complete and self._resumed != window:
            self._stamps[window] = stamp
        else:
            self._stamps.pop(window, None)
        self._resumed = None if complete else window
        if not complete:
            self._nothing = None
