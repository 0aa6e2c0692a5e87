"""Windows and series from Sieve: what the functions ask of an audit, and what they make of its answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sieve_support import Bench, Definition, FakeAudit, ask, bench_of

from inbound_audit.errors import PolicyError
from inbound_audit.sieve.windows import KINDS


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from bench_of(tmp_path)


@pytest.fixture
def audit() -> FakeAudit:
    return FakeAudit()


def run(bench: Bench, audit: FakeAudit, script: str) -> str:
    """What ``$n`` is in the end."""
    policy = bench.policy(script + '\nec_action 250 "=${n}";')
    verdict = ask(policy, audit)
    assert policy.errors == 0, policy.last_error
    return verdict.text[1:]


def hashed(**values: object) -> str:
    """A script that makes a hash ``$h``."""
    return "$h = hash_create;" + "".join(f'hash_set $h "{key}" {value};' for key, value in values.items())


# ---- connections, receptions, rejections


@pytest.mark.parametrize("cluster", ["", "_cluster"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_positional_form_is_a_sliding_average(bench: Bench, audit: FakeAudit, kind: str, cluster: str) -> None:
    name = f"ec_ip_{kind}{cluster}"
    assert run(bench, audit, f'$n = {name} "0";') == "7"
    assert run(bench, audit, f'$n = {name} 1 "24";') == "7"
    assert run(bench, audit, f'$i = "1"; $m = "24,56"; $n = {name} $i $m;') == "7"
    assert run(bench, audit, f'($n) = {name} "0" "/32";') == "7"
    assert audit.calls == [
        ("average", 0, kind, "/32"),
        ("average", 1, kind, "/24"),
        ("average", 1, kind, "/24,/56"),
        ("average", 0, kind, "/32"),
    ]


@pytest.mark.parametrize("cluster", ["", "_cluster"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_form_with_a_hash_is_a_sum(bench: Bench, audit: FakeAudit, kind: str, cluster: str) -> None:
    name = f"ec_ip_{kind}{cluster}"
    assert run(bench, audit, hashed() + f"$n = {name} $h;") == "7"
    run(bench, audit, hashed(monitor='"1800, 4"', period_start='"1"', mask='"24"') + f"$n = {name} $h;")
    run(bench, audit, hashed(monitor='"300,6"', period_start=0, period_end=2, mask=32) + f"$n = {name} $h;")
    assert audit.calls == [(kind, 0, "/32", 0, 0), (kind, "1800,4", "/24", 1, 1), (kind, "300,6", "/32", 0, 2)]


@pytest.mark.parametrize(("average", "shown"), [(0.0, "0"), (0.99, "0"), (12.5, "12"), (1e15, "1000000000000000")])
def test_an_average_is_told_without_its_fraction(bench: Bench, audit: FakeAudit, average: float, shown: str) -> None:
    audit.answer = average
    assert run(bench, audit, '$n = ec_ip_connections "0" "32";') == shown


# ---- named series


def test_a_series_is_defined_by_the_first_that_adds(bench: Bench, audit: FakeAudit) -> None:
    assert run(bench, audit, '$n = audit_series "s" "300,6" "32";') == "0"
    assert (audit.series.known, audit.series.calls) == ({}, [])
    run(bench, audit, 'audit_series_add "s" "300, 6";')
    assert audit.series.known == {"s": Definition("s", "cidr", 300, 6, False, False)}
    assert run(bench, audit, '$n = audit_series "s" "300,6" "32";') == "7"
    assert audit.series.calls == [("add", "s", None, 1), ("count", "s", "/32", 0, 0)]


def test_what_is_added(bench: Bench, audit: FakeAudit) -> None:
    run(bench, audit, 'audit_series_add "s" "1800,3" "3";')
    run(bench, audit, '$less = "-2"; audit_series_add "s" "1800,3" $less;')
    run(bench, audit, hashed(series='"s"', monitor='"1800,3"') + "audit_series_add $h;")
    run(bench, audit, hashed(series='"s"', monitor='"1800,3"', count=2, ip='"2001:db8::1"') + "audit_series_add $h;")
    assert audit.series.calls == [
        ("add", "s", None, 3),
        ("add", "s", None, -2),
        ("add", "s", None, 1),
        ("add", "s", "2001:db8::1", 2),
    ]


@pytest.mark.parametrize(
    ("replicate", "serialize", "given"),
    [(0, 0, (False, False)), (1, 0, (False, True)), ('"-1"', 1, (True, True)), (0, '"1"', (True, False))],
)
def test_options_of_a_series_are_handed_on(
    bench: Bench, audit: FakeAudit, replicate: object, serialize: object, given: tuple[bool, bool]
) -> None:
    options = hashed(series='"s"', monitor='"300,6"', replicate=replicate, serialize=serialize)
    run(bench, audit, options + "audit_series_add $h; audit_series_add $h;")
    assert audit.series.known == {"s": Definition("s", "cidr", 300, 6, *given)}
    assert audit.series.calls == [("add", "s", None, 1)] * 2


@pytest.mark.parametrize(
    ("call", "asked"),
    [
        ('audit_series "s" "300,6"', ("/32", 0, 0)),
        ('audit_series "s" "300,6" 24', ("/24", 0, 0)),
        ('audit_series "s" "300,6" "24" "2"', ("/24", 2, 2)),
        ('audit_series "s" "300,6" "24" 1 5', ("/24", 1, 5)),
    ],
)
def test_what_is_counted(bench: Bench, audit: FakeAudit, call: str, asked: tuple[object, ...]) -> None:
    audit.series.answer = -3
    assert run(bench, audit, f'audit_series_add "s" "300,6"; $n = {call};') == "-3"
    assert audit.series.calls[1:] == [("count", "s", *asked)]


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, ("/32", 0, 0)),
        ({"mask": 24, "period_start": 1}, ("/24", 1, 1)),
        ({"mask": '"24"', "period_start": '"0"', "period_end": '"2"'}, ("/24", 0, 2)),
        ({"period_end": 3}, ("/32", 0, 3)),
        ({"ip": '"192.0.2.9"'}, ("192.0.2.9", 0, 0)),
        ({"ip": '"2001:db8::9"', "mask": 48}, ("2001:db8::9/48", 0, 0)),
    ],
)
def test_what_is_counted_by_a_hash(
    bench: Bench, audit: FakeAudit, options: dict[str, object], asked: tuple[object, ...]
) -> None:
    script = 'audit_series_add "s" "300,6";' + hashed(series='"s"', monitor='"300,6"', **options)
    assert run(bench, audit, script + "$n = audit_series $h;") == "7"
    assert audit.series.calls[1:] == [("count", "s", *asked)]


# ---- what makes no sense


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('$n = ec_ip_connections "7";', "7: no such monitor"),
        (hashed(monitor='"5,5"') + "$n = ec_ip_connections $h;", "'5,5': no such monitor"),
        (hashed(monitor='"5;5"') + "$n = ec_ip_connections $h;", "option 'monitor': '5;5' is no monitor"),
        (hashed(perod_start=1) + "$n = ec_ip_connections $h;", "did you mean 'period_start'?"),
        (hashed(period_start='"-1"') + "$n = ec_ip_receptions $h;", "option 'period_start': -1 is less than 0"),
        (hashed(mask='"wide"') + "$n = ec_ip_rejections $h;", "option 'mask': 'wide' is no mask"),
        (hashed(ip='"192.0.2.1"') + "$n = ec_ip_rejections $h;", "no option 'ip'"),
        (hashed(monitor='"300,6"') + "$n = audit_series $h;", "no option 'series'"),
        (hashed(series='"s"') + "audit_series_add $h;", "no option 'monitor'"),
        (hashed(series="$h") + "audit_series_add $h;", "option 'series': a hash is no text"),
        ('$n = audit_series "s" "300,6" "32" 6;', "windows 6 to 6: 300,6 has 0 to 5"),
        ('$n = audit_series "s" "300,6" "32" 3 2;', "windows 3 to 2: 300,6 has 0 to 5"),
        ('audit_series_add "s" "300,6"; audit_series_add "s" "300,7";', "series 's' is 300,6 and not 300,7"),
        ('audit_series_add "s" "300,6"; $n = audit_series "s" "60,6";', "series 's' is 300,6 and not 60,6"),
    ],
)
def test_a_run_fails_with_the_reason(bench: Bench, audit: FakeAudit, script: str, words: str) -> None:
    policy = bench.policy(script)
    assert ask(policy, audit)
    assert policy.errors == 1
    assert words in str(policy.last_error)


def test_the_same_is_told_when_it_stands_in_the_script(bench: Bench) -> None:
    for script in ('ec_ip_connections "-1";', 'ec_ip_connections_cluster 0 "wide";', 'audit_series_add "s" "6";'):
        with pytest.raises(PolicyError, match=r"policy\.sieve:1:"):
            bench.policy(script)
