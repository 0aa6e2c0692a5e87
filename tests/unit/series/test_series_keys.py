"""Definitions of named series and the keys that they take: every form of each, and malformed ones."""

from __future__ import annotations

import ipaddress

import pytest

from inbound_audit import InboundAudit
from inbound_audit._ipcount import SeriesStore
from inbound_audit.errors import AddressError, CapacityError, CidrError, SeriesError


@pytest.fixture
def series(audit):
    """The series of an audit in which "s" counts by prefix, and "t" by text."""
    audit.series.define("s", interval=10, num_windows=3)
    audit.series.define("t", "string", 10, 3)
    return audit.series


# ---- definitions


def test_a_definition_is_listed(audit):
    made = audit.series.define("s", "cidr", 300, 6, serialize=False, replicate="cluster", max_hosts=1000)
    assert made == audit.series.defined("s")
    assert made == ("s", "cidr", 300, 6, False, "cluster", False, 1000, 256 << 20)
    assert made._fields == (
        "name", "type", "interval", "num_windows", "serialize", "replicate", "persist", "max_hosts", "max_bytes",
    )  # fmt: skip
    assert audit.series.names == ("s",)
    assert [tuple(w) for w in SeriesStore(audit).known] == [("series", "s", "cidr", 300, 6)]


def test_by_default_a_series_counts_both_families_without_a_bound_of_hosts(audit):
    made = audit.series.define("s", interval=60, num_windows=1)
    assert (made.type, made.max_hosts, made.max_bytes) == ("ip", None, 256 << 20)
    assert (made.serialize, made.replicate, made.persist) == (False, "none", False)


def test_names_are_in_the_order_in_which_they_were_defined(audit):
    for name in ("b", "a", "caf\u00e9", "with blank", "x" * 64):
        audit.series.define(name, interval=60, num_windows=2)
        audit.series.add(name, "192.0.2.7")
    assert audit.series.names == ("b", "a", "caf\u00e9", "with blank", "x" * 64)
    assert [audit.series.count(name, "/0", ac=None) for name in ()] == []
    assert all(audit.series.count(name, "192.0.2.7") == 1 for name in audit.series.names)


def test_a_series_is_defined_twice_with_the_same(series):
    series.add("s", "192.0.2.7")
    again = series.define("s", "ip", 10, 3)
    assert (again.interval, again.num_windows) == (10, 3)
    assert series.count("s", "192.0.2.7") == 1


@pytest.mark.parametrize(
    "wrong", [("ip", 11, 3), ("ip", 10, 4), ("string", 10, 3), ("cidr", 10, 3), ("cidr_ipv6", 10, 3)]
)
def test_a_series_cant_become_another(series, wrong):
    series.add("s", "192.0.2.7")
    with pytest.raises(SeriesError, match=r"'s'.*(11|4|string|cidr)"):
        series.define("s", *wrong)
    assert series.defined("s")[:4] == ("s", "ip", 10, 3)
    assert series.count("s", "192.0.2.7") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("", "cidr", 300, 6), "''"),
        (("x" * 65, "cidr", 300, 6), "xxx"),
        (("\u00e9" * 33, "cidr", 300, 6), "\u00e9"),
        (("a\0b", "cidr", 300, 6), "a.*b"),
        (("a\nb", "cidr", 300, 6), "a.*b"),
        (("\ud800", "cidr", 300, 6), "ud800"),
        (("s", "CIDR", 300, 6), "'CIDR'.*did you mean 'cidr'"),
        (("s", "cidr_ip6", 300, 6), "did you mean 'cidr_ipv6'"),
        (("s", b"cidr", 300, 6), "unknown type b'cidr' .known: ip, cidr, cidr_ipv6, string"),
        (("s", "", 300, 6), "''.*cidr"),
        (("s", "cidr", 0, 6), "0"),
        (("s", "cidr", -300, 6), "-300"),
        (("s", "cidr", 2**32, 6), "4294967296"),
        (("s", "cidr", 300, 0), "0"),
        (("s", "cidr", 300, -1), "-1"),
        (("s", "cidr", 300, 1025), "1025"),
        (("s", "cidr", 2**80, 2**80), "1208925819614629174706176"),
    ],
)
def test_what_can_be_no_series(audit, arguments, words):
    with pytest.raises(SeriesError, match=words):
        audit.series.define(*arguments)
    assert audit.series.names == ()


@pytest.mark.parametrize("value", ["none", "cluster", "manager"])
def test_where_a_series_is_replicated_is_one_of_three_values(audit, value):
    assert audit.series.define("s", replicate=value).replicate == value
    assert audit.series.defined("s").replicate == value


@pytest.mark.parametrize("value", ["cluster", "manager"])
def test_a_later_definition_may_replicate_a_series(audit, value):
    audit.series.define("s", "cidr", 300, 6, max_hosts=1000)
    audit.series.add("s", "192.0.2.7")
    for wanted in (value, "none"):  # once it is set it stays
        made = audit.series.define("s", "cidr", 300, 6, replicate=wanted)
        assert (made, made.replicate, made.max_hosts) == (audit.series.defined("s"), value, 1000)
    assert audit.series.count("s", "192.0.2.7") == 1


def test_a_later_definition_of_a_kept_series_keeps_it(clock, tmp_path):
    with InboundAudit(clock=clock, capacity=1 << 20, state=tmp_path) as audit:
        audit.series.define("s", serialize=True, persist=True)
        made = audit.series.define("s", replicate="cluster")
        assert (made.serialize, made.persist, made.replicate) == (True, True, "cluster")


def test_a_series_is_replicated_in_one_way(audit):
    audit.series.define("s", replicate="cluster")
    with pytest.raises(SeriesError, match="'s': is defined already, and its replicate is cluster, not manager"):
        audit.series.define("s", replicate="manager")
    assert audit.series.defined("s").replicate == "cluster"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"replicate": "clustr"}, "unknown replicate 'clustr'; did you mean 'cluster'?"),
        ({"replicate": "bogus"}, r"'bogus' .known: none, cluster, manager"),
        ({"replicate": ""}, "unknown replicate ''"),
        ({"replicate": True}, "unknown replicate True"),
        ({"replicate": None}, "unknown replicate None"),
        ({"serialize": "no"}, "serialize 'no': expected True or False"),
        ({"persist": 1}, "persist 1: expected True or False"),
    ],
)
def test_an_option_with_another_value_is_an_error(audit, options, words):
    with pytest.raises(SeriesError, match=words):
        audit.series.define("s", **options)
    assert audit.series.names == ()


def test_an_unknown_option_is_an_error(audit):
    with pytest.raises(TypeError, match="persit"):
        audit.series.define("s", persit=True)
    assert audit.series.names == ()


@pytest.mark.parametrize("name", ["max_hosts", "max_bytes"])
@pytest.mark.parametrize("value", [0, -1])
def test_bounds_that_nothing_fits_into(audit, name, value):
    with pytest.raises(SeriesError, match=name):
        audit.series.define("s", interval=300, num_windows=6, **{name: value})
    assert audit.series.names == ()


def test_what_finds_no_room_leaves_room_for_others(audit):
    """An audit has 4096 trees; a series that would need more takes none of them with it."""
    for i in range(3):
        audit.series.define(f"s{i}", interval=10, num_windows=1000)
    audit.series.define("s3", interval=10, num_windows=100)
    for _ in range(3):
        with pytest.raises(CapacityError, match="4096"):
            audit.series.define("more", interval=10, num_windows=1000)
    audit.series.define("fits", interval=10, num_windows=900)
    with pytest.raises(CapacityError, match="4096"):
        audit.series.add("fits", "192.0.2.7", -1)  # its windows would need as many again
    audit.series.add("fits", "192.0.2.7")
    assert audit.series.count("fits", "192.0.2.7") == 1
    assert audit.series.names == ("s0", "s1", "s2", "s3", "fits")
    audit.listener("IMAP").session("192.0.2.7").close()


@pytest.mark.parametrize(
    "arguments",
    [
        (None, "cidr", 300, 6),
        (b"s", "cidr", 300, 6),
        ("s", None, 300, 6),
        ("s", "cidr", "300", 6),
        ("s", "cidr", 300, 6.0),
    ],
)
def test_what_has_another_type(audit, arguments):
    with pytest.raises((TypeError, SeriesError)):
        audit.series.define(*arguments)
    assert audit.series.names == ()


def test_an_undefined_series_is_an_error(series):
    for call in (series.add, series.count, series.remove_item):
        with pytest.raises(SeriesError, match="'nope'"):
            call("nope", "192.0.2.7")
    for call in (series.defined, series.folded, series.hosts, series.memory):
        with pytest.raises(SeriesError, match="'nope'"):
            call("nope")
    assert "nope" not in series.names


# ---- keys


FORMS = ["192.0.2.7", "::ffff:192.0.2.7"]
FORMS += [form(ipaddress.ip_address(text)) for text in FORMS for form in (lambda ip: ip, lambda ip: ip.packed)]
FORMS += [("192.0.2.7", 25), ("::ffff:192.0.2.7", 25, 0, 0)]


@pytest.mark.parametrize("key", FORMS)
def test_every_form_of_an_address(series, key):
    series.add("s", key)
    assert series.count("s", "192.0.2.7") == series.count("s", "192.0.2.0/24") == 1
    assert series.count("s", "::/0") == 0
    series.remove_item("s", key)
    assert series.count("s", "192.0.2.0/24") == 0


def test_one_series_counts_both_families(series):
    series.add("s", "192.0.2.7")
    series.add("s", "2001:db8::7", 2)
    assert (series.count("s", "0.0.0.0/0"), series.count("s", "::/0")) == (1, 2)
    assert series.hosts("s") == 2


def test_a_session_is_its_remote_address(audit, series):
    with audit.listener().session(("192.0.2.7", 25)) as ac:
        series.add("s", ac)
        series.add("s", ac=ac)
        series.add("s", None, 3, ac=ac)
        assert series.count("s", ac) == series.count("s", ac=ac) == series.count("s", "/24", ac=ac) == 5
        assert series.count("s", "/24,/56", ac=ac) == series.count("s", "/32", ac=ac) == 5
        series.remove_item("s", ac=ac)
        assert series.count("s", ac) == 0
    with audit.listener().session("2001:db8::7") as ac:
        series.add("s", ac)
        assert series.count("s", "/32", ac=ac) == 1  # exactly the address, as everywhere
        series.remove_item("s", ac)
        assert series.count("s", "::/0") == 0


@pytest.mark.parametrize(
    "key",
    ["", "nonsense", "192.0.2.7/24", "192.0.2.256", "caf\u00e9", b"abc", 7, object(), (), (7,), ("nonsense", 25),
     ("192.0.2.7", 65536), ipaddress.ip_network("192.0.2.0/24")],
)  # fmt: skip
def test_what_is_no_address_changes_nothing(series, key):
    for change in (lambda: series.add("s", key), lambda: series.remove_item("s", key)):
        with pytest.raises(AddressError):
            change()
    assert series.hosts("s") == 0


@pytest.mark.parametrize("cidr", ["", "nonsense", "192.0.2.7/33", "192.0.2.0/24/", "/24", "/24,/56"])
def test_what_is_no_prefix(series, cidr):
    with pytest.raises(CidrError):
        series.count("s", cidr)


def test_no_key_is_an_error_without_an_accept_construct(series):
    for call in (series.add, series.count, series.remove_item):
        with pytest.raises((SeriesError, AddressError, CidrError)):
            call("s")


def test_texts_are_what_they_are(series):
    keys = ["", " ", "a", "A", "a ", "caf\u00e9", "cafe\u0301", "\0", "a\0", "192.0.2.7", "/24", "\U0001f4e7"]
    keys += ["x" * size + end for size in (*range(7, 18), 4095) for end in "xy"]
    for n, key in enumerate(keys, 1):
        series.add("t", key, n)
    assert [series.count("t", key) for key in keys] == list(range(1, len(keys) + 1))
    assert series.hosts("t") == len(keys)
    assert series.count("t", "192.0.2.8") == 0
    series.remove_item("t", "a")
    assert (series.count("t", "a"), series.count("t", "A")) == (0, 4)


@pytest.mark.parametrize("key", ["x" * 4097, "\u00e9" * 2049, "\ud800"])
def test_texts_have_an_end(series, key):
    for call in (series.add, series.count, series.remove_item):
        with pytest.raises(SeriesError, match=r"'t'|4096|text"):
            call("t", key)
    assert series.hosts("t") == 0


@pytest.mark.parametrize("key", [None, b"bytes", 7, ipaddress.ip_address("192.0.2.7")])
def test_a_series_of_texts_needs_a_text(series, key):
    for call in (series.add, series.count, series.remove_item):
        with pytest.raises((SeriesError, TypeError)):
            call("t", key)


def test_a_session_is_no_text(audit, series):
    with audit.listener().session("192.0.2.7") as ac:
        for call in (series.add, series.count, series.remove_item):
            with pytest.raises(SeriesError, match="'t'"):
                call("t", ac=ac)
