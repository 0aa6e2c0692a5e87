"""Windows with more hosts than they may have: the finest detail goes first, and no count is lost."""

from __future__ import annotations

import ipaddress
import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from tests.support.effort import effort
from tests.support.gold import unmapped
from tests.support.gold_windows import GoldRing
from tests.support.strategies import addresses
from tests.support.timing import Clock, around, families, steps

from inbound_audit import InboundAudit
from inbound_audit._ipcount import SeriesStore
from inbound_audit.errors import MonitorError

INTERVAL, SLOTS = 10, 3
STEPS = {4: (32, 24, 16, 8, 0), 6: (128, 64, 56, 48, 32, 16, 0)}


def most_of(bound: int) -> int:
    """Hosts that a window may have: a quarter more while it is folded, and always one a family and sign."""
    return bound + bound // 4 + 8


def levels_of(folded: list) -> dict[int, dict[int, int]]:
    """Prefix lengths that are exact, by window and family."""
    levels = {v: {4: 32, 6: 128} for v in range(SLOTS)}
    for window, four, six, hosts in folded:
        assert (four, six) != (32, 128)
        assert hosts >= 0
        levels[window] = {4: four, 6: six}
    return levels


class FoldingMachine(RuleBasedStateMachine):
    """A series and a monitor with room for a few hosts a window. Whatever is still exact by their own word, is."""

    sessions = Bundle("sessions")

    @initialize(most=st.integers(1, 12))
    def begin(self, most):
        self.most = most
        self.clock = Clock()
        self.audit = InboundAudit(monitors=["10,3"], monitor_hosts=most, clock=self.clock, capacity=1 << 20)
        self.audit.series.define("s", interval=INTERVAL, num_windows=SLOTS, max_hosts=most)
        self.listener = self.audit.listener()
        self.gold = {"series": self.ring(), "connections": self.ring(), "receptions": self.ring()}
        self.counted_in = {}

    def ring(self) -> GoldRing:
        return GoldRing(INTERVAL, SLOTS, self.clock.seconds)

    @rule(several=st.lists(st.tuples(addresses, st.integers(-2, 3).filter(bool)), min_size=1, max_size=6))
    def add(self, several):
        for address, n in several:
            self.audit.series.add("s", address, n)
            self.gold["series"].add(self.clock.seconds, unmapped(address), n)

    @rule(start=addresses, number=st.integers(1, 40), shift=st.sampled_from([0, 3, 8, 16, 64, 72, 80]))
    def rotate(self, start, number, shift):
        """An attacker's: as many addresses as they like, one after the other."""
        first = unmapped(start)
        shift = min(shift, first.max_prefixlen - 8)
        for i in range(number):
            address = type(first)((int(first) + (i << shift)) % (1 << first.max_prefixlen))
            self.audit.series.add("s", address)
            self.gold["series"].add(self.clock.seconds, unmapped(address))

    @rule(target=sessions, remote=addresses, n=st.integers(1, 3))
    def open(self, remote, n):
        session = self.listener.session(remote)
        session.record_reception(n)
        self.counted_in[session.conn_id] = self.gold["connections"].add(self.clock.seconds, unmapped(remote))
        self.gold["receptions"].add(self.clock.seconds, unmapped(remote), n)
        return session

    @rule(target=sessions, remote=addresses)
    def open_another(self, remote):
        return self.open(remote, 1)

    @rule(session=sessions, remote=addresses)
    def rebind(self, session, remote):
        """From where it was counted, even if only its prefix is left there."""
        if not session.closed:
            before = ipaddress.ip_address(session.remote_ip)
            session.rebind(remote)
            self.gold["connections"].move(self.counted_in[session.conn_id], before, unmapped(remote))

    @rule(session=consumes(sessions))
    def close(self, session):
        session.close()

    @rule(step=steps)
    def move_clock(self, step):
        self.clock.step(step)

    def questions(self) -> Iterator[tuple[GoldRing, Callable[..., int], list]]:
        series, audit = self.audit.series, self.audit
        yield self.gold["series"], lambda *a: series.count("s", *a), series.folded("s")
        yield self.gold["connections"], lambda *a: audit.connections("10,3", *a), None
        yield self.gold["receptions"], lambda *a: audit.receptions("10,3", *a), None

    @invariant()
    def what_is_said_to_be_exact_is(self):
        now = self.clock.seconds
        for ring, count, folded in self.questions():
            for network in families():
                for span in [(0, 0), (1, 1), (2, 2), (0, 2)]:
                    assert count(str(network), *span) == ring.count(now, network, *span), (network, span)
            levels = levels_of(folded or [])
            for v, hosts in ring.in_view(now).items():
                for host in list(hosts)[:20] if folded is not None else ():
                    for length in STEPS[host.version]:
                        if length <= levels[v][host.version]:
                            network = around(host, length)
                            assert count(str(network), v) == ring.count(now, network, v), (network, v, folded)

    @invariant()
    def windows_stay_small(self):
        SeriesStore(self.audit).check()
        where = [("series", "s"), ("connections", "10,3"), ("receptions", "10,3")]
        for scope, name in where:
            for v in range(SLOTS):
                assert len(SeriesStore(self.audit).rows(scope, name, INTERVAL, SLOTS, v, v)) <= most_of(self.most)
        assert self.audit.uncounted == 0

    def teardown(self):
        if hasattr(self, "audit"):
            self.audit.close()


TestFolding = FoldingMachine.TestCase
TestFolding.settings = settings(stateful_step_count=30)


def bounded(audit: InboundAudit, **bounds: int) -> Callable[[object, int], None]:
    """Defines "s" with these bounds; adds to it."""
    audit.series.define("s", interval=INTERVAL, num_windows=SLOTS, **bounds)
    return lambda address, n=1: audit.series.add("s", address, n)


def exact(audit: InboundAudit, hosts: Counter, lengths: list[int], window: int = 0) -> None:
    """Every prefix of these lengths that is in use counts what it should."""
    for length in lengths:
        sums: Counter = Counter()
        for host, n in hosts.items():
            sums[around(host, length)] += n
        assert {net: audit.series.count("s", str(net), window) for net in sums} == sums


def v6(number: int) -> ipaddress.IPv6Address:
    return ipaddress.IPv6Address((0x20010DB8 << 96) + number)


SHAPES = {
    "within one /64": lambda rng: v6(rng.getrandbits(64)),
    "across the /64s of one /48": lambda rng: v6(rng.getrandbits(80)),
    "across the /48s of one /32": lambda rng: v6(rng.getrandbits(96)),
    "from everywhere": lambda rng: ipaddress.IPv6Address(rng.getrandbits(128)),
    "IPv4 of one /16": lambda rng: ipaddress.IPv4Address(0xC6330000 + rng.getrandbits(16)),
    "IPv4 from everywhere": lambda rng: ipaddress.IPv4Address(rng.getrandbits(32)),
}


# ---- what goes first


def test_nothing_is_folded_while_there_is_room(audit):
    add = bounded(audit, max_hosts=100)
    for i in range(60):
        add(v6(i << 64))
        add(v6(i << 64))
    assert audit.series.folded("s") == []
    assert audit.series.hosts("s") == 60
    assert audit.series.count("s", str(v6(7 << 64))) == 2


@pytest.mark.parametrize(("shift", "level"), [(0, 64), (40, 64), (64, 56), (72, 48), (80, 32), (96, 16), (112, 0)])
def test_hosts_give_up_no_more_detail_than_they_need(audit, shift, level):
    """200 addresses that part at one bit: all in one prefix of the next length that is folded to."""
    add = bounded(audit, max_hosts=20)
    base = int(v6(0)) if shift < 96 else 0
    hosts = Counter(ipaddress.IPv6Address((base + (i << shift)) % (1 << 128)) for i in range(200))
    for host in hosts:
        add(host)
    ((window, four, six, folded),) = audit.series.folded("s")
    assert (window, four, six) == (0, 32, level)
    assert folded >= 20
    exact(audit, hosts, [length for length in STEPS[6] if length <= level])
    assert audit.series.hosts("s") <= most_of(20)


@pytest.mark.parametrize(("shift", "level"), [(0, 24), (8, 16), (16, 8), (24, 0)])
def test_so_do_ipv4_hosts(audit, shift, level):
    add = bounded(audit, max_hosts=20)
    hosts = Counter(ipaddress.IPv4Address((0x0A000000 + (i << shift)) % (1 << 32)) for i in range(200))
    for host in hosts:
        add(host)
    ((window, four, six, _),) = audit.series.folded("s")
    assert (window, four, six) == (0, level, 128)
    exact(audit, hosts, [length for length in STEPS[4] if length <= level])


@pytest.mark.parametrize("shape", ["across the /48s of one /32", "from everywhere", "IPv4 from everywhere"])
def test_a_window_has_never_many_more_hosts_than_it_may(audit, shape):
    """Nobody waits for the folding, so it takes some adds; meanwhile there are more."""
    add = bounded(audit, max_hosts=500)
    rng = random.Random(shape)
    for i in range(3000):
        add(SHAPES[shape](rng), 1 if i % 5 else -1)
        assert audit.series.hosts("s") <= most_of(500)
    assert audit.series.hosts("s") <= 500
    assert audit.series.folded("s")[0].hosts > 0


def test_the_family_that_is_larger_gives_up_first(audit):
    """An attacker who rotates IPv6 addresses takes nothing from what is known of IPv4 hosts."""
    add = bounded(audit, max_hosts=50)
    four = Counter(ipaddress.IPv4Address(0xC0000200 + i) for i in range(15))
    for host in four:
        add(host)
    for i in range(5000):
        add(v6(i << (i % 3 * 32)))
    ((_, level4, level6, _),) = audit.series.folded("s")
    assert level4 == 32
    assert level6 < 128
    exact(audit, four, [24, 28, 32])


def test_a_folded_host_counts_at_the_first_address_of_its_prefix(audit):
    add = bounded(audit, max_hosts=2)
    for i in range(1, 40):
        add(v6(i))
    assert SeriesStore(audit).rows("series", "s", INTERVAL, SLOTS, 0, 0) == [(39, "2001:db8::")]
    add(v6(77))  # what comes later as well
    assert audit.series.count("s", "2001:db8::") == 40
    assert audit.series.count("s", str(v6(77))) == 0
    assert audit.series.count("s", "2001:db8::/64") == 40


def test_what_was_taken_away_is_folded_like_what_was_added(audit):
    add = bounded(audit, max_hosts=4)
    for i in range(100):
        add(v6(i), -1)
        add(v6(i + 1000), 3)
        add(ipaddress.IPv4Address(i << 8), -2)
    assert audit.series.count("s", "::/0") == audit.series.count("s", "2001:db8::/64") == 200
    assert audit.series.count("s", "0.0.0.0/0") == -200
    SeriesStore(audit).check()


def test_the_next_window_begins_with_all_detail(audit, clock):
    add = bounded(audit, max_hosts=10)
    for i in range(100):
        add(v6(i))
    clock.step(INTERVAL)
    add(v6(7))
    assert [row[0] for row in audit.series.folded("s")] == [1]
    assert audit.series.count("s", str(v6(7))) == 1
    assert audit.series.count("s", "2001:db8::/64", 1) == 100
    clock.step(INTERVAL * 2)
    assert audit.series.folded("s") == []
    for i in range(5):
        add(v6(i))
    assert audit.series.folded("s") == []
    assert audit.series.hosts("s") == 6


def test_a_folded_item_can_be_removed_no_more(audit):
    """Its count has become its prefix's, which others share: it stays there, and the sums are as they were."""
    add = bounded(audit, max_hosts=3)
    for i in range(1, 50):
        add(v6(i))
    audit.series.remove_item("s", str(v6(7)))
    assert audit.series.count("s", "::/0") == 49
    SeriesStore(audit).check()


# ---- bounds of memory


@pytest.mark.parametrize("shape", SHAPES)
def test_a_window_takes_no_more_than_its_part_of_the_memory(audit, shape):
    """Hosts without end, of each shape: no error, every shorter prefix exact, and the memory within its bound."""
    add = bounded(audit, max_bytes=SLOTS << 17)
    rng = random.Random(shape)
    hosts = Counter(SHAPES[shape](rng) for _ in range(effort(10_000, 30_000)))
    for host, n in hosts.items():
        add(host, n)
    ((_, four, six, _),) = audit.series.folded("s")
    assert audit.series.memory("s") <= SLOTS << 17
    version = next(iter(hosts)).version
    level = four if version == 4 else six
    exact(audit, hosts, [length for length in STEPS[version] if length <= min(level, 48)])
    assert audit.series.count("s", str(families()[version == 6])) == hosts.total()
    SeriesStore(audit).check()


def test_windows_after_windows_stay_within_the_memory(audit, clock):
    add = bounded(audit, max_bytes=SLOTS << 16)
    rng = random.Random(5)
    for _ in range(12):
        for _ in range(3000):
            add(rng.randbytes(rng.choice((4, 16))), rng.choice((1, 1, -1)))
        SeriesStore(audit).check()
        # What is added and what is taken away have each an arena of that size; what they use of them has one bound.
        assert audit.series.memory("s") <= 2 * (SLOTS << 16)
        clock.step(INTERVAL)


def test_monitors_have_bounds_too(clock):
    """All windows of all monitors together: sessions are never refused for them."""
    rng = random.Random(6)
    with InboundAudit(monitors=["10,3", "60,2"], monitor_bytes=1 << 20, clock=clock) as audit:
        listener = audit.listener()
        for _ in range(20_000):
            with listener.session(rng.randbytes(16)) as ac:
                ac.record_reception()
        for kind in ("connections", "receptions"):
            assert getattr(audit, kind)("10,3", "::/0") == getattr(audit, kind)("60,2", "::/0") == 20_000
        assert audit.uncounted == 0
        SeriesStore(audit).check()


@pytest.mark.parametrize("name", ["monitor_hosts", "monitor_bytes"])
@pytest.mark.parametrize("value", [0, -1])
def test_bounds_of_monitors_that_nothing_fits_into(name, value):
    with pytest.raises(MonitorError, match=name):
        InboundAudit(monitors=["10,3"], **{name: value})


def test_the_other_family_finds_room_in_a_full_window(audit):
    """What the one has given up is of no size that the other can use, and yet there is room."""
    add = bounded(audit, max_bytes=SLOTS << 16)
    rng = random.Random(9)
    for bits in (32, 128, 32, 128):
        for _ in range(5000):
            add((ipaddress.IPv4Address if bits == 32 else ipaddress.IPv6Address)(rng.getrandbits(bits)))
    assert [audit.series.count("s", str(net)) for net in families()] == [10_000, 10_000]
    SeriesStore(audit).check()


@pytest.mark.parametrize("size", [100 << 10, 2 << 20])
def test_no_host_waits_until_all_others_are_folded(clock, size):
    """Nodes of random hosts all want to grow at once: then what is free is of the wrong sizes until nearly all is."""
    rng = random.Random(1)
    gold: Counter[int] = Counter()
    folded = 0
    with InboundAudit(clock=clock) as audit:
        add = bounded(audit, max_bytes=SLOTS * size)
        for _ in range(size // 20):
            first = 0x2000 | rng.getrandbits(13)
            add(ipaddress.IPv6Address(first << 112 | rng.getrandbits(112)))
            gold[first] += 1
            now = sum(window.hosts for window in audit.series.folded("s"))
            assert now - folded <= 34 * 32  # of many thousands
            folded = now
        assert folded > 1000
        SeriesStore(audit).check()
        (window,) = audit.series.folded("s")
        for first, n in gold.items():
            assert window.ipv6 < 16 or audit.series.count("s", f"{first:x}::/16") == n
        assert audit.series.count("s", "::/0") == gold.total()


def test_what_is_taken_away_finds_room_in_a_full_window(audit):
    add = bounded(audit, max_bytes=SLOTS << 16)
    rng = random.Random(10)
    for n in (1, -1, 2, -2):
        for _ in range(5000):
            add(rng.randbytes(16), n)
    assert audit.series.count("s", "::/0") == 0
    SeriesStore(audit).check()


def test_texts_have_no_prefix_but_all_of_them(audit):
    """Where a series of texts has too many they become one, and `folded` returns that."""
    audit.series.define("t", "string", INTERVAL, SLOTS, max_hosts=100)
    for i in range(80):
        audit.series.add("t", f"text {i}")
    assert audit.series.folded("t") == []
    assert audit.series.count("t", "text 7") == 1
    for i in range(10_000):
        audit.series.add("t", f"text {i}")
    ((window, _, six, hosts),) = audit.series.folded("t")
    assert (window, six) == (0, 0)
    assert hosts >= 90
    rows = SeriesStore(audit).rows("series", "t", INTERVAL, SLOTS, 0, 0)
    assert sum(n for n, _ in rows) == 10_080
    assert len(rows) <= most_of(100)
