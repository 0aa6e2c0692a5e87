"""What a verdict may carry, and that every policy's verdicts are checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbound_audit import DryRun, InboundAudit, Limits, LuaPolicy, SievePolicy, Verdict
from inbound_audit.errors import PolicyError
from inbound_audit.listeners import Guard
from inbound_audit.policy.base import Policy
from inbound_audit.policy.verdict import ACCEPT, MAX_TARPIT_S, MAX_TEXT, UNAVAILABLE

WRONG = [
    {"tarpit": math.inf},
    {"tarpit": math.nan},
    {"tarpit": -5},
    {"tarpit": -1e-9},
    {"tarpit": MAX_TARPIT_S + 1},
    {"tarpit": 10**400},
    {"tarpit": "5"},
    {"tarpit": True},
    {"tarpit": None},
    {"code": math.nan},
    {"code": 421.0},
    {"code": 199},
    {"code": 600},
    {"code": -421},
    {"code": True},
    {"code": "421"},
    {"text": "a\r\nb"},
    {"text": "a\rb"},
    {"text": "a\0b"},
    {"text": "a\x85b"},
    {"text": "a\u2028b"},
    {"text": "half \ud800"},
    {"text": "x" * (MAX_TEXT + 1)},
    {"text": b"bytes"},
    {"text": None},
    {"accepted": None},
    {"disconnect": 1},
]
every_wrong_value = pytest.mark.parametrize("values", WRONG, ids=repr)


@pytest.fixture
def answer():
    """The verdict on a connection, and how often the guard found that the policy had failed."""
    with InboundAudit(capacity=1 << 22) as audit:

        def ask(policy, **options):
            guard = Guard(audit.listener(), policy, **options)
            admission = guard.admit("192.0.2.7")
            admission.close()
            return admission.verdict, guard.failures

        yield ask


@every_wrong_value
def test_a_wrong_value_is_named(values):
    with pytest.raises(PolicyError, match=next(iter(values)) if "accepted" not in values else "verdict of None"):
        Verdict(**values)


anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.sampled_from([421, 250, 0, 550])
)


@given(anything, anything, anything | st.text(min_size=MAX_TEXT, max_size=MAX_TEXT + 2), anything, anything)
def test_a_verdict_can_be_carried_out_or_is_an_error(accepted, code, text, tarpit, disconnect):
    try:
        verdict = Verdict(accepted, code, text, tarpit, disconnect)
    except PolicyError:
        return
    assert verdict.accepted in (True, False)
    assert verdict.code == 0 or 200 <= verdict.code <= 599
    assert 0 <= verdict.tarpit <= MAX_TARPIT_S
    assert verdict.text.encode().decode() == verdict.text
    assert len(verdict.text.splitlines()) <= verdict.text.count("\n") + 1
    assert not set(verdict.text) & {"\r", "\0"}


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=100), st.integers(200, 599))
def test_what_can_be_carried_out_is_kept(text, code):
    verdict = Verdict(False, code, f"{text}\n{text}", 0.5, True)
    assert (verdict.code, verdict.text, verdict.tarpit) == (code, f"{text}\n{text}", 0.5)


@every_wrong_value
@pytest.mark.parametrize(("on_error", "verdict"), [("accept", ACCEPT), ("refuse", UNAVAILABLE)])
def test_a_wrong_verdict_of_a_python_policy_is_an_error_that_the_guard_handles(answer, values, on_error, verdict):
    class Wrong(Policy):
        def validate_connect(self, ac):
            return Verdict(**values)

    @dataclass(frozen=True)
    class Unchecked(Verdict):
        def __post_init__(self):
            """Checks nothing."""

    class Derived(Policy):
        def validate_connect(self, ac):
            return Unchecked(**values)

    for policy in (Wrong(), Derived(), DryRun(Wrong())):
        assert answer(policy, on_error=on_error) == (verdict, 1)


def test_a_wrong_verdict_of_a_script_is_an_error_of_the_script(answer, tmp_path):
    """What Lua itself lets pass is checked where the verdict is made."""
    path = tmp_path / "p.lua"
    path.write_text("msys.registerModule('p', {validate_connect = function() end})")
    policy = LuaPolicy(path, on_error="refuse")
    for number, wrong in enumerate(
        [(True, 0, b"", math.inf, False), (False, math.nan, b"", 0, False), (False, 421, [], 0, False),
         (None, 421, b"", 0, False), (False, 421, b"a\r\nb", 0, True)], 1,
    ):  # fmt: skip
        policy._connect = lambda handle, wrong=wrong: wrong
        assert answer(policy) == (UNAVAILABLE, 0)
        assert policy.errors == number


@pytest.mark.parametrize(
    "body",
    [
        "vctx:tarpit(math.huge)",
        "vctx:tarpit(-5)",
        "vctx:tarpit(0/0)",
        "vctx:tarpit(1e300)",
        "vctx:set_code(0/0, 'no')",
        "vctx:set_code(421.5, 'no')",
        "vctx:set_code(1e300, 'no')",
        "vctx:set_code(550, ('x'):rep(10000))",
        "vctx.disconnect = 0/0",
        "vctx:disconnect(0/0, 'no')",
        "vctx:disconnect(2^53, 'no')",
    ],
)
def test_no_value_of_lua_reaches_a_listener_unchecked(answer, tmp_path, body):
    path = tmp_path / "p.lua"
    path.write_text(f"msys.registerModule('p', {{validate_connect = function(_, ac, vctx) {body} end}})")
    verdict, failures = answer(LuaPolicy(path))
    assert failures == 0
    assert Verdict(verdict.accepted, verdict.code, verdict.text, verdict.tarpit, verdict.disconnect) == verdict


@pytest.mark.parametrize(
    "body",
    [
        'ec_action 550 "${long}";',
        'ec_disconnect 421 "${long}";',
        '$n = ec_mul "999999999999999999" "999999999999999999"; ec_tarpit $n;',
        '$n = ec_sub 0 5; ec_tarpit $n;',
        '$n = ec_mul 1000000 1000000; ec_action $n "no";',
        '$n = ec_div 1 3; ec_action $n "no";',
    ],
)  # fmt: skip
def test_no_value_of_sieve_reaches_a_listener_unchecked(answer, tmp_path, body):
    path = tmp_path / "p.siv"
    path.write_text('$long = "0123456789abcdef";' + '$long = "${long}${long}";' * 10 + body)
    policy = SievePolicy(path, on_error="refuse")
    assert answer(policy) == (UNAVAILABLE, 0)
    assert policy.errors == 1


@pytest.mark.parametrize("options", [{"text": "a\r\n250 ok"}, {"text": "\0"}, {"text": "x" * 10_000}, {"code": 399}])
def test_a_text_or_code_of_limits_that_no_listener_could_send_is_refused_at_once(options):
    with pytest.raises(PolicyError, match=next(iter(options))):
        Limits({"/32": 1}, **options)
