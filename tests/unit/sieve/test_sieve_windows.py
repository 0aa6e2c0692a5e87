"""Windows and series from Sieve: what the functions make of what an audit has counted over time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.listening import Clock
from tests.support.sieve_support import Bench, bench_of

from inbound_audit import InboundAudit, Session, SievePolicy
from inbound_audit._ipcount import MONITOR_KINDS as KINDS
from inbound_audit.errors import PolicyError

HOURS = 7200  # after so long nothing is left in any window

every_kind = pytest.mark.parametrize("kind", KINDS)
every_cluster = pytest.mark.parametrize("cluster", ["", "_cluster"])


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bench(tmp_path: Path, clock: Clock) -> Iterator[Bench]:
    yield from bench_of(tmp_path, monitors=["300,6", "1800,4"], clock=clock, state=tmp_path / "state")


@pytest.fixture
def ac(bench: Bench, clock: Clock) -> Session:
    """A session that began so long ago that its connection is in no window."""
    session = bench.session("192.0.2.7")
    clock.now += HOURS
    return session


def run(bench: Bench, ac: Session, script: str) -> str:
    """What ``$n`` is in the end."""
    policy = bench.policy(script + '\nec_action 250 "=${n}";')
    verdict = policy.validate_connect(ac)
    assert policy.errors == 0, policy.last_error
    return verdict.text[1:]


def failure(policy: SievePolicy, ac: Session) -> str:
    assert policy.validate_connect(ac)
    assert policy.errors == 1
    return str(policy.last_error)


def hashed(**values: object) -> str:
    """A script that makes a hash ``$h``."""
    return "$h = hash_create;" + "".join(f'hash_set $h "{key}" {value};' for key, value in values.items())


# ---- connections, receptions, rejections


def history(bench: Bench, clock: Clock, kind: str, near: str, beside: str, far: str) -> None:
    """Three windows of 300 seconds: a host, one of its network, one of another; a quarter of the last is over.

                window 2    window 1    window 0
    near               4           8           3
    beside             6           2           1
    far               50          50          50
    """
    for counts in ((4, 6, 50), (8, 2, 50), (3, 1, 50)):
        clock.now += 300
        for host, times in zip((near, beside, far), counts, strict=True):
            bench.happen(kind, host, times)
    clock.now += 75


@every_kind
@every_cluster
def test_the_positional_form_is_a_sliding_average(
    bench: Bench, clock: Clock, ac: Session, kind: str, cluster: str
) -> None:
    history(bench, clock, kind, "192.0.2.7", "192.0.2.9", "198.51.100.1")
    name = f"ec_ip_{kind}{cluster}"
    assert run(bench, ac, f'$n = {name} "0";') == "9"  # 3 + 3/4 of 8
    assert run(bench, ac, f'$n = {name} 0 "24";') == "11"  # 4 + 3/4 of 10, without the half
    assert run(bench, ac, f'$i = "1"; $m = "24,56"; $n = {name} $i $m;') == "24"
    assert run(bench, ac, f'($n) = {name} "1" "/32";') == "15"
    assert run(bench, ac, f'$n = {name} 1 "0";') == "174"
    clock.now += 1800 - 975  # the window of half an hour is the one before; none of the next has gone by
    assert run(bench, ac, f'$n = {name} "1" "24";') == "24"
    clock.now += 900
    assert run(bench, ac, f'$n = {name} "1" "24";') == "12"
    clock.now += HOURS
    assert run(bench, ac, f'$n = {name} "1" "0";') == "0"


@every_kind
@every_cluster
def test_the_same_over_ipv6(bench: Bench, clock: Clock, kind: str, cluster: str) -> None:
    ac = bench.session("2001:db8:0:1::7")
    clock.now += HOURS
    history(bench, clock, kind, "2001:db8:0:1::7", "2001:db8:0:ff::9", "2001:db8:0:100::1")
    name = f"ec_ip_{kind}{cluster}"
    assert run(bench, ac, f'$n = {name} "0" "32";') == "9"
    assert run(bench, ac, f'$n = {name} "0" "24,56";') == "11"
    assert run(bench, ac, f'$n = {name} "1" "32,40";') == "174"


@every_kind
@every_cluster
def test_the_form_with_a_hash_is_a_sum(bench: Bench, clock: Clock, ac: Session, kind: str, cluster: str) -> None:
    history(bench, clock, kind, "192.0.2.7", "192.0.2.9", "198.51.100.1")

    def total(**options: object) -> str:
        return run(bench, ac, hashed(**options) + f"$n = ec_ip_{kind}{cluster} $h;")

    assert total() == "3"
    assert total(monitor='"300,6"', period_start=1, mask='"24"') == "10"
    assert total(monitor='"300,6"', period_start='"1"', period_end='"2"', mask=32) == "12"
    assert total(period_end=2, mask='"24"') == "24"
    assert total(period_end=5) == "15"
    assert total(monitor='"1800, 4"', mask='"0"') == "174"
    assert total(monitor='"1800,4"', period_start='"1"', period_end=3) == "0"
    clock.now += 1800
    assert total(period_end=5) == "0"
    assert total(monitor='"1800,4"', period_start=1) == "15"


@pytest.mark.parametrize(
    ("times", "gone", "shown"), [(0, 0, "0"), (1, 3, "0"), (25, 150, "12"), (2**32 - 1, 0, "4294967295")]
)
def test_an_average_is_returned_without_its_fraction(
    bench: Bench, clock: Clock, ac: Session, times: int, gone: float, shown: str
) -> None:
    if times:
        bench.happen("receptions", "192.0.2.7", times)
    clock.now += 300 + gone
    assert run(bench, ac, '$n = ec_ip_receptions "0" "32";') == shown


# ---- named series


def test_a_series_is_defined_by_the_first_script_that_names_it(bench: Bench, ac: Session) -> None:
    assert run(bench, ac, '$n = audit_series "asked" "300,6" "32";') == "0"
    run(bench, ac, 'audit_series_add "added" "300, 6";')
    assert bench.audit.series.names == ("asked", "added")
    known = bench.audit.series.defined("added")
    assert known == bench.audit.series.defined("asked")._replace(name="added")
    assert (known.type, known.interval, known.num_windows) == ("ip", 300, 6)
    assert known[4:7] == (False, "none", False)
    assert run(bench, ac, '$n = audit_series "added" "300,6" "32";') == "1"


def test_a_series_may_have_been_defined_elsewhere(bench: Bench, ac: Session) -> None:
    bench.audit.series.define("s", "cidr", 300, 6, max_hosts=1000)
    bench.audit.series.add("s", "192.0.2.9", 5)
    assert run(bench, ac, 'audit_series_add "s" "300,6" 2; $n = audit_series "s" "300,6" "24";') == "7"


def test_what_is_added(bench: Bench, ac: Session) -> None:
    run(bench, ac, 'audit_series_add "s" "1800,3" "3";')
    run(bench, ac, '$less = "-2"; audit_series_add "s" "1800,3" $less;')
    run(bench, ac, hashed(series='"s"', monitor='"1800,3"') + "audit_series_add $h;")
    run(bench, ac, hashed(series='"s"', monitor='"1800,3"', count=2, ip='"2001:db8::1"') + "audit_series_add $h;")
    run(bench, ac, hashed(series='"s"', monitor='"1800,3"', count='"-4"', ip='"192.0.2.9"') + "audit_series_add $h;")
    series = bench.audit.series
    assert [series.count("s", host) for host in ("192.0.2.7", "2001:db8::1", "192.0.2.9")] == [2, 2, -4]
    assert run(bench, ac, '$n = audit_series "s" "1800,3" "24";') == "-2"


@pytest.mark.parametrize(
    ("replicate", "serialize", "given"),
    [
        (0, 0, (False, "none")),
        (1, 0, (False, "cluster")),
        (-1, 0, (False, "manager")),
        ('"-1"', 1, (True, "manager")),
        (0, '"1"', (True, "none")),
    ],
)
def test_options_of_a_series_are_handed_on(
    bench: Bench, ac: Session, replicate: object, serialize: object, given: tuple[bool, str]
) -> None:
    options = hashed(series='"s"', monitor='"300,6"', replicate=replicate, serialize=serialize)
    run(bench, ac, options + "audit_series_add $h; audit_series_add $h;")
    known = bench.audit.series.defined("s")
    assert (known.serialize, known.replicate) == given
    assert bench.audit.series.count("s", ac) == 2


@pytest.mark.parametrize("first", ["", 'audit_series_add "s" "300,6";', '$n = audit_series "s" "300,6";'])
def test_a_series_is_replicated_from_when_a_script_wants_it(bench: Bench, ac: Session, first: str) -> None:
    options = hashed(series='"s"', monitor='"300,6"', replicate=1)
    run(bench, ac, first + options + 'audit_series_add $h; audit_series_add "s" "300,6";')
    assert bench.audit.series.defined("s").replicate == "cluster"
    manager = hashed(series='"s"', monitor='"300,6"', replicate=-1)
    error = failure(bench.policy(manager + "audit_series_add $h;"), ac)
    assert error.endswith("'s': is defined already, and its replicate is cluster, not manager")


@pytest.mark.parametrize(("replicate", "shown"), [(2, "2"), ('"cluster"', "cluster"), ("0.5", "0.500000")])
def test_another_value_of_the_option_replicate_is_an_error(
    bench: Bench, ac: Session, replicate: object, shown: str
) -> None:
    options = hashed(series='"s"', monitor='"300,6"', replicate=replicate)
    error = failure(bench.policy(options + "audit_series_add $h;"), ac)
    assert error.endswith(f"option 'replicate': '{shown}': expected 0 (none), 1 (cluster) or -1 (manager)")
    assert bench.audit.series.names == ()


def test_a_series_is_logged_from_when_a_script_wants_it(bench: Bench, ac: Session) -> None:
    run(bench, ac, 'audit_series_add "s" "300,6" 3;')
    run(bench, ac, hashed(series='"s"', monitor='"300,6"', serialize=1) + "audit_series_add $h;")
    assert bench.audit.series.defined("s").serialize
    run(bench, ac, 'audit_series_add "s" "300,6" 5;')
    assert bench.audit.series.count("s", ac) == 9
    logged = "".join(path.read_text() for path in (bench.directory / "state").rglob("*") if path.suffix == ".log")
    assert [line.split()[-2:] for line in logged.splitlines() if line.endswith(" 192.0.2.7")] == [
        ["1", "192.0.2.7"], ["5", "192.0.2.7"],
    ]  # fmt: skip


@pytest.fixture
def windows(bench: Bench, clock: Clock, ac: Session) -> list[int]:
    """A series of six windows with counts of a host, of one beside it, and of one far away; window 0 stands first."""
    bench.audit.series.define("s", "ip", 300, 6)
    near = [1, 20, 300, 4000, 50_000, 600_000]
    for times in reversed(near):
        bench.audit.series.add("s", "192.0.2.7", times)
        bench.audit.series.add("s", "192.0.2.9", 2 * times)
        bench.audit.series.add("s", "2001:db8::9", 3 * times)
        clock.now += 300
    clock.now -= 300
    return near


@pytest.mark.parametrize(
    ("call", "first", "last", "times"),
    [
        ('audit_series "s" "300,6"', 0, 0, 1),
        ('audit_series "s" "300,6" 24', 0, 0, 3),
        ('audit_series "s" "300,6" "24" "2"', 2, 2, 3),
        ('audit_series "s" "300,6" "24" 1 5', 1, 5, 3),
        ('audit_series "s" "300,6" "32" "0" "5"', 0, 5, 1),
        ('audit_series "s" "300,6" "/32,/128" 3 4', 3, 4, 1),
    ],
)
def test_what_is_counted(
    bench: Bench, ac: Session, windows: list[int], call: str, first: int, last: int, times: int
) -> None:
    assert run(bench, ac, f"$n = {call};") == str(times * sum(windows[first : last + 1]))


@pytest.mark.parametrize(
    ("options", "first", "last", "times"),
    [
        ({}, 0, 0, 1),
        ({"mask": 24, "period_start": 1}, 1, 1, 3),
        ({"mask": '"24"', "period_start": '"0"', "period_end": '"2"'}, 0, 2, 3),
        ({"period_end": 3}, 0, 3, 1),
        ({"ip": '"192.0.2.9"'}, 0, 0, 2),
        ({"ip": '"2001:db8::9"', "period_end": 5}, 0, 5, 3),
        ({"ip": '"2001:db8::1234"', "mask": 48}, 0, 0, 3),
        ({"ip": '"192.0.2.77"', "mask": '"/25"', "period_start": 4, "period_end": 5}, 4, 5, 3),
        ({"ip": '"203.0.113.1"', "period_end": 5}, 0, 5, 0),
    ],
)
def test_what_is_counted_by_a_hash(
    bench: Bench, ac: Session, windows: list[int], options: dict[str, object], first: int, last: int, times: int
) -> None:
    script = hashed(series='"s"', monitor='"300,6"', **options)
    assert run(bench, ac, script + "$n = audit_series $h;") == str(times * sum(windows[first : last + 1]))


def test_a_count_may_be_below_zero_and_is_compared_so(bench: Bench, ac: Session) -> None:
    script = """
        $less = "-3";
        audit_series_add "credit" "300,6" $less;
        $n = audit_series "credit" "300,6" "32";
        if ec_test :value "lt" :comparator "i;ascii-numeric" "${n}" "0" { $n = "${n} is below"; }
    """
    assert run(bench, ac, script) == "-3 is below"


# ---- what makes no sense


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('$n = ec_ip_connections "7";', "7: no such monitor (known: '300,6', '1800,4')"),
        (hashed(monitor='"5,5"') + "$n = ec_ip_connections $h;", "'5,5': no such monitor"),
        (hashed(period_start=6) + "$n = ec_ip_connections $h;", "windows 6 of '300,6'"),
        (hashed(period_start=2, period_end=1) + "$n = ec_ip_connections_cluster $h;", "windows 2 to 1 of"),
        ('$n = ec_ip_connections 0 "33";', "'/33': has a prefix length"),
        (hashed(perod_start=1) + "$n = ec_ip_connections $h;", "did you mean 'period_start'?"),
        (hashed(mask='"wide"') + "$n = ec_ip_rejections $h;", "option 'mask': 'wide': has a prefix length"),
        (hashed(ip='"192.0.2.1"') + "$n = ec_ip_rejections $h;", "no option 'ip'"),
        (hashed(monitor='"300,6"') + "$n = audit_series $h;", "option 'series' is missing"),
        (hashed(series='"s"') + "audit_series_add $h;", "option 'monitor' is missing"),
        (hashed(series="$h") + "audit_series_add $h;", "option 'series': a hash can't become a text"),
        (hashed(series='"s"', monitor='"300,6"', ip='"host"') + "audit_series_add $h;", "'host': is not an address"),
        (hashed(series='"s"', monitor='"300,6"', ip='"host"') + "$n = audit_series $h;", "'host': is not an address"),
        ('audit_series_add "" "300,6";', "'': the name of a series"),
        ('audit_series_add "s" "300,6" 0;', "'s': 0: expected a whole number"),
        ('audit_series_add "s" "300,6"; audit_series_add "s" "300,7";', "series 's' is 300,6 and not 300,7"),
        ('audit_series_add "s" "300,6"; $n = audit_series "s" "60,6";', "series 's' is 300,6 and not 60,6"),
    ],
)
def test_a_run_fails_with_the_reason(bench: Bench, ac: Session, script: str, words: str) -> None:
    reported = failure(bench.policy(script), ac)
    assert reported.startswith("policy.sieve:1:")
    assert words in reported


def test_an_audit_without_monitors_has_none(tmp_path: Path) -> None:
    for bench in bench_of(tmp_path):
        reported = failure(bench.policy('$n = ec_ip_connections "0";'), bench.session())
        assert reported == "policy.sieve:1:1: 0: no such monitor (known: none)"


def test_a_series_of_texts_is_no_series_of_addresses(bench: Bench, ac: Session) -> None:
    bench.audit.series.define("s", "string", 300, 6)
    assert "'s': needs a key" in failure(bench.policy('audit_series_add "s" "300,6";'), ac)


BEYOND = "windows 6 to 6: 300,6 has 0 to 5"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('ec_ip_connections "-1";', "time series index: -1 is less than 0"),
        ('ec_ip_connections_cluster 0 "wide";', "mask: 'wide'"),
        ('audit_series_add "s" "6";', "'6': is not a monitor"),
        ('$n = audit_series "s" "300,5000" "32";', "'300,5000': is not a monitor"),
        (hashed(monitor='"5;5"') + "$n = ec_ip_connections $h;", "option 'monitor': '5;5': is not a monitor"),
        (hashed(period_start='"-1"') + "$n = ec_ip_receptions $h;", "option 'period_start': -1 is less than 0"),
        # Windows that the monitor does not have; what is not constant may be anything.
        ('$n = audit_series "s" "300,6" "32" 6;', BEYOND),
        ('$n = audit_series "s" "300,6" "32" 3 2;', "windows 3 to 2"),
        ('if false { $n = audit_series $name "300,6" $mask 6 $end; }', BEYOND),
        ('$n = audit_series "s" "300,6" "32" $start 6;', "windows 0 to 6"),
        (hashed(monitor='"300,6"', period_start=6) + "if true { $n = ec_ip_connections $h; }", BEYOND),
        (hashed(monitor='"300,6"', period_end='"7"') + "ec_ip_rejections_cluster $h;", "windows 0 to 7"),
        (hashed(series="$name", monitor='"300,6"', period_start=6) + "$n = audit_series $h;", BEYOND),
    ],
)
def test_constants_that_make_no_sense_are_refused_when_the_script_is_loaded(
    bench: Bench, script: str, words: str
) -> None:
    refused = bench.refuses(script)
    assert refused.startswith("1:")
    assert words in refused


@pytest.mark.parametrize(
    "script",
    [
        '$n = audit_series "s" $m "32" 6;',
        '$n = audit_series "s" "300,6" "32" $start $end;',
        hashed(monitor="$m", period_start=6) + "$n = ec_ip_connections $h;",
        hashed(monitor='"300,6"', period_start=6) + 'hash_set $h "period_start" 5; $n = ec_ip_connections $h;',
        hashed(monitor='"300,6"', period_start=6) + 'hash_set $h $key 5; $n = ec_ip_connections $h;',
        hashed(monitor='"300,6"', period_start=6) + '$g = $h; hash_set $g "monitor" "1800,9"; ec_ip_connections $h;',
        hashed(monitor='"300,6"', period_start=6) + "$h = hash_create; ec_ip_connections $h;",
        hashed(monitor='"300,6"', period_start=6) + '$g = hash_create; hash_set $g "x" $h; ec_ip_connections $h;',
    ],
)  # fmt: skip
def test_what_may_be_in_the_monitor_is_not_refused_when_the_script_is_loaded(bench: Bench, script: str) -> None:
    bench.policy(script)


# ---- monitors that a script needs


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("$n = ec_ip_connections 0;", "the monitor at position 0, and the audit has 0"),
        ('if true { $n = ec_ip_rejections_cluster "1" "24"; }', "the monitor at position 1, and the audit has 0"),
        (hashed(monitor='"300,6"') + "$n = ec_ip_receptions $h;", "start with --monitor 300,6"),
        (hashed(monitor='"5m,6"') + "if true { $n = ec_ip_receptions $h; }", "start with --monitor 5m,6"),
    ],
)
def test_an_audit_that_lacks_the_monitors_of_a_script_is_named_when_it_is_loaded(
    tmp_path: Path, script: str, words: str
) -> None:
    for bench in bench_of(tmp_path):
        policy = bench.policy(script)
        with pytest.raises(PolicyError, match=re.escape(words)):
            policy.check(bench.audit)
    for bench in bench_of(tmp_path, monitors=["300,6", "1800,4"]):
        policy.check(bench.audit)


def test_a_series_needs_no_monitor(bench: Bench) -> None:
    with InboundAudit() as audit:
        bench.policy(hashed(series='"s"', monitor='"7,7"') + "$n = audit_series $h;").check(audit)
