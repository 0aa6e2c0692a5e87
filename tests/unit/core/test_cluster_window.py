"""A series over a cluster: what this host has to say of its windows, and the ring with what the other nodes said."""

from __future__ import annotations

import ipaddress
from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.support import gold_records
from tests.support.cluster_windows import remote_count
from tests.support.gold import Address, unmapped
from tests.support.gold_windows import GoldRing
from tests.support.strategies import addresses
from tests.support.timing import START, Clock

from inbound_audit import InboundAudit
from inbound_audit._ipcount import ClusterSeries, NodeTree, NodeTrees, SeriesStore

INTERVAL, SLOTS = 10, 3
NODES = ("mx2", "mx3", "mx4")
NOW = int(START) // INTERVAL
some_hosts = st.dictionaries(addresses.map(unmapped), st.integers(0, 5), max_size=8)
windows_back = st.integers(-2, SLOTS + 1)
"""From two windows ahead of the clock to two that are out of view."""


def address(text: str) -> Address:
    return ipaddress.ip_address(text)


def records(**hosts: int) -> bytes:
    """`a=3`: three of 192.0.2.10; a name that begins with `six_` is of IPv6."""
    return gold_records.encode(
        {
            address(f"2001:db8::{name[4:]}" if name.startswith("six_") else f"192.0.2.{int(name, 16)}"): count
            for name, count in hosts.items()
        }
    )


def fill(series: ClusterSeries, trees: dict[tuple[str, int, int], NodeTree]) -> bool:
    """What the agent does after `advance`: each window in view. Returns whether all had room."""
    done = True
    for number in range(series.number - series.slots + 1, series.number + 1):
        for sign in range(2):
            of_window = [tree for key, tree in trees.items() if key[1:] == (number, sign)]
            done = series.fill(number, sign, of_window) and done
    return done


class ClusterWindowMachine(RuleBasedStateMachine):
    """This host's ring against its gold model, and each node's windows against a dictionary each."""

    @initialize(max_bytes=st.sampled_from([64, 1 << 16]))
    def begin(self, max_bytes: int) -> None:
        self.clock = Clock()
        self.audit = InboundAudit(capacity=1 << 22, clock=self.clock)
        self.audit.series.define("s", "ip", INTERVAL, SLOTS, max_bytes=1 << 20)
        self.session = self.audit.listener("SMTP").session("127.0.0.1")
        self.gold = GoldRing(INTERVAL, SLOTS, self.clock())
        self.nodes = NodeTrees(self.audit)
        self.series = self.nodes.series("series", "s", INTERVAL, SLOTS, 1 << 20)
        self.max_bytes = max_bytes
        self.said: dict[tuple[int, int], NodeTree] = {}
        self.trees: dict[tuple[str, int, int], NodeTree] = {}
        self.words: dict[tuple[str, int, int], Counter[Address]] = {}
        self.stamps: dict[tuple[int, int], tuple[int, dict[Address, int]]] = {}

    def teardown(self) -> None:
        if hasattr(self, "audit"):
            SeriesStore(self.audit).check()
            self.session.close()
            self.audit.close()

    @property
    def current(self) -> int:
        return int(self.clock()) // INTERVAL

    # ---- this host

    def own(self, number: int, sign: int) -> dict[Address, int]:
        """What this host holds of a window."""
        own = number + self.gold.base
        now = self.gold.now(self.clock())
        held = self.gold.windows.get(own, {}) if now - SLOTS < own <= now else {}
        return {host: abs(n) for host, n in held.items() if n and (n < 0) == sign}  # type: ignore[misc]

    @rule(host=addresses.map(unmapped), amount=st.integers(-4, 4).filter(bool))
    def add(self, host: Address, amount: int) -> None:
        self.audit.series.add("s", host, amount)
        self.gold.add(self.clock(), host, amount)

    @rule(host=addresses.map(unmapped))
    def remove(self, host: Address) -> None:
        self.audit.series.remove_item("s", host)
        self.gold.remove_item(host)

    @rule(seconds=st.sampled_from([1, INTERVAL, INTERVAL, 2 * INTERVAL + 3, 50, -1, -INTERVAL, -3 * INTERVAL, -500]))
    def step_the_clock(self, seconds: int) -> None:
        self.clock.seconds += seconds

    @rule(back=windows_back, sign=st.integers(0, 1))
    def say(self, back: int, sign: int) -> None:
        number = self.current - back
        said = self.said.setdefault((number, sign), self.nodes.said())
        for _ in range(2):  # the first may end what had no room before, and see no more
            done = False
            while not done:
                changes = self.series.difference(number, sign, said, self.max_bytes)
                assert len(changes) <= self.max_bytes
                assert said.set_many(changes) == len(gold_records.decode(changes))
                done = self.series.complete
        held = gold_records.decode(said.records()[0])
        assert held == self.own(number, sign)

    @rule(back=windows_back, sign=st.integers(0, 1))
    def stamp(self, back: int, sign: int) -> None:
        """An equal stamp says that nothing has changed."""
        number = self.current - back
        now = self.series.stamp(number, sign), self.own(number, sign)
        before = self.stamps.get((number, sign), (None, {}))
        assert now[0] != before[0] or now[1] == before[1]
        assert self.series.stamp(number, sign) == now[0]
        self.stamps[number, sign] = now

    # ---- the other nodes

    def tree(self, node: str, back: int, sign: int) -> tuple[str, int, int]:
        key = (node, self.current - back, sign)
        if key not in self.trees:
            self.trees[key] = self.series.tree(*key[1:], 1000)
            self.words[key] = Counter()
        return key

    @rule(node=st.sampled_from(NODES), back=windows_back, sign=st.integers(0, 1), hosts=some_hosts)
    def hear(self, node: str, back: int, sign: int, hosts: dict[Address, int]) -> None:
        key = self.tree(node, back, sign)
        self.trees[key].set_many(gold_records.encode(hosts))
        self.words[key] = +Counter({**self.words[key], **hosts})

    @rule(node=st.sampled_from(NODES), back=windows_back, sign=st.integers(0, 1), hosts=some_hosts)
    def hear_a_snapshot(self, node: str, back: int, sign: int, hosts: dict[Address, int]) -> None:
        key = self.tree(node, back, sign)
        self.trees[key].replace(gold_records.encode(hosts))
        self.words[key] = +Counter(hosts)

    @rule(node=st.sampled_from(NODES), dropped=st.booleans())
    def lose(self, node: str, dropped: bool) -> None:
        for key in [key for key in self.trees if key[0] == node]:
            self.trees[key].empty()
            self.words[key] = Counter()
            if dropped:
                del self.trees[key], self.words[key]

    @rule()
    def count(self) -> None:
        if self.series.advance():
            assert fill(self.series, self.trees)
        if self.series.is_full:  # a change of a window that was not filled yet
            assert fill(self.series, self.trees)
        assert not self.series.is_full
        assert self.series.number in (self.current, self.current + 1)
        asked: set[Address] = {host for word in self.words.values() for host in word}
        for back in range(SLOTS):
            number = self.series.number - back
            net: Counter[Address] = Counter()
            for (_, of, sign), word in self.words.items():
                for host, n in word.items():
                    net[host] += n * (1 - 2 * sign) * (of == number)
            for cidr in ("0.0.0.0/0", "::/0", *map(str, sorted(asked, key=str)[:6])):
                network = ipaddress.ip_network(cidr)
                expected = sum(n for host, n in net.items() if host.version == network.version and host in network)
                assert remote_count(self.session, "s", INTERVAL, SLOTS, cidr, back, back) == expected

    @invariant()
    def the_own_series_counts_this_host_alone(self) -> None:
        if hasattr(self, "audit"):
            for cidr in ("0.0.0.0/0", "::/0"):
                expected = self.gold.count(self.clock(), ipaddress.ip_network(cidr), 0, SLOTS - 1)
                assert self.audit.series.count("s", cidr, 0, SLOTS - 1) == expected


TestClusterWindow = ClusterWindowMachine.TestCase
