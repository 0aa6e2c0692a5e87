"""Sessions by the clock of a log, against a plain model, and where a log is not as it should be."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.effort import effort
from tests.support.gold_replay import GoldReplay, postfix_log

from inbound_audit import Limits, LuaPolicy
from inbound_audit._ipcount import MONITOR_KINDS
from inbound_audit.policy.rates import Rate, read_rate
from inbound_audit.replay import denials
from inbound_audit.replay import run as run_module
from inbound_audit.replay.reading import ALONE, RECEPTION, REJECTION, SEVERAL, Event, LogReader, form_of
from inbound_audit.replay.results import result_of
from inbound_audit.replay.run import Replay
from inbound_audit.replay.stamps import StampReader

UTC = timezone.utc
PAIRS = {"/32,/64": (32, 64), "/24,/48": (24, 48)}
RATES = [(pair, kind, seconds) for pair in PAIRS.values() for kind in MONITOR_KINDS for seconds in (60, 3600)]


def replay_of(limits: Limits | None, **options) -> Replay:
    return Replay(lambda audit: limits, lambda verdict: verdict.text, lengths=PAIRS, **options)


def connect(time: float, key: str, address: str = "192.0.2.7", alone: bool = True) -> Event:
    return time, key.encode(), address, None, ALONE if alone else SEVERAL


def disconnect(time: float, key: str) -> Event:
    return time, key.encode(), None, None, ALONE


def reception(time: float, key: str) -> Event:
    return time, key.encode(), None, None, RECEPTION


def rejection(time: float, key: str) -> Event:
    return time, key.encode(), None, None, REJECTION


def whole(time: float, lasts: float, address: str = "192.0.2.7") -> Event:
    return time, None, address, time + lasts, SEVERAL


def compare(
    log: list[str],
    maxima: dict[str, int],
    rates: dict[str, str] | None = None,
    deny_s: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> GoldReplay:
    """`deny_s`: for how long each limit denies, those on open sessions first."""
    found = [(key, read_rate(text)) for key, text in (rates or {}).items()]
    spans = {(PAIRS[key], rate.kind, rate.seconds): rate.maximum for key, rate in found}
    open_sessions = {PAIRS[key]: most for key, most in maxima.items()}
    denials = {limit: seconds for limit, seconds in zip([*open_sessions, *spans], deny_s, strict=False) if seconds}
    gold = GoldReplay(open_sessions, list(PAIRS.values()), spans, RATES, denials)
    for line in log:
        gold.line(line)
    mosts: dict[str, list[int | str]] = {key: [] for key in maxima}
    for (key, most), seconds in zip([*maxima.items(), *found], deny_s, strict=False):
        mosts[key].append(
            f"{most} then deny for {seconds}s" if seconds else most if isinstance(most, int) else str(most)
        )
    limits = Limits(mosts)
    reader = LogReader("log", form_of(b"", "postfix", {}), StampReader(0, 2026, UTC))
    blocks = ["\n".join(log[at : at + 999]).encode() for at in range(0, len(log), 999)]
    wanted = {Rate(0, kind, seconds) for _, kind, seconds in RATES}
    with replay_of(limits, rates=wanted) as replay:
        replay.run(reader.events(blocks))
        compare_over_time(replay, gold)
        assert replay.counts == {key: dict(gold.counts[pair]) for key, pair in PAIRS.items()}
        late = {f"default {key} {rate.name}": gold.refused[PAIRS[key], rate.kind, rate.seconds] for key, rate in found}
        refused = {f"default {key}": gold.refused[PAIRS[key]] for key in maxima} | late
        assert limits.refused == {name: number for name, number in refused.items() if number}
        names = {PAIRS[key]: f"default {key} then deny" for key in maxima}
        names |= {(PAIRS[key], *rate[1:]): f"default {key} {rate.name} then deny" for key, rate in found}
        denied = {names[limit]: number for limit, number in gold.denied.items()}
        assert {name: each.number for name, each in replay.refusals.items() if name in names.values()} == denied
        assert limits.denied == sum(denied.values())
        assert (replay.connections, replay.refused) == (gold.connections, sum((refused | denied).values()))
        assert (replay.receptions, replay.rejections) == (gold.receptions, gold.rejections)
        assert (replay.unmatched, replay.replaced, replay.unfinished) == (gold.unmatched, gold.replaced, len(gold.open))
        assert {hour: numbers[0] for hour, numbers in replay.hours.items()} == dict(gold.hours)
        assert sum(refused for _, refused in replay.hours.values()) == replay.refused
        result = result_of(replay, [reader], top=1000, zone=UTC, policy=None)
    assert {row.prefix: row.count for row in result.prefixes} == dict(gold.networks)
    assert result.hosts == len(gold.hosts)
    fours = sum("." in network for network in gold.networks)
    assert result.networks == {"/24": fours, "/64": len(gold.networks) - fours}
    assert (result.lines, result.bad, result.back, result.overdue) == (len(log), 0, 0, 0)
    return gold


def compare_over_time(replay: Replay, gold: GoldReplay) -> None:
    """What the model has, without the connections that came before the first reception or rejection."""
    for (key, rate), counts in replay.counts_over_time.items():
        expected = dict(gold.over_time[PAIRS[key], rate.kind, rate.seconds])
        if rate.kind != "connections":
            unseen = sum(expected.values()) - sum(counts.values())
            expected[0] = expected.get(0, 0) - unseen
            assert unseen >= 0
        assert Counter(counts) == Counter({number: some for number, some in expected.items() if some})


def test_a_log_against_the_model():
    compare(
        list(postfix_log(effort(20_000, 100_000), seed=1)),
        {"/32,/64": 3, "/24,/48": 6},
        {"/32,/64": "12 rejections/5m", "/24,/48": "150 receptions/1h"},
    )


@given(
    st.integers(1, 1 << 30),
    st.integers(0, 300),
    st.integers(0, 3),
    st.integers(0, 6),
    st.sampled_from(MONITOR_KINDS),
    st.integers(0, 5),
)
def test_short_logs_against_the_model(seed, lines, hosts, networks, kind, most):
    log = list(postfix_log(lines, seed, processes=8))
    compare(log, {"/32,/64": hosts, "/24,/48": networks}, {"/32,/64": f"{most} {kind}/1m"})


def test_a_log_and_limits_that_deny_against_the_model():
    gold = compare(
        list(postfix_log(effort(6_000, 50_000), seed=2)),
        {"/32,/64": 3, "/24,/48": 6},
        {"/32,/64": "30 rejections/5m", "/24,/48": "25 receptions/5m"},
        (4, 7, 30, 20),
    )
    assert len(gold.denied) >= 3
    assert min(gold.denied.values()) >= 10


@given(
    st.integers(1, 1 << 30),
    st.integers(0, 300),
    st.tuples(st.integers(0, 3), st.integers(0, 6)),
    st.sampled_from(MONITOR_KINDS),
    st.tuples(*[st.sampled_from((0, 1, 5, 60))] * 3),
)
def test_short_logs_and_limits_that_deny_against_the_model(seed, lines, mosts, kind, deny_s):
    log = list(postfix_log(lines, seed, processes=8))
    compare(log, dict(zip(PAIRS, mosts, strict=True)), {"/32,/64": f"{mosts[1]} {kind}/1m"}, (*deny_s, 0))


def test_what_a_limit_denies_ends_by_the_clock_of_the_log():
    with replay_of(Limits({"/32": "1 then deny for 10m"})) as replay:
        replay.run([whole(time, 1) for time in (1e9, 1e9 + 0.5)])  # the second one is over the limit
        replay.run([whole(1e9 + 100, 1), whole(1e9 + 600.25, 1, "192.0.2.8"), whole(1e9 + 600.25, 1)])
        denied = replay.refusals["default /32 then deny"]
        assert (denied.number, replay.refused) == (2, 3)
        replay.run([whole(1e9 + 600.5, 1), whole(1e9 + 700, 1)])
        assert replay.refused == 3


def test_a_denial_holds_for_the_network_of_its_limit_alone():
    limits = Limits(
        {"/24": "0 then deny for 1h"}, exempt=["192.0.2.1"], networks={"ours": {"prefixes": ["192.0.2.2"], "total": 9}}
    )
    with replay_of(limits) as replay:
        replay.run([whole(1e9, 1, f"192.0.2.{host}") for host in (7, 8, 1, 2)])
        assert {name: each.number for name, each in replay.refusals.items()} == {
            limits.refusal.text: 1, "default /24 then deny": 1
        }  # fmt: skip


def test_as_many_prefixes_are_denied_at_once_as_live(monkeypatch):
    monkeypatch.setattr(denials, "MAX_OVERRIDES", 3)
    hosts = [f"192.0.2.{host}" for host in range(5)]
    with replay_of(Limits({"/32": "0 then deny for 1m"})) as replay:
        replay.run([whole(1e9, 1, host) for host in hosts * 2])
        assert replay.refusals["default /32 then deny"].number == 3
        replay.run([whole(1e9 + 60, 1, host) for host in hosts[3:] * 2])
        assert replay.refusals["default /32 then deny"].number == 5


def test_what_is_received_and_rejected_belongs_to_a_session_that_was_let_in():
    """b is refused as beside a: what follows of it would not have come. Its refusal is a rejection."""
    with replay_of(Limits({"/32": [1, "2 rejections/1h"]})) as replay:
        replay.run(
            [connect(1e9, "a"), connect(1e9, "b"), rejection(1e9, "b"), rejection(1e9, "b"), reception(1e9, "b")]
        )
        replay.run([disconnect(1e9, "a"), disconnect(1e9, "b"), connect(1e9, "c"), rejection(1e9, "c")])
        assert replay.refused == 1
        replay.run([disconnect(1e9, "c"), connect(1e9, "d"), rejection(1e9, "d"), disconnect(1e9, "d")])
        assert replay.refused == 1
        replay.run([connect(1e9, "e"), rejection(1e9, "x"), reception(1e9, "x")])
        assert (replay.refused, replay.receptions, replay.rejections, replay.unmatched) == (2, 1, 4, 2)


def test_receptions_and_rejections_of_a_key_are_those_of_its_newest_session():
    with replay_of(Limits({"/24": "0 receptions/1h"})) as replay:
        replay.run([connect(1e9, "a", alone=False), connect(1e9, "a", "198.51.100.7", alone=False)])
        replay.run([reception(1e9, "a"), connect(1e9, "b", "198.51.100.8"), connect(1e9, "c", "192.0.2.8")])
        assert {name: each.clients.top(9) for name, each in replay.refusals.items()} == {
            Limits().refusal.text: [(1, "198.51.100.8/32")]
        }


def test_what_a_limit_refuses_is_not_open_for_it_but_stays_open_in_the_distribution():
    with replay_of(Limits({"/32": 1})) as replay:
        replay.run([connect(1, "a"), connect(2, "b"), disconnect(3, "a"), connect(4, "c"), connect(5, "d")])
        assert replay.refused == 2  # b, and d beside c
        assert replay.counts["/32,/64"] == {1: 1, 2: 2, 3: 1}


def test_a_limit_over_time_by_the_clock_of_the_log():
    with replay_of(Limits({"/32": "2/5m"})) as replay:
        replay.run([whole(1e9 + second, 0) for second in (0, 1, 2, 3, 900, 901, 902)])
        assert replay.refused == 3
        assert replay.refusals[Limits().refusal.text].clients.top(1) == [(3, "192.0.2.7/32")]


@given(st.lists(st.integers(0, 200_000_000), max_size=80), st.integers(0, 6))
def test_a_limit_over_time_against_the_model(steps, most):
    """All of the current window, and of the one before the share that the last minute still covers."""
    now, refused, windows = 1_000_000_000_000_000, 0, Counter()
    events = []
    for step in steps:
        now += step
        events.append(whole(now / 1e6, 0))
        window, width = now // 60_000_000, 60_000_000
        windows[window] += 1
        before = windows[window - 1] * ((window + 1) * width - now) // width
        refused += windows[window] + before > most
    with replay_of(Limits({"/32": f"{most}/1m"})) as replay:
        replay.run(events)
        assert replay.refused == refused


@pytest.mark.parametrize("name", ["stock.lua", "stock.sieve"])
def test_a_policy_is_asked_at_connect(name):
    from inbound_audit.policy.load import load_policy

    def make(audit):
        return load_policy(f"examples/policies/{name}", audit=audit)

    with Replay(make, lambda verdict: f"{verdict.code} {verdict.text}") as replay:
        replay.run([connect(1e9, str(number), "203.0.113.77") for number in range(12)])
        assert replay.refused == 2
        assert list(replay.refusals) == ["421 connection limit exceeded"]


def test_a_policy_that_has_series_finds_a_clock_before_the_first_line(recwarn):
    with Replay(lambda audit: LuaPolicy("examples/policies/guessing.lua", audit=audit), str) as replay:
        replay.run([connect(1e9, "a")])
        assert (replay.connections, replay.refused) == (1, 0)
    assert [str(each.message) for each in recwarn] == []


# ---- logs that are not as they should be


def test_a_line_with_a_wrong_year_ends_no_session():
    lines = [
        "2026-02-06T12:00:00Z mx1 postfix/smtpd[1]: connect from a[192.0.2.7]",
        "2200-02-06T12:00:01Z mx1 postfix/smtpd[2]: connect from a[192.0.2.8]",
        "2026-02-06T12:00:02Z mx1 postfix/smtpd[3]: connect from a[192.0.2.7]",
    ]
    reader = LogReader("log", form_of(b"", "postfix", {}), StampReader(0, 2026, UTC))
    with replay_of(Limits({"/32": 1})) as replay:
        replay.run(reader.events(["\n".join(lines).encode()]))
        assert (replay.refused, replay.overdue, replay.unfinished, reader.bad) == (1, 0, 2, 1)


def test_a_disconnect_without_a_connect_and_a_connect_without_an_end():
    with replay_of(None) as replay:
        replay.run([disconnect(1, "x"), connect(2, "a"), disconnect(3, "a"), disconnect(4, "a"), connect(5, "b")])
        assert (replay.unmatched, replay.unfinished, replay.connections) == (2, 1, 2)


def test_a_process_that_connects_again_has_ended_its_session():
    with replay_of(None) as replay:
        replay.run([connect(1, "a"), connect(2, "a"), disconnect(3, "a")])
        assert (replay.replaced, replay.unfinished, replay.unmatched) == (1, 0, 0)
        assert replay.counts["/32,/64"] == {1: 2}


def test_sessions_with_one_key_are_ended_one_by_one():
    with replay_of(None) as replay:
        replay.run([connect(time, "a", alone=False) for time in range(3)])
        replay.run([disconnect(4, "a"), connect(5, "a", alone=False)])
        assert replay.counts["/32,/64"] == {1: 1, 2: 1, 3: 2}
        replay.run([disconnect(6, "a")] * 4)
        assert (replay.unfinished, replay.unmatched) == (0, 1)


def test_a_session_without_an_end_lasts_as_long_as_it_may():
    with replay_of(None, longest=10.0) as replay:
        replay.run([connect(0, "a"), connect(9.5, "b"), connect(10, "c")])
        assert (replay.overdue, replay.unfinished) == (1, 2)
        assert replay.counts["/32,/64"] == {1: 1, 2: 2}
        replay.run([disconnect(11, "a")])
        assert replay.unmatched == 1


def test_a_session_with_a_duration_ends_by_itself():
    with replay_of(None) as replay:
        replay.run([whole(0, 5), whole(4, 2), whole(5, 1), whole(7, 1)])
        assert (replay.overdue, replay.counts["/32,/64"]) == (0, {1: 2, 2: 2})


def test_a_mapped_address_is_the_ipv4_address():
    with replay_of(Limits({"/32,/64": 1})) as replay:
        replay.run([connect(0, "a"), connect(1, "b", "::ffff:192.0.2.7"), connect(2, "c", "2001:db8::7%eth0")])
        assert (replay.refused, len(replay.clients)) == (1, 2)


@pytest.mark.parametrize("address", ["unknown", "", "mail.example.org", "192.0.2", "\x1b[2J", "x" * 80])
def test_an_address_that_is_none_is_counted_and_shown(address):
    with replay_of(Limits()) as replay:
        replay.run([connect(0, "a", address), disconnect(1, "a")])
        assert (replay.connections, replay.bad, replay.unmatched) == (0, 1, 1)
        assert all(complaint.isprintable() for complaint in replay.complaints)


def test_a_clock_that_goes_back_a_little_stands_and_one_that_is_set_back_is_believed():
    with replay_of(None) as replay:
        replay.run([whole(10_000, 5), whole(9_990, 1)])
        assert (replay.now, replay.back) == (10_000, 1)
        replay.run([whole(1_000, 5)])
        assert (replay.now, replay.back) == (1_000, 2)


def test_more_open_sessions_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(run_module, "MAX_OPEN", 10)
    with replay_of(Limits({"/32": 1000})) as replay:
        for number in range(25):
            replay.run([connect(number, str(number))])
            assert replay.unfinished <= 10
        assert replay.cut == 15
        replay.run([disconnect(30, str(number)) for number in range(25)])
        assert (replay.unfinished, replay.unmatched) == (0, 15)


def test_ends_of_sessions_that_are_closed_take_no_memory(monkeypatch):
    monkeypatch.setattr(run_module, "_REST", 10)
    with replay_of(None) as replay:
        for number in range(1000):
            replay.run([connect(number, "a"), disconnect(number + 0.5, "a")])
            assert len(replay._ends) <= 12


def test_more_hours_and_reasons_than_have_figures_of_their_own(monkeypatch):
    monkeypatch.setattr(run_module, "MAX_HOURS", 3)
    monkeypatch.setattr(run_module, "MAX_REASONS", 2)
    names = iter("abcdefgh")
    with Replay(lambda audit: Limits({"/32": 0}), lambda verdict: next(names)) as replay:
        replay.run([whole(7200 + 3600.0 * hour, 1) for hour in range(8)])
        assert sum(numbers[0] for numbers in replay.hours.values()) == 8
        assert sum(numbers[1] for numbers in replay.hours.values()) == 8
        assert len(replay.hours) <= 4
        assert {name: each.number for name, each in replay.refusals.items()} == {"a": 1, "b": 1, "others": 6}


def test_the_first_and_last_time_are_those_of_the_log():
    with replay_of(None) as replay:
        replay.run([whole(1e9, 1), whole(1e9 + 60, 1)])
        result = result_of(replay, [], top=1, zone=UTC, policy=None)
    assert result.first == datetime.fromtimestamp(1e9, UTC).isoformat()
    assert result.last == datetime.fromtimestamp(1e9 + 60, UTC).isoformat()
