"""Limits over time: what they count, against the gold model; their monitors; and their texts."""

from __future__ import annotations

import ipaddress
import re
import threading

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.support.gates import connect, end, gated, said, take_all
from tests.support.gold import unmapped
from tests.support.gold_limits import GoldEvents, GoldLimits, opened
from tests.support.strategies import addresses, length_for
from tests.support.timing import START, Clock, steps

from inbound_audit import InboundAudit, Limits
from inbound_audit.errors import InboundAuditError, PolicyError
from inbound_audit.listeners import Guard
from inbound_audit.policy.dry_run import DryRun
from inbound_audit.policy.rates import Rate, read_rate

HOST = "192.0.2.7"
OVER = b"421 4.7.0 connection limit exceeded\r\n"


@pytest.fixture
def audit(clock):
    with InboundAudit(clock=clock, capacity=1 << 20) as audit:
        yield audit


def asked(limits: Limits, listener, remote: str = HOST, times: int = 1) -> list[bool]:
    """What connections that come and go at once are told."""
    verdicts = []
    for _ in range(times):
        with listener.session(remote) as ac:
            verdicts.append(bool(limits.validate_connect(ac)))
    return verdicts


def prepared(audit: InboundAudit, *arguments: object, **options: object) -> Limits:
    limits = Limits(*arguments, **options)  # type: ignore[arg-type]
    limits.prepare(audit)
    return limits


# ---- what is counted


def test_connections_of_the_last_minutes_count_and_not_those_that_are_open(audit, clock):
    limits = prepared(audit, {"/32": "3/5m"})
    assert asked(limits, audit.listener(), times=4) == [True, True, True, False]
    assert asked(limits, audit.listener(), "192.0.2.8") == [True]
    assert limits.refused == {"default /32 connections/5m": 1}
    assert audit.monitors == ("300,2",)


def test_the_share_of_the_window_before_is_rounded_down(audit, clock):
    """Ten connections, a quarter of a window ago: seven and a half of them count, and the one that asks."""
    limits = prepared(audit, {"/32": "8/1m"})
    asked(limits, audit.listener(), times=10)
    clock.seconds = START + 60 + 15
    assert asked(limits, audit.listener(), times=2) == [True, False]
    clock.seconds = START + 60 + 59.75
    assert asked(limits, audit.listener(), times=7) == [True] * 6 + [False]


def test_a_client_that_is_refused_and_goes_on_stays_refused(audit, clock):
    limits = prepared(audit, {"/32": "5/1m"})
    listener = audit.listener()
    assert asked(limits, listener, times=20) == [True] * 5 + [False] * 15
    verdicts = []
    for _ in range(30):  # once a second is more than five times a minute
        clock.step(1)
        verdicts += asked(limits, listener)
    assert not any(verdicts)
    clock.step(120)
    assert asked(limits, listener) == [True]


def test_a_client_that_comes_evenly_is_let_in(audit, clock):
    """As often as the limit allows, and not at the very border of a window."""
    limits = prepared(audit, {"/32": "60/1m"})
    clock.step(0.25)
    for _ in range(300):
        assert asked(limits, audit.listener()) == [True]
        clock.step(1)


@pytest.mark.parametrize(("gap", "most"), [(0.25, 10), (15, 9), (59.75, 5)])
def test_a_burst_gets_in_twice_the_number_at_most(audit, clock, gap, most):
    """A client that knows what is counted: five at once, then whenever there is a place, for less than a minute."""
    limits = prepared(audit, {"/32": "5/1m"})
    clock.step(60 - gap)
    admitted = sum(asked(limits, audit.listener(), times=5))
    for _ in range(239):
        clock.step(0.25)
        if int(audit.sliding_average("connections", "60,2", HOST)) < 5:
            admitted += sum(asked(limits, audit.listener()))
    assert admitted == most


@pytest.mark.parametrize(("kind", "record"), [("rejections", "record_rejection"), ("receptions", "record_reception")])
def test_other_events_count_once_they_have_happened(audit, kind, record):
    limits = prepared(audit, {"/24": f"2 {kind}/1h"})
    with audit.listener().session(HOST) as ac, audit.listener().session("192.0.2.200") as near:
        for expected in (True, True, True, False):
            assert bool(limits.validate_connect(near)) is expected
            getattr(ac, record)()
    assert limits.refused == {f"default /24 {kind}/1h": 1}


def test_a_monitor_counts_all_services_and_listeners(audit):
    limits = prepared(audit, {"/32": "2/5m"})
    asked(limits, audit.listener("IMAP"))
    asked(limits, audit.listener("SMTP", "submission"))
    assert asked(limits, audit.listener("SMTP", "mx")) == [False]


def test_open_sessions_and_events_are_limited_side_by_side(audit, clock):
    limits = prepared(audit, {"/32": [2, "5/1m", "6/1h"]})
    listener = audit.listener()
    with listener.session(HOST), listener.session(HOST), listener.session(HOST) as third:
        assert not limits.validate_connect(third)
    assert asked(limits, listener, times=3) == [True, True, False]
    clock.step(120)
    assert asked(limits, listener) == [False]
    assert limits.refused == {"default /32": 1, "default /32 connections/1m": 1, "default /32 connections/1h": 1}
    assert audit.monitors == ("60,2", "3600,2")


def test_networks_have_events_of_their_own(audit):
    networks = {"partner": {"prefixes": ["192.0.2.0/25", "2001:db8::/32"], "limits": {"/32": "2/5m"}, "total": "3/5m"}}
    limits = prepared(audit, {"/24": "2/5m"}, networks=networks, exempt=["192.0.2.1"])
    listener = audit.listener()
    assert asked(limits, listener, "192.0.2.1", times=9) == [True] * 9
    assert asked(limits, listener, "192.0.2.7", times=3) == [True, True, False]
    assert asked(limits, listener, "2001:db8::7") == [False]
    assert asked(limits, listener, "192.0.2.200", times=3) == [True, True, False]
    expected = {"partner /32 connections/5m": 1, "partner total connections/5m": 1, "default /24 connections/5m": 1}
    assert limits.refused == expected


def test_a_length_for_one_family_does_not_limit_the_other(audit):
    limits = prepared(audit, {"/64": "0/5m"})
    assert asked(limits, audit.listener()) == [True]
    assert asked(limits, audit.listener(), "2001:db8::7") == [False]


def test_a_dry_run_counts_and_lets_in(audit):
    limits = prepared(audit, {"/32": "1/5m"}, dry_run=True)
    assert asked(limits, audit.listener(), times=3) == [True] * 3
    assert (limits.would_refuse, limits.refused) == ({"default /32 connections/5m": 2}, {})


def test_the_client_behind_a_balancer_counts(audit):
    limits = prepared(audit, {"/32": "1/5m"})
    listener = audit.listener()
    for client, expected in (("198.51.100.1", True), ("198.51.100.2", True), ("198.51.100.1", False)):
        with listener.session(HOST) as ac:
            ac.rebind(client)
            assert bool(limits.validate_connect(ac)) is expected


def test_a_clock_that_is_set_back_gives_no_place(audit, clock):
    limits = prepared(audit, {"/32": "3/1m"})
    assert asked(limits, audit.listener(), times=3) == [True] * 3
    clock.step(-3600)
    assert asked(limits, audit.listener()) == [False]
    clock.step(59)
    assert asked(limits, audit.listener()) == [False]


def test_a_window_that_is_folded_keeps_its_prefixes(clock):
    """Detail is given up beyond the memory of the monitor; the limit of a length that is left stays exact."""
    with InboundAudit(clock=clock, monitor_bytes=6 * (16 << 10), capacity=1 << 20) as audit:
        limits = prepared(audit, {"/16": "3000/5m"})
        verdicts = [asked(limits, audit.listener(), f"10.1.{i >> 8}.{i & 255}")[0] for i in range(3001)]
        assert verdicts == [True] * 3000 + [False]
        assert audit.uncounted == 0


# ---- against the gold model

TIMES = ("7s", "10s", "1m")
values = st.one_of(
    st.integers(0, 4),
    st.builds(
        "{}{}/{}".format,
        st.integers(0, 5),
        st.sampled_from(["", " connections", " rejections", " receptions"]),
        st.sampled_from(TIMES),
    ),
)
several = st.lists(values, min_size=1, max_size=3, unique_by=lambda value: _what(value))
keys = st.one_of(
    st.integers(0, 128).map(lambda n: f"/{n}"),
    st.tuples(st.integers(0, 32), st.integers(0, 128)).map("/{0[0]},/{0[1]}".format),
)
tables = st.dictionaries(keys, values | several, min_size=1, max_size=3)
prefixes = addresses.map(unmapped).flatmap(
    lambda a: length_for(a).map(lambda n: str(ipaddress.ip_network((a, n), strict=False)))
)
networks_drawn = st.dictionaries(
    st.sampled_from(["a", "b"]),
    st.fixed_dictionaries(
        {
            "prefixes": st.lists(prefixes, min_size=1, max_size=4),
            "limits": tables,
            "total": st.none() | values | several,
        }
    ),
    max_size=2,
)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("open"), addresses, st.sampled_from(["SMTP", "IMAP"])),
        st.tuples(st.just("open"), addresses, st.just("SMTP")),
        st.tuples(st.just("rejections"), st.integers(0, 99), st.none()),
        st.tuples(st.just("receptions"), st.integers(0, 99), st.none()),
        st.tuples(st.just("rebind"), st.integers(0, 99), addresses),
        st.tuples(st.just("close"), st.integers(0, 99), st.none()),
        st.tuples(st.just("step"), steps, st.none()),
    ),
    max_size=40,
)


def _what(value: object) -> str:
    """What a value limits: there is one limit of each."""
    return read_rate(value).name if isinstance(value, str) else ""


@given(tables, st.lists(prefixes, max_size=2), networks_drawn, actions)
@example({"/0": "1/10s"}, [], {"a": {"prefixes": ["10.0.0.0/9"], "limits": {"/0": "2/10s"}, "total": "2/7s"}},
         [("open", "10.0.0.1", "SMTP"), ("open", "10.200.0.1", "SMTP"), ("step", 13.0, None),
          ("open", "10.0.0.2", "SMTP"), ("open", "192.0.2.1", "SMTP"), ("step", -61.0, None)])  # fmt: skip
def test_as_the_gold_model_says(table, exempt, networks, actions):
    listed = [
        {ipaddress.ip_network(p, strict=False) for p in ps}
        for ps in [exempt, *(n["prefixes"] for n in networks.values())]
    ]
    if sum(map(len, listed)) > len(set().union(*listed)):
        return  # a prefix of two networks is an error (test_limits_networks)
    clock = Clock()
    limits, gold = Limits(table, exempt=exempt, networks=networks), GoldLimits(table, exempt, networks)
    gold.events = GoldEvents(gold.rates(), clock.seconds)
    held = []  # sessions, what the gold model has of them, and in which of its windows they are
    with InboundAudit(clock=clock, capacity=1 << 20) as audit:
        limits.prepare(audit)
        for action, what, more in actions:
            if action == "open":
                one = opened(what, more, "mx")
                held.append([audit.listener(more, "mx").session(what), one, {}])
                held[-1][2] = gold.events.record("connections", one.address, clock.seconds)
                gold.open[one] += 1
            elif action == "step":
                clock.step(what)
            elif held:
                at = what % len(held)
                session, one, windows = held[at]
                if action == "close":
                    session.close()
                    gold.open[one] -= 1
                    del held[at]
                elif action == "rebind":
                    session.rebind(more)
                    held[at][1] = other = one._replace(address=unmapped(more))
                    gold.events.move(windows, one.address, other.address)
                    gold.open[one] -= 1
                    gold.open[other] += 1
                else:
                    (session.record_rejection if action == "rejections" else session.record_reception)()
                    gold.events.record(action, one.address, clock.seconds)
            gold.seconds = clock.seconds
            for session, one, _ in held:
                assert bool(limits.validate_connect(session)) == gold.validate_connect(one)
        for session, _, _ in held:
            session.close()
    assert limits.refused == +gold.refused


# ---- the monitors


def test_a_monitor_that_fits_is_used(clock):
    with InboundAudit(monitors=["5m,6", "60,1"], clock=clock, capacity=1 << 20) as audit:
        limits = prepared(audit, {"/32": ["1/5m", "9/1m"]})
        assert audit.monitors == ("300,6", "60,2") or audit.monitors == ("300,6", "60,1", "60,2")
        assert asked(limits, audit.listener(), times=2) == [True, False]


def test_who_asks_without_a_guard_makes_the_monitors(audit):
    """The connections before are not in them."""
    limits = Limits({"/32": "2/5m"})
    listener = audit.listener()
    assert asked(limits, listener, times=4) == [True, True, True, False]
    assert asked(DryRun(Limits({"/32": "2/10m"})), listener) == [True]
    assert audit.monitors == ("300,2", "600,2")


@pytest.mark.parametrize("way", ["guard", "exchange", "dry run", "check", "gate", "gate's exchange", "gate's guard"])
def test_whoever_asks_later_makes_the_monitors_before(way, audit):
    listener, limits = audit.listener(), Limits({"/32": "1/5m"})
    if way == "guard":
        Guard(listener, limits)
    elif way == "dry run":
        Guard(listener, DryRun(limits))
    elif way == "exchange":
        Guard(listener, Limits()).policy = limits
    elif way == "check":
        limits.check(audit)
    else:
        guard = Guard(listener, Limits()) if way == "gate's guard" else None
        with gated(listener, limits if way == "gate" else Limits(), guard=guard) as (gate, _):
            if way == "gate's exchange":
                gate.limits = limits
            elif guard is not None:
                guard.policy = limits
                assert gate.limits is (limits if gate._follows else gate.limits)
    assert audit.monitors == ("300,2",)


def test_an_audit_without_room_is_an_error_and_no_session_is_let_in_unasked(clock):
    monitors = [f"{seconds},2" for seconds in range(1, 17)]
    limits = Limits({"/32": "0/5m"})
    with InboundAudit(monitors=monitors, clock=clock, capacity=1 << 20) as audit:
        for make in (lambda: limits.prepare(audit), lambda: Guard(audit.listener(), limits)):
            with pytest.raises(PolicyError, match="limits over time need the monitors 300,2: 17 monitors: at most 16"):
                make()
        with audit.listener().session(HOST) as ac, pytest.raises(PolicyError, match="300,2"):
            limits.validate_connect(ac)
        with audit.listener().session(HOST) as ac:
            assert Limits({"/32": "2/16s"}).validate_connect(ac)
        guard = Guard(audit.listener(), None, on_error="refuse")
        guard._policy = limits  # as if it had not been prepared
        admission = guard.admit((HOST, 25))
        assert not admission.verdict
        admission.close()
        assert guard.failures == 1


def test_a_closed_audit_takes_no_monitor(audit):
    audit.close()
    with pytest.raises(InboundAuditError, match="closed"):
        audit.add_monitors(["300,2"])
    assert audit.monitors == ()


def test_one_policy_limits_two_audits(clock):
    limits = Limits({"/32": "1/5m"})
    with InboundAudit(clock=clock, capacity=1 << 20) as one, InboundAudit(clock=clock, capacity=1 << 20) as two:
        limits.prepare(one)
        limits.prepare(two)
        assert asked(limits, one.listener(), times=2) == [True, False]
        assert asked(limits, two.listener(), times=2) == [True, False]


def test_monitors_are_added_beside_those_that_are_there(audit, clock):
    """Also behind named series, and while sessions are open: what a session is counted in does not change."""
    audit.series.define("s", "ip", 10, 3)
    listener = audit.listener()
    with listener.session(HOST) as before:
        audit.add_monitors(["10,3", "1m,2"])
        audit.add_monitors(["10,3"])
        audit.add_monitors(iter(["60,2", "7,1"]))
        assert audit.monitors == ("10,3", "60,2", "7,1")
        with listener.session(HOST) as after:
            before.rebind("198.51.100.1")
            after.rebind("198.51.100.2")
            assert audit.connections("10,3", "198.51.100.0/24") == 1
            assert audit.connections(1, "198.51.100.2") == audit.connections("7,1", "198.51.100.2") == 1
            assert audit.connections("10,3", HOST) == 0
            after.record_rejection()
            assert audit.rejections("60,2", "198.51.100.2") == audit.rejections(2, "198.51.100.2") == 1
    audit.series.add("s", HOST)
    assert (audit.series.count("s", HOST), audit.uncounted) == (1, 0)
    for wrong in ("300,6", ["x"], ["300,6", "300,6"]):
        with pytest.raises(InboundAuditError):
            audit.add_monitors(wrong)
    assert audit.monitors == ("10,3", "60,2", "7,1")


def test_monitors_are_added_beside_threads_that_record():
    """Each connection is in a monitor once, if the monitor was there when the connection came."""
    rounds, threads = 400, 3
    with InboundAudit(capacity=1 << 22) as audit:
        listener = audit.listener()
        begin = threading.Barrier(threads + 1)
        counted = [0] * threads

        def record(number: int) -> None:
            begin.wait()
            for i in range(rounds):
                with listener.session(f"10.{number}.0.1") as ac:
                    ac.rebind(f"10.{number}.1.{i % 250}")
                    ac.record_reception()
                counted[number] += 1

        workers = [threading.Thread(target=record, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        begin.wait()
        shown = []
        for i in range(16):
            before = sum(counted)
            audit.add_monitors([f"{(1 << 20) + i},2"])
            shown.append((before, sum(counted)))
        for worker in workers:
            worker.join()
        all_ = rounds * threads
        for i, (before, after) in enumerate(shown):
            for kind in (audit.connections, audit.receptions):
                # A thread may be in the middle of a session when the monitor comes.
                assert all_ - after - threads <= kind(i, "10.0.0.0/8", 0, 1) <= all_ - before
            assert audit.connections(i, "10.0.0.0/8", 0, 1) == sum(
                audit.connections(i, f"10.{number}.0.0/16", 0, 1) for number in range(threads)
            )
        assert audit.uncounted == 0


# ---- the gate


def test_a_gate_asks_limits_over_time(audit, clock):
    limits = Limits({"/32": "2/5m"})
    listener = audit.listener("SMTP")
    with gated(listener, limits, refusal="{code} {limit} {count}\n") as (gate, port):
        for _ in range(2):
            with connect(port):
                end(take_all(gate, 1))
        with connect(port) as third:
            assert said(third) == b"421 default /32 connections/5m 3\n"
        with connect(port, "127.0.0.2"):
            end(take_all(gate, 1))
        clock.step(600)
        with connect(port):
            end(take_all(gate, 1))
        gate.limits = Limits({"/8": "0/1h"})  # its monitor is made now
        with connect(port) as last:
            assert said(last) == b"421 default /8 connections/1h 1\n"
        assert (gate.accepted, gate.refused) == (4, 2)
        assert audit.rejections("300,2", "127.0.0.1", 0, 1) == 1
    assert limits.refused == {"default /32 connections/5m": 1}


def test_a_gate_follows_networks_and_dry_runs_over_time(audit):
    networks = {"near": {"prefixes": ["127.0.0.0/25"], "total": "1/5m"}}
    limits = Limits({"/8": "1/5m"}, networks=networks, dry_run=True)
    with gated(audit.listener("SMTP"), limits) as (gate, port):
        for source in ("127.0.0.1", "127.0.0.2", "127.0.0.200", "127.0.1.1"):
            with connect(port, source):
                end(take_all(gate, 1))
    assert limits.would_refuse == {"near total connections/5m": 1, "default /8 connections/5m": 1}


def test_a_gate_s_connection_moves_in_the_monitors_that_were_there(audit):
    """A session of a gate is in the monitors of the moment at which it was accepted."""
    audit.add_monitors(["1h,2"])
    with gated(audit.listener("SMTP"), None) as (gate, port), connect(port):
        ((connection, session),) = take_all(gate, 1)
        audit.add_monitors(["2h,2"])
        session.rebind(HOST)
        assert audit.connections("1h,2", HOST) == 1
        assert audit.connections("2h,2", "0.0.0.0/0") == 0
        end([(connection, session)])


# ---- the texts


@pytest.mark.parametrize(
    ("text", "rate", "shown", "name"),
    [
        ("300/5m", (300, "connections", 300), "300/5m", "connections/5m"),
        ("300 connections/5m", (300, "connections", 300), "300/5m", "connections/5m"),
        ("20 rejections/1h", (20, "rejections", 3600), "20 rejections/1h", "rejections/1h"),
        ("100 receptions/90s", (100, "receptions", 90), "100 receptions/90s", "receptions/90s"),
        ("0/1", (0, "connections", 1), "0/1s", "connections/1s"),
        ("5/60s", (5, "connections", 60), "5/1m", "connections/1m"),
        ("5/1w", (5, "connections", 604800), "5/7d", "connections/7d"),
        ("5/0.5h", (5, "connections", 1800), "5/30m", "connections/30m"),
        (f"{2**63 - 1}/{2**30}s", (2**63 - 1, "connections", 2**30), f"{2**63 - 1}/{2**30}s", f"connections/{2**30}s"),
    ],
)
def test_a_limit_over_time_as_it_is_read_and_shown(text, rate, shown, name):
    read = read_rate(text)
    assert (tuple(read), str(read), read.name) == (rate, shown, name)
    assert read_rate(shown) == Rate(*rate)
    assert Limits({"/24,/48": text}).describe() == f"/24,/48={shown}"


NUMBER = "write a number and a duration, such as '300/5m' or '20 rejections/1h'"
DURATION = "write a duration of whole seconds from 1s to 1073741824s, such as 30s, 5m or 1h"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", NUMBER), ("300", NUMBER), ("/5m", NUMBER), ("5m", NUMBER), ("-1/5m", NUMBER), ("+1/5m", NUMBER),
        ("1.5/5m", NUMBER), ("x/5m", NUMBER), ("300 /5m", NUMBER), (" 300/5m", NUMBER), ("300  rejections/5m", NUMBER),
        ("\u0663/5m", NUMBER), ("9223372036854775808/5m", NUMBER), ("1" * 5000 + "/5m", NUMBER), ("300/", NUMBER),
        ("300/0s", DURATION), ("300/0", DURATION), ("300/999ms", DURATION), ("300/1.5s", DURATION),
        ("300/1073741825s", DURATION), ("300/5 m", DURATION), ("300/5m ", DURATION), ("300/m", DURATION),
        ("300/-5m", DURATION), ("300/5m/2", DURATION), ("300/5y", DURATION), ("300/5m\n", NUMBER),
        ("20 rejection/1h", "unknown events 'rejection'; did you mean 'rejections'?"),
        ("20 Connections/1h", "unknown events 'Connections'; did you mean 'connections'?"),
        ("20 sessions/1h", "unknown events 'sessions' (known: connections, receptions, rejections)"),
        ("20 x/1h", "unknown events 'x' (known: connections, receptions, rejections)"),
    ],
)  # fmt: skip
def test_a_text_that_is_none_says_what_to_write(text, why):
    with pytest.raises(PolicyError, match=re.escape(f"limits: limit '/24': {text!r}: {why}")):
        Limits({"/24": text})
    with pytest.raises(PolicyError, match=re.escape(f"network 'a': total: {text!r}: {why}")):
        Limits({"/24": 1}, networks={"a": {"prefixes": ["10.0.0.0/8"], "total": text}})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"limits": {"/24": [10, 20]}}, "limit '/24': 10 and 20 both limit open sessions"),
        ({"limits": {"/24": ["300/5m", 9, "200/300s"]}}, "300/5m and 200/5m both limit connections/5m"),
        ({"limits": {"/24": []}}, "limit '/24': an empty list limits nothing"),
        ({"limits": {"/24": ["300/5m", None]}}, "limit '/24': None is not a number of sessions"),
        ({"limits": {"/24": [["300/5m"]]}}, r"limit '/24': \['300/5m'\] is not a number of sessions"),
        ({"limits": {"/24": b"300/5m"}}, "limit '/24': b'300/5m' is not a number of sessions"),
        ({"limits": {"/24": {"connections": 300}}}, "limit '/24': {.*} is not a number of sessions"),
        ({"limits": {"/24": 10**5000}}, "is not a number of sessions"),
        ({"listener_total": "300/5m"}, "listener_total: '300/5m': is for open sessions alone.*write '/0'"),
        ({"listener_total": [5, "300/5m"]}, "listener_total: .* is for open sessions alone"),
        ({"networks": {"a": {"prefixes": ["::/0"], "total": []}}}, "network 'a': total: an empty list"),
        ({"networks": {"a": {"prefixes": ["::/0"], "limits": {"/56": ["1/5m", "2/5m"]}}}}, "network 'a': limit '/56'"),
    ],
)
def test_a_mistake_is_named(arguments, named):
    with pytest.raises(PolicyError, match=named):
        Limits(**arguments)


def test_options_say_the_same(audit):
    limits = Limits.from_options(
        {"/32": [2, "3/5m"], "total": 9, "p:/24": "4/1h", "p:total": ["5 rejections/1h", 7]}, {"p": ["10.0.0.0/8"]}
    )
    assert limits.describe() == "/32=2 /32=3/5m p:/24=4/1h p:total=5 rejections/1h p:total=7 total=9"
    limits.prepare(audit)
    assert audit.monitors == ("300,2", "3600,2")
    assert limits.monitors_for(["5m,6"]) == ["3600,2"]
    assert repr(Limits({"/32": "3/5m"})) == "Limits({'/32': '3/5m'})"
