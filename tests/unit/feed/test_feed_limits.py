"""How full the limits of an audit are, as a look has it: what the guards limit, counted from outside."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest
from tests.support.waiting import eventually

from inbound_audit import InboundAudit, Limits, inquiries
from inbound_audit.feed import Feed, LimitRow, Look
from inbound_audit.feed.limits import MAX_LIMITS, MAX_POLICIES, MAX_STEPS
from inbound_audit.listeners import Guard
from inbound_audit.policy.base import Policy
from inbound_audit.policy.dry_run import DryRun

# Windows of 10000 days: one ends in 2052, none in a test, and looks have the system's clock.

pytestmark = pytest.mark.usefixtures("place")


@pytest.fixture
def audit() -> Iterator[InboundAudit]:
    with InboundAudit(shared="looked-at", capacity=1 << 22, monitors=["864000000,2"]) as audit:
        yield audit


def look_at(audit: InboundAudit) -> Look:
    with Feed("looked-at") as feed:
        return feed.look()


def shown(look: Look) -> list[tuple[str, str | None, int, int]]:
    return [(row.limit, row.prefix, row.count, row.most) for row in look.limits]


def test_each_limit_has_its_fullest_prefix(audit: InboundAudit) -> None:
    networks = {"partner": {"prefixes": ["198.51.100.0/24"], "limits": {"/32": 5}, "total": [9, "20/10000d"]}}
    limits = Limits(
        {"/32,/64": 2, "/24": ["4/10000d", 3]}, exempt=["192.0.2.128/25"], networks=networks, listener_total=12
    )
    guard = Guard(audit.listener("SMTP", "mx"), limits)
    hosts = ["192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8::3"]
    hosts += ["192.0.2.129"] * 6 + ["198.51.100.7"] * 4 + ["198.51.100.9"]
    admissions = [guard.enter((host, 1)) for host in hosts]
    look = look_at(audit)
    assert shown(look) == [
        ("default /32,/64", "2001:db8::/64", 3, 2),
        ("default /24 connections/10000d", "192.0.2.0/24", 3, 4),
        ("default /24", "192.0.2.0/24", 3, 3),
        ("listener total", None, 17, 12),
        ("partner /32", "198.51.100.7/32", 4, 5),
        ("partner total", None, 5, 9),
        ("partner total connections/10000d", None, 5, 20),
    ]
    assert {(row.service, row.dry_run, row.exact) for row in look.limits} == {("SMTP", False, True)}
    assert [row.listener for row in look.limits] == [None, None, None, "mx", None, None, None]
    assert look.limits[0].share == 1.5
    for admission in admissions:
        admission.close()
    assert [row.count for row in look_at(audit).limits] == [0, 3, 0, 0, 0, 0, 5]


@pytest.mark.parametrize("many", [(5, 3), (3, 5)], ids=str)
def test_processes_with_different_monitors(many: tuple[int, int]) -> None:
    """Each counts a limit over time in its own, so the limit is as full as it is in one of them."""
    with contextlib.ExitStack() as held:
        for windows, n, host in zip((2, 3), many, ("192.0.2.1", "198.51.100.1"), strict=True):
            monitors = [f"864000000,{windows}"]
            worker = held.enter_context(InboundAudit(shared="looked-at", capacity=1 << 22, monitors=monitors))
            guard = Guard(worker.listener("SMTP", "mx"), Limits({"/24": "9/10000d"}))
            held.callback(guard.close_all)
            for _ in range(n):
                guard.enter((host, 1)).close()
        fullest = ("192.0.2.0/24" if many[0] == 5 else "198.51.100.0/24", 5, 9)
        assert shown(look_at(worker)) == [("default /24 connections/10000d", *fullest)]


def test_guards_with_the_same_limits_share_their_rows(audit: InboundAudit) -> None:
    same = {"/32": 1}
    guards = [Guard(audit.listener("SMTP", name), Limits(same, listener_total=3)) for name in ("a", "a", "b")]
    guards.append(Guard(audit.listener("SMTP", "c"), DryRun(Limits(same))))
    guards.append(Guard(audit.listener("IMAP", "d"), Limits(same)))
    admissions = [guard.enter(("192.0.2.1", 1)) for guard in guards]
    of_smtp = ("192.0.2.1/32", 4, 1)
    assert look_at(audit).limits == (
        LimitRow("default /32", "IMAP", "192.0.2.1/32", 1, 1, False),
        LimitRow("default /32", "SMTP", *of_smtp, False),
        LimitRow("listener total", "SMTP", None, 2, 3, False, "a"),
        LimitRow("listener total", "SMTP", None, 1, 3, False, "b"),
        LimitRow("default /32", "SMTP", *of_smtp, True),
    )
    for admission in admissions:
        admission.close()


def test_limits_that_are_exchanged_are_seen_when_it_is_time_to_ask(audit: InboundAudit) -> None:
    now = [0.0]
    guard = Guard(audit.listener("SMTP", "mx"), Limits({"/32": 1}))
    with Feed("looked-at") as feed:
        feed._rules._clock = lambda: now[0]
        assert [row.most for row in feed.look().limits] == [1]
        guard.policy = Limits({"/32": 7})
        now[0] += 9
        assert [row.most for row in feed.look().limits] == [1]
        now[0] += 1
        assert [row.most for row in feed.look().limits] == [7]


def test_a_full_prefix_is_remembered_where_very_many_are_alike(audit: InboundAudit) -> None:
    guard = Guard(audit.listener("SMTP", "mx"), Limits({"/32": 9}))
    sessions = [audit.listener("SMTP", "mx").session(f"10.{i >> 8}.{i & 255}.1") for i in range(500)]
    with Feed("looked-at") as feed:
        full = [audit.listener("SMTP", "mx").session("10.1.77.1") for _ in range(600)]
        assert shown(feed.look()) == [("default /32", "10.1.77.1/32", 601, 9)]
        for session in full[:-3]:
            session.close()
        feed._limits.steps = 1
        (row,) = feed.look().limits
        assert (row.prefix, row.count, row.exact) == ("10.1.77.1/32", 4, False)
        feed._limits.steps = MAX_STEPS
        assert feed.look().limits[0].exact
        for session in [*sessions, *full]:
            session.close()
    guard.close_all()


def test_who_decides_otherwise_is_named(audit: InboundAudit) -> None:
    class Mine(Policy):
        pass

    guards = [Guard(audit.listener("SMTP", name), policy) for name, policy in [("a", Mine()), ("b", None)]]
    look = look_at(audit)
    assert look.limits == ()
    assert "SMTP a: Mine decides, so its limits are not seen" in look.notes
    assert not any("SMTP b" in note for note in look.notes)
    del guards


class Says:
    """A guard of a process that says anything."""

    def __init__(self, **members: object) -> None:
        self.answer = {"service": "SMTP", "listener": "mx", "policy": "Limits", "dry_run": False, **members}

    def would_decide(self, address: str) -> inquiries.Answer:
        return {}

    def decides_by(self) -> inquiries.Answer:
        return self.answer


GIVEN = Limits({"/32": 7}).arguments
FALSE = [
    {},
    {**GIVEN, "cluster": "no"},
    {**GIVEN, "code": 200},
    {**GIVEN, "limits": {"/99999": 1}},
    {**GIVEN, "limits": {"/32": {}}},
    {**GIVEN, "limits": [["/32", 1]]},
    {**GIVEN, "limits": {"/32": "1\n/5m"}},
    {**GIVEN, "exempt": ["192.0.2.0/24", 7]},
    {**GIVEN, "exempt": {"a": [[]]}},
    {**GIVEN, "networks": {"a": {"prefixes": [[]]}}},
    {**GIVEN, "networks": {"a\x1b": {"prefixes": ["::/0"], "total": -1}}},
    {**GIVEN, "networks": [["a"]]},
    {**GIVEN, "listener_total": 1.5},
]


@pytest.mark.parametrize("arguments", FALSE, ids=str)
def test_false_limits_are_a_sentence_and_the_others_are_seen(audit: InboundAudit, arguments: object) -> None:
    guard = Guard(audit.listener("SMTP", "mx"), Limits({"/32": 3}))
    says = Says(arguments=arguments)
    inquiries.note(audit, says)
    look = look_at(audit)
    assert shown(look) == [("default /32", None, 0, 3)]
    sentences = [note for note in look.notes if note.startswith(f"process {os.getpid()} sent limits that are none: ")]
    assert len(sentences) == 1
    assert sentences[0].isprintable()
    del guard


def test_what_a_process_says_is_bounded(audit: InboundAudit) -> None:
    audit.listener("SMTP", "mx")
    many = [Says(arguments=Limits({f"/{n}": 100 * m + n for n in range(33)}).arguments) for m in range(20)]
    many.append(Says(service="POP\x1b", arguments=GIVEN))
    for says in many:
        inquiries.note(audit, says)
    with Feed("looked-at") as feed:
        eventually(lambda: len(feed.look().limits) == MAX_LIMITS)
        look = feed.look()
    assert any(f"more than {MAX_POLICIES} different policies" in note for note in look.notes)
    assert all(row.limit.isprintable() and row.service.isprintable() for row in look.limits)
    assert all(note.isprintable() for note in look.notes)
