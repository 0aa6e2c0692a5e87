"""Monitors: connections, receptions and rejections by prefix in windows of time, against the gold model."""

from __future__ import annotations

import ipaddress
import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from tests.support.gold import unmapped
from tests.support.gold_windows import GoldRing
from tests.support.strategies import addresses, length_for
from tests.support.timing import Clock, around, families, shown, steps

from inbound_audit import InboundAudit
from inbound_audit._ipcount import SeriesStore
from inbound_audit.errors import InboundAuditError, MonitorError

KINDS = ("connections", "receptions", "rejections")
MONITORS = ("10,3", "7,1", "60,5")


def rings_of(monitors: tuple[str, ...], seconds: float) -> dict[tuple[str, str], GoldRing]:
    return {(kind, text): GoldRing(*map(int, text.split(",")), seconds) for kind in KINDS for text in monitors}


class MonitorMachine(RuleBasedStateMachine):
    """Sessions come, move and go, and record receptions, while the clock is set to and fro."""

    sessions = Bundle("sessions")
    where = st.tuples(st.sampled_from(KINDS), st.sampled_from(MONITORS))

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.audit = InboundAudit(monitors=MONITORS, clock=self.clock, capacity=1 << 20)
        self.listeners = [self.audit.listener("SMTP", "mx"), self.audit.listener("IMAP")]
        self.gold = rings_of(MONITORS, self.clock.seconds)
        self.counted_in: dict[int, dict[str, int]] = {}

    def ring(self, kind: str, monitor: str) -> GoldRing:
        return self.gold[kind, monitor]

    @rule(target=sessions, listener=st.integers(0, 1), remote=addresses)
    def open(self, listener, remote):
        session = self.listeners[listener].session(remote)
        self.counted_in[session.conn_id] = {
            monitor: self.ring("connections", monitor).add(self.clock.seconds, unmapped(remote)) for monitor in MONITORS
        }
        return session

    @rule(target=sessions, listener=st.integers(0, 1), remote=addresses)
    def open_another(self, listener, remote):
        return self.open(listener, remote)

    @rule(session=sessions, remote=addresses)
    def rebind(self, session, remote):
        """The connection moves in the windows in which it was counted, whatever the time is now."""
        if session.closed:
            return
        before = ipaddress.ip_address(session.remote_ip)
        session.rebind(remote)
        for monitor, number in self.counted_in[session.conn_id].items():
            self.ring("connections", monitor).move(number, before, unmapped(remote))

    @rule(session=consumes(sessions))
    def close(self, session):
        session.close()

    @rule(session=sessions, kind=st.sampled_from(KINDS[1:]), n=st.integers(1, 3))
    def tell(self, session, kind, n):
        if session.closed:
            return
        count = session.record_reception if kind == "receptions" else session.record_rejection
        count(n) if n > 1 else count()
        for monitor in MONITORS:
            self.ring(kind, monitor).add(self.clock.seconds, ipaddress.ip_address(session.remote_ip), n)

    @rule(step=steps)
    def move_clock(self, step):
        self.clock.step(step)

    @rule(data=st.data(), where=where, address=addresses)
    def ask(self, data, where, address):
        kind, monitor = where
        network = around(unmapped(address), data.draw(length_for(unmapped(address))))
        slots = self.ring(*where).slots
        first = data.draw(st.integers(0, slots - 1))
        last = data.draw(st.one_of(st.none(), st.integers(first, slots - 1)))
        name = data.draw(st.sampled_from([monitor, monitor.replace(",", " , "), MONITORS.index(monitor)]))
        mine = getattr(self.audit, kind)(name, str(network), first, last)
        assert mine == self.ring(*where).count(self.clock.seconds, network, first, last)

    @rule(data=st.data(), where=where, session=sessions)
    def ask_around_a_session(self, data, where, session):
        kind, monitor = where
        ip = ipaddress.ip_address(session.remote_ip)
        length = data.draw(length_for(ip))
        ask, now, ring = getattr(self.audit, kind), self.clock.seconds, self.ring(*where)
        assert ask(monitor, ac=session) == ring.count(now, around(ip, ip.max_prefixlen))
        if length != 32:
            assert ask(monitor, f"/{length}", ac=session) == ring.count(now, around(ip, length))
        last = ring.slots - 1
        assert ask(monitor, "/0", 0, last, ac=session) == ring.count(now, around(ip, 0), 0, last)

    @rule(where=where, address=addresses, length=st.sampled_from([0, 8, 24, 32]))
    def ask_sliding_average(self, where, address, length):
        network = around(unmapped(address), length)
        mine = self.audit.sliding_average(*where, str(network))
        assert mine == pytest.approx(self.ring(*where).sliding_average(self.clock.seconds, network), abs=1e-5)

    @rule(where=where)
    def ask_rows(self, where):
        ring, rows = self.ring(*where), SeriesStore(self.audit).rows
        mine = rows(where[0], where[1], ring.interval, ring.slots, 0, ring.slots - 1)
        gold = ring.rows(self.clock.seconds, 0, ring.slots - 1)
        ordered = sorted((ip for ip in gold if gold[ip]), key=lambda ip: (ip.version, ip))
        assert [(n, ip) for n, ip in mine if n] == [(gold[ip], str(ip)) for ip in ordered]

    @invariant()
    def holds(self):
        SeriesStore(self.audit).check()
        for (kind, monitor), ring in self.gold.items():
            for network in families():
                for v in range(ring.slots):
                    mine = getattr(self.audit, kind)(monitor, str(network), v)
                    assert mine == ring.count(self.clock.seconds, network, v), (kind, monitor, v)
        assert self.audit.uncounted == 0

    def teardown(self):
        self.audit.close()


TestMonitors = MonitorMachine.TestCase
TestMonitors.settings = settings(stateful_step_count=40)


@pytest.fixture
def audit(clock):
    with InboundAudit(monitors=("10,3", "60,2"), clock=clock, capacity=1 << 20) as audit:
        yield audit


# ---- what is counted


def test_a_connection_is_counted_when_it_is_opened_and_stays_when_it_is_closed(audit):
    with audit.listener().session("192.0.2.7") as ac:
        assert audit.connections("10,3", ac=ac) == audit.connections("60,2", "/24", ac=ac) == 1
        assert audit.receptions("10,3", ac=ac) == audit.rejections("10,3", ac=ac) == 0
    assert audit.total() == 0
    assert audit.connections("10,3", "192.0.2.7") == 1


def test_receptions_and_rejections_are_counted_where_the_session_is(audit):
    with audit.listener().session("192.0.2.7") as ac:
        ac.record_reception()
        ac.record_reception(3)
        ac.rebind("2001:db8::7")
        ac.record_rejection(n=2)
        assert audit.receptions("10,3", "192.0.2.7") == 4
        assert audit.receptions("10,3", ac=ac) == 0
        assert audit.rejections("60,2", ac=ac) == 2
        assert audit.connections("10,3", ac=ac) == 1
        assert audit.connections("10,3", "192.0.2.7") == 0


def test_the_earlier_names_of_the_record_methods_still_record():
    with InboundAudit(monitors=["300,6"]) as audit, audit.listener().session("192.0.2.7") as ac:
        ac.count_reception(3)
        ac.count_rejection()
        assert audit.receptions(0, "192.0.2.7") == 3
        assert audit.rejections(0, "192.0.2.7") == 1


@pytest.mark.parametrize("n", [0, -1, 2**32, 2**80])
def test_what_can_be_no_number_of_messages(audit, n):
    with audit.listener().session("192.0.2.7") as ac:
        for count in (ac.record_reception, ac.record_rejection):
            with pytest.raises((InboundAuditError, ValueError, OverflowError)):
                count(n)
    assert shown(audit, "receptions") == shown(audit, "rejections") == [0, 0, 0]


@pytest.mark.parametrize("n", [0.5, "1", None])
def test_a_number_of_messages_is_a_number(audit, n):
    with audit.listener().session("192.0.2.7") as ac, pytest.raises(TypeError):
        ac.record_reception(n)


def test_without_monitors_nothing_is_counted_and_nothing_is_asked():
    with InboundAudit() as audit, audit.listener().session("192.0.2.7") as ac:
        ac.record_reception()
        ac.record_rejection(7)
        ac.rebind("192.0.2.8")
        assert audit.monitors == ()
        assert SeriesStore(audit).known == []
        for monitor in ("300,6", 0):
            with pytest.raises(MonitorError, match=str(monitor)):
                audit.connections(monitor, "192.0.2.7")


def test_a_rebind_moves_the_connection_in_the_window_in_which_it_was_counted(audit, clock):
    with audit.listener().session("192.0.2.7") as ac:
        clock.step(10)
        ac.rebind("192.0.2.8")
        assert shown(audit, cidr="192.0.2.8/32") == [0, 1, 0]
        assert shown(audit, cidr="192.0.2.7/32") == [0, 0, 0]
        clock.step(20)
        ac.rebind("192.0.2.9")  # its window has gone
        assert shown(audit) == [0, 0, 0]
        clock.step(1000)
        audit.listener().session("198.51.100.1").close()  # and its place has been taken
        ac.rebind("192.0.2.10")
        assert shown(audit) == [1, 0, 0]
        assert shown(audit, cidr="198.51.100.1/32") == [1, 0, 0]
    SeriesStore(audit).check()


def test_a_rebind_moves_one_of_many(audit):
    sessions = [audit.listener().session("192.0.2.7") for _ in range(3)]
    sessions[1].rebind("192.0.2.8")
    assert audit.connections("10,3", "192.0.2.7") == 2
    assert audit.connections("10,3", "192.0.2.8") == 1
    for session in sessions:
        session.close()
    assert audit.connections("10,3", "192.0.2.0/24") == 3


def test_sessions_are_opened_in_any_thread(audit):
    """Many at once, on two listeners; none is lost, and none is counted twice."""

    def life(seed):
        for i in range(500):
            with audit.listener("SMTP", f"mx{seed % 2}").session(f"10.{seed}.{i >> 8}.{i & 255}") as ac:
                ac.record_reception()
                ac.rebind(f"2001:db8:{seed}::{i:x}")
                ac.record_rejection(2)

    threads = [threading.Thread(target=life, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    SeriesStore(audit).check()
    assert audit.connections("10,3", "::/0") == 4000
    assert audit.connections("10,3", "2001:db8:3::/48") == 500
    assert audit.connections("10,3", "0.0.0.0/0") == 0
    assert audit.receptions("60,2", "0.0.0.0/0") == 4000
    assert audit.rejections("60,2", "::/0") == 8000
    assert audit.uncounted == 0


# ---- the audit's life


def test_a_closed_audit_counts_nothing():
    audit = InboundAudit(monitors=["300,6"])
    session = audit.listener().session("192.0.2.7")
    audit.close()
    assert audit.connections("300,6", "192.0.2.7") == 0
    session.record_reception()
    session.close()
    assert audit.receptions("300,6", "192.0.2.7") == 0
    assert SeriesStore(audit).rows("connections", "300,6", 300, 6, 0, 5) == []
    audit.close()


def test_sessions_count_on_in_an_audit_without_a_reference():
    session = InboundAudit(monitors=["300,6"]).listener().session("192.0.2.7")
    session.record_reception()
    session.rebind("192.0.2.8")
    audit = session.listener.audit
    assert audit.receptions("300,6", "192.0.2.7", 0, 5) == audit.connections("300,6", "192.0.2.8", 0, 5) == 1
    session.close()


def test_more_than_can_be_counted_is_left_out_and_logged(audit):
    with audit.listener().session("192.0.2.7") as ac:
        ac.record_reception(2**32 - 1)
        assert audit.uncounted == 0
        ac.record_reception(3)  # never an error: mail goes on
        assert audit.receptions("10,3", ac=ac) == 2**32 - 1
        assert audit.uncounted > 0
        SeriesStore(audit).check()
