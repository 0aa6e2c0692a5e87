"""The policies in examples/: each does what its first lines say, in every Lua."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.lua_support import KINDS, Bench, bench_of

from inbound_audit import LuaPolicy
from inbound_audit.verdict import ACCEPT, Message, Verdict

POLICIES = Path(__file__).parents[1] / "examples" / "policies"
DOCS = Path(__file__).parents[1] / "docs" / "policies.md"


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    yield from bench_of(tmp_path, request.param)


def load(bench: Bench, name: str) -> LuaPolicy:
    policy = LuaPolicy(POLICIES / name, **bench.kind._asdict())
    bench.policies.append(policy)
    return policy


def let_in(bench: Bench, policy: LuaPolicy, hosts: list[str]) -> int:
    """How many sessions are let in; those that are not are closed."""
    accepted = 0
    for host in hosts:
        ac = bench.listener.session(host)
        if policy.validate_connect(ac):
            bench.sessions.append(ac)
            accepted += 1
        else:
            ac.close()
    assert policy.errors == 0, policy.last_error
    return accepted


def test_every_example_loads(bench: Bench) -> None:
    for path in sorted(POLICIES.glob("*.lua")):
        load(bench, path.name)


@pytest.mark.parametrize(
    ("host", "network"),
    [("198.51.100.1", "198.51.100.{}"), ("2001:db8:1:2::1", "2001:db8:1:{:x}::1")],
)
def test_the_stock_policy(bench: Bench, host: str, network: str) -> None:
    policy = load(bench, "stock.lua")
    assert let_in(bench, policy, [host] * 12) == 10
    assert let_in(bench, policy, [network.format(i) for i in range(3, 200)]) == 90
    refused = policy.validate_connect(bench.session(host))
    assert refused == Verdict(False, 421, "connection limit exceeded", disconnect=True)


@pytest.mark.skipif(not DOCS.exists(), reason="the documentation is not installed with the package")
def test_the_policy_of_the_documentation(bench: Bench) -> None:
    text = DOCS.read_text()
    script = next(block for block in re.findall(r"```lua\n(.*?)```", text, re.DOTALL) if "registerModule" in block)
    policy = bench.policy(script)
    assert let_in(bench, policy, ["192.0.2.7"] * 12 + ["2001:db8::7"] * 12) == 20


def test_the_stock_policy_and_its_whitelist(bench: Bench) -> None:
    policy = load(bench, "stock.lua")
    assert let_in(bench, policy, ["192.0.2.1"] * 50 + ["2001:db8::1"] * 50) == 100
    assert let_in(bench, policy, ["192.0.2.13"] * 50) == 10


def test_the_training_policy(bench: Bench) -> None:
    policy = load(bench, "training.lua")
    for host in ("192.0.2.7", "2001:db8::7"):
        first = bench.session(host)
        assert policy.validate_connect(first) is ACCEPT
        with bench.listener.session(host) as second:
            refused = policy.validate_connect(second)
        assert refused == Verdict(False, 421, f"4.7.1 {host}: 1 of 1 sessions are open", disconnect=True)
        first.close()
        assert policy.validate_connect(bench.session(host)) is ACCEPT


def test_the_policy_of_all_stages(bench: Bench) -> None:
    policy = load(bench, "stages.lua")
    ac = bench.session("192.0.2.7")
    assert policy.validate_connect(ac) is ACCEPT
    assert policy.capabilities(ac) == (("SIZE 31457280",), ())
    assert policy.validate_ehlo(ac, "client.example.org") is ACCEPT
    assert policy.validate_ehlo(ac, "MX.example.org") == Verdict(
        False, 554, "5.7.1 MX.example.org is us, and you are 192.0.2.7", disconnect=True
    )
    for _ in range(2):
        assert policy.validate_mailfrom(ac, "a@example.org") is ACCEPT
        verdicts = [policy.validate_rcptto(ac, f"{i}@example.net", Message()) for i in range(101)]
        assert verdicts == [ACCEPT] * 100 + [Verdict(False, 452, "4.5.3 too many recipients")]
    assert policy.validate_data(ac, Message(size=31457280)) is ACCEPT
    assert policy.validate_data(ac, Message(size=31457281)).code == 552
    for i in range(24):
        bench.session(f"192.0.2.{i}")
    assert policy.validate_connect(ac) == Verdict(tarpit=1.0)
    policy.end_session(ac)
    assert (policy.sessions, policy.errors) == (0, 0)
