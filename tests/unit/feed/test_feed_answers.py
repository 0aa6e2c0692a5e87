"""What processes answer may be anything: it is a sentence, or limits, and nothing else comes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbound_audit import InboundAudit, Limits
from inbound_audit.feed import Feed
from inbound_audit.feed.limits import LimitsInUse
from inbound_audit.feed.rules import GuardRule, _guard, _is_answer
from inbound_audit.listeners import Guard
from inbound_audit.policy.load import load_policy

GIVEN = Limits({"/32": 7}, networks={"partner": {"prefixes": ["192.0.2.0/24"], "total": 3}}).arguments
words = st.sampled_from(
    [*GIVEN, "service", "listener", "policy", "dry_run", "arguments", "log", "script", "prefixes", "/24"]
)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | words
values = st.recursive(
    leaves | st.sampled_from([GIVEN, GIVEN["networks"], GIVEN["limits"]]),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(words | st.text(max_size=4), inside, max_size=4),
    max_leaves=12,
)
ABOUT = {"service": "SMTP", "listener": "mx", "policy": "Limits", "dry_run": False}


def guard_of(row: object) -> GuardRule | None:
    sent = json.loads(json.dumps(row))
    return _guard(7, 0, sent) if _is_answer(sent) else None


@given(st.dictionaries(words, values, max_size=5))
def test_any_arguments(more: dict[str, object]) -> None:
    guard = guard_of({**ABOUT, "arguments": {**GIVEN, **more}})
    assert guard is not None
    in_use = LimitsInUse()
    in_use.refresh([guard, guard])
    assert all(note.isprintable() for note in in_use.notes)
    assert bool(in_use.notes) != bool(in_use._policies)


@given(values | st.dictionaries(words, values, max_size=6).map(lambda more: {**ABOUT, **more}))
def test_any_answer(row: object) -> None:
    guard = guard_of(row)
    if guard is not None:
        texts = [guard.service, guard.listener, guard.policy or "", guard.script or ""]
        assert all(text.isprintable() for text in texts)
        LimitsInUse().refresh([guard])


@pytest.mark.usefixtures("place")
def test_a_script_is_named(tmp_path: Path) -> None:
    script = tmp_path / "policy.lua"
    script.write_text(
        'local policy = {}\nfunction policy:validate_connect(ac, vctx) end\nmsys.registerModule("policy", policy)\n'
    )
    with InboundAudit(shared="looked-at", capacity=1 << 20) as audit, Feed("looked-at") as feed:
        guard = Guard(audit.listener("SMTP", "mx"), load_policy(script, audit=audit))
        look = feed.look()
        assert look.limits == ()
        assert f"SMTP mx: the script {script} decides, so its limits are not seen" in look.notes
        del guard
