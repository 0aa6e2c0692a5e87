"""How full a limit is: its fullest prefixes, and what is over it, against loops over all sessions and events."""

from __future__ import annotations

import ipaddress
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.gold import unmapped
from tests.support.gold_limits import GoldEvents, GoldLimits, opened, rate
from tests.support.strategies import addresses, length_for
from tests.support.timing import Clock

from inbound_audit import InboundAudit, Limits
from inbound_audit.errors import UnknownServiceType
from inbound_audit.policy.rates import Rate

ENOUGH = 1 << 20
keys = st.one_of(
    st.integers(0, 128).map("/{}".format),
    st.tuples(st.integers(0, 32), st.integers(0, 128)).map("/{0[0]},/{0[1]}".format),
)
values = st.sampled_from([0, 1, 3, "0/10s", "2/1m", "1 rejections/1m"])
tables = st.dictionaries(keys, values, min_size=1, max_size=3)
networks_drawn = st.fixed_dictionaries(
    {"prefixes": st.just(["10.0.0.0/9", "2001:db8::/33", "0.0.0.0/1"]), "limits": tables, "total": st.none() | values}
)
exempt_drawn = addresses.map(unmapped).flatmap(
    lambda a: length_for(a).map(lambda n: str(ipaddress.ip_network((a, n), strict=False)))
)
near = st.builds(lambda n: str(ipaddress.IPv4Address(0x0A7FFFF0 + n)), st.integers(0, 40))
clients = st.lists(st.tuples(addresses | near, st.sampled_from(["SMTP", "IMAP"]), st.booleans()), max_size=30)


def gold_counts(gold: GoldLimits, row, service: str) -> Counter[object]:
    """What a limit counts in each of its prefixes; of a whole network under None."""
    counts: Counter[object] = Counter()
    about = rate(row.option.rpartition("=")[2]) if isinstance(row.most, Rate) else None
    hosts = {one.address for one in gold.open} | {
        host for ring in gold.events.rings.values() for window in ring.windows.values() for host in window
    }
    for host in hosts:
        length = row.lengths[host.version == 6]
        if gold.network(host) != row.network or (row.kind == "prefix" and length < 0):
            continue
        prefix = ipaddress.ip_network((host, length), strict=False) if row.kind == "prefix" else None
        if about is None:
            counts[prefix] = gold.count(opened(str(host), service, "mx"), row.network, prefix)
        else:
            counts[prefix] = gold.sliding(about, row.network, prefix)
    return counts


@given(tables, exempt_drawn, networks_drawn, clients, clients)
def test_the_fullest_prefixes_are_those_of_the_gold_model(table, exempt, network, before, now):
    if ipaddress.ip_network(exempt) in map(ipaddress.ip_network, network["prefixes"]):
        return  # a prefix of two networks is an error
    networks = {"partner": network}
    limits, gold = Limits(table, exempt=[exempt], networks=networks), GoldLimits(table, [exempt], networks)
    clock = Clock()
    gold.events = GoldEvents(gold.rates(), clock.seconds)
    with InboundAudit(clock=clock, capacity=1 << 20) as audit:
        limits.prepare(audit)
        sessions = []
        for group in (before, now):
            for client, service, rejected in group:
                one = opened(client, service, "mx")
                sessions.append(audit.listener(service, "mx").session(client))
                gold.open[one] += 1
                gold.events.record("connections", one.address, clock.seconds)
                if rejected:
                    sessions[-1].record_rejection()
                    gold.events.record("rejections", one.address, clock.seconds)
            if group is before:
                clock.step(7)
        gold.seconds = clock.seconds
        for service in ("SMTP", "IMAP"):
            audit.listener(service, "mx")
            for number, row in enumerate(limits.rows):
                counts = gold_counts(gold, row, service)
                most = row.most.maximum if isinstance(row.most, Rate) else row.most
                wanted = sorted(
                    ((n, prefix) for prefix, n in counts.items() if n > 0 or prefix is None),
                    key=lambda each: (-each[0], each[1] and (each[1].version, int(each[1].network_address))),
                )
                if row.kind == "network":
                    wanted = [(counts[None], None)]
                shown = [(n, prefix and str(prefix)) for n, prefix in wanted]
                over = sum(max(0, n - most) for n, _ in wanted)
                assert limits._fullest(audit, service, number, 100, ENOUGH, True) == (shown, over, True)
                assert limits._fullest(audit, service, number, 1, ENOUGH)[0] == shown[:1]
                assert limits._fullest(audit, service, number, 1, ENOUGH, True)[1] == over
        for session in sessions:
            session.close()


def test_a_bound_ends_the_walk_with_a_prefix_that_has_what_is_said():
    limits = Limits({"/32": 1})
    with InboundAudit(capacity=1 << 20) as audit:
        sessions = [audit.listener().session(f"10.{i >> 8}.{i & 255}.1") for i in range(2000)]
        sessions.append(audit.listener().session("10.3.9.1"))
        for steps in (0, 1, 10, 100):
            ((count, prefix),), _, sure = limits._fullest(audit, "SMTP", 0, 1, steps)
            assert not sure
            assert audit.inbound_session_count(prefix) == count
        assert limits._fullest(audit, "SMTP", 0, 1, ENOUGH) == ([(2, "10.3.9.1/32")], 1, True)
        for session in sessions:
            session.close()
        assert limits._fullest(audit, "SMTP", 0, 1, ENOUGH) == ([], 0, True)


def test_a_window_of_a_monitor():
    clock = Clock()
    limits = Limits({"/24": "1/1m"})
    with InboundAudit(clock=clock, monitors=["60,3"]) as audit:
        for n in (3, 2):
            for i in range(n):
                audit.listener().session(f"192.0.2.{i}").close()
            clock.step(60)
        found = [limits._fullest(audit, "SMTP", 0, 9, ENOUGH, True, window) for window in range(3)]
    assert found == [([], 0, True), ([(2, "192.0.2.0/24")], 1, True), ([(3, "192.0.2.0/24")], 2, True)]


def test_a_window_of_a_whole_network_has_both_families():
    limits = Limits({"/0": 9}, networks={"partner": {"prefixes": ["10.0.0.0/8"], "total": "1/1m"}})
    (number,) = (i for i, row in enumerate(limits.rows) if row.kind == "network")
    with InboundAudit(clock=Clock(), monitors=["60,3"]) as audit:
        for host in ("192.0.2.1", "2001:db8::1", "2001:db8::2"):
            audit.listener().session(host).close()
        assert limits._fullest(audit, "SMTP", number, 1, ENOUGH, True, 0) == ([(3, None)], 2, True)


def test_what_can_not_be_asked():
    limits = Limits({"/24": 1}, listener_total=3)
    with InboundAudit() as audit:
        for number in (-1, 1, 2):  # 1 is the listener's
            with pytest.raises(ValueError, match="has no limit"):
                limits._fullest(audit, "SMTP", number, 1, 1)
        with pytest.raises(UnknownServiceType):
            limits._fullest(audit, "POP", 0, 1, 1)
