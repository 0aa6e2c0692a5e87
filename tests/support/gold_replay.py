"""A plain model of a replay: a Postfix log by `str.split`, networks by `ipaddress`, and no bound on anything."""

from __future__ import annotations

import calendar
import random
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from ipaddress import ip_address, ip_network
from typing import Any

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
        elif chance < 0.3 and (pid in busy or chance < 0.125):
            address = busy.get(pid, "192.0.2.1")
            yield f"{head}smtpd[{pid}]: " + draw.choice((
                f"NOQUEUE: reject: RCPT from a.example[{address}]: 554 5.7.1 <b@example.org>: Relay access denied",
                f"4F1A2: client=a.example[{address}]",
                f"NOQUEUE: reject_warning: RCPT from a.example[{address}]: 554 5.7.1 Service unavailable",
            ))  # fmt: skip
        elif chance < 0.135 and pid not in busy:
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


Span = tuple[tuple[int, int], str, int]
"""Lengths, kind of events and seconds of a limit over time."""


class GoldReplay:
    """`limits` has the maximum of each pair of lengths, `spans` that of each limit over time of these pairs. In the
    order of the pairs the first one that is passed refuses; each that is passed denies its prefix for the seconds that
    `denials` has of it. `rates` are those of which `over_time` has the counts."""

    def __init__(
        self,
        limits: dict[tuple[int, int], int],
        lengths: list[tuple[int, int]],
        spans: dict[Span, int] | None = None,
        rates: list[Span] | None = None,
        denials: dict[object, int] | None = None,
    ) -> None:
        self.denied: Counter[object] = Counter()
        self._denials = denials or {}
        self._until: dict[str, tuple[int, object]] = {}
        self.connections = self.unmatched = self.replaced = self.receptions = self.rejections = 0
        self.over_time: dict[Span, Counter[int]] = {each: Counter() for each in rates or ()}
        self._spans = spans or {}
        self._windows: Counter[tuple[bool, Span, int, str]] = Counter()
        self._now = 0
        self.refused: Counter[object] = Counter()
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

    def record(self, address: str, kind: str, live: bool) -> None:
        """An event in the window of each span; `live`: of those that limits ask, else of all that the log has."""
        for span in self._spans if live else self.over_time:
            if span[1] == kind:
                self._windows[live, span, self._now // span[2], network_of(address, span[0])] += 1

    def recent(self, address: str, span: Span, live: bool) -> int:
        """All of the current window, and of the one before the share that as many seconds up to now still cover."""
        number, network = self._now // span[2], network_of(address, span[0])
        left = (number + 1) * span[2] - self._now
        before = self._windows[live, span, number - 1, network]
        return self._windows[live, span, number, network] + before * left // span[2]

    def happen(self, process: str, kind: str) -> None:
        if process not in self.open:
            self.unmatched += 1
            return
        address, let_in = self.open[process]
        self.receptions += kind == "receptions"
        self.rejections += kind == "rejections"
        self.record(address, kind, False)
        if let_in:
            self.record(address, kind, True)

    def line(self, text: str) -> None:
        words = text.split()
        if "/smtpd[" not in words[4]:
            return
        stamp = time.strptime(f"{2026 + (words[0] == 'Jan')} {' '.join(words[:3])}", "%Y %b %d %H:%M:%S")
        self._now = max(self._now, calendar.timegm(stamp))
        if words[6].startswith("client="):
            self.happen(words[4], "receptions")
            return
        if words[5] == "NOQUEUE:":
            if words[6] == "reject:":
                self.happen(words[4], "rejections")
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
        self.connect(process, address)

    def passed(self, address: str) -> list[Any]:
        """The limits that an address is over now, in their order."""
        found: list[Any] = []
        for pair, most in self._limits.items():
            if self._found[True, pair, network_of(address, pair)] > most:
                found.append(pair)
            found += [s for s, top in self._spans.items() if s[0] == pair and self.recent(address, s, True) > top]
        return found

    def denial(self, address: str) -> object:
        """The limit that has denied the longest prefix around an address; None: none is denied."""
        for pair in sorted(self._limits, reverse=True):
            until, limit = self._until.get(network_of(address, pair), (0, None))
            if until > self._now:
                return limit
        return None

    def connect(self, process: str, address: str) -> None:
        self.connections += 1
        self.change(address, 1, True)
        for live in (True, False):
            self.record(address, "connections", live)
        for span, found in self.over_time.items():
            found[self.recent(address, span, False)] += 1
        for pair, counts in self.counts.items():
            counts[self._found[False, pair, network_of(address, pair)]] += 1
        denied_by = self.denial(address)
        passed = [] if denied_by is not None else self.passed(address)
        if passed or denied_by is not None:
            self.change(address, -1, True)
            self.change(address, 1, False)
            self.refused.update(passed[:1])
            self.denied.update([] if denied_by is None else [denied_by])
            self.record(address, "rejections", True)
        for limit in reversed([each for each in passed if each in self._denials]):  # the first one has the last word
            lengths = limit if limit in self._limits else limit[0]
            self._until[network_of(address, lengths)] = self._now + self._denials[limit], limit
        self.open[process] = address, not passed and denied_by is None
        self.hours[self._now // 3600] += 1
        self.hosts.add(network_of(address, (32, 128)))
        self.networks[network_of(address, (24, 64))] += 1
