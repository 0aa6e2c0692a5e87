"""A plain model of a replay: a Postfix log by `str.split`, networks by `ipaddress`, and no bound on anything."""

from __future__ import annotations

import calendar
import random
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from ipaddress import ip_address, ip_network

START = calendar.timegm((2026, 12, 31, 22, 0, 0))


def postfix_log(lines: int, seed: int, processes: int = 60) -> Iterator[str]:
    """A log over a new year, with other lines, processes that vanish, disconnects without a connect, both families."""
    draw = random.Random(seed)
    now = float(START)
    busy: dict[int, str] = {}
    for _ in range(lines):
        now += draw.expovariate(2.0)
        head = time.strftime("%b %e %H:%M:%S", time.gmtime(now)) + " mx1 postfix/"
        pid = draw.randrange(processes)
        chance = draw.random()
        if chance < 0.1:
            yield f"{head}cleanup[{pid}]: 4F1A2: message-id=<{draw.random()}@a.example>"
        elif chance < 0.11:
            busy.pop(pid, None)
            yield f"{head}master[1]: warning: process /usr/lib/postfix/smtpd pid {pid} killed by signal 9"
        elif chance < 0.12 and pid not in busy:
            yield f"{head}smtpd[{pid}]: disconnect from a.example[192.0.2.1] commands=0"
        elif pid in busy:
            yield f"{head}smtpd[{pid}]: disconnect from a.example[{busy.pop(pid)}] ehlo=1 quit=1 commands=2"
        else:
            busy[pid] = draw_address(draw)
            yield f"{head}smtpd[{pid}]: connect from a.example[{busy[pid]}]"


def draw_address(draw: random.Random) -> str:
    near = int(draw.expovariate(0.4))
    kind = draw.random()
    if kind < 0.2:
        return f"2001:db8:{near % 4}:{near % 3}::{near % 5:x}"
    four = f"198.51.{near % 4}.{near % 7}"
    return f"::ffff:{four}" if kind < 0.25 else four


@cache
def network_of(address: str, lengths: tuple[int, int]) -> str:
    ip = ip_address(address)
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return str(ip_network((ip, lengths[ip.version == 6]), strict=False))


class GoldReplay:
    """`limits` has the maximum of each pair of lengths, in order: the first one that is passed refuses."""

    def __init__(self, limits: dict[tuple[int, int], int], lengths: list[tuple[int, int]]) -> None:
        self.connections = self.unmatched = self.replaced = 0
        self.refused: Counter[tuple[int, int]] = Counter()
        self.hours: Counter[int] = Counter()
        self.counts: dict[tuple[int, int], Counter[int]] = {pair: Counter() for pair in lengths}
        self.networks: Counter[str] = Counter()
        self.hosts: set[str] = set()
        self.open: dict[str, tuple[str, bool]] = {}
        self._limits = limits
        self._found: Counter[tuple[bool, tuple[int, int], str]] = Counter()

    def change(self, address: str, by: int, let_in: bool) -> None:
        for pair in {*self._limits, *self.counts}:
            network = network_of(address, pair)
            self._found[False, pair, network] += by
            self._found[True, pair, network] += by * let_in

    def line(self, text: str) -> None:
        words = text.split()
        if "/smtpd[" not in words[4]:
            return
        process, address = words[4], words[7].partition("[")[2].rstrip("]")
        if words[5] == "disconnect":
            if process not in self.open:
                self.unmatched += 1
                return
            self.change(self.open[process][0], -1, self.open.pop(process)[1])
            return
        if process in self.open:
            self.replaced += 1
            self.change(self.open[process][0], -1, self.open.pop(process)[1])
        self.connect(process, address, 2026 + (words[0] == "Jan"), words)

    def connect(self, process: str, address: str, year: int, words: list[str]) -> None:
        self.connections += 1
        self.change(address, 1, True)
        for pair, counts in self.counts.items():
            counts[self._found[False, pair, network_of(address, pair)]] += 1
        passed = [p for p, most in self._limits.items() if self._found[True, p, network_of(address, p)] > most]
        if passed:
            self.change(address, -1, True)
            self.change(address, 1, False)
            self.refused[passed[0]] += 1
        self.open[process] = address, not passed
        stamp = time.strptime(f"{year} {' '.join(words[:3])}", "%Y %b %d %H:%M:%S")
        self.hours[calendar.timegm(stamp) // 3600] += 1
        self.hosts.add(network_of(address, (32, 128)))
        self.networks[network_of(address, (24, 64))] += 1
