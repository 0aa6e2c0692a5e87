"""`Limits`: the built-in policy, and what its configuration refuses."""

from __future__ import annotations

import doctest
import itertools
import json
import os
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.gold import GoldCounter
from tests.support.sharing import file_of
from tests.support.strategies import addresses

import inbound_audit.policy.limits
from inbound_audit import InboundAudit, Limits, Session, Verdict
from inbound_audit._ipcount import LimitTables
from inbound_audit.errors import PolicyError

kept: list[Session] = []


@pytest.fixture
def smtp():
    with InboundAudit() as audit:
        yield audit.listener("SMTP", name="mx")
    kept.clear()  # the audit is closed, so that none of them is left open


def opened(listener, remotes):
    sessions = [listener.session(remote) for remote in remotes]
    kept.extend(sessions)
    return sessions


def test_the_count_includes_the_session_that_asks(smtp):
    """The reference's training policy: with a most of 1 the first passes and the second does not."""
    limits = Limits({"/32": 1})
    first, second = opened(smtp, ["192.0.2.7"] * 2)
    assert not limits.validate_connect(second)
    second.close()
    assert limits.validate_connect(first)
    assert limits.refused == {"default /32": 1}


def test_an_explanation_is_of_the_last_question(smtp):
    limits = Limits({"/32": 1})
    limits.explains = True
    first, second = opened(smtp, ["192.0.2.7"] * 2)
    assert not limits.validate_connect(second)
    first.close()
    assert limits.validate_connect(second)
    assert limits.explain(second) is None
    (third,) = opened(smtp, ["192.0.2.7"])
    assert limits.validate_connect(third) is limits.refusal
    smtp.audit.deny("192.0.2.7")
    assert limits.validate_connect(third) is limits.denial
    assert limits.explain(third) is None


def test_a_refusal_says_what_the_reference_says(smtp):
    (ac,) = opened(smtp, ["192.0.2.7"])
    verdict = Limits({"/32": 0}).validate_connect(ac)
    assert verdict == Verdict(accepted=False, code=421, text="connection limit exceeded", tarpit=0.0, disconnect=True)
    assert not verdict
    verdict = Limits({"/32": 0}, code=554, text="5.7.1 too many").validate_connect(ac)
    assert (verdict.code, verdict.text) == (554, "5.7.1 too many")


@pytest.mark.parametrize(
    ("remote", "most"), [("192.0.2.{}", 100), ("192.0.2.7", 10), ("2001:db8::{}", 10), ("2001:db8:0:{}::1", 100)]
)
def test_the_stock_policy(smtp, remote, most):
    limits = Limits()
    sessions = opened(smtp, [remote.format(i) for i in range(most + 1)])
    assert not limits.validate_connect(sessions[-1])
    sessions.pop().close()
    assert all(limits.validate_connect(ac) for ac in sessions)


def test_the_stock_policy_s_total(smtp):
    limits = Limits()
    sessions = opened(smtp, [f"10.{i % 200}.{i // 200}.1" for i in range(20_001)])
    assert not limits.validate_connect(sessions[0])
    assert limits.refused == {"default /0": 1}
    sessions[1].close()
    assert limits.validate_connect(sessions[0])
    assert limits.validate_connect(opened(smtp, ["2001:db8::1"])[0])  # the other family has a total of its own


@pytest.mark.parametrize(
    ("key", "v4", "v6"),
    [("/24", 24, 24), ("/32", 32, 128), ("/24,/56", 24, 56), ("/64", None, 64), ("/0", 0, 0), ("/0,/0", 0, 0),
     ("/128", None, 128), ("/32,/32", 32, 32)],
)  # fmt: skip
def test_a_length_means_what_it_means_in_a_count(smtp, key, v4, v6):
    limits = Limits({key: 1})
    for length, one, near in ((v4, "192.0.2.7", f"192.0.2.{7 ^ 1}"), (v6, "2001:db8::7", "2001:db8::6")):
        sessions = opened(smtp, [one, near])
        width = 32 if "." in one else 128
        assert bool(limits.validate_connect(sessions[0])) == (length is None or length == width)
        for session in sessions:
            session.close()


def test_counts_are_of_the_session_s_own_service(smtp):
    limits = Limits({"/32": 1})
    imap = smtp.audit.listener("IMAP")
    sessions = opened(smtp, ["192.0.2.7"]) + opened(imap, ["192.0.2.7"])
    assert all(limits.validate_connect(ac) for ac in sessions)
    (other,) = opened(smtp.audit.listener("SMTP", name="submission"), ["192.0.2.7"])
    assert not limits.validate_connect(other)  # a service is the sum of its listeners


def test_the_exempt_are_not_limited(smtp):
    limits = Limits({"/32": 0, "/0": 0}, exempt=["192.0.2.0/24", "2001:db8::/32", "::ffff:198.51.100.7"])
    exempt = opened(smtp, ["192.0.2.7", "2001:db8::7", "198.51.100.7", "::ffff:192.0.2.1"])
    assert all(limits.validate_connect(ac) for ac in exempt)
    assert not any(limits.validate_connect(ac) for ac in opened(smtp, ["192.0.3.1", "2001:db9::1", "198.51.100.8"]))


def test_named_networks_have_limits_of_their_own(smtp):
    limits = Limits(
        {"/32": 1},
        exempt=["192.0.2.8"],
        networks={
            "partner": {"prefixes": ["192.0.2.0/24", "2001:db8::/32"], "limits": {"/32": 2}},
            "its lab": {"prefixes": ["192.0.2.128/25"], "limits": {}},
            "shut": {"prefixes": ["203.0.113.0/24"], "limits": {"/0": 0}},
        },
    )
    partner = opened(smtp, ["192.0.2.7"] * 2)
    assert all(limits.validate_connect(ac) for ac in partner)
    assert not limits.validate_connect(opened(smtp, ["192.0.2.7"])[0])
    assert all(limits.validate_connect(ac) for ac in opened(smtp, ["192.0.2.200"] * 5 + ["192.0.2.8"] * 5))
    assert not limits.validate_connect(opened(smtp, ["203.0.113.1"])[0])
    assert not limits.validate_connect(opened(smtp, ["198.51.100.1"] * 2)[0])
    assert limits.refused == {"partner /32": 1, "shut /0": 1, "default /32": 1}


def test_a_dry_run_counts_and_lets_in(smtp):
    limits = Limits({"/32": 1}, dry_run=True)
    sessions = opened(smtp, ["192.0.2.7"] * 3)
    assert all(limits.validate_connect(ac) for ac in sessions)
    assert limits.would_refuse == {"default /32": 3}
    assert not limits.refused


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"limits": {"24": 1}}, "'24'"),
        ({"limits": {"/129": 1}}, "'/129'"),
        ({"limits": {"/33,/64": 1}}, "'/33,/64'"),
        ({"limits": {"/24,": 1}}, "'/24,'"),
        ({"limits": {"/24,/56,/64": 1}}, "'/24,/56,/64': is not a prefix length such as '/24'"),
        ({"limits": {"/24/56": 1}}, "'/24/56': is not a prefix length such as '/24'"),
        ({"limits": {"/-1": 1}}, "'/-1'"),
        ({"limits": {"/\u0662": 1}}, "limit"),
        ({"limits": {"192.0.2.0/24": 1}}, "'192.0.2.0/24'"),
        ({"limits": {24: 1}}, "24"),
        ({"limits": {"/24": -1}}, "-1"),
        ({"limits": {"/24": "ten"}}, "'ten'"),
        ({"limits": {"/24": 1.5}}, "1.5"),
        ({"limits": {"/24": True}}, "True"),
        ({"limits": {"/24": 2**63}}, "9223372036854775808"),
        ({"limits": {"/" + "1" * 5000: 1}}, "limit '/111"),
        ({"limits": [("/24", 1)]}, "not a mapping"),
        ({"limits": "/24=1"}, "not a mapping"),
        ({"exempt": ["192.0.2.0/33"]}, "'192.0.2.0/33'"),
        ({"exempt": ["/24"]}, "'/24'"),
        ({"exempt": ["mail.example.org"]}, "'mail.example.org'"),
        ({"exempt": [7]}, "7"),
        ({"exempt": "192.0.2.0/24"}, "not a list"),
        ({"networks": {"a": {"prefixes": ["x"], "limits": {}}}}, "'x'"),
        ({"networks": {"a": {"prefixes": ["::/0"], "limits": {"56": 1}}}}, "network 'a'.*'56'"),
        ({"networks": {"a": {"prefixes": "::/0", "limits": {}}}}, "network 'a'"),
        ({"networks": {"a": {"prefixes": ["::/0"]}}}, "network 'a'"),
        ({"networks": {"a": {"prefixes": ["::/0"], "limits": {}, "colour": 1}}}, "network 'a'"),
        ({"networks": {"a": ["::/0"]}}, "network 'a'"),
        ({"networks": {"a": {"prefixes": ["::/0"], "limits": 5}}}, "network 'a'"),
        ({"networks": ["::/0"]}, "networks"),
        ({"networks": {"a": {"limits": {}}}}, "network 'a'.*prefixes"),
        ({"networks": {"a": {"prefixes": ["::/0"], "total": None}}}, "network 'a'.*'total'"),
        ({"networks": {"default": {"prefixes": ["::/0"], "total": 1}}}, "'default'.*another name"),
        ({"networks": {"listener": {"prefixes": ["::/0"], "total": 1}}}, "'listener'.*another name"),
        ({"networks": {7: {"prefixes": ["::/0"], "total": 1}}}, "7.*another name"),
        (
            {"networks": {name: {"prefixes": [net], "total": 1} for name, net in [("a", "::1"), ("b", "[::1]/128")]}},
            r"network 'b': '\[::1\]/128' is listed in network 'a', too",
        ),
        (
            {"exempt": ["192.0.2.1/24"], "networks": {"a": {"prefixes": ["192.0.2.9/24"], "total": 1}}},
            "network 'a': '192.0.2.9/24' is listed in exempt, too",
        ),
        ({"code": 250}, "code 250"),
        ({"code": 999}, "code 999"),
        ({"code": "421"}, "code '421'"),
        ({"text": None}, "text None"),
    ],
)
def test_a_bad_entry_is_named(arguments, named):
    with pytest.raises(PolicyError, match=named):
        Limits(**arguments)


def network_of(number):
    return f"10.{number >> 8 & 255}.{number & 255}.{number >> 16}"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"exempt": map(network_of, itertools.count())}, "exempt: has more than 65536 prefixes"),
        (
            {"networks": {str(n): {"prefixes": [network_of(m + n * 33_000) for m in range(33_000)], "total": 1}
                          for n in range(2)}},
            "networks: have more than 65536 prefixes",
        ),
        ({"networks": {str(n): {"prefixes": [network_of(n)], "total": 1} for n in range(1025)}}, "or 1024 limits"),
        ({"exempt": ["192.0.2.0/" + "1" * 100_000]}, "192.0.2.0/111"),
        ({"exempt": [":" * 100_000]}, ":::"),
        ({"limits": {"/24" + "," * 100_000: 1}}, "/24,,,"),
        ({"limits": {"/24": 10**5000}}, "is not a number of sessions"),
    ],
    ids=range(7),
)  # fmt: skip
def test_a_configuration_has_bounds(arguments, named):
    with pytest.raises(PolicyError, match=named):
        Limits(**arguments)


def test_prefixes_that_hold_one_another_may_be_all_lengths():
    networks = {str(n): {"prefixes": [f"2001:db8:ffff::/{n}"], "total": 1} for n in range(129)}
    with InboundAudit() as audit, audit.listener().session("2001:db8:ffff::") as ac:
        assert Limits(networks=networks).validate_connect(ac)


@given(
    st.lists(addresses, max_size=30),
    st.dictionaries(st.integers(0, 32), st.integers(0, 6), min_size=1, max_size=33),
    st.integers(1, 3),
)
def test_as_the_gold_model_says(remotes, table, listeners):
    audit, gold, refused = InboundAudit(), GoldCounter(), Counter()
    limits = Limits({f"/{length}": most for length, most in table.items()})
    for number, remote in enumerate(remotes):
        (ac,) = opened(audit.listener(name=str(number % listeners)), [remote])
        gold.add(remote)
        widths = {length: 128 if length == 32 and ac.version == 6 else length for length in table}
        over = [length for length, most in table.items() if gold.count(f"{ac.remote_ip}/{widths[length]}") > most]
        assert bool(limits.validate_connect(ac)) == (not over)
        refused.update(f"default /{length}" for length in over[:1])
    assert limits.refused == refused
    audit.close()
    kept.clear()


LIMITS_OF_ONE_FAMILY = [
    ({"/64": 0}, "192.0.2.1", True),
    ({"/64": 0, "/32": 1}, "192.0.2.1", True),
    ({"/64": 0, "/0": 0}, "192.0.2.1", False),
    ({"/64": 0}, "2001:db8::1", False),
    ({"/32,/64": 1, "/24,/48": 1}, "2001:db8::1", True),
]


@pytest.mark.parametrize(("table", "remote", "within"), LIMITS_OF_ONE_FAMILY)
def test_beside_a_writer_that_was_stopped_the_verdict_is_the_same(table, remote, within):
    """Each time it has stopped in another update, so that the walk that answers all limits together answers none."""
    limits = Limits(table)
    with InboundAudit(shared="mail", capacity=1 << 22) as audit, audit.listener().session(remote) as ac:
        file = file_of(os.getpid())
        assert bool(limits.validate_connect(ac)) == within
        for stopped in range(1, 6, 2):
            file.set_seq(file.seq() + (2 if stopped > 1 else 1))
            assert [bool(limits.validate_connect(ac)) for _ in range(2)] == [within] * 2
        file.set_seq(file.seq() + 1)
        file.close()


def test_a_table_is_for_the_cluster_as_a_whole():
    rows = [("a", "prefix", 32, 128, 1, "", 0, None), ("b", "cluster prefix", 24, 64, 1, "", 0, None)]
    with pytest.raises(ValueError, match="some prefix limits of one network are for the cluster"):
        LimitTables()._configure([rows], [], 0, True, False, False)


def test_examples_in_docstrings():
    assert doctest.testmod(inbound_audit.policy.limits).failed == 0


def test_limits_are_made_again_from_their_arguments_as_json() -> None:
    table = {"/32,/64": (10, "300/5m"), "/8": "9 then deny for 1h"}
    networks = {"partner": {"prefixes": ("192.0.2.0/24", "2001:db8::/32"), "limits": {"/24": 5}, "total": [7, "8/1h"]}}
    made = Limits(table, exempt=["::1"], networks=networks, listener_total=3, cluster=True)
    again = Limits(**json.loads(json.dumps(made.arguments)))
    assert again.describe() == made.describe()
    assert again.arguments == json.loads(json.dumps(made.arguments))
    assert Limits().describe() == Limits(**Limits().arguments).describe()
