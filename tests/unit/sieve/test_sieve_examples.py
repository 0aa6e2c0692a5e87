"""The policies in examples/ and in the documentation, and what the reference's documentation shows, written anew."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.listening import Clock
from tests.support.sieve_support import PATIENT_MS, Bench, bench_of

from inbound_audit import Session, SievePolicy
from inbound_audit._ipcount import MONITOR_KINDS as KINDS
from inbound_audit.policy.verdict import ACCEPT, Verdict

POLICIES = Path(__file__).parents[3] / "examples" / "policies"
DOCS = Path(__file__).parents[3] / "docs" / "policies.md"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bench(tmp_path: Path, clock: Clock) -> Iterator[Bench]:
    yield from bench_of(tmp_path, monitors=["300,6", "1800,4"], clock=clock)


def let_in(bench: Bench, policy: SievePolicy, hosts: list[str]) -> int:
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


# ---- examples/policies


def test_every_example_loads() -> None:
    assert [SievePolicy(path) for path in sorted(POLICIES.glob("*.sieve"))]


@pytest.mark.parametrize(
    ("host", "network"),
    [("198.51.100.1", "198.51.100.{}"), ("2001:db8:1:2::1", "2001:db8:1:{:x}::1")],
)
def test_the_stock_policy(bench: Bench, host: str, network: str) -> None:
    policy = SievePolicy(POLICIES / "stock.sieve")
    assert let_in(bench, policy, [host] * 12) == 10
    assert let_in(bench, policy, [network.format(i) for i in range(3, 200)]) == 90
    refused = policy.validate_connect(bench.session(host))
    assert refused == Verdict(False, 421, "connection limit exceeded", disconnect=True)
    assert policy.hits == {"host": 3, "network": 107}


def test_the_stock_policy_and_its_whitelist(bench: Bench) -> None:
    policy = SievePolicy(POLICIES / "stock.sieve")
    listed = ["192.0.2.1"] * 50 + ["2001:db8::1"] * 50 + ["2001:db8:0:1::1"] * 50
    assert let_in(bench, policy, listed) == 150
    assert let_in(bench, policy, ["192.0.2.13"] * 50 + ["2001:db8:1::1"] * 50) == 20


@pytest.mark.skipif(not DOCS.exists(), reason="the documentation is not installed with the package")
def test_the_scripts_of_the_documentation(bench: Bench, clock: Clock) -> None:
    scripts = re.findall(r"```sieve\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert len(scripts) == 5
    policy = bench.policy(scripts[0])
    assert let_in(bench, policy, ["192.0.2.7"] * 12 + ["2001:db8::7"] * 12) == 20
    impatient, sent_away = bench.policy(scripts[1]), SievePolicy(bench.write(scripts[2], "sent-away.sieve"))
    ac = bench.session("198.51.100.7")
    clock.now += 24 * 3600
    bench.happen("connections", "198.51.100.7", 1000)
    assert impatient.validate_connect(ac) is ACCEPT
    bench.happen("connections", "198.51.100.7", 1)
    for _ in range(10):
        assert impatient.validate_connect(ac) == Verdict(tarpit=5.0)
    assert sent_away.validate_connect(ac) is ACCEPT
    clock.now += 300
    impatient.validate_connect(ac)
    clock.now += 2 * 3600
    refusal = Verdict(False, 421, "4.7.0 too many connections, come back tomorrow", disconnect=True)
    assert sent_away.validate_connect(ac) == refusal
    clock.now += 3600
    assert sent_away.validate_connect(ac) is ACCEPT
    assert (impatient.last_error, sent_away.last_error) == (None, None)


@pytest.mark.skipif(not DOCS.exists(), reason="the documentation is not installed with the package")
def test_the_rate_and_the_address_list_of_the_documentation(bench: Bench, clock: Clock) -> None:
    *_, rate, listed = re.findall(r"```sieve\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    policy = bench.policy(rate)
    ac = bench.session("198.51.100.7")
    bench.happen("connections", "198.51.100.7", 8)
    assert policy.validate_connect(ac) is ACCEPT
    bench.happen("receptions", "198.51.100.7", 4)
    assert policy.validate_connect(ac) is ACCEPT  # 10 to 4: each reception came with a connection's end
    bench.happen("connections", "198.51.100.7", 1)
    assert policy.validate_connect(ac) == Verdict(tarpit=10.0)
    assert policy.last_error is None
    bench.write("192.0.2.0/24 :127.0.0.2:sent spam\n", "blocked.txt")
    blocked = SievePolicy(bench.write(listed, "blocked.sieve"), max_hook_ms=PATIENT_MS)
    refusal = Verdict(False, 554, "5.7.1 sent spam", disconnect=True)
    assert blocked.validate_connect(bench.session("192.0.2.7")) == refusal
    assert blocked.validate_connect(ac) is ACCEPT
    assert blocked.last_error is None


# ---- sessions

TWO_LIMITS = """
    ({host}) = {count} "/32";
    ({network}) = {count} "/24";
    if ec_test :value "gt" :comparator "i;ascii-numeric" "${{host}}" "3" {{
      ec_tarpit 10 "a busy host";
    }}
    if ec_test :value "gt" :comparator "i;ascii-numeric" "${{network}}" "5" {{
      ec_tarpit 20 "a busy network";
    }}
"""


@pytest.mark.parametrize(
    "count",
    [
        'audit_service "SMTP"',
        'audit_service "inbound_cidr"',
        "audit_connections_on_service",
        "audit_connections_on_listener",
    ],
)
def test_a_busy_host_and_a_busy_network_are_slowed_down(bench: Bench, count: str) -> None:
    policy = bench.policy(TWO_LIMITS.format(count=count, host="$host", network="$network"))
    ac = bench.session("192.0.2.7")
    reported = []
    for host in (7, 7, 7, 8, 8):
        reported.append(policy.validate_connect(ac).tarpit)
        bench.session(f"192.0.2.{host}")
    assert [*reported, policy.validate_connect(ac).tarpit] == [0, 0, 0, 10, 10, 20]
    assert policy.hits == {"a busy host": 3, "a busy network": 1}


# ---- windows and series


@pytest.fixture
def ac(bench: Bench, clock: Clock) -> Session:
    """A session that began so long ago that its connection is in no window."""
    session = bench.session("192.0.2.7")
    clock.now += 24 * 3600
    return session


def slowed_down(policy: SievePolicy, ac: Session) -> float:
    tarpit = policy.validate_connect(ac).tarpit
    assert policy.errors == 0, policy.last_error
    return tarpit


every_kind = pytest.mark.parametrize("kind", KINDS)
every_cluster = pytest.mark.parametrize("cluster", ["", "_cluster"])


@every_kind
@every_cluster
def test_counts_over_a_sliding_window(bench: Bench, clock: Clock, ac: Session, kind: str, cluster: str) -> None:
    policy = bench.policy(f"""
        ($host) = ec_ip_{kind}{cluster} "0" "32";
        ($network) = ec_ip_{kind}{cluster} "0" "24";
        if ec_test :value "gt" :comparator "i;ascii-numeric" "${{host}}" "1000" {{
          ec_tarpit 10 "{kind} of a host";
        }}
        if ec_test :value "gt" :comparator "i;ascii-numeric" "${{network}}" "10000" {{
          ec_tarpit 20 "{kind} of a network";
        }}
    """)
    bench.happen(kind, "192.0.2.7", 1000)
    assert slowed_down(policy, ac) == 0
    bench.happen(kind, "192.0.2.7", 1)
    assert slowed_down(policy, ac) == 10
    bench.happen(kind, "192.0.2.9", 9000)
    assert slowed_down(policy, ac) == 20
    clock.now += 300  # the window of five minutes that ends now is the one before
    assert slowed_down(policy, ac) == 20
    clock.now += 3  # a hundredth less of it
    assert slowed_down(policy, ac) == 0
    assert policy.hits == {f"{kind} of a host": 3, f"{kind} of a network": 2}


@every_kind
@every_cluster
def test_counts_of_a_quarter_of_an_hour(bench: Bench, clock: Clock, ac: Session, kind: str, cluster: str) -> None:
    policy = bench.policy(f"""
        $which = hash_create;
        hash_set $which "period_start" "0";
        hash_set $which "period_end" "2";
        hash_set $which "monitor" "300,6";
        hash_set $which "mask" "32";
        $count = ec_ip_{kind}{cluster} $which;
        if ec_test :value "gt" :comparator "i;ascii-numeric" "${{count}}" "1000" {{
          ec_tarpit 10 "{kind} of fifteen minutes";
        }}
    """)
    for times, tarpit in ((500, 0), (500, 0), (1, 10), (500, 10), (499, 0), (1, 0), (502, 10)):
        clock.now += 300
        bench.happen(kind, "192.0.2.7", times)
        bench.happen(kind, "192.0.2.9", 5000)
        assert slowed_down(policy, ac) == tarpit


def test_a_series_of_ones_own(bench: Bench, clock: Clock, ac: Session) -> None:
    adds = SievePolicy(bench.write('audit_series_add "knocks" "1800,3" "3";', "adds.sieve"))
    counts = bench.policy("""
        ($host) = audit_series "knocks" "1800,3" "32";
        ($network) = audit_series "knocks" "1800,3" "24";
        if ec_test :value "gt" :comparator "i;ascii-numeric" "${host}" "1000" {
          ec_tarpit 10 "knocks of a host";
        }
        if ec_test :value "gt" :comparator "i;ascii-numeric" "${network}" "10000" {
          ec_tarpit 20 "knocks of a network";
        }
    """)
    for _ in range(333):
        assert adds.validate_connect(ac) is ACCEPT
    assert slowed_down(counts, ac) == 0
    adds.validate_connect(ac)  # 1002
    assert slowed_down(counts, ac) == 10
    bench.audit.series.add("knocks", "192.0.2.200", 8999)
    assert slowed_down(counts, ac) == 20
    clock.now += 1800
    assert slowed_down(counts, ac) == 0
    assert adds.errors == 0


def test_a_series_of_ones_own_by_hashes(bench: Bench, clock: Clock, ac: Session) -> None:
    policy = bench.policy("""
        $add = hash_create;
        hash_set $add "series" "knocks";
        hash_set $add "monitor" "300,6";
        hash_set $add "count" 2;
        hash_set $add "replicate" 1;
        audit_series_add $add;

        $which = hash_create;
        hash_set $which "series" "knocks";
        hash_set $which "monitor" "300,6";
        hash_set $which "period_start" 0;
        hash_set $which "period_end" 2;
        hash_set $which "mask" 32;
        ($count) = audit_series $which;
        if ec_test :value "gt" :comparator "i;ascii-numeric" "${count}" "6" {
          ec_tarpit 10 "knocks of fifteen minutes";
        }
    """)
    reported = []
    for later in (0, 300, 300, 0, 300, 1800):
        clock.now += later
        reported.append(slowed_down(policy, ac))
    assert reported == [0, 0, 0, 10, 10, 0]
    assert bench.audit.series.defined("knocks").replicate


def test_a_series_of_another_owner(bench: Bench, ac: Session) -> None:
    """What a client does is held against another address, and against that one's network."""
    policy = bench.policy("""
        $add = hash_create;
        hash_set $add "series" "blame";
        hash_set $add "monitor" "3600,24";
        hash_set $add "ip" "2001:db8:7::1";
        audit_series_add $add;

        $which = hash_create;
        hash_set $which "series" "blame";
        hash_set $which "monitor" "3600,24";
        hash_set $which "ip" "2001:db8:7:8::9";
        hash_set $which "mask" "48";
        $network = audit_series $which;
        $own = audit_series "blame" "3600,24";
        ec_action 250 "${network} and ${own}";
    """)
    assert [policy.validate_connect(ac).text for _ in range(3)] == ["1 and 0", "2 and 0", "3 and 0"]


def test_a_debt_that_is_paid_back(bench: Bench, ac: Session) -> None:
    """Each refusal costs three, each quiet visit pays one back."""
    policy = bench.policy("""
        $debt = audit_series "debt" "3600,2" "32" 0 1;
        if ec_test :value "gt" :comparator "i;ascii-numeric" "${debt}" "0" {
          $back = "-1";
          audit_series_add "debt" "3600,2" $back;
          stop;
        }
        audit_series_add "debt" "3600,2" 3;
        ec_action 450 "not now";
    """)
    assert [policy.validate_connect(ac).code for _ in range(9)] == [450, 0, 0, 0, 450, 0, 0, 0, 450]


# ---- the language


def test_what_a_hash_holds(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "inbound_audit")
    bench.verdict("""
        $hash = hash_create;
        hash_set $hash "fruit" "apple";
        $one = $hash["fruit"];
        $two = hash_get $hash "fruit";
        ec_log "it holds ${one}, and ${two} again";
    """)
    assert caplog.records[0].getMessage().endswith("policy.sieve:6: it holds apple, and apple again")


def test_what_is_set_and_what_is_not(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "inbound_audit")
    bench.verdict("""
        $two = ["red", "green"];
        $one = ["blue"];
        $hash = hash_create;
        hash_set $hash "colour" "red";
        if isset $two 1 { ec_log "a second colour"; }
        if not isset $one 1 { ec_log "no second colour"; }
        if isset $hash "colour" { ec_log "a \\"colour\\""; }
        if not isset $hash "sound" { ec_log "no \\"sound\\""; }
    """)
    reported = [record.getMessage().split(": ", 1)[1] for record in caplog.records]
    assert reported == ["a second colour", "no second colour", 'a "colour"', 'no "sound"']


@pytest.mark.parametrize(
    ("record", "verdict"),
    [
        ("v=spf1 mx -all", ACCEPT),
        ("v=spf1   -all", Verdict(False, 550, "the domain says that it sends no mail")),
    ],
)
def test_a_pattern_and_a_reply(bench: Bench, record: str, verdict: Verdict) -> None:
    script = f"""
        $record = "{record}";
        if ec_test :regex "${{record}}" "^v=spf1\\\\s+-all$" {{
          ec_action 550 "the domain says that it sends no mail";
        }}
    """
    assert bench.verdict(script) == verdict


@pytest.mark.parametrize(("answer", "code"), [("127.0.0.2", 0), ("127.0.0.4", 550), ("", 550)])
def test_a_reply_with_a_variable_in_it(bench: Bench, answer: str, code: int) -> None:
    script = f"""
        $answer = "{answer}";
        if not ec_test :is "${{answer}}" "127.0.0.2" {{
          $why = "%{{spfv1:i}} is <${{answer}}>";
          ec_action 550 "5.7.1 ${{why}}";
        }}
    """
    verdict = bench.verdict(script)
    assert verdict.code == code
    assert verdict.text == (f"5.7.1 192.0.2.7 is <{answer}>" if code else "")


def test_slow_down_then_refuse_then_leave(bench: Bench) -> None:
    script = """
        require ["ec_tarpit", "ec_action", "ec_disconnect"];
        if ec_test :matches :comparator "i;ascii-casemap" "Win MONEY, and fast" ["*money*fast*", "*cheap*watch*"] {
          ec_tarpit 120 "offers";
          ec_action 451 "another time perhaps";
          ec_disconnect;
        }
        ec_action 250 "never said";
    """
    assert bench.verdict(script) == Verdict(False, 451, "another time perhaps", 120.0, True)


def test_leave_with_the_reply_that_follows(bench: Bench) -> None:
    script = """
        if ec_test :is "%{i}" ["192.0.2.6", "192.0.2.7"] {
          ec_disconnect;
          ec_action 550 "5.7.1 stop calling here";
        }
    """
    assert bench.verdict(script) == Verdict(False, 550, "5.7.1 stop calling here", disconnect=True)
    assert bench.verdict(script, "192.0.2.8") is ACCEPT


def test_bits_of_the_last_octet(bench: Bench) -> None:
    script = """
        $octets = ["127", "0", "0", "5"];
        if isset $octets 3 {
          $last = $octets[3];
          if ec_test :value "bitwise-and" :comparator "i;ascii-numeric" $last "1" { $lists = "${lists} first"; }
          if ec_test :value "bitwise-and" :comparator "i;ascii-numeric" $last "2" { $lists = "${lists} second"; }
          if ec_test :value "bitwise-and" :comparator "i;ascii-numeric" $last "4" { $lists = "${lists} third"; }
        }
        ec_action 550 "listed by:${lists}";
    """
    assert bench.verdict(script).text == "listed by: first third"


def test_several_values_at_once(bench: Bench) -> None:
    script = """
        ($total, $free, $percent) = [1000, 50, "95"];
        if ec_test :value "gt" :comparator "i;ascii-numeric" $percent "90" {
          ec_disconnect "421" "only ${free} of ${total} are free";
        }
    """
    assert bench.verdict(script) == Verdict(False, 421, "only 50 of 1000 are free", disconnect=True)
