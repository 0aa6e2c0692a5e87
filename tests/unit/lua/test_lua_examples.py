"""The policies in examples/: each does what its first lines say, in every Lua."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.lua_support import KINDS, Bench
from tests.support.lua_windows import Timed, timed

from inbound_audit import LuaPolicy
from inbound_audit.policy.message import Message
from inbound_audit.policy.verdict import ACCEPT, Verdict

POLICIES = Path(__file__).parents[3] / "examples" / "policies"
DOCS = Path(__file__).parents[3] / "docs" / "policies.md"


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def over_time(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Timed]:
    yield from timed(tmp_path, request.param)


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


# ---- counts over time


@pytest.mark.parametrize(
    ("network", "host"), [("198.51.100.{}", "198.51.100.255"), ("2001:db8:1:{:x}::1", "2001:db8:1:ff::ff")]
)
def test_the_policy_of_how_often(over_time: Timed, network: str, host: str) -> None:
    """Connections that have ended count, for as long as their window is one of the last three."""
    policy = load(over_time, "frequency.lua")

    def connect(times: int) -> list[Verdict]:
        verdicts = []
        for i in range(times):
            with over_time.listener.session(network.format(i % 200)) as ac:
                verdicts.append(policy.validate_connect(ac))
        return verdicts

    assert connect(150) == [ACCEPT] * 150
    over_time.clock.seconds += 600
    assert connect(150) == [Verdict(tarpit=2.0)] * 150
    refused = Verdict(False, 421, "4.7.0 too many connections from your network, try again later", disconnect=True)
    assert connect(1) == [refused]
    assert policy.validate_connect(over_time.session(host)) == refused
    over_time.clock.seconds += 300
    assert connect(1) == [Verdict(tarpit=2.0)]
    over_time.clock.seconds += 900
    assert connect(1) == [ACCEPT]
    assert policy.errors == 0, policy.last_error


def test_the_policy_of_frequency_knows_senders_of_rejected_mail(over_time: Timed) -> None:
    policy = load(over_time, "frequency.lua")
    bad, mixed = over_time.session("192.0.2.7"), over_time.session("2001:db8::7")
    for ac in (bad, mixed):
        ac.record_rejection(49)
        assert policy.validate_connect(ac) is ACCEPT
        over_time.clock.seconds += 300
        ac.record_rejection()
    mixed.record_reception()
    assert policy.validate_connect(bad).code == 554
    assert policy.validate_connect(mixed) is ACCEPT
    over_time.clock.seconds += 1500
    assert policy.validate_connect(bad) is ACCEPT
    assert policy.errors == 0, policy.last_error


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7"])
def test_the_policy_against_guessing(over_time: Timed, host: str) -> None:
    policy = load(over_time, "guessing.lua")
    ac = over_time.session(host)
    assert policy.validate_connect(ac) is ACCEPT
    assert policy.validate_rcptto(ac, "Sales@example.org", Message()) is ACCEPT
    unknown = [policy.validate_rcptto(ac, f"{i}@example.org", Message()) for i in range(1, 10)]
    assert [(verdict.code, verdict.tarpit) for verdict in unknown] == [(550, float(i)) for i in range(1, 10)]
    assert policy.validate_connect(ac) is ACCEPT
    assert policy.validate_rcptto(ac, "x@example.org", Message()).tarpit == 10.0
    over_time.clock.seconds += 600
    with over_time.listener.session(host) as again:
        assert policy.validate_connect(again).code == 421
    assert policy.validate_connect(over_time.session("192.0.2.8")) is ACCEPT
    assert policy.validate_data_spool(ac, Message(rcptto=["sales@example.org"])) is ACCEPT
    assert policy.validate_connect(ac) is ACCEPT
    assert policy.errors == 0, policy.last_error


def test_the_policy_against_guessing_counts_by_the_senders_domain(over_time: Timed) -> None:
    policy = load(over_time, "guessing.lua")
    for sender in ("a@Example.com", "b@example.com") * 500:
        with over_time.listener.session("192.0.2.7") as ac:
            assert policy.validate_mailfrom(ac, sender) is ACCEPT
            policy.validate_data_spool(ac, Message())
            policy.end_session(ac)
    ac = over_time.session("198.51.100.1")
    refused = policy.validate_mailfrom(ac, "c@EXAMPLE.com")
    assert refused == Verdict(False, 451, "4.7.1 example.com has sent enough for this hour")
    assert policy.validate_mailfrom(ac, "c@example.net") is ACCEPT
    assert policy.validate_mailfrom(ac, "") is ACCEPT
    over_time.clock.seconds += 4200
    assert policy.validate_mailfrom(ac, "c@example.com") is ACCEPT
    assert policy.errors == 0, policy.last_error


@pytest.mark.skipif(not DOCS.exists(), reason="the documentation is not installed with the package")
def test_the_policy_over_time_of_the_documentation(over_time: Timed) -> None:
    blocks = re.findall(r"```lua\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (script,) = [block for block in blocks if "audit_series" in block]
    policy = over_time.policy(script)
    ac = over_time.session("192.0.2.7")
    assert policy.validate_connect(ac) is ACCEPT
    assert [policy.validate_rcptto(ac, f"{i}@example.net", Message()) for i in range(3)] == [ACCEPT] * 3
    policy.end_session(ac)
    ac = over_time.session("192.0.2.7")
    assert policy.validate_connect(ac) == Verdict(tarpit=1.0)
    policy.validate_rcptto(ac, "x@example.net", Message())
    assert policy.validate_connect(ac) == Verdict(tarpit=2.0)
    policy.validate_data_spool(ac, Message(rcptto=["x@example.net"]))
    assert policy.validate_connect(ac) is ACCEPT
    verdicts = [policy.validate_ehlo(ac, name) for name in ("mx", "MX") * 501]
    assert verdicts[:1000] == [ACCEPT] * 1000
    assert verdicts[1000] == Verdict(False, 554, "5.7.1 mx is the name of too many", disconnect=True)
    assert verdicts[1001].text == "5.7.1 MX is the name of too many"
    for i in range(500):
        over_time.listener.session(f"192.0.2.{i % 250}").close()
    assert policy.validate_connect(ac).code == 421
    assert policy.errors == 0, policy.last_error
