"""The slow truth of windows: what was counted when, said in the fewest words. It shares nothing with the core: a window
is a Counter of `ipaddress` objects (or texts), which may go below zero; a count is a loop over all of them."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Hashable
from math import floor

from tests.support.gold import Network, unmapped


def host(address: object) -> Hashable:
    return unmapped(ipaddress.ip_address(address))


class GoldRing:
    """The windows of one series of one process. Window 0 is the current one.

    The timeline is driven forwards by the clock and never backwards. Who asks changes nothing: as far as they are
    concerned the clock's window is the current one, if it is newer. Who adds makes it so. A clock that says less holds
    the current window; when it says less by more than a window, windows go on from where they were.
    """

    def __init__(self, interval: int, slots: int, seconds: float) -> None:
        self.interval = interval
        self.slots = slots
        self.newest = floor(seconds / interval)
        self.base = 0
        self.windows: dict[int, Counter[Hashable]] = {}

    def number(self, seconds: float) -> int:
        return floor(seconds / self.interval) + self.base

    def now(self, seconds: float) -> int:
        return max(self.number(seconds), self.newest)

    def in_view(self, seconds: float) -> dict[int, Counter[Hashable]]:
        """The windows that there are, by their distance from the current one."""
        now = self.now(seconds)
        return {now - number: hosts for number, hosts in self.windows.items() if now - number < self.slots}

    def move_on(self, seconds: float) -> int:
        """What an add does first. The number of the window that it adds to."""
        number = self.number(seconds)
        if number > self.newest:
            self.newest = number
        elif number < self.newest - 1:
            self.base += self.newest - number
        self.windows = {n: hosts for n, hosts in self.windows.items() if n > self.newest - self.slots}
        return self.newest

    def add(self, seconds: float, key: Hashable, n: int = 1) -> int:
        number = self.move_on(seconds)
        self.windows.setdefault(number, Counter())[key] += n
        return number

    def move(self, number: int, source: Hashable, target: Hashable, n: int = 1) -> None:
        """Within the window of that number, if it is still kept."""
        if number in self.windows:
            self.windows[number][source] -= n
            self.windows[number][target] += n

    def remove_item(self, key: Hashable) -> None:
        for hosts in self.windows.values():
            del hosts[key]

    def rows(self, seconds: float, startv: int = 0, endv: int | None = None) -> Counter[Hashable]:
        """Net counts over some windows, also those that are zero."""
        last = startv if endv is None else endv
        total: Counter[Hashable] = Counter()
        for distance, hosts in self.in_view(seconds).items():
            if startv <= distance <= last:
                total.update(hosts)
        return total

    def count(self, seconds: float, what: Network | str, startv: int = 0, endv: int | None = None) -> int:
        """`what`: a prefix, or the text of a series of texts."""
        rows = self.rows(seconds, startv, endv)
        if isinstance(what, str):
            return rows[what]
        return sum(n for key, n in rows.items() if key.version == what.version and key in what)  # type: ignore[attr-defined]

    def sliding_average(self, seconds: float, what: Network | str) -> float:
        """The current window, and of the previous one the part that a window that ends now would still cover."""
        ahead = self.now(seconds) - self.number(seconds)
        elapsed = 0.0 if ahead else seconds % self.interval
        return self.count(seconds, what) + self.count(seconds, what, 1) * (1 - elapsed / self.interval)
