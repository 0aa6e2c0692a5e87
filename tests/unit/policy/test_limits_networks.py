"""Named networks, totals and the exempt: whose sessions count in which limit."""

from __future__ import annotations

import ipaddress
import threading

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.support.gold import unmapped
from tests.support.gold_limits import GoldLimits, opened
from tests.support.strategies import addresses, length_for

from inbound_audit import InboundAudit, Limits
from inbound_audit.errors import PolicyError


class Bench:
    """An audit and its open sessions."""

    def __init__(self):
        self.audit = InboundAudit()
        self.kept = []

    def open(self, remote, service="SMTP", listener="mx"):
        self.kept.append(self.audit.listener(service, listener).session(remote))
        return self.kept[-1]

    def fill(self, remotes, **where):
        return [self.open(remote, **where) for remote in remotes]

    def close(self):
        for session in self.kept:
            session.close()
        self.audit.close()


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.close()


# ---- whose sessions count


@pytest.mark.parametrize("apart", [{"networks": {"trusted": {"prefixes": ["10.0.0.0/8"], "limits": {"/8": 5}}}},
                                   {"networks": {"trusted": {"prefixes": ["10.0.0.0/8"], "total": 5}}},
                                   {"networks": {"t": {"prefixes": ["10.0.0.0/9", "10.128.0.0/9"], "limits": {}}}},
                                   {"exempt": ["10.0.0.0/8"]}],
                         ids=["limits", "total", "no limits", "exempt"])  # fmt: skip
def test_sessions_of_another_network_use_up_nothing(bench, apart):
    limits = Limits({"/0": 3}, **apart)
    assert all(map(limits.validate_connect, bench.fill(f"10.0.0.{i}" for i in range(5))))
    strangers = bench.fill(["192.0.2.1", "198.51.100.1", "203.0.113.1"])
    assert all(map(limits.validate_connect, strangers))
    assert not limits.validate_connect(bench.open("192.0.2.2"))
    assert limits.refused == {"default /0": 1}


def test_strangers_use_up_nothing_of_a_named_network(bench):
    limits = Limits({"/0": 100}, networks={"partner": {"prefixes": ["10.0.0.0/8"], "limits": {"/0": 2, "/4": 2}}})
    bench.fill(["192.0.2.1"] * 9 + ["11.0.0.1"] * 9)
    assert all(map(limits.validate_connect, bench.fill(["10.0.0.1", "10.1.0.1"])))
    assert not limits.validate_connect(bench.open("10.2.0.1"))
    assert limits.refused == {"partner /0": 1}


def test_one_total_over_several_blocks_of_both_families(bench):
    blocks = ["192.0.2.0/24", "198.51.100.0/24", "2001:db8::/32"]
    limits = Limits({"/32": 1}, networks={"partner": {"prefixes": blocks, "limits": {"/32": 2}, "total": 4}})
    partner = bench.fill(["192.0.2.1", "192.0.2.2", "198.51.100.1", "2001:db8::1"])
    bench.fill(["203.0.113.1"] * 3)
    assert all(map(limits.validate_connect, partner))
    over = bench.open("2001:db8:1::1")
    assert not limits.validate_connect(over)
    assert not limits.validate_connect(partner[0])
    assert limits.refused == {"partner total": 2}
    over.close()
    assert all(map(limits.validate_connect, partner))


def test_a_total_of_a_listener(bench):
    """Every session of the listener counts, of any network; another listener has a total of its own."""
    limits = Limits(
        {}, listener_total=3, exempt=["127.0.0.1"], networks={"p": {"prefixes": ["10.0.0.0/8"], "total": 9}}
    )
    bench.fill(["192.0.2.1"] * 5, listener="submission")
    first = bench.fill(["10.0.0.1", "2001:db8::1", "127.0.0.1"])
    assert all(map(limits.validate_connect, first))
    assert not limits.validate_connect(bench.open("192.0.2.1"))
    assert not limits.validate_connect(bench.open("10.0.0.2"))
    assert limits.validate_connect(bench.open("127.0.0.1"))  # exempt: counted, and never refused
    assert limits.refused == {"listener total": 2}
    with Bench().audit as other, other.listener("SMTP", "mx").session("192.0.2.1") as alone:
        assert limits.validate_connect(alone)


def test_nested_networks(bench):
    """The longest prefix decides, also where the default lies again within a network."""
    networks = {
        "partner": {"prefixes": ["10.0.0.0/8"], "limits": {"/8": 2}},
        "lab": {"prefixes": ["10.1.0.0/16", "10.2.0.0/16"], "limits": {"/0": 3}},
        "host": {"prefixes": ["10.1.2.3"], "limits": {"/32": 1}},
    }
    limits = Limits({"/0": 1}, exempt=["10.1.9.0/24"], networks=networks)
    assert all(map(limits.validate_connect, bench.fill(["10.1.0.1", "10.1.0.2", "10.2.0.1"])))  # lab
    assert all(map(limits.validate_connect, bench.fill(["10.0.0.1", "10.9.0.1"])))  # partner
    assert all(map(limits.validate_connect, bench.fill(["10.1.9.1"] * 4)))  # exempt
    assert limits.validate_connect(bench.open("10.1.2.3"))
    assert limits.validate_connect(bench.open("192.0.2.1"))
    refused = ["10.2.0.2", "10.255.0.1", "10.1.2.3", "192.0.2.2"]
    assert not any(map(limits.validate_connect, bench.fill(refused)))
    assert limits.refused == {"lab /0": 1, "partner /8": 1, "host /32": 1, "default /0": 1}


def test_the_whole_family_as_a_network(bench):
    limits = Limits({"/0": 0}, networks={"all": {"prefixes": ["0.0.0.0/0"], "limits": {"/0": 1}, "total": 2}})
    assert limits.validate_connect(bench.open("192.0.2.1"))
    assert not limits.validate_connect(bench.open("192.0.2.2"))
    assert not limits.validate_connect(bench.open("2001:db8::1"))
    assert limits.refused == {"all /0": 1, "default /0": 1}


def test_a_dry_run_counts_every_kind(bench):
    limits = Limits(
        {"/32": 1}, networks={"p": {"prefixes": ["10.0.0.0/8"], "total": 1}}, listener_total=3, dry_run=True
    )
    assert all(map(limits.validate_connect, bench.fill(["192.0.2.1"] * 2 + ["10.0.0.1"] * 2 + ["198.51.100.1"])))
    assert (limits.would_refuse, limits.refused) == ({"default /32": 2, "p total": 2, "listener total": 1}, {})


def test_other_services_count_on_their_own(bench):
    limits = Limits({"/0": 1}, networks={"p": {"prefixes": ["10.0.0.0/8"], "total": 1}})
    bench.fill(["10.0.0.1", "192.0.2.1"], service="IMAP")
    assert all(map(limits.validate_connect, bench.fill(["10.0.0.1", "192.0.2.1"])))


prefixes = addresses.map(unmapped).flatmap(
    lambda a: length_for(a).map(lambda n: str(ipaddress.ip_network((a, n), strict=False)))
)
keys = st.one_of(
    st.integers(0, 128).map(lambda n: f"/{n}"),
    st.tuples(st.integers(0, 32), st.integers(0, 128)).map("/{0[0]},/{0[1]}".format),
)
tables = st.dictionaries(keys, st.integers(0, 4), max_size=20)
networks_drawn = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.fixed_dictionaries(
        {
            "prefixes": st.lists(prefixes, min_size=1, max_size=5),
            "limits": tables,
            "total": st.none() | st.integers(0, 5),
        }
    ),
    max_size=3,
)
wheres = st.tuples(st.sampled_from(["SMTP", "IMAP"]), st.sampled_from(["mx", "submission"]))


@given(
    tables,
    st.lists(prefixes, max_size=3),
    networks_drawn,
    st.none() | st.integers(0, 6),
    st.lists(st.tuples(addresses, wheres), max_size=25),
)
@example({"/0": 1}, [], {"a": {"prefixes": ["0.0.0.0/0", "0.0.0.0/1", "0.0.0.0/2"], "limits": {"/0": 0}, "total": None}
                         }, None, [("10.0.0.0", ("SMTP", "mx")), ("128.0.0.0", ("SMTP", "mx"))])  # fmt: skip
@example({"/0": 1}, ["255.255.255.255/32", "ff00::/8"], {}, None, [("255.255.255.255", ("SMTP", "mx"))] * 3)
def test_as_the_gold_model_says(table, exempt, networks, total, remotes):
    listed = [
        {ipaddress.ip_network(p, strict=False) for p in ps}
        for ps in [exempt, *(n["prefixes"] for n in networks.values())]
    ]
    if sum(map(len, listed)) > len(set().union(*listed)):
        with pytest.raises(PolicyError, match="list it once"):
            Limits(table, exempt=exempt, networks=networks, listener_total=total)
        return
    if not (table or total is not None or any(n["limits"] or n["total"] is not None for n in networks.values())):
        with pytest.raises(PolicyError, match="nothing is limited"):
            Limits(table, exempt=exempt, networks=networks, listener_total=total)
        return
    limits = Limits(table, exempt=exempt, networks=networks, listener_total=total)
    gold = GoldLimits(table, exempt, networks, total)
    bench = Bench()
    try:
        pairs = []
        for remote, where in remotes:
            one = opened(remote, *where)
            gold.open[one] += 1
            pairs.append((bench.open(remote, *where), one))
            assert bool(limits.validate_connect(pairs[-1][0])) == gold.validate_connect(one)
        while pairs:
            for ac, one in pairs:
                assert bool(limits.validate_connect(ac)) == gold.validate_connect(one)
            ac, one = pairs.pop()
            ac.close()
            gold.open[one] -= 1
        assert limits.refused == +gold.refused
    finally:
        bench.close()


def test_many_listed_prefixes(bench):
    """Thousands of prefixes: the default's own sessions are found among those of all others."""
    listed = [f"10.{i >> 8}.{i & 255}.0/25" for i in range(5_000)]
    limits = Limits({"/0": 2, "/24": 1}, networks={"many": {"prefixes": listed, "total": 5_000}})
    assert all(map(limits.validate_connect, bench.fill(f"10.{i >> 8}.{i & 255}.1" for i in range(5_000))))
    assert limits.validate_connect(bench.open("10.0.0.200"))
    assert limits.validate_connect(bench.open("10.0.1.200"))
    assert not limits.validate_connect(bench.open("10.0.1.201"))
    assert not limits.validate_connect(bench.open("10.0.2.200"))
    assert not limits.validate_connect(bench.open("10.0.2.1"))
    assert limits.refused == {"default /0": 2, "many total": 1}


def test_sessions_that_come_and_go_elsewhere_never_open_a_gap():
    """The sum over a tree is of one moment: a stranger over the limit stays refused, whoever comes and goes."""
    limits = Limits({"/0": 2}, networks={"trusted": {"prefixes": ["10.0.0.0/8", "10.7.0.0/16"], "total": 1 << 30}})
    with InboundAudit() as audit:
        listener = audit.listener()
        strangers = [listener.session(f"192.0.2.{i}") for i in range(3)]
        stop = threading.Event()

        def churn(third):
            while not stop.is_set():
                kept = [listener.session(f"10.{i}.{third}.1") for i in range(50)]
                for session in kept:
                    session.close()

        threads = [threading.Thread(target=churn, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        try:
            verdicts = [bool(limits.validate_connect(strangers[i % 3])) for i in range(20_000)]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            for session in strangers:
                session.close()
        assert not any(verdicts)


# ---- the options of the command line


def test_options_say_the_same(bench):
    limits = Limits.from_options(
        {"/32": 1, "total": 5, "partner:/24": 2, "partner:total": 3},
        {"partner": ["10.0.0.0/16", "10.1.0.0/16"]},
        exempt=["127.0.0.1"],
        dry_run=True,
    )
    assert limits.describe() == "/32=1 partner:/24=2 partner:total=3 total=5"
    remotes = ["192.0.2.1", "10.0.0.1", "10.0.0.2", "10.1.0.1", "127.0.0.1"]
    assert all(map(limits.validate_connect, bench.fill(remotes)))
    assert not limits.would_refuse
    bench.open("192.0.2.1")
    over = bench.fill(["192.0.2.1", "10.0.0.3", "10.1.0.2", "198.51.100.1", "127.0.0.1"])
    assert all(map(limits.validate_connect, over))
    assert limits.would_refuse == {"default /32": 1, "partner /24": 1, "partner total": 1, "listener total": 1}


def test_options_without_a_default_keep_the_stock_policy():
    limits = Limits.from_options({"a:total": 3}, {"a": ["10.0.0.0/8"]})
    assert limits.describe() == "/32,/64=10 /24,/48=100 /0=20000 a:total=3"
    assert Limits.from_options(None, {}).describe() == Limits().describe() == "/32,/64=10 /24,/48=100 /0=20000"


# ---- mistakes


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"limits": {}}, "nothing is limited"),
        ({"limits": {}, "exempt": ["10.0.0.0/8"]}, "nothing is limited"),
        ({"limits": {}, "networks": {"a": {"prefixes": ["::/0"], "limits": {}}}}, "nothing is limited"),
        ({"limits": {}, "networks": {"a": {"prefixes": ["::/0"], "total": None}}}, "network 'a': has no limits"),
        ({"networks": {"a": {"prefixes": [], "limits": {"/32": 1}}}}, "network 'a'.*no prefixes"),
        ({"networks": {"a": {"prefixes": ["::/0"], "limts": {"/32": 1}}}}, "'limts'; did you mean 'limits'"),
        ({"networks": {"a": {"prefix": ["::/0"], "limits": {"/32": 1}}}}, "'prefix'; did you mean 'prefixes'"),
        ({"networks": {"a": {"prefixes": ["::/0"], "Total": 1}}}, "'Total'; did you mean 'total'"),
        ({"networks": {"a": {"prefixes": ["::/0"], 7: 1}}}, "unknown key 7 "),
        ({"networks": {"a": {"limits": {"/32": 1}}}}, "network 'a'.*'prefixes'"),
        ({"networks": {"a": {"prefixes": ["::/0"], "total": -1}}}, "network 'a': total: -1"),
        ({"networks": {"a": {"prefixes": ["::/0"], "total": True}}}, "network 'a': total: True"),
        ({"networks": {"a": {"prefixes": ["::/0"], "total": "5"}}}, "network 'a': total: '5'"),
        ({"networks": {"a": {"prefixes": ["::/0"], "total": 2**63}}}, "network 'a': total: 9223372036854775808"),
        ({"listener_total": -1}, "listener_total: -1"),
        ({"listener_total": 1.5}, "listener_total: 1.5"),
        ({"listener_total": "all"}, "listener_total: 'all'"),
    ],
)
def test_a_mistake_is_named(arguments, named):
    with pytest.raises(PolicyError, match=named):
        Limits(**arguments)


@pytest.mark.parametrize(("keyword", "near"), [("exmpt", "exempt"), ("network", "networks"), ("dryrun", "dry_run"),
                                               ("listener_totals", "listener_total"), ("Code", "code")])  # fmt: skip
def test_an_unknown_keyword_names_the_nearest(keyword, near):
    with pytest.raises(TypeError, match=rf"'{keyword}'.*did you mean '{near}'"):
        Limits({"/32": 1}, **{keyword: 1})
