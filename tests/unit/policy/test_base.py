"""The hooks of a policy, the base of scripts, dry runs, and loading by suffix."""

from __future__ import annotations

import gc
import inspect
import logging
import pickle

import pytest

import inbound_audit
from inbound_audit import DryRun, InboundAudit, Limits, LuaPolicy, Verdict, load_policy
from inbound_audit.errors import PolicyError
from inbound_audit.listeners import Guard
from inbound_audit.policy.base import Policy, ScriptPolicy, evaluate
from inbound_audit.policy.message import Message
from inbound_audit.policy.verdict import ACCEPT, LOCAL_ERROR, REFUSE, UNAVAILABLE, cached_verdict

HOOKS = [name for name in vars(Policy) if name.startswith("validate_")]
LUA = "function mod:validate_connect(ac, vctx) vctx:disconnect(421, 'no') end"


def arguments_of(hook):
    """What a listener passes: by the names that the base declares."""
    made = {"ac": None, "text": "x", "cipher": "x", "message": Message()}
    return [made[name] for name in inspect.signature(getattr(Policy(), hook)).parameters]


@pytest.fixture
def script(tmp_path):
    def write(body, name="policy.lua"):
        path = tmp_path / name
        path.write_text(f"local mod = {{}}\n{body}\nmsys.registerModule('m', mod)\n" if name.endswith("lua") else body)
        return path

    return write


@pytest.fixture
def ac():
    with InboundAudit() as audit, audit.listener().session("192.0.2.7") as session:
        yield session


# ---- the base


@pytest.mark.parametrize("policy", [Policy(), Limits(), DryRun(Policy())], ids=lambda policy: type(policy).__name__)
def test_a_policy_has_every_hook_and_lets_in_by_default(policy, ac):
    assert len(HOOKS) >= 6
    for hook in HOOKS[1:]:
        assert getattr(policy, hook)(*arguments_of(hook)) is ACCEPT
    assert policy.validate_connect(ac) is ACCEPT
    assert policy.capabilities(ac) == ((), ())
    assert policy.end_session(ac) is None
    policy.check(ac.listener.audit)
    policy.close()


def test_an_object_of_a_user_needs_no_more_than_one_hook(ac):
    class Own:
        def validate_connect(self, ac):
            return REFUSE

    assert evaluate(Own(), "validate_connect", ac) is REFUSE
    assert evaluate(Own(), "validate_ehlo", ac, "x") is ACCEPT
    assert evaluate(None, "validate_connect", ac) is ACCEPT
    admission = Guard(ac.listener, Own()).admit("192.0.2.7")
    assert admission.verdict is REFUSE
    admission.close()


@pytest.mark.parametrize("answer", [None, True, False, 421, "no", (False, 421)])
@pytest.mark.parametrize("hook", HOOKS)
def test_an_answer_that_is_no_verdict_is_an_error(hook, answer):
    own = type("Own", (), {hook: lambda self, *arguments: answer})()
    for policy in (own, DryRun(own)):
        with pytest.raises(TypeError, match="not a Verdict"):
            evaluate(policy, hook, *arguments_of(hook))


class Script(ScriptPolicy):
    implementation = "test"
    closed = 0

    def close(self):
        type(self).closed += 1


@pytest.mark.parametrize("hook", [*HOOKS, "end_session", "capabilities"])
def test_a_failure_is_counted_kept_and_logged_once(hook, caplog):
    policy = Script("p.lua", "accept", logging.getLogger("inbound_audit.test"))
    assert [policy._failed(hook, f"reason {i}") for i in range(3)] == [ACCEPT] * 3
    assert (policy.errors, policy.errors_by_hook, policy.last_error) == (3, {hook: 3}, "reason 2")
    assert [record.getMessage() for record in caplog.records] == [f"p.lua: {hook} failed: reason 0"]
    refusing = Script("p.lua", "refuse", logging.getLogger("inbound_audit.test"))
    assert refusing._failed(hook, "x") is (UNAVAILABLE if hook == "validate_connect" else LOCAL_ERROR)
    with pytest.raises(PolicyError, match="neither 'accept' nor 'refuse'"):
        Script("p.lua", "maybe", logging.getLogger("inbound_audit.test"))


def test_needed_monitors_are_checked():
    policy = Script("p.lua", "accept", logging.getLogger("inbound_audit.test"))
    policy.needed_monitors = ("300,6", "1h,24")
    with InboundAudit() as audit, pytest.raises(PolicyError, match=r"p\.lua: .*--monitor 300,6 --monitor 1h,24"):
        policy.check(audit)
    with (
        InboundAudit(monitors=["3600,24"]) as audit,
        pytest.raises(PolicyError, match=r"start with --monitor 300,6$"),
    ):
        DryRun(policy).check(audit)
    with InboundAudit(monitors=["3600,24", "300,6", "60,5"]) as audit:
        policy.check(audit)


def test_verdicts(ac):
    assert cached_verdict(False, 421, b"", 0, True) == Verdict(False, 421, "refused by policy", 0.0, True)
    assert (
        cached_verdict(False, 550, "caf\xe9", 2, False).text
        == cached_verdict(False, 550, b"caf\xc3\xa9", 2, False).text
    )
    assert cached_verdict(True, 0, "", 0, False) == ACCEPT
    assert cached_verdict(False, 421, b"x\xff", 0, True) is cached_verdict(False, 421, b"x\xff", 0, True)
    for verdict in (ACCEPT, REFUSE, UNAVAILABLE, Limits({"/32": 0}).validate_connect(ac)):
        assert pickle.loads(pickle.dumps(verdict)) == verdict
        assert eval(repr(verdict)) == verdict
        assert hash(verdict) == hash(Verdict(verdict.accepted, verdict.code, verdict.text, 0.0, verdict.disconnect))
        assert verdict.lets_in == bool(verdict)
    assert not Verdict(True, disconnect=True).lets_in


# ---- dry runs


class Refuses(Policy):
    def __init__(self):
        self.calls = []

    def __getattribute__(self, name):
        if name.startswith("validate_"):
            return lambda *arguments: self.calls.append(name) or Verdict(disconnect=True)
        return super().__getattribute__(name)

    def capabilities(self, ac):
        self.calls.append("capabilities")
        return ("XFOO",), ("SIZE",)

    def end_session(self, ac):
        self.calls.append("end_session")

    def close(self):
        self.calls.append("close")


def test_a_dry_run_calls_every_hook_and_changes_nothing(ac):
    dry = DryRun(refuses := Refuses())
    for hook in HOOKS:
        assert getattr(dry, hook)(*arguments_of(hook)) is ACCEPT
    assert dry.capabilities(ac) == ((), ())
    dry.end_session(ac)
    dry.close()
    assert refuses.calls == [*HOOKS, "capabilities", "end_session", "close"]
    assert dry.would_refuse == dict.fromkeys(HOOKS, 1)


def test_a_dry_run_of_limits(ac):
    dry = DryRun(limits := Limits({"/32": 0}))
    assert dry.validate_connect(ac)
    assert dry.would_refuse == {"validate_connect": 1}
    assert limits.refused == {"default /32": 1}


# ---- loading


@pytest.mark.parametrize(
    ("name", "implementation"),
    [
        ("p.lua", "Lua"),
        ("p", "Lua"),
        ("p.policy", "Lua"),
        ("p.sieve", "Sieve"),
        ("p.SIEVE", "Sieve"),
        ("p.siv", "Sieve"),
    ],
)
def test_the_suffix_names_the_language(tmp_path, ac, name, implementation):
    path = tmp_path / name
    path.write_text(
        'ec_disconnect 421 "no";'
        if implementation == "Sieve"
        else f"local mod = {{}}\n{LUA}\nmsys.registerModule('m', mod)"
    )
    for given in (path, str(path)):
        policy = load_policy(given)
        assert policy.implementation.startswith(implementation)
        assert not policy.validate_connect(ac)
        policy.close()


def test_options_reach_the_language(script):
    policy = load_policy(script(LUA), on_error="refuse", max_steps=1000, ffi=False)
    assert (policy.on_error, policy.ffi) == ("refuse", False)
    policy.close()
    with pytest.raises(TypeError, match="max_stepps"):
        load_policy(script(LUA), max_stepps=1000)


@pytest.mark.parametrize("name", ["policy.lua", "policy.sieve"])
def test_a_policy_that_can_not_be_loaded_is_named(tmp_path, name):
    with pytest.raises(PolicyError, match=name):
        load_policy(tmp_path / name)
    (tmp_path / name).write_text("((")
    with pytest.raises(PolicyError, match=rf"{name}:1"):
        load_policy(tmp_path / name)


def test_a_loaded_policy_is_closed_when_it_is_collected(script, monkeypatch):
    gc.collect()  # what other tests left behind
    closed = []
    close = LuaPolicy.close
    monkeypatch.setattr(LuaPolicy, "close", lambda policy: closed.append(policy.path.name) or close(policy))
    policy = load_policy(script(LUA))
    own = LuaPolicy(script(LUA))
    del policy
    gc.collect()
    assert closed == ["policy.lua"]
    own.close()
    del own
    gc.collect()
    assert len(closed) == 2


# ---- the package


def test_the_package_shows_its_names():
    assert set(inbound_audit.__all__) | {"__version__"} <= set(dir(inbound_audit))
    assert inbound_audit.__version__[0].isdigit()
    for name in inbound_audit.__all__:
        assert getattr(inbound_audit, name) is not None
    with pytest.raises(AttributeError, match="nonesuch"):
        getattr(inbound_audit, "nonesuch")  # noqa: B009


# ---- refusals of scripts


@pytest.mark.parametrize("ffi", [True, False])
def test_many_texts_of_refusals(script, ac, ffi):
    """More than are remembered, each of them twice; no control character reaches the reply."""
    body = """
    local n = 0
    function mod:validate_connect(ac, vctx)
      n = n + 1
      vctx:disconnect(400 + n % 100, "text " .. n % 700 .. "\\r\\n250 ok")
    end"""
    policy = LuaPolicy(script(body), ffi=ffi, on_error="accept")
    for n in range(1, 1_401):
        assert policy.validate_connect(ac) == Verdict(False, 400 + n % 100, f"text {n % 700} 250 ok", 0.0, True)
    policy.close()


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("421, 'x'", (421, "x")),
        ("'421', 'x'", (421, "x")),
        ("'421 x'", (421, "x")),
        ("421", (421, "refused by policy")),
        ("421, 7", (421, "7")),
        ("'go away'", (421, "go away")),
        ("-5", (421, "-5")),
        ("200, 'x'", (200, "x")),
        ("599, 'x'", (599, "x")),
        ("199, 'x'", None),
        ("600, 'x'", None),
    ],
)
def test_codes_of_refusals(script, ac, call, expected):
    policy = LuaPolicy(script(f"function mod:validate_connect(ac, vctx) return vctx:disconnect({call}) end"))
    verdict = policy.validate_connect(ac)
    if expected is None:
        assert policy.errors == 1
    else:
        assert verdict == Verdict(False, *expected, 0.0, True)
    policy.close()
