"""The type of a series says which addresses it counts: `cidr` IPv4, `cidr_ipv6` IPv6, `ip` both."""

from __future__ import annotations

import ipaddress
import logging

import pytest
from tests.support.lua_support import bench_of, every_kind
from tests.support.sieve_support import bench_of as sieve_bench_of

from inbound_audit import InboundAudit
from inbound_audit._ipcount import SeriesStore
from inbound_audit.errors import AddressError, CidrError, SeriesError

FOUR, SIX = "192.0.2.7", "2001:db8::7"
MAPPED = "::ffff:192.0.2.7"
FAMILY = {"cidr": 4, "cidr_ipv6": 6}


@pytest.fixture
def audit(clock):
    with InboundAudit(clock=clock, capacity=1 << 20) as audit:
        for type in ("ip", "cidr", "cidr_ipv6"):
            audit.series.define(type, type, 10, 3)
        yield audit


def forms(text):
    address = ipaddress.ip_address(text)
    return [text, address, address.packed, bytearray(address.packed), (text, 25)]


def counts(audit, key, *window, **ac):
    return [audit.series.count(name, key, *window, **ac) for name in ("ip", "cidr", "cidr_ipv6")]


@pytest.mark.parametrize("amount", [1, 3, -2])
@pytest.mark.parametrize("text", [FOUR, SIX, MAPPED])
def test_each_form_of_a_key_is_recorded_in_the_series_of_its_family(audit, text, amount):
    right = "cidr_ipv6" if text == SIX else "cidr"
    for form in forms(text):
        for name in ("ip", "cidr", "cidr_ipv6"):
            audit.series.add(name, form, amount)
    n = amount * len(forms(text))
    for form in forms(text):
        assert counts(audit, form) == [n, n * (right == "cidr"), n * (right == "cidr_ipv6")]
    assert [audit.series.hosts(name) for name in ("ip", right)] == [1, 1]
    SeriesStore(audit).check()


def test_a_session_is_recorded_in_the_series_of_its_family(audit):
    listener = audit.listener()
    for remote in (FOUR, SIX, SIX):
        with listener.session(remote) as ac:
            for name in ("ip", "cidr", "cidr_ipv6"):
                audit.series.add(name, ac)
                audit.series.add(name, ac=ac)
    with listener.session(FOUR) as four, listener.session(SIX) as six:
        for asked in ({"key": four}, {"key": None, "ac": four}, {"key": "/24", "ac": four}, {"key": "/32", "ac": four}):
            assert counts(audit, **asked) == [2, 2, 0]
        for asked in ({"key": six}, {"key": None, "ac": six}, {"key": "/64", "ac": six}, {"key": "/32", "ac": six}):
            assert counts(audit, **asked) == [4, 0, 4]
        assert counts(audit, "/24,/56", ac=six) == [4, 0, 4]


def test_the_sum_of_a_series_per_family_counts_each_client_once(audit):
    for remote in (FOUR, SIX):
        with audit.listener().session(remote) as ac:
            for name in ("cidr", "cidr_ipv6"):
                audit.series.add(name, ac)
            assert sum(audit.series.count(name, ac) for name in ("cidr", "cidr_ipv6")) == 1


def test_prefixes_of_the_other_family_count_nothing(audit):
    for text in (FOUR, SIX):
        for name in ("ip", "cidr", "cidr_ipv6"):
            audit.series.add(name, text)
    assert counts(audit, "0.0.0.0/0", 0, 2) == [1, 1, 0]
    assert counts(audit, "::/0", 0, 2) == [1, 0, 1]
    assert counts(audit, "::ffff:0:0/96", 0, 2) == [1, 1, 0]


def test_removing_an_address_of_the_other_family_changes_nothing(audit):
    for text in (FOUR, SIX):
        for name in ("ip", "cidr", "cidr_ipv6"):
            audit.series.add(name, text)
    for text in (FOUR, SIX):
        audit.series.remove_item("cidr", text)
        audit.series.remove_item("cidr_ipv6", SIX if text == FOUR else FOUR)
    assert counts(audit, FOUR) == [1, 0, 0]
    assert counts(audit, SIX) == [1, 0, 0]


@pytest.mark.parametrize(("name", "wrong"), [("cidr", SIX), ("cidr_ipv6", FOUR)])
def test_errors_come_before_the_family(audit, name, wrong):
    for key in ("", "nonsense", f"{wrong}/24"):
        with pytest.raises(AddressError):
            audit.series.add(name, key)
    with pytest.raises(CidrError):
        audit.series.count(name, f"{wrong}/129")
    for amount in (0, 2**32, -(2**32)):
        with pytest.raises(SeriesError):
            audit.series.add(name, wrong, amount)
    with pytest.raises(SeriesError, match="window"):
        audit.series.count(name, wrong, 0, 3)


@pytest.mark.parametrize(("name", "wrong", "family"), [("cidr", SIX, "IPv6"), ("cidr_ipv6", FOUR, "IPv4")])
@pytest.mark.parametrize("first", ["add", "count"])
def test_a_warning_says_so_once_per_series(audit, caplog, name, wrong, family, first):
    with caplog.at_level(logging.WARNING, "inbound_audit.series"):
        for ask in (first, "add", "count"):
            getattr(audit.series, ask)(name, wrong)
        audit.series.add("ip", wrong)
    (record,) = caplog.records
    assert f"series {name}: its type is {name}: {family} addresses add nothing and count 0" in record.getMessage()


def test_series_of_the_right_family_and_monitors_warn_of_nothing(clock, caplog):
    with InboundAudit(clock=clock, monitors=["300,6"]) as audit, caplog.at_level(logging.WARNING):
        for type, text in (("cidr", FOUR), ("cidr_ipv6", SIX), ("ip", FOUR), ("ip", SIX)):
            audit.series.define(type, type, 10, 3)
            audit.series.add(type, text)
            audit.series.count(type, text)
            audit.listener().session(text).close()
        assert [audit.connections("300,6", key) for key in ("0.0.0.0/0", "::/0")] == [2, 2]
    assert caplog.records == []


@pytest.mark.parametrize("type", ["ip", "cidr", "cidr_ipv6"])
def test_rows_of_a_snapshot_of_before_count_where_their_family_does(clock, caplog, type):
    """Series of type cidr held both families in earlier versions; in a snapshot both are rows of one series."""
    with InboundAudit(clock=clock) as before, InboundAudit(clock=clock) as after:
        before.series.define("s", "ip", 10, 3)
        for text, n in ((FOUR, 2), (SIX, 3), ("192.0.2.9", -1), ("2001:db8::9", -5)):
            before.series.add("s", text, n)
        after.series.define("s", type, 10, 3)
        with caplog.at_level(logging.WARNING, "inbound_audit.series"):
            SeriesStore(after).restore("s", *SeriesStore(before).dump("s"))
            after.series.add("s", FOUR)
            after.series.add("s", SIX)
        four, six = type != "cidr_ipv6", type != "cidr"
        assert after.series.count("s", "0.0.0.0/0") == (2 if four else 0)
        assert after.series.count("s", "::/0") == (-1 if six else 0)
        assert after.series.count("s", SIX) == (4 if six else 0)
        assert after.series.hosts("s") == 2 * four + 2 * six
        assert len(caplog.records) == (type != "ip")
        SeriesStore(after).check()


def test_a_line_of_a_change_log_of_before_is_refused_with_the_reason(audit, clock):
    past = int(clock.seconds * 1e6)
    assert audit.series.add_at("cidr", FOUR, 1, past)
    with pytest.raises(SeriesError, match=r"'cidr': 2001:db8::7 is an IPv6 address, and the type is cidr"):
        audit.series.add_at("cidr", SIX, 1, past)
    assert counts(audit, SIX) == [0, 0, 0]


@pytest.mark.parametrize("type", ["ip", "cidr", "cidr_ipv6"])
def test_the_type_of_a_series_is_listed(clock, type):
    with InboundAudit(clock=clock) as audit:
        audit.series.define("s", type, 10, 3)
        assert [row[2] for row in SeriesStore(audit).known] == [type]


@every_kind
def test_a_lua_policy_that_follows_the_reference_counts_each_client_once(tmp_path, kind, caplog):
    """Its page tells authors to define a series of each type, to add to both, and to sum."""
    for bench in bench_of(tmp_path, kind):
        policy = bench.policy(
            """
            msys.audit_series.define("v4", "cidr", 300, 6)
            msys.audit_series.define("v6", "cidr_ipv6", 300, 6)
            msys.audit_series.define("both", "ip", 300, 6)
            local mod = {}
            function mod:validate_connect(ac, vctx)
              local counts = {}
              for i, name in ipairs({"v4", "v6", "both"}) do
                msys.audit_series.add(name, ac)
                counts[i] = msys.audit_series.count(name, ac)
                assert(msys.audit_series.count(name, "/24,/56") == counts[i])
                assert(msys.audit_series.count(name) == counts[i])
              end
              vctx:set_code(250, table.concat(counts, " "))
            end
            msys.registerModule("m", mod)
            """
        )
        with caplog.at_level(logging.WARNING, "inbound_audit.series"):
            said = [
                policy.validate_connect(bench.session(remote)).text for remote in (FOUR, SIX, f"[{MAPPED}]:25", SIX)
            ]
        assert policy.last_error is None
        assert said == ["1 0 1", "0 1 1", "2 0 2", "0 2 2"]
        assert sorted(record.args[0] for record in caplog.records) == ["v4", "v6"]


def test_a_series_of_a_sieve_script_counts_both_families(tmp_path):
    for bench in sieve_bench_of(tmp_path):
        policy = bench.policy('audit_series_add "s" "300,6"; ec_action 250 "done";')
        for remote in (FOUR, SIX):
            policy.validate_connect(bench.session(remote))
        assert policy.errors == 0, policy.last_error
        assert bench.audit.series.defined("s").type == "ip"
        assert [bench.audit.series.count("s", text) for text in (FOUR, SIX)] == [1, 1]


def test_a_sieve_script_uses_a_series_of_another_type_as_it_is(tmp_path):
    for bench in sieve_bench_of(tmp_path):
        bench.audit.series.define("s", "cidr", 300, 6)
        policy = bench.policy('audit_series_add "s" "300,6"; ec_action 250 "done";')
        for remote in (FOUR, SIX):
            policy.validate_connect(bench.session(remote))
        assert policy.errors == 0, policy.last_error
        assert [bench.audit.series.count("s", text) for text in (FOUR, SIX)] == [1, 0]


def test_a_closed_audit_refuses_the_other_family_too(clock):
    audit = InboundAudit(clock=clock)
    series = audit.series
    series.define("s", "cidr", 10, 3)
    audit.close()
    from inbound_audit.errors import InboundAuditError

    for key in (FOUR, SIX):
        with pytest.raises(InboundAuditError, match="closed"):
            series.add("s", key)
