"""The trie against the gold model, with the checker after each step."""

from __future__ import annotations

import contextlib
import ipaddress
import random
import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from tests.support import inner
from tests.support.effort import effort
from tests.support.gold import GoldCounter, unmapped
from tests.support.strategies import addresses, length_for

from inbound_audit import PrefixCounter
from inbound_audit.errors import AddressError, CapacityError, CidrError


class TrieMachine(RuleBasedStateMachine):
    """Weighted like life: many opens, fewer closes, now and then everything ends."""

    opened = Bundle("opened")

    def __init__(self) -> None:
        super().__init__()
        self.counter = PrefixCounter(capacity=1 << 20)
        self.gold = GoldCounter()

    @rule(target=opened, address=addresses)
    def open(self, address):
        self.counter.add(address)
        self.gold.add(address)
        return address

    @rule(target=opened, address=addresses)
    def open_another(self, address):
        return self.open(address)

    @rule(address=opened, n=st.integers(1, 2**31))
    def open_many_from_one(self, address, n):
        if self.gold.total + n < 2**32:
            self.counter.add(address, n)
            self.gold.add(address, n)

    @rule(address=consumes(opened))
    def close(self, address):
        if self.gold.hosts[unmapped(address)]:
            self.counter.remove(address)
            self.gold.remove(address)

    @rule(address=opened)
    def close_all_of_one(self, address):
        n = self.gold.hosts[unmapped(address)]
        if n:
            self.counter.remove(str(address), n)
            self.gold.remove(address, n)

    @rule(address=addresses, n=st.integers(1, 3))
    def close_unmatched(self, address, n):
        if self.gold.hosts[unmapped(address)] < n:
            with pytest.raises(AddressError):
                self.counter.remove(address, n)

    @rule(data=st.data(), address=addresses)
    def ask(self, data, address):
        cidr = f"{address}/{data.draw(length_for(address))}"
        if unmapped(address) == address:
            assert self.counter.count(cidr) == self.gold.count(cidr)

    @rule(data=st.data(), address=opened)
    def ask_around_one(self, data, address):
        self.ask(data, unmapped(address))

    @rule(n=st.integers(0, 6), four=st.integers(0, 32), six=st.integers(0, 128))
    def ask_top(self, n, four, six):
        rows = self.gold.top(n, prefixlen=(four, six))
        assert self.counter.top(n, prefixlen=(four, six)) == rows
        for least in {0, 1, 2, *(count for count, _ in rows), *(count + 1 for count, _ in rows)}:
            expected = [row for row in rows if row[0] >= least]
            assert self.counter.top(n, prefixlen=(four, six), min_count=least) == expected

    @rule()
    def ask_tree(self):
        assert self.counter.tree() == self.gold.tree()

    @rule(chance=st.integers(0, 30))
    def forget(self, chance):
        if chance == 0:
            self.counter.clear()
            self.gold = GoldCounter()

    @invariant()
    def holds(self):
        self.counter._check()
        assert self.counter.total == self.gold.total
        assert len(self.counter) == len(self.gold)
        assert list(self.counter.items()) == self.gold.items()


TestTrie = TrieMachine.TestCase
TestTrie.settings = settings(stateful_step_count=60)


@pytest.mark.parametrize("fanout", [1, 3, 4, 6, 9, 17, 33, 65, 256])
@pytest.mark.parametrize(
    ("version", "byte"), [*((4, byte) for byte in range(4)), *((6, byte) for byte in (0, 1, 2, 3, 7, 8, 12, 13, 15))]
)
def test_every_grade_grows_and_shrinks(version, fanout, byte):
    """A node at every depth passes through every grade, up and down; sums of every length are right at the top."""
    last = 3 if version == 4 else 15
    counter, gold = PrefixCounter(capacity=1 << 20), GoldCounter()
    make = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    base = 0x0A010203 if version == 4 else 0x20010DB8_00010203_04050607_08090A0B
    shift = 8 * (last - byte)
    hosts = [make((base & ~(0xFF << shift)) | (value << shift)) for value in range(fanout)]
    random.Random(fanout).shuffle(hosts)
    for host in hosts:
        counter.add(host)
        gold.add(host)
        counter._check()
    for length in range(8 * byte, 8 * byte + 9):
        for host in hosts[:5]:
            assert counter.count(f"{host}/{length}") == gold.count(f"{host}/{length}")
    for host in hosts:
        counter.remove(host)
        counter._check()
    assert len(counter) == 0
    assert counter.memory == PrefixCounter(capacity=1 << 20).memory


def test_random_hosts_in_random_order():
    rng = random.Random(7)
    counter, gold = PrefixCounter(), GoldCounter()
    n = effort(700, 2000)
    hosts = [ipaddress.IPv4Address(rng.getrandbits(32)) for _ in range(n)]
    hosts += [ipaddress.IPv6Address(rng.getrandbits(128)) for _ in range(n)]
    for host in hosts:
        counter.add(host)
        gold.add(host)
    counter._check()
    assert list(counter.items()) == gold.items()
    for host in rng.sample(hosts, 2 * n - 100):
        counter.remove(host)
        gold.remove(host)
    counter._check()
    assert counter.tree() == gold.tree()


def test_an_overflow_is_an_error_and_changes_nothing():
    counter = PrefixCounter()
    counter.add("192.0.2.7", 2**32 - 1)
    for address in ("192.0.2.7", "198.51.100.1"):
        with pytest.raises(CapacityError, match=re.escape(address) + ".*4294967295"):
            counter.add(address)
    counter._check()
    assert counter.total == 2**32 - 1
    counter.add("2001:db8::7")  # the other family has a count of its own
    assert counter.total == 2**32
    assert len(counter) == 2


@pytest.mark.parametrize("n", [0, -1, 2**32])
def test_a_change_by_nothing_is_an_error(n):
    counter = PrefixCounter()
    with pytest.raises(AddressError, match=r"192.0.2.7"):
        counter.add("192.0.2.7", n)
    assert len(counter) == 0


@pytest.mark.parametrize("n", [0.5, 1.0, "1", None, Fraction(1), 1 + 0j])
def test_a_change_by_what_is_no_number_takes_no_lock_with_it(n):
    """The number is read before the lock is taken: its own code may run, fail, or change the same counter."""
    counter = PrefixCounter()
    with pytest.raises(TypeError):
        counter.add("192.0.2.7", n)
    counter.add("192.0.2.7")
    counter._check()
    assert list(counter.items()) == [("192.0.2.7", 1)]


def test_a_number_that_changes_the_counter_while_it_is_read():
    counter = PrefixCounter()

    class Meddling:
        def __index__(self):
            counter.add("192.0.2.7")
            return 2

    counter.add("192.0.2.7", Meddling())
    assert counter.count("192.0.2.7") == 3


@pytest.mark.parametrize("v6", [False, True])
def test_a_full_arena_is_an_error_and_changes_nothing(v6):
    counter = PrefixCounter(capacity=16384)
    make = ipaddress.IPv6Address if v6 else ipaddress.IPv4Address
    rng = random.Random(3)
    held = []
    with contextlib.suppress(CapacityError):
        while True:
            host = make(rng.getrandbits(128 if v6 else 32))
            counter.add(host)
            held.append(host)
    with pytest.raises(CapacityError, match=re.escape(str(host)) + ".*full"):
        counter.add(host)
    assert len(held) > 100
    before = list(counter.items())
    for _ in range(200):
        host = make(rng.getrandbits(128 if v6 else 32))
        try:
            counter.add(host)
        except CapacityError:
            continue
        counter.remove(host)  # a slot that was there takes it; the rest is as it was
    counter._check()
    assert list(counter.items()) == before
    for host in held:  # giving back never needs memory
        counter.remove(host)
        counter._check()
    assert counter.total == 0
    counter.add(held[0])
    assert counter.total == 1


@pytest.mark.parametrize("capacity", [0, 100, 1 << 40, -5])
def test_a_capacity_out_of_bounds(capacity):
    with pytest.raises(CapacityError, match="capacity"):
        PrefixCounter(capacity=capacity)


def test_memory_is_given_back_when_empty():
    counter = PrefixCounter()
    empty = counter.memory
    counter.add_many(bytes(random.Random(1).randbytes(400_000)))
    assert counter.memory > 100 * empty
    for address, n in list(counter.items()):
        counter.remove(address, n)
    assert counter.memory == empty
    counter._check()


@pytest.mark.parametrize("lengths", [(33, 128), (-1, 0), (32, 129), 24, (1, 2, 3), None])
def test_top_wants_two_lengths(lengths):
    with pytest.raises((CidrError, ValueError)):
        PrefixCounter().top(prefixlen=lengths)


def test_top_of_none():
    counter = PrefixCounter()
    assert counter.top() == []
    counter.add("192.0.2.7")
    assert counter.top(0) == []
    assert counter.top(-3) == []
    assert counter.top(3, prefixlen=(0, 0)) == [(1, "0.0.0.0/0")]


def test_the_console_s_example():
    """The tree of the reference's page: 4 from .103, 14 from .180, 13 from its neighbours."""
    counter = PrefixCounter()
    counter.add("10.0.0.103", 4)
    counter.add("10.0.0.180", 14)
    counter.add("10.0.0.176", 13)
    assert counter.tree() == [
        (31, "10.0.0.0/24"),
        (4, "10.0.0.103/32"),
        (27, "10.0.0.176/29"),
        (13, "10.0.0.176/32"),
        (14, "10.0.0.180/32"),
    ]


@given(st.lists(addresses, max_size=40), st.lists(addresses, min_size=1, max_size=5), st.data())
def test_a_bound_is_exact_beyond_what_is_enough(remotes, asked, data):
    arena = inner.Arena()
    for remote in remotes:
        arena.add(str(remote))
    for address in map(unmapped, (*asked, *remotes[:5])):
        cidr = f"{address}/{data.draw(length_for(address))}"
        count = arena.count(cidr)
        for enough in (0, 1, 2, 5, 100):
            bound = arena.bound(cidr, enough)
            assert bound == count or count < bound <= enough
