"""`Guard`: who is counted, who is asked, what happens when either can't be done, and that each ends once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from tests.support import listening
from tests.support.listening import Script

from inbound_audit import InboundAudit, Limits, Listener, Verdict
from inbound_audit.listeners import Guard
from inbound_audit.listeners.guard import Choice
from inbound_audit.policy.verdict import REFUSE

audit, guard = listening.audit, listening.guard  # fixtures

PEERS = [("192.0.2.7", 4242), ("2001:db8::7", 4242, 0, 0), ("::ffff:192.0.2.7", 4242, 0, 0)]
every_peer = pytest.mark.parametrize("peer", PEERS, ids=["ipv4", "ipv6", "mapped"])


@pytest.fixture
def full_listener() -> Iterator[Listener]:
    """A listener whose arena has no room for another IPv6 host."""
    with InboundAudit(capacity=8192) as audit:
        listener = audit.listener("SMTP")
        kept = listening.fill(listener)
        yield listener
        for session in kept:
            session.close()
        assert listener.total == 0


@every_peer
def test_counts_from_enter_to_close(guard: Guard, audit: InboundAudit, peer: tuple[object, ...]) -> None:
    admission = guard.admit(peer, ("192.0.2.1", 25))
    assert admission.let_in
    assert admission.session is not None
    assert audit.inbound_session_count(admission.session.remote_ip) == 1
    assert (guard.opened, guard.accepted, guard.refused, guard.uncounted, guard.open) == (1, 1, 0, 0, 1)
    admission.close()
    assert audit.total() == 0
    assert guard.open == 0
    assert admission.closed


@every_peer
def test_closing_twice_counts_out_once(guard: Guard, audit: InboundAudit, peer: tuple[object, ...]) -> None:
    policy = Script()
    guard.policy = policy
    other, admission = guard.admit(peer), guard.admit(peer)
    threads = [threading.Thread(target=admission.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    admission.close()
    assert audit.total() == 1
    assert len(policy.ended) == 1
    other.close()


def test_a_refusal_is_counted_and_stays_open_until_it_is_closed(guard: Guard, audit: InboundAudit) -> None:
    guard.policy = Limits({"/32": 1})
    first, second = guard.admit("192.0.2.7"), guard.admit("192.0.2.7")
    assert (first.let_in, second.let_in) == (True, False)
    assert (guard.accepted, guard.refused, guard.open, audit.total()) == (1, 1, 2, 2)
    second.close()
    first.close()
    third = guard.admit("192.0.2.7")
    assert third.let_in
    third.close()


@pytest.mark.parametrize("peer", ["", None, b"", (), "\0abstract"], ids=repr)
def test_a_peer_without_an_address_is_let_in_uncounted(guard: Guard, audit: InboundAudit, peer: object) -> None:
    guard.policy = policy = Script({"connect": REFUSE, "ehlo": REFUSE})
    admission = guard.admit(peer)
    assert admission.let_in
    assert admission.hook("validate_ehlo", "x")
    admission.rebind("192.0.2.7")  # there's no count that could move
    assert policy.asked == []
    assert (guard.uncounted, guard.accepted, guard.open, audit.total()) == (1, 1, 1, 0)
    admission.close()
    assert policy.ended == []


def test_a_full_arena_lets_in_uncounted_and_says_so_once(
    full_listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    guard = Guard(full_listener)
    before = full_listener.total
    admissions = [guard.admit(f"2001:db8:{host:x}::1") for host in range(50)]
    assert all(admission.let_in for admission in admissions)
    assert (guard.uncounted, guard.accepted, guard.open, full_listener.total) == (50, 50, 50, before)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "let in uncounted: '2001:db8:0::1'" in caplog.text
    guard.close_all()


def test_a_full_arena_refuses_if_so_configured(full_listener: Listener) -> None:
    guard = Guard(full_listener, when_full="refuse")
    admission = guard.admit("2001:db8::1")
    assert not admission.let_in
    assert (admission.verdict.code, guard.refused, guard.uncounted) == (421, 1, 1)
    admission.close()


@pytest.mark.parametrize("choice", ["accept", "refuse"])
def test_a_rebind_that_finds_no_room_leaves_the_session_uncounted(choice: Choice) -> None:
    with InboundAudit(capacity=8192) as audit:
        listener = audit.listener("SMTP")
        guard = Guard(listener, when_full=choice)
        admission = guard.enter("2001:db8::1")
        kept = listening.fill(listener)
        admission.rebind("2001:db8:ffff::1")
        assert admission.session is None
        assert listener.total == len(kept)
        admission.ask()
        assert admission.let_in == (choice == "accept")
        admission.close()
        assert guard.open == 0
        for session in kept:
            session.close()


@pytest.mark.parametrize("nonsense", [RuntimeError("out of order"), None, True, 421], ids=repr)
@pytest.mark.parametrize("choice", ["accept", "refuse"])
def test_a_policy_that_fails_is_logged_once_per_interval(
    audit: InboundAudit, nonsense: object, choice: Choice, caplog: pytest.LogCaptureFixture
) -> None:
    guard = Guard(audit.listener("SMTP"), Script({"connect": nonsense, "ehlo": nonsense}), on_error=choice)
    admissions = [guard.admit("192.0.2.7") for _ in range(20)]
    assert [admission.let_in for admission in admissions] == [choice == "accept"] * 20
    assert bool(admissions[0].hook("validate_ehlo", "x")) == (choice == "accept")
    assert guard.failures == 21
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "validate_connect failed for 192.0.2.7:0" in errors[0].getMessage()
    assert "Traceback" in errors[0].getMessage()
    for admission in admissions:
        admission.close()
    assert audit.total() == 0


def test_an_end_session_that_raises_does_not_keep_the_session(guard: Guard, audit: InboundAudit) -> None:
    policy = Script()
    guard.policy = policy
    admission = guard.admit("192.0.2.7")
    policy.end_session = None  # type: ignore[assignment, method-assign]
    del policy.ended
    admission.close()
    assert audit.total() == 0
    broken = SimpleNamespace(validate_connect=policy.validate_connect, end_session=lambda ac: 1 / 0)
    guard.policy = broken
    guard.admit("192.0.2.7").close()
    assert guard.failures == 1


def test_a_closed_audit_lets_in_uncounted(audit: InboundAudit) -> None:
    guard = Guard(audit.listener("SMTP"))
    audit.close()
    admission = guard.admit("192.0.2.7")
    assert admission.let_in
    assert guard.uncounted == 1
    admission.close()


def test_a_reload_in_between_does_not_change_the_policy_that_hears_of_the_end(guard: Guard) -> None:
    old, new = Script(), Script({"connect": Verdict(accepted=False)})
    guard.policy = old
    before = guard.admit("192.0.2.7")
    guard.policy = new
    after = guard.admit("2001:db8::7")
    assert (before.let_in, after.let_in) == (True, False)
    before.hook("validate_ehlo", "x")
    assert old.stages() == ["connect", "ehlo"]
    ended = [admission.session.conn_id for admission in (before, after) if admission.session]
    before.close()
    after.close()
    assert [old.ended, new.ended] == [ended[:1], ended[1:]]


def test_an_accepted_verdict_that_disconnects_lets_no_one_in(guard: Guard) -> None:
    guard.policy = Script({"connect": Verdict(disconnect=True)})
    admission = guard.admit("192.0.2.7")
    assert not admission.let_in
    assert (guard.accepted, guard.refused) == (0, 1)
    admission.close()


def test_a_policy_without_further_hooks_accepts(guard: Guard) -> None:
    guard.policy = Limits({"/32": 5})
    admission = guard.admit("192.0.2.7")
    assert admission.hook("validate_ehlo", "x")
    assert admission.capabilities() == ((), ())
    admission.close()


def test_refusals_are_one_line_per_interval(guard: Guard, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    guard.policy = Limits({"/32": 0})
    for _ in range(100):
        guard.admit(("2001:db8::7", 25)).close()
    assert [record.getMessage() for record in caplog.records] == [
        "refused 2001:db8::7.25: 421 connection limit exceeded"
    ]


def test_a_forgotten_admission_is_counted_out_and_warns(guard: Guard, audit: InboundAudit) -> None:
    guard.policy = policy = Script()
    admission = guard.admit("192.0.2.7")
    with pytest.warns(ResourceWarning, match=r"connection of 192\.0\.2\.7:0 was dropped"):
        del admission
    assert (audit.total(), guard.open, len(policy.ended)) == (0, 0, 1)


def test_close_all(guard: Guard, audit: InboundAudit) -> None:
    admissions = [guard.admit(f"192.0.2.{host}") for host in range(10)]
    guard.close_all()
    assert (audit.total(), guard.open) == (0, 0)
    admissions[0].close()
    later = guard.admit("192.0.2.1")
    assert (later.let_in, audit.total()) == (True, 1)
    guard.close_all()
    assert later.closed


@pytest.mark.parametrize("setting", ["when_full", "on_error"])
def test_a_setting_that_makes_no_sense(audit: InboundAudit, setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting}='panic'"):
        Guard(audit.listener("SMTP"), **{setting: "panic"})  # type: ignore[arg-type]
