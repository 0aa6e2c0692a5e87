"""A series over a cluster: what this host has to say of its windows, and the ring with what the other nodes said."""

from __future__ import annotations

import ipaddress
import random
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.support import gold_records, inner
from tests.support.cluster_windows import remote_count
from tests.support.gold import Address, unmapped
from tests.support.gold_windows import GoldRing
from tests.support.strategies import addresses
from tests.support.timing import START, Clock

from inbound_audit import InboundAudit, Session
from inbound_audit._ipcount import ClusterSeries, NodeTree, NodeTrees, SeriesStore
from inbound_audit.errors import CapacityError, InboundAuditError, SeriesError

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


class Host:
    """One host with its agent in one process."""

    def __init__(self, max_bytes: int = 1 << 20, slots: int = SLOTS) -> None:
        self.clock = Clock()
        self.slots = slots
        self.audit = InboundAudit(capacity=1 << 24, clock=self.clock)
        self.audit.series.define("s", "ip", INTERVAL, slots, max_bytes=1 << 22)
        self.session: Session = self.audit.listener("Control").session("127.0.0.1")
        self.nodes = NodeTrees(self.audit)
        self.series = self.nodes.series("series", "s", INTERVAL, slots, max_bytes)
        self.trees: dict[tuple[str, int, int], NodeTree] = {}
        self.step()

    def step(self) -> bool:
        """What the agent does some times per second. Returns whether all had room."""
        return not (self.series.advance() or self.series.is_full) or fill(self.series, self.trees)

    def hear(self, node: str, number: int, sign: int, said: bytes) -> None:
        key = (node, number, sign)
        if key not in self.trees:
            self.trees[key] = self.series.tree(number, sign, 1 << 20)
        self.trees[key].set_many(said)

    def remote(self, cidr: str, first: int = 0, last: int = 0) -> int | None:
        return remote_count(self.session, "s", INTERVAL, self.slots, cidr, first, last)

    def levels(self) -> tuple[int, int]:
        """To which lengths the current window of the other nodes is folded."""
        levels: tuple[int, int] = inner.remote_levels(self.session._handle, inner.ADDRESSES, b"s", INTERVAL, self.slots)
        return levels

    def close(self) -> None:
        self.session.close()
        self.audit.close()


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    SeriesStore(host.audit).check()
    host.close()


def spread(draw: random.Random, hosts: int) -> dict[Address, int]:
    four = {ipaddress.IPv4Address(draw.randrange(10 << 24, 11 << 24)): draw.randint(1, 9) for _ in range(hosts)}
    six = {ipaddress.IPv6Address(draw.getrandbits(80) | 0x2001 << 112): draw.randint(1, 9) for _ in range(hosts)}
    return four | six


def count_in(hosts: Counter[Address], network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> int:
    return sum(n for host, n in hosts.items() if host.version == network.version and host in network)


def prefixes(hosts: Counter[Address], levels: tuple[int, int]) -> set[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Of some of the hosts, as long as the levels."""
    made = set()
    for host in sorted(hosts, key=lambda host: (host.version, host))[::97]:
        length = levels[host.version == 6]
        made.add(ipaddress.ip_network((host, length), strict=False))
    return made


def test_a_window_without_room_gives_up_detail_and_no_count() -> None:
    draw = random.Random(5)
    host = Host(max_bytes=SLOTS * 70_000)
    heard: dict[str, Counter[Address]] = {node: Counter() for node in NODES}
    for _ in range(12):
        for node in NODES:
            hosts = spread(draw, 120)
            heard[node].update(hosts)
            host.hear(node, NOW, 0, gold_records.encode({one: heard[node][one] for one in hosts}))
        assert host.step()
    levels = host.levels()
    assert levels < (32, 128)
    for node in NODES[:2]:
        gone = draw.sample(sorted(heard[node], key=str), 400)
        host.hear(node, NOW, 0, gold_records.encode(dict.fromkeys(gone, 0)))
        for one in gone:
            del heard[node][one]
    for hosts in (sum(heard.values(), Counter[Address]()), Counter[Address]()):
        assert host.levels() == levels
        for network in (*prefixes(hosts, levels), *map(ipaddress.ip_network, ("0.0.0.0/0", "::/0"))):
            assert host.remote(str(network)) == count_in(hosts, network)
        for tree in host.trees.values():
            tree.empty()
    host.clock.seconds += INTERVAL
    host.step()
    host.hear("mx2", NOW + 1, 0, records(a=3))
    assert (host.levels(), host.remote("192.0.2.10")) == ((32, 128), 3)  # a new window has all detail
    SeriesStore(host.audit).check()
    host.close()


def test_what_was_removed_is_folded_to_the_same_lengths() -> None:
    draw = random.Random(6)
    host = Host(max_bytes=SLOTS * 70_000)
    taken, added = Counter(spread(draw, 100)), Counter(spread(draw, 1500))
    host.hear("mx2", NOW, 1, gold_records.encode(taken))
    assert host.step()
    host.hear("mx2", NOW, 0, gold_records.encode(added))
    assert host.step()
    host.hear("mx3", NOW, 1, records(a=5))
    assert host.step()
    taken[address("192.0.2.10")] += 5
    net = Counter(added)
    net.subtract(taken)
    for network in prefixes(net, host.levels()):
        assert host.remote(str(network)) == count_in(net, network)
    SeriesStore(host.audit).check()
    host.close()


def test_a_count_beyond_32_bits_is_left_out_until_there_is_room(host: Host) -> None:
    host.hear("mx2", NOW, 0, records(a=2**32 - 10, six_1=7))
    assert not host.series.is_full
    host.hear("mx3", NOW, 0, records(b=100, six_2=7))
    assert host.series.is_full
    assert not host.step()
    assert not host.series.is_full
    assert host.levels() == (32, 128)  # detail is no help
    assert host.remote("0.0.0.0/0") in (100, 2**32 - 10)
    assert host.remote("::/0") == 14
    host.hear("mx2", NOW, 0, records(a=0))
    assert host.series.is_full
    assert host.step()
    assert (host.remote("0.0.0.0/0"), host.remote("::/0")) == (100, 14)


def test_a_window_that_is_not_whole_says_so_at_each_change(host: Host) -> None:
    """Here: a node whose clock is ahead has said the next window before it came into view."""
    host.hear("mx2", NOW + 1, 0, records(a=3))
    assert not host.series.is_full
    host.clock.seconds += INTERVAL
    assert host.series.advance()
    assert host.remote("192.0.2.10") == 0
    host.hear("mx2", NOW + 1, 0, records(a=4))
    assert host.series.is_full
    assert host.step()
    assert host.remote("192.0.2.10") == 4


def test_the_number_of_no_window_changes_no_window(host: Host) -> None:
    """Nor one that is not whole, in any slot."""
    for turn in range(SLOTS):
        host.hear("mx2", NOW + turn, 0, records(a=2**32 - 1))
        host.hear("mx3", NOW + turn, 0, records(a=5))
        assert host.series.is_full
        before = host.remote("192.0.2.10")
        assert before
        host.hear("mx4", -(2**62), 0, records(b=turn + 1))
        assert (host.remote("192.0.2.10"), host.remote("192.0.2.11")) == (before, 0)
        host.clock.seconds += INTERVAL
        host.step()


def test_windows_of_texts_and_of_monitors(host: Host) -> None:
    host.audit.series.define("t", "string", INTERVAL, SLOTS, max_bytes=1 << 20)
    host.audit.series.add("t", "mail.example.com", 3)
    texts = host.nodes.series("strings", "t", INTERVAL, SLOTS)
    assert list(gold_records.decode(texts.difference(NOW, 0, host.nodes.said())).values()) == [3]
    expected = {("series", "s", INTERVAL, SLOTS, 0), ("strings", "t", INTERVAL, SLOTS, 0)}
    assert set(host.nodes.replicated()) == expected
    for scope in ("connections", "receptions", "rejections"):
        monitor = host.nodes.series(scope, "10,3", INTERVAL, SLOTS)
        assert (monitor.scope, monitor.name, monitor.interval, monitor.slots) == (scope, "10,3", INTERVAL, SLOTS)
        assert host.nodes.series(scope, "10,3", INTERVAL, SLOTS) is monitor
    assert set(host.nodes.replicated()) == expected  # what this host does not record is none of its series


def test_what_other_nodes_recorded_is_not_saved(host: Host) -> None:
    host.audit.series.add("s", "192.0.2.7", 2)
    before = SeriesStore(host.audit).dump("s")
    host.hear("mx2", NOW, 0, records(a=3))
    host.hear("mx2", NOW - 1, 1, records(a=3))
    assert SeriesStore(host.audit).dump("s") == before


def test_a_second_definition_may_say_who_counts(host: Host) -> None:
    windows = SeriesStore(host.audit)
    for replicate, expected in ((1, 1), (0, 1), (2, 2)):
        windows.define("series", "s", INTERVAL, SLOTS, 1 << 20, 0, 0, replicate)
        assert host.nodes.replicated() == [("series", "s", INTERVAL, SLOTS, expected)]
    with pytest.raises(SeriesError, match="replicate 3"):
        windows.define("series", "s", INTERVAL, SLOTS, 1 << 20, 0, 0, 3)


def test_wrong_calls_are_errors(host: Host) -> None:
    tree = host.series.tree(NOW, 0, 10)
    other = host.nodes.series("series", "other", INTERVAL, SLOTS)
    for series, number, sign in ((host.series, NOW + 1, 0), (host.series, NOW, 1), (other, NOW, 0)):
        with pytest.raises(ValueError, match="is not a tree of window"):
            series.fill(number, sign, [tree])
    with pytest.raises(ValueError, match="is not a tree of window"):
        host.series.fill(NOW, 0, [host.nodes.said()])
    for call in (host.series.tree, host.series.stamp):
        with pytest.raises(ValueError, match="sign 2"):
            call(NOW, 2, *[10] * (call == host.series.tree))
    with pytest.raises(TypeError, match=r"NodeTrees\.series"):
        ClusterSeries()
    for scope, name, interval, slots in (
        ("nope", "s", 10, 3),
        ("series", "s", 0, 3),
        ("series", "s", 2**30 + 1, 3),
        ("series", "s", 10, 0),
        ("series", "s", 10, 1025),
        ("series", "x" * 65, 10, 3),
    ):
        with pytest.raises(SeriesError):
            host.nodes.series(scope, name, interval, slots)
    with pytest.raises(SeriesError, match="too few"):
        host.nodes.series("series", "small", 10, 3, 1000)
    for at in range(4):
        host.nodes.series("series", f"large {at}", 10, 1000)
    with pytest.raises(CapacityError, match="4096"):
        host.nodes.series("series", "large 4", 10, 1000)
    with pytest.raises(CapacityError, match="at most 10 hosts"):
        tree.set_many(gold_records.encode({ipaddress.IPv4Address(at): 1 for at in range(11)}))
    assert host.remote("0.0.0.0/0") == tree.total == 10


def test_a_closed_audit_changes_nothing(host: Host) -> None:
    host.hear("mx2", NOW, 0, records(a=3))
    tree = host.trees["mx2", NOW, 0]
    host.session.close()
    host.audit.close()
    for call in (
        host.series.advance,
        lambda: host.series.fill(NOW, 0, [tree]),
        lambda: tree.set_many(records(a=4)),
        tree.empty,
        lambda: host.nodes.series("series", "new", INTERVAL, SLOTS),
    ):
        with pytest.raises(InboundAuditError, match="closed"):
            call()
    host.audit = InboundAudit()
    host.session = host.audit.listener("Control").session("127.0.0.1")


def test_what_is_said_is_true_while_threads_record_and_windows_turn() -> None:
    """Steady hosts are in each window before it is asked for. Others come and go; and the nodes' windows change."""
    host = Host(slots=20)
    stop = threading.Event()
    errors: list[BaseException] = []

    def record() -> None:
        draw = random.Random(1)
        while not stop.is_set():
            host.audit.series.add("s", f"198.51.100.{draw.randrange(256)}", draw.choice((1, 1, -1)))

    def ask() -> None:
        while not stop.is_set():
            total = host.remote("192.0.2.0/24", 0, 19)
            assert total is not None
            assert 0 <= total <= 2 * 20 * 3

    def run(work: object) -> None:
        try:
            work()  # type: ignore[operator]
        except BaseException as error:
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=run, args=(work,)) for work in (record, record, ask)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(60):
            host.audit.series.add("s", "192.0.2.7", 5)
            host.audit.series.add("s", "192.0.2.8", -3)
            host.step()
            for node in NODES[:2]:
                host.hear(node, NOW + turn, 0, records(a=3))
            host.step()
            for sign, steady in enumerate(("192.0.2.7", "192.0.2.8")):
                said = gold_records.decode(host.series.difference(NOW + turn, sign, host.nodes.said()))
                assert said[address(steady)] == (5, 3)[sign]
            host.clock.seconds += INTERVAL
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors
    assert host.remote("192.0.2.0/24", 1, 19) == 2 * 19 * 3
    SeriesStore(host.audit).check()
    host.close()
