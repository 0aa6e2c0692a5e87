"""The slow model of a host's series in a cluster (`node_trees.SeriesTrees`, `node_trees.ClusterSeries`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

from tests.support.gold_nodes import GoldTree, Host, cut, decode

from inbound_audit.cluster.window_records import UNFOLDED, Levels, SeriesKey, Window
from inbound_audit.errors import CapacityError

Counts = dict[Host, int]


class Events:
    """What the processes of a host have recorded: they outlive the agent. `replicate`: of each series."""

    def __init__(self) -> None:
        self.windows: dict[Window, Counts] = {}
        self.levels: dict[tuple[SeriesKey, int], Levels] = {}
        self.replicate: dict[SeriesKey, int] = {}
        self.stamps: Counter[Window] = Counter()

    def record(self, key: SeriesKey, number: int, host: Host, by: int) -> None:
        """Adds, or takes away by a negative number; both only grow here."""
        window = Window(key, number, int(by < 0))
        counts = self.windows.setdefault(window, {})
        counts[host] = counts.get(host, 0) + abs(by)
        self.stamps[window] += 1

    def remove(self, key: SeriesKey, host: Host) -> None:
        """As `remove_item`."""
        for window, counts in self.windows.items():
            if window.series == key and counts.pop(host, 0):
                self.stamps[window] += 1

    def fold(self, key: SeriesKey, number: int, levels: Levels) -> None:
        self.levels[key, number] = levels
        for sign in (0, 1):
            self.stamps[Window(key, number, sign)] += 1

    def clear(self) -> None:
        """All processes that have recorded something are killed."""
        for window in self.windows:
            self.stamps[window] += 1
        self.windows.clear()
        self.levels.clear()


class WindowTree(GoldTree):
    """Of another node. What changes here changes in the sum."""

    def __init__(self, series: GoldSeries, place: tuple[int, int], max_hosts: int) -> None:
        super().__init__("", max_hosts)
        self.series, self.place = series, place

    def _set(self, host: Host, count: int) -> bool:
        self.series.follow(self.place, host, count - self.counts.get(host, 0))
        return super()._set(host, count)

    def empty(self) -> None:
        for host in list(self.counts):
            self._set(host, 0)


class GoldSeries:
    """A series over the cluster. `max_hosts`: for how many hosts a window of the sum has room."""

    def __init__(self, key: SeriesKey, events: Events, clock: Callable[[], float]) -> None:
        self.key, self.events, self.clock = key, events, clock
        self.number = -(10**9)
        self.complete = True
        self.is_full = False
        self.max_hosts = 10**9
        self.max_trees = 10**9
        self.sums: dict[tuple[int, int], Counter[Host]] = {}
        self.whole: set[tuple[int, int]] = set()
        """The windows that were filled since they came into view."""
        self.fills = 0

    def in_view(self, number: int) -> bool:
        return self.number - self.key.slots < number <= self.number

    def advance(self) -> bool:
        number = int(self.clock() // self.key.interval)
        if number == self.number:
            return False
        self.number = number
        self.sums = {place: sums for place, sums in self.sums.items() if self.in_view(place[0])}
        self.whole &= self.sums.keys()
        return True

    def follow(self, place: tuple[int, int], host: Host, by: int) -> None:
        if by and place in self.whole:
            sums = self.sums[place]
            sums[host] += by
            if not sums[host]:
                del sums[host]
            if len(sums) > self.max_hosts:
                self.whole.remove(place)
        if by and self.in_view(place[0]) and place not in self.whole:
            self.is_full = True

    def tree(self, number: int, sign: int, max_hosts: int) -> WindowTree:
        self.max_trees -= 1
        if self.max_trees < 0:
            raise CapacityError("no room for one more window")
        return WindowTree(self, (number, sign), max_hosts)

    def fill(self, number: int, sign: int, trees: list[WindowTree]) -> bool:
        self.fills += 1
        self.is_full = False
        if not self.in_view(number):
            return True
        assert all(tree.series is self and tree.place == (number, sign) for tree in trees)
        sums = self.sums[number, sign] = sum((Counter(tree.counts) for tree in trees), Counter())
        self.whole.discard((number, sign))
        if len(sums) <= self.max_hosts:
            self.whole.add((number, sign))
        return len(sums) <= self.max_hosts

    def difference(self, number: int, sign: int, said: GoldTree, max_bytes: int) -> bytes:
        own = self.events.windows.get(Window(self.key, number, sign), {})
        hosts = sorted(host for host in own.keys() | said.counts.keys() if host >= said.resume)
        changed = ((host, own.get(host, 0)) for host in hosts if own.get(host, 0) != said.counts.get(host, 0))
        records, rest = cut(changed, max_bytes)
        self.complete = not rest
        said.resume = (rest[0], int.from_bytes(rest[1:], "big") + 1) if rest else (0, 0)
        return records

    def stamp(self, number: int, sign: int) -> int:
        return self.events.stamps[Window(self.key, number, sign)]

    def levels(self, number: int) -> Levels:
        return self.events.levels.get((self.key, number), UNFOLDED)


class GoldSeriesTrees:
    """The series of a host: those of `events`. `max_series`: for how many there is room."""

    def __init__(self, events: Events, clock: Callable[[], float], max_series: int = 1000) -> None:
        self.events, self.clock, self.max_series = events, clock, max_series
        self.made: dict[SeriesKey, GoldSeries] = {}

    def said(self, name: str = "", max_hosts: int = 2**32) -> GoldTree:
        return GoldTree(name, max_hosts)

    def check_records(self, parts: Sequence[bytes]) -> int:
        rows = [row for part in parts for row in decode(part)]
        if any(one[0] >= other[0] for one, other in pairwise(rows)):
            raise ValueError("a part does not continue the one before")
        return sum(count > 0 for _, count in rows)

    def replicated(self) -> list[tuple[str, str, int, int, int]]:
        return [(*key, replicate) for key, replicate in self.events.replicate.items()]

    def series(self, scope: str, name: str, interval: int, slots: int) -> GoldSeries:
        key = SeriesKey(scope, name, interval, slots)
        if key not in self.made and len(self.made) >= self.max_series:
            raise CapacityError("no room for one more series")
        return self.made.setdefault(key, GoldSeries(key, self.events, self.clock))
