"""Overrides at the door: whatever decides there, a guard with any policy or a gate."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import pytest
from tests.support.gates import connect, end, gated, lua_policy, said, take_all
from tests.support.listening import Script
from tests.support.waiting import eventually

from inbound_audit import InboundAudit, Limits, LuaPolicy, Verdict
from inbound_audit.errors import CapacityError
from inbound_audit.listeners import Guard
from inbound_audit.overrides import audit as overrides
from inbound_audit.policy.dry_run import DryRun
from inbound_audit.policy.verdict import DENIED

DENIED_LINE = b"421 4.7.0 access denied\r\n"
linux = pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux")

REFUSED = Verdict(False, 554, "no", disconnect=True)


@pytest.fixture
def audit() -> Iterator[InboundAudit]:
    with InboundAudit(capacity=1 << 22) as audit:
        yield audit


@pytest.mark.parametrize(
    "policy",
    [None, Script(), Limits({"/32": 0}), Limits({"/32": 0}, dry_run=True), DryRun(Script({"connect": REFUSED}))],
    ids=["none", "script", "limits", "dry limits", "dry script"],
)
def test_a_guard_refuses_who_is_denied_whatever_its_policy_says(audit: InboundAudit, policy: object) -> None:
    guard = Guard(audit.listener("SMTP"), policy)  # type: ignore[arg-type]
    audit.deny("192.0.2.0/24")
    admission = guard.admit("192.0.2.7")
    assert admission.denied
    assert admission.verdict == DENIED
    assert (guard.accepted, guard.refused) == (0, 1)
    if isinstance(policy, Script):
        assert policy.asked == []
    admission.close()


@pytest.mark.parametrize(
    "policy", [None, Script({"connect": REFUSED}), Limits({"/32": 0})], ids=["none", "script", "limits"]
)
def test_a_guard_lets_in_who_is_allowed_whatever_its_policy_says(audit: InboundAudit, policy: object) -> None:
    """A script is asked all the same: its later hooks may rely on what this one keeps."""
    guard = Guard(audit.listener("SMTP"), policy)  # type: ignore[arg-type]
    audit.allow("192.0.2.7")
    admission, other = guard.admit("192.0.2.7"), guard.admit("192.0.2.8")
    assert admission.let_in
    assert not admission.denied
    assert other.let_in == (policy is None)
    assert audit.total() == 2
    if isinstance(policy, Script):
        assert policy.asked == [("connect", "192.0.2.7"), ("connect", "192.0.2.8")]
        policy.asked.clear()
    for each in (admission, other):
        each.close()


def test_a_denial_has_the_code_of_the_limits(audit: InboundAudit) -> None:
    guard = Guard(audit.listener("SMTP"), Limits({"/32": 5}, code=550))
    audit.deny("192.0.2.7")
    admission = guard.admit("192.0.2.7")
    assert (admission.verdict.code, admission.denied) == (550, True)
    admission.close()


def test_sessions_that_are_open_stay(audit: InboundAudit) -> None:
    guard = Guard(audit.listener("SMTP"))
    admission = guard.admit("192.0.2.7")
    audit.deny("192.0.2.7")
    assert admission.let_in
    assert audit.total() == 1
    admission.close()


def test_the_client_behind_a_proxy_is_who_is_denied(audit: InboundAudit) -> None:
    guard = Guard(audit.listener("SMTP"))
    audit.deny("192.0.2.7")
    admission = guard.enter("10.0.0.1")
    admission.rebind("192.0.2.7")
    assert not admission.evaluate()
    admission.close()


def test_a_denial_is_recorded_as_a_rejection() -> None:
    with InboundAudit(monitors=["60,2"]) as audit:
        guard = Guard(audit.listener("SMTP"))
        audit.deny("192.0.2.7")
        guard.admit("192.0.2.7").close()
        assert audit.rejections(0, "192.0.2.7") == 1


# ---- the gate


@pytest.mark.parametrize("limits", [None, Limits({"/32": 5}), Limits({"/32": 5}, dry_run=True)], ids=str)
def test_a_gate_refuses_who_is_denied(audit: InboundAudit, limits: Limits | None) -> None:
    before = 0 if limits is None else limits.denied
    with gated(audit.listener("SMTP"), limits) as (gate, port):
        audit.deny("127.0.0.8/29")
        with connect(port, "127.0.0.9") as denied, connect(port, "127.0.0.7"):
            assert said(denied) == DENIED_LINE
            taken = take_all(gate, 1)
            assert (gate.opened, gate.refused) == (2, 1)
            if limits is not None:
                assert limits.denied == before + 1
                assert not limits.refused
        assert audit.lift("127.0.0.8/29")
        with connect(port, "127.0.0.9"):
            taken += take_all(gate, 1)
        end(taken)
    eventually(lambda: audit.total() == 0, "the end of all sessions")


def test_a_gate_lets_in_who_is_allowed(audit: InboundAudit) -> None:
    with gated(audit.listener("SMTP"), Limits({"/32": 0})) as (gate, port):
        audit.allow("127.0.0.9")
        with connect(port, "127.0.0.9"), connect(port, "127.0.0.8") as other:
            taken = gate.take_asked() or take_all(gate, 1)
            assert said(other) != b""
        end([each[:2] for each in taken])


def test_a_gate_has_the_fields_of_a_denial(audit: InboundAudit) -> None:
    with gated(
        audit.listener("SMTP"), Limits({"/32": 5}), refusal="{code} {text} {address} {limit} {count}\n"
    ) as found:
        audit.deny("127.0.0.9")
        with connect(found[1], "127.0.0.9") as peer:
            assert said(peer) == b"421 access denied 127.0.0.9 override 0\n"


def test_a_gate_denies_for_a_limit_that_says_so(audit: InboundAudit) -> None:
    limits = Limits({"/32": "0 then deny for 1h"})
    limits.prepare(audit)
    eventually(lambda: overrides._thread._pipe, "the thread, which has descriptors")
    with gated(audit.listener("SMTP"), limits) as (_, port):
        with connect(port, "127.0.0.9") as peer:
            assert said(peer) == b"421 4.7.0 connection limit exceeded\r\n"
        eventually(lambda: audit.decisions(), "the denial")
        with connect(port, "127.0.0.9") as peer:
            assert said(peer) == DENIED_LINE
    assert [(found.prefix, found.by) for found in audit.decisions()] == [("127.0.0.9/32", "limit")]


# ---- scripts


def test_a_script_is_not_asked_about_who_is_denied(audit: InboundAudit, tmp_path) -> None:
    script = tmp_path / "p.lua"
    script.write_text(lua_policy('error("asked")'))
    policy = LuaPolicy(script)
    guard = Guard(audit.listener("SMTP"), policy)
    audit.deny("192.0.2.7")
    admission = guard.admit("192.0.2.7")
    assert admission.denied
    assert policy.errors == 0
    admission.close()
    policy.close()


@linux
def test_a_gate_refuses_who_is_denied_also_without_room_to_count_it() -> None:
    with InboundAudit(capacity=1 << 14) as audit:
        listener = audit.listener("SMTP")
        addresses = [f"10.{second}.{third}.1" for second in range(99) for third in range(256)]
        addresses += [
            f"{first}.{second}.{third}.1" for first in range(11, 111) for second in range(7) for third in range(5)
        ]
        held = []
        for address in addresses:
            with contextlib.suppress(CapacityError):
                held.append(listener.session(address))
        audit.deny("127.0.0.0/8")
        with gated(listener, None) as (gate, port), connect(port, "127.0.0.5") as peer:
            assert said(peer) == DENIED_LINE
            assert (gate.uncounted, gate.refused, gate.waiting) == (1, 1, 0)
            for session in held:
                session.close()
