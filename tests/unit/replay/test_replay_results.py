"""Distributions, suggested limits, and the page."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict, replace
from datetime import timezone
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from inbound_audit import Limits
from inbound_audit.policy.rates import Rate
from inbound_audit.replay.page import MAX_BARS, page
from inbound_audit.replay.results import Check, HourRow, LimitRow, PrefixRow, Result, clients_of, result_of, suggestions
from inbound_audit.replay.run import Replay

UTC = timezone.utc
TIMES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20), st.integers(0, 5)), max_size=60)


def replayed(sessions, limits: Limits | None = None, rates: list[Rate] | None = None) -> Replay:
    lengths = ["/32,/64", "/24,/48"]
    replay = Replay(lambda audit: limits, lambda verdict: "default /24,/48", lengths=lengths, rates=rates or ())
    events = sorted((1e9 + at, None, f"192.0.2.{host}", 1e9 + at + lasts, False) for at, lasts, host in sessions)
    replay.run(events)
    return replay


@given(TIMES)
def test_quantiles_and_histogram_are_those_of_the_sorted_counts(sessions):
    with replayed(sessions) as replay:
        result = result_of(replay, [], top=5, zone=UTC, policy=None)
        for row in result.lengths:
            found = sorted(Counter(replay.counts[row.length]).elements())
            assert row.largest == (found[-1] if found else 0)
            for share, count in row.quantiles.items():
                part = float(share.rstrip("%")) / 100
                at_most = sum(each <= count for each in found)
                assert at_most >= part * len(found)
                assert all(sum(each <= less for each in found) < part * len(found) for less in found if less < count)
            assert sum(number for _, number in row.histogram) == len(found)
            for upto, number in row.histogram:
                assert number == sum(upto // 2 < each <= upto or each == upto == 1 for each in found)


@given(TIMES, st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]))
def test_a_suggested_limit_is_the_smallest_that_refuses_no_more(sessions, share):
    with replayed(sessions) as replay:
        for row in suggestions(replay, share):
            length, _, text = row.limit.rpartition("=")
            limit = int(text)
            found = list(Counter(replay.counts[length]).elements())
            assert row.would_refuse == sum(each > limit for each in found) <= share * len(found)
            assert limit == 1 or sum(each > limit - 1 for each in found) > share * len(found)


@given(TIMES, st.sampled_from([0.0, 0.1, 0.5]))
def test_a_suggested_limit_over_time_refuses_what_it_says(sessions, share):
    """A refused connection counts as well: no refusal changes what a limit on connections counts later."""
    with replayed(sessions, rates=[Rate(0, "connections", 5), Rate(0, "rejections", 60)]) as replay:
        rows = suggestions(replay, share)[len(replay.counts) if sessions else 0 :]
    assert len(rows) == (2 if sessions else 0)
    for row in rows:
        length, _, limit = row.limit.rpartition("=")
        assert limit.endswith("/5s")
        with replayed(sessions, Limits({length: limit})) as again:
            assert again.refused == row.would_refuse <= share * len(sessions)
        fewer = Limits({length: f"{int(limit.partition('/')[0]) - 1}/5s"})
        with replayed(sessions, fewer) as again:
            assert limit == "1/5s" or again.refused > share * len(sessions)


@given(TIMES, st.sampled_from([0.0, 0.1, 0.5]))
def test_refusals_leave_room_so_that_a_suggested_limit_alone_refuses_no_more_than_it_says(sessions, share):
    with replayed(sessions) as replay:
        rows = suggestions(replay, share)
    for row in rows:
        length, _, limit = row.limit.rpartition("=")
        with replayed(sessions, Limits({length: int(limit)})) as again:
            assert again.refused <= row.would_refuse


def test_nothing_was_counted():
    with replayed([]) as replay:
        result = result_of(replay, [], top=5, zone=UTC, policy=None)
        assert suggestions(replay, 0.1) == []
    assert (result.first, result.last, result.hosts, result.networks) == (None, None, 0, {"/24": 0, "/64": 0})
    assert "0 connections" in shown(result)


def test_the_prefixes_of_a_limit_have_its_own_length():
    names = iter(["default /24,/48", "default /0", "listener total", "421 no more"])
    events = [(1e9 + at, None, address, 1e9 + at, False) for at, address in enumerate(["192.0.2.7", "2001:db8::7"] * 2)]
    with Replay(lambda audit: Limits({"/0": 0}), lambda verdict: next(names)) as replay:
        replay.run(events)
        found = result_of(replay, [], top=5, zone=UTC, policy=None).limits
    assert {row.limit: [each.prefix for each in row.prefixes] for row in found} == {
        "default /24,/48": ["192.0.2.0/24"],
        "default /0": ["2001:db8::/64"],
        "listener total": ["192.0.2.0/24"],
        "421 no more": ["2001:db8::/64"],
    }


# ---- the page


def a_result(**changes: object) -> Result:
    with replayed([(0, 5, 1), (1, 5, 1), (2, 5, 2)], Limits({"/24,/48": 2})) as replay:
        result = result_of(replay, [], top=5, zone=UTC, policy="/24,/48=2")
        result = replace(result, suggest=0.5, suggestions=suggestions(replay, 0.5), check=Check(1, {}))
    return replace(result, **changes)


def shown(result: Result) -> str:
    with replayed([(0, 5, 1), (1, 5, 1), (2, 5, 2)], Limits({"/24,/48": 2})) as replay:
        return page(result, *clients_of(replay))


class Page(HTMLParser):
    """Tags, and whether each one that is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.scrolled: list[str] = []
        self.attributes: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        if tag in ("table", "svg") and self.open[-1] == "div":
            self.scrolled.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing():
    text = shown(a_result())
    found = Page(text)
    assert found.open == []
    assert found.tags["svg"] == 4
    assert not re.search(r"https?:|src=|href=|url\(|@import|<script", text)
    assert "default-src 'none'" in text
    assert not [name for name in found.attributes if name.startswith("on")]


def test_what_is_wider_than_a_phone_is_scrolled_and_not_the_page():
    found = Page(shown(a_result()))
    assert len(found.scrolled) == found.tags["table"] + found.tags["svg"]


def test_what_comes_from_a_log_or_a_policy_is_escaped():
    bad = '"><script>alert(1)</script>'
    limits = [LimitRow(bad, 1, [PrefixRow(bad, 1)])]
    files = [{"file": bad, "format": bad, "lines": 1, "bad": 0}]
    result = a_result(
        policy=bad, limits=limits, files=files, first=bad, hours=[HourRow(bad, 1, 1)], prefixes=limits[0].prefixes
    )
    text = shown(result)
    assert "<script" not in text
    assert Page(text).open == []


def test_a_log_of_years_has_a_plot_that_can_be_read():
    hours = [HourRow(f"2026-01-01T{number}", 1, 0) for number in range(30_000)]
    assert Page(shown(a_result(hours=hours))).tags["rect"] <= 2 * MAX_BARS + 350


def test_json_has_all_of_it():
    result = a_result()
    found = json.loads(json.dumps(asdict(result)))
    assert found["limits"] == [
        {"limit": "default /24,/48", "refused": 1, "prefixes": [{"prefix": "192.0.2.0/24", "count": 1}]}
    ]
    assert found["hours"] == [{"hour": "2001-09-09T01:00:00+00:00", "connections": 3, "refused": 1}]
    assert found["lengths"][1] == {
        "length": "/24,/48", "quantiles": {"50%": 2, "90%": 3, "99%": 3, "99.9%": 3}, "largest": 3,
        "histogram": [[1, 1], [2, 1], [4, 1]],
    }  # fmt: skip
    assert found["suggestions"] == [
        {"limit": "/32,/64=1", "would_refuse": 1},
        {"limit": "/24,/48=2", "would_refuse": 1},
    ]
