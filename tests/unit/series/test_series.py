"""Named series: what is added, counted and removed by address, prefix or text, against the gold model."""

from __future__ import annotations

import ipaddress
import random
import threading
from collections.abc import Hashable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from tests.support.gold import unmapped
from tests.support.gold_windows import GoldRing, host
from tests.support.strategies import addresses, length_for
from tests.support.timing import Clock, around, families, steps

from inbound_audit import InboundAudit, _ipcount
from inbound_audit._ipcount import SeriesStore
from inbound_audit.errors import CapacityError, InboundAuditError, SeriesError
from inbound_audit.series import SeriesSet

KINDS = {
    "one": ("ip", 10, 3),
    "four": ("cidr", 60, 2),
    "six": ("cidr_ipv6", 60, 5),
    "last": ("ip", 7, 1),
    "texts": ("string", 7, 2),
}
BY_PREFIX = [name for name, (kind, _, _) in KINDS.items() if kind != "string"]

# Nothing about a text means anything to a series: an address is a text there, and similar texts differ.
odd_texts = st.one_of(
    st.sampled_from(["", " ", "a", "A", "192.0.2.7", "/24", "\0", "a\0", "\n", "%41"]),
    st.sampled_from(["caf\u00e9", "cafe\u0301", "x" * 4096]),
    st.text(max_size=12),
)
small = st.integers(-9, 9).filter(bool)
amounts = st.one_of(st.just(1), st.just(1), st.just(-1), small, st.sampled_from([2**20, -(2**20)]))


class SeriesMachine(RuleBasedStateMachine):
    """Five series of all types with windows of their own, keys of each form, and a clock that is set to and fro."""

    sessions = Bundle("sessions")
    hosts = Bundle("hosts")
    texts = Bundle("texts")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.audit = InboundAudit(clock=self.clock, capacity=1 << 20)
        self.series = self.audit.series
        self.listener = self.audit.listener()
        self.gold: dict[str, GoldRing] = {}
        for name, (kind, interval, slots) in KINDS.items():
            self.series.define(name, kind, interval, slots, max_bytes=1 << 22)
            self.gold[name] = GoldRing(interval, slots, self.clock.seconds)

    def added(self, name: str, key: Hashable, n: int) -> None:
        kind = KINDS[name][0]
        if kind in ("ip", "string") or key.version == {"cidr": 4, "cidr_ipv6": 6}[kind]:
            self.gold[name].add(self.clock.seconds, key, n)

    @rule(target=hosts, name=st.sampled_from(BY_PREFIX), address=addresses, n=amounts, form=st.integers(0, 2))
    def add(self, name, address, n, form):
        self.series.add(name, [str(address), address, address.packed][form], n)
        self.added(name, unmapped(address), n)
        return unmapped(address)

    @rule(name=st.sampled_from(BY_PREFIX), address=hosts, n=amounts)
    def add_to_the_same(self, name, address, n):
        self.add(name, address, n, 0)

    @rule(target=texts, text=odd_texts, n=amounts)
    def add_text(self, text, n):
        self.series.add("texts", text, n)
        self.added("texts", text, n)
        return text

    @rule(target=sessions, remote=addresses)
    def open(self, remote):
        return self.listener.session(remote)

    @rule(session=consumes(sessions))
    def close(self, session):
        session.close()

    @rule(session=sessions, name=st.sampled_from(BY_PREFIX), n=amounts, as_key=st.booleans())
    def add_a_session_s(self, session, name, n, as_key):
        if as_key:
            self.series.add(name, session, n)
        else:
            self.series.add(name, count=n, ac=session)
        self.added(name, host(session.remote_ip), n)

    @rule(step=steps)
    def move_clock(self, step):
        self.clock.step(step)

    @rule(name=st.sampled_from(BY_PREFIX), address=hosts)
    def remove_host(self, name, address):
        self.series.remove_item(name, address)
        self.gold[name].remove_item(address)

    @rule(text=texts)
    def remove_text(self, text):
        self.series.remove_item("texts", text)
        self.gold["texts"].remove_item(text)

    @rule(name=st.sampled_from(list(KINDS)))
    def define_again(self, name):
        kind, interval, slots = KINDS[name]
        self.series.define(name, kind, interval, slots)
        other = {"ip": "cidr", "cidr": "ip", "cidr_ipv6": "string", "string": "cidr_ipv6"}[kind]
        for wrong in ((kind, interval + 1, slots), (kind, interval, slots + 1), (other, interval, slots)):
            with pytest.raises(SeriesError, match=name):
                self.series.define(name, *wrong)

    def span(self, data: st.DataObject, name: str) -> tuple[int, int | None]:
        first = data.draw(st.integers(0, self.gold[name].slots - 1))
        return first, data.draw(st.one_of(st.none(), st.integers(first, self.gold[name].slots - 1)))

    @rule(data=st.data(), name=st.sampled_from(BY_PREFIX), address=addresses)
    def ask(self, data, name, address):
        network = around(unmapped(address), data.draw(length_for(unmapped(address))))
        span = self.span(data, name)
        assert self.series.count(name, str(network), *span) == self.gold[name].count(self.clock.seconds, network, *span)

    @rule(data=st.data(), name=st.sampled_from(BY_PREFIX), address=hosts)
    def ask_around_one(self, data, name, address):
        self.ask(data, name, address)

    @rule(data=st.data(), name=st.sampled_from(BY_PREFIX), session=sessions)
    def ask_around_a_session(self, data, name, session):
        ip = ipaddress.ip_address(session.remote_ip)
        length = data.draw(length_for(ip))
        span = self.span(data, name)
        exact = self.gold[name].count(self.clock.seconds, around(ip, ip.max_prefixlen), *span)
        assert self.series.count(name, None, *span, ac=session) == self.series.count(name, session, *span) == exact
        if length != 32:
            mine = self.series.count(name, f"/{length}", *span, ac=session)
            assert mine == self.gold[name].count(self.clock.seconds, around(ip, length), *span)

    @rule(data=st.data(), text=st.one_of(texts, odd_texts))
    def ask_text(self, data, text):
        span = self.span(data, "texts")
        assert self.series.count("texts", text, *span) == self.gold["texts"].count(self.clock.seconds, text, *span)

    @rule(data=st.data(), name=st.sampled_from(BY_PREFIX))
    def ask_rows(self, data, name):
        ring = self.gold[name]
        first, last = self.span(data, name)
        last = first if last is None else last
        gold = ring.rows(self.clock.seconds, first, last)
        ordered = sorted((ip for ip in gold if gold[ip]), key=lambda ip: (ip.version, ip))
        mine = SeriesStore(self.audit).rows("series", name, ring.interval, ring.slots, first, last)
        assert [(n, ip) for n, ip in mine if n] == [(gold[ip], str(ip)) for ip in ordered]

    @invariant()
    def holds(self):
        SeriesStore(self.audit).check()
        for name in BY_PREFIX:
            for network in families():
                for v in range(self.gold[name].slots):
                    gold = self.gold[name].count(self.clock.seconds, network, v)
                    assert self.series.count(name, str(network), v) == gold, (name, v)
            assert self.series.folded(name) == []

    def teardown(self):
        self.audit.close()


TestSeries = SeriesMachine.TestCase
TestSeries.settings = settings(stateful_step_count=40)


@pytest.fixture
def series(audit):
    """The series of an audit in which "s" counts by prefix, and "t" by text."""
    audit.series.define("s", interval=10, num_windows=3)
    audit.series.define("t", "string", 10, 3)
    return audit.series


# ---- amounts


def test_a_count_may_be_less_than_nothing(series, clock):
    series.add("s", "192.0.2.7", -3)
    assert series.count("s", "192.0.2.0/24") == -3
    series.add("s", "192.0.2.8", 5)
    assert series.count("s", "192.0.2.0/24") == 2
    clock.step(10)
    series.add("s", "192.0.2.8", -6)
    assert [series.count("s", "192.0.2.8", v) for v in range(3)] == [-6, 5, 0]
    assert series.count("s", "192.0.2.8", 0, 2) == -1


def test_counts_up_to_their_limit_and_no_further(audit, series):
    """4294967295 a window and family, of what is added and of what is taken away: beyond it nothing is changed."""
    most = 2**32 - 1
    series.add("s", "192.0.2.7", most)
    for key, n in [("192.0.2.7", 1), ("198.51.100.1", 1), ("192.0.2.7", most)]:
        with pytest.raises(CapacityError, match=r"4294967295"):
            series.add("s", key, n)
    assert series.count("s", "0.0.0.0/0") == most
    assert series.hosts("s") == 1
    series.add("s", "2001:db8::7", most)
    series.add("s", "192.0.2.8", -most)
    assert series.count("s", "0.0.0.0/0") == 0
    for n in (-1, -most):
        with pytest.raises(CapacityError, match=r"4294967295"):
            series.add("s", "198.51.100.1", n)
    assert series.count("s", "0.0.0.0/0") == 0
    SeriesStore(audit).check()
    series.add("s", "192.0.2.7", -most)  # takes back what was added: nothing is below zero
    series.add("s", "192.0.2.8", most)
    assert series.hosts("s") == 1


def test_a_change_of_both_signs_that_finds_no_room_changes_neither(audit, series):
    series.add("s", "192.0.2.7", 5)
    series.add("s", "192.0.2.8", -(2**32 - 1))
    with pytest.raises(CapacityError):
        series.add("s", "192.0.2.7", -6)  # five to take back, and one too many
    assert [series.count("s", f"192.0.2.{i}") for i in (7, 8)] == [5, -(2**32 - 1)]
    SeriesStore(audit).check()


@pytest.mark.parametrize("n", [2**32, 2**63, 2**70, -(2**32), -(2**63), -(2**70)])
def test_an_amount_that_no_window_holds(series, n):
    with pytest.raises((SeriesError, CapacityError), match=r"'s'.*4294967295"):
        series.add("s", "192.0.2.7", n)
    assert series.hosts("s") == 0


def test_sums_over_windows_know_no_limit(series, clock):
    for _ in range(3):
        series.add("s", "192.0.2.7", 2**32 - 1)
        clock.step(10)
    clock.step(-10)
    assert series.count("s", "192.0.2.7", 0, 2) == 3 * (2**32 - 1)


@pytest.mark.parametrize("n", [0.5, 1.0, "1", None])
def test_an_amount_is_a_number(series, n):
    with pytest.raises(TypeError):
        series.add("s", "192.0.2.7", n)
    assert series.hosts("s") == 0


def test_an_amount_of_nothing_counts_nothing(series):
    try:
        series.add("s", "192.0.2.7", 0)
    except SeriesError as error:
        assert "'s'" in str(error)  # noqa: PT017  either is fine, as long as nothing is counted
    assert series.hosts("s") == 0
    assert series.count("s", "192.0.2.7") == 0


# ---- windows


@pytest.mark.parametrize(("first", "last"), [(-1, None), (3, None), (0, 3), (2, 1), (1, -1), (2**70, None), (0, 2**63)])
@pytest.mark.parametrize("name", ["s", "t"])
def test_windows_out_of_range(series, name, first, last):
    with pytest.raises(SeriesError, match=f"'{name}'"):
        series.count(name, "192.0.2.7", first, last)


def test_a_removed_item_is_gone_from_all_windows(audit, series, clock):
    for n in (1, -2, 4):
        series.add("s", "192.0.2.7", n)
        series.add("s", "192.0.2.8", n)
        clock.step(10)
    clock.step(-10)
    series.remove_item("s", "192.0.2.7")
    assert series.count("s", "192.0.2.7", 0, 2) == 0
    assert [series.count("s", "192.0.2.0/24", v) for v in range(3)] == [4, -2, 1]
    series.remove_item("s", "192.0.2.7")  # is not there: nothing happens
    series.remove_item("s", "2001:db8::7")
    SeriesStore(audit).check()


def test_series_have_windows_of_their_own(audit, clock):
    for name, interval, slots in (("short", 10, 2), ("long", 60, 2)):
        audit.series.define(name, interval=interval, num_windows=slots)
        audit.series.add(name, "192.0.2.7")
    clock.step(10)
    assert [audit.series.count("short", "192.0.2.7", v) for v in range(2)] == [0, 1]
    assert [audit.series.count("long", "192.0.2.7", v) for v in range(2)] == [1, 0]
    clock.step(50)
    assert [audit.series.count("short", "192.0.2.7", v) for v in range(2)] == [0, 0]
    assert [audit.series.count("long", "192.0.2.7", v) for v in range(2)] == [0, 1]


def test_a_series_and_a_monitor_of_one_name_are_two(clock):
    with InboundAudit(monitors=["10,3"], clock=clock) as audit:
        audit.series.define("10,3", interval=10, num_windows=3)
        audit.series.add("10,3", "192.0.2.7", 5)
        audit.listener().session("192.0.2.7").close()
        assert audit.series.count("10,3", "192.0.2.7") == 5
        assert audit.connections("10,3", "192.0.2.7") == 1
        with pytest.raises(SeriesError, match="'10,3'"):
            audit.series.count("10,3", "192.0.2.7", 3)


def test_many_turns_leave_no_memory_behind(audit, series, clock):
    """Each window is filled with other hosts. What three of them take is what a hundred take."""
    rng = random.Random(1)
    taken = []
    for _ in range(100):
        for _ in range(300):
            series.add("s", rng.randbytes(rng.choice((4, 16))), rng.choice((1, 1, -1)))
        taken.append(series.memory("s"))
        clock.step(10)
    assert max(taken[10:]) <= 1.5 * max(taken[:10])
    assert series.hosts("s") <= 900
    SeriesStore(audit).check()


def test_threads_add_at_once(audit, series, clock):
    """While the clock moves on: each window has some of it, and together they have all."""
    audit.series.define("all", interval=1, num_windows=1000)

    def life(seed):
        rng = random.Random(seed)
        for i in range(2000):
            series.add("all", f"10.{seed}.{rng.randrange(4)}.{rng.randrange(256)}", 2 if i % 2 else -1)
            series.add("t", f"text {rng.randrange(100)}")
            if i % 50 == 0:
                clock.seconds += 1

    threads = [threading.Thread(target=life, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    SeriesStore(audit).check()
    assert series.count("all", "10.0.0.0/8", 0, 999) == 8000
    assert [series.count("all", f"10.{seed}.0.0/16", 0, 999) for seed in range(8)] == [1000] * 8
    assert sum(series.count("all", "10.0.0.0/8", v) for v in range(1000)) == 8000


# ---- the audit's life


def test_a_name_may_be_of_a_kind_of_text(audit):
    """As that of an enumeration is; and what is defined under it is found under the plain text."""

    class Name(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "another"

    assert type(audit.series.define(Name("kind"), interval=10, num_windows=3).name) is str
    audit.series.add(Name("kind"), "192.0.2.7")
    assert audit.series.count("kind", "192.0.2.7") == 1


def test_rows_of_a_window_that_turns_meanwhile_are_not_those_of_the_next(audit, series, clock):
    """A walk over the oldest window frees the GIL: what is counted in its place from then on is not among its hosts."""
    for i in range(1 << 16):
        series.add("s", bytes([10, i >> 16, i >> 8 & 255, i & 255]))
    clock.step(20)
    asked, rows = threading.Event(), []

    def ask() -> None:
        asked.set()
        for _ in range(200):
            rows.append(SeriesStore(audit).rows("series", "s", 10, 3, 2, 2))
            if not rows[-1]:
                return

    asker = threading.Thread(target=ask)
    asker.start()
    asked.wait()
    while not rows:
        pass
    clock.step(10)
    for i in range(1 << 12):
        series.add("s", bytes([192, 0, i >> 8, i & 255]))
    asker.join()
    assert not [address for found in rows for _, address in found if address.startswith("192.")]


def test_a_closed_audit_has_no_series(audit, series):
    series.add("s", "192.0.2.7")
    audit.close()
    assert series.count("s", "192.0.2.7") == 0
    for call in (lambda: series.add("s", "192.0.2.7"), lambda: series.define("new", interval=10, num_windows=2)):
        with pytest.raises(InboundAuditError, match="closed"):
            call()


@pytest.mark.parametrize("kind", [_ipcount.SeriesTable, SeriesSet])
def test_series_without_an_audit_are_none(audit, kind):
    with pytest.raises(TypeError):
        kind.__new__(kind)
    with pytest.raises(TypeError):
        kind()
    assert InboundAudit().series.names == ()


def test_texts_that_were_kept_are_not_folded_when_they_come_back(clock):
    with InboundAudit(clock=clock) as before, InboundAudit(clock=clock) as after:
        for audit in (before, after):
            audit.series.define("texts", "string", 10, 3)
        before.series.add("texts", "mail.example.com", 2)
        SeriesStore(after).restore("texts", *SeriesStore(before).dump("texts"))
        assert after.series.folded("texts") == []
        assert after.series.count("texts", "mail.example.com") == 2
