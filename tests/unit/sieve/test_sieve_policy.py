"""`SievePolicy`: counts, failures, threads, and the policy behind real SMTP and in `serve`."""

from __future__ import annotations

import logging
import smtplib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiosmtpd.handlers import Sink
from hypothesis import given
from hypothesis import strategies as st
from tests.support import listening
from tests.support.grammar import CASES, Answer, case_id, populate
from tests.support.listening import Peer
from tests.support.sieve_support import Bench, bench_of
from tests.support.timing import Clock
from tests.support.waiting import PATIENCE, eventually

import inbound_audit.sieve.run
from inbound_audit import InboundAudit, Session, SievePolicy
from inbound_audit.errors import CidrError
from inbound_audit.listeners import Guard
from inbound_audit.listeners.smtp import Controller
from inbound_audit.policy.base import SUSPENDED
from inbound_audit.policy.verdict import ACCEPT, Verdict
from inbound_audit.ration import Ration
from inbound_audit.sieve.counts import check_cidr
from inbound_audit.sieve.run import MAX_COUNTERS, Run

audit, guard = listening.audit, listening.guard  # fixtures

ONE_A_HOST = """
    ($sessions) = audit_service "SMTP" "/32";
    if ec_test :value "gt" :comparator "i;ascii-numeric" "${sessions}" "1" {
      ec_disconnect 421 "${sessions} sessions from %{i}";
    }
"""
NOT_TODAY = 'ec_disconnect 421 "not today";'
FAILS = 'ec_tarpit "${unset}";'


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from bench_of(tmp_path)


# ---- counts


def asked(ac: Session, policy: SievePolicy) -> int | str:
    """A count, or the error without its place."""
    errors = policy.errors
    verdict = policy.validate_connect(ac)
    return int(verdict.text) if policy.errors == errors else str(policy.last_error)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_the_argument_is_that_of_python(bench: Bench, case: tuple[tuple[object, ...], Answer, Answer]) -> None:
    arguments, *answers = case
    if not (1 <= len(arguments) <= 2 and all(isinstance(argument, str) for argument in arguments)):
        return
    texts = ['"' + str(argument).replace("\\", "\\\\").replace('"', '\\"') + '"' for argument in arguments]
    if any("\0" in text for text in texts):
        return
    names = ("cidr", "service")[: len(texts)]
    call = "audit_service $service $cidr" if len(texts) == 2 else "audit_connections_on_service $cidr"
    given = "".join(f"${name} = {text};\n" for name, text in zip(names, texts, strict=True))
    policy = bench.policy(f'{given}($n) = {call};\nec_action 250 "${{n}}";')
    *peers, sessions = populate(bench.audit)
    bench.sessions += sessions
    for ac, answer in zip(peers, answers, strict=True):
        reported = asked(ac, policy)
        assert reported == answer if isinstance(answer, int) else answer in str(reported)


def test_service_listener_and_cluster(bench: Bench) -> None:
    *peers, sessions = populate(bench.audit)
    bench.sessions += sessions
    script = """
        $service = audit_connections_on_service "/32";
        $listener = audit_connections_on_listener "/32";
        $cluster = audit_service "inbound_cidr" "/32";
        $imap = audit_service "IMAP" "/24,/64";
        ec_action 250 "${service} ${listener} ${cluster} ${imap}";
    """
    policy = bench.policy(script)
    assert [policy.validate_connect(ac).text for ac in peers] == ["3 2 3 1", "3 1 3 1"]


@pytest.mark.parametrize("service", ["SMTP", "IMAP"])
@pytest.mark.parametrize(
    ("cidr", "here", "there"),
    [
        ("/24", 2, 1),
        ("/32", 1, 1),
        ("/0", 3, 2),
        ("/24,/48", 2, 1),
        ("192.0.2.7", 1, 0),
        ("192.0.2.8/32", 1, 0),
        ("192.0.2.9/32", 0, 1),
        ("192.0.2.0/30", 0, 0),
        ("192.0.0.0/8", 2, 1),
        ("0.0.0.0/0", 3, 2),
        ("[2001:db8::]/32", 1, 1),
    ],
)
def test_a_listener_counts_its_own_sessions_alone(bench: Bench, service: str, cidr: str, here: int, there: int) -> None:
    """Two listeners of one service have sessions in the same prefixes."""
    mx, submission = (bench.audit.listener(service, name) for name in ("mx", "submission"))
    hosts = ["192.0.2.7", "192.0.2.8", "198.51.100.1", "2001:db8::1"]
    bench.sessions += [mx.session(host) for host in hosts]
    bench.sessions += [submission.session(host) for host in ("192.0.2.9", "203.0.113.1", "2001:db8::9")]
    policy = bench.policy(f'$n = audit_connections_on_listener "{cidr}"; ec_action 250 "${{n}}";')
    assert policy.validate_connect(bench.sessions[0]).text == str(here)
    assert policy.validate_connect(bench.sessions[4]).text == str(there)
    assert policy.errors == 0


@given(st.text("/,0123456789.:af[]x ", max_size=10) | st.from_regex(r"\A/[0-9]{1,3}(,/[0-9]{1,3})?\Z", fullmatch=True))
def test_a_prefix_in_a_script_is_refused_if_it_is_malformed(cidr: str) -> None:
    def understood(ac: Session) -> bool:
        try:
            ac.inbound_session_count(cidr)
        except CidrError:
            return False
        return True

    with InboundAudit(capacity=1 << 20) as audit:
        smtp = audit.listener()
        with smtp.session("192.0.2.1") as four, smtp.session("2001:db8::1") as six:
            if understood(four) or understood(six):
                check_cidr(cidr)
            else:
                with pytest.raises(CidrError) as reported:
                    check_cidr(cidr)
                assert str(reported.value).startswith(f"{cidr!r}: ")


def test_the_session_that_asks_is_counted(bench: Bench) -> None:
    policy = bench.policy(ONE_A_HOST)
    for host in ("192.0.2.7", "2001:db8::7"):
        first = bench.session(host)
        assert policy.validate_connect(first) is ACCEPT
        with bench.listener.session(host) as second:
            refused = policy.validate_connect(second)
        assert refused == Verdict(False, 421, f"2 sessions from {host}", disconnect=True)
        assert policy.validate_connect(first) is ACCEPT
    assert (policy.errors, policy.last_error) == (0, None)


# ---- failures and their messages


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({}, ACCEPT),
        ({"on_error": "accept"}, ACCEPT),
        (
            {"on_error": "refuse"},
            Verdict(False, 421, "service not available, try again later", disconnect=True),
        ),
    ],
)
def test_a_run_that_fails(
    bench: Bench, options: dict[str, str], verdict: Verdict, caplog: pytest.LogCaptureFixture
) -> None:
    policy = bench.policy(f"ec_tarpit 5;\n{FAILS}", **options)
    ac = bench.session()
    assert [policy.validate_connect(ac) for _ in range(3)] == [verdict] * 3
    assert policy.errors == policy.errors_by_hook["validate_connect"] == 3
    assert (policy.last_error or "").startswith("policy.sieve:2:1: seconds: '': is not a duration")
    (record,) = caplog.records  # one line per interval
    assert (record.levelno, record.name) == (logging.ERROR, "inbound_audit.sieve")
    assert record.getMessage() == f"{policy.path}: validate_connect failed: {policy.last_error}"


def test_an_error_outside_the_script_is_named_by_its_kind(bench: Bench) -> None:
    policy = bench.policy('$n = audit_service "SMTP" "/24";')
    nobody: Session = None  # type: ignore[assignment]
    assert policy.validate_connect(nobody) is ACCEPT
    assert policy.last_error is not None
    assert policy.last_error.startswith("policy.sieve:1:1: AttributeError: ")


def test_a_closed_policy(bench: Bench) -> None:
    policy = bench.policy(NOT_TODAY, on_error="refuse")
    policy.close()
    policy.close()
    assert policy.validate_connect(bench.session()).text == "service not available, try again later"
    assert policy.last_error == "policy.sieve: the policy is closed"


def test_ec_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "inbound_audit")
    policy = bench.policy('\n ec_log "%{i} said\n100% größe\x07";')
    policy.validate_connect(bench.session())
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.INFO, "inbound_audit.sieve")
    assert record.getMessage() == f"{policy.path}:2: 192.0.2.7 said 100% größe "


def test_actions_are_counted_by_name_or_line(bench: Bench) -> None:
    policy = bench.policy("""
        ec_tarpit 1;
        ec_tarpit 1 "slow";
        ec_tarpit 1 "slow";
        ec_disconnect;
        ec_action 451 "later" "%{i}";
    """)
    for host in ("192.0.2.7", "192.0.2.7", "2001:db8::7"):
        policy.validate_connect(bench.session(host))
    counted = {"policy.sieve:2": 3, "slow": 6, "policy.sieve:5": 3, "192.0.2.7": 2, "2001:db8::7": 1}
    assert policy.hits == counted


def test_names_of_counters_have_a_bound(bench: Bench) -> None:
    policy = bench.policy('ec_action 451 "later" "%{i}";')
    for number in range(MAX_COUNTERS + 50):
        with bench.listener.session(f"10.0.{number // 250}.{number % 250}") as ac:
            policy.validate_connect(ac)
    assert len(policy.hits) == MAX_COUNTERS + 1
    assert policy.hits["others"] == 50


def test_several_threads_ask_at_once(bench: Bench) -> None:
    """Each run has its own variables and answer, and no action is left uncounted."""
    policy = bench.policy("""
        $h = hash_create;
        hash_set $h "ip" "%{i}";
        vctx_conn_set "ip" $h["ip"];
        $ip = vctx_conn_get "ip";
        if not ec_test :regex "${ip}" "^10\\\\.\\\\d+\\\\.\\\\d+\\\\.\\\\d+$" { ec_action 550 "wrong" "wrong"; }
        elsif ec_test :matches "%{i}" "${ip}" { ec_action 250 "${ip}" "right"; }
    """)
    sessions = [[bench.session(f"10.0.{thread}.{i}") for i in range(100)] for thread in range(6)]
    reported: list[tuple[str, str]] = []

    def ask(mine: list[Session]) -> None:
        for ac in mine * 5:
            reported.append((ac.remote_ip, policy.validate_connect(ac).text))

    threads = [threading.Thread(target=ask, args=(mine,)) for mine in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert policy.errors == 0, policy.last_error
    assert len(reported) == 3000
    assert all(ip == text for ip, text in reported)
    assert policy.hits == {"right": 3000}


def test_policies_are_compiled_in_several_threads_at_once(bench: Bench) -> None:
    paths = [bench.write(f'ec_action 250 "{number}";\n' * 50, f"{number}.sieve") for number in range(8)]
    policies: list[SievePolicy] = []
    threads = [threading.Thread(target=lambda path=path: policies.append(SievePolicy(path))) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ac = bench.session()
    assert sorted(policy.validate_connect(ac).text for policy in policies) == list("01234567")


# ---- behind a listener


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_real_smtp(guard: Guard, audit: InboundAudit, bench: Bench, host: str) -> None:
    script = ONE_A_HOST.replace('421 "', '421 "slow down,\n')
    policy = guard.policy = bench.policy(script)
    controller = Controller(Sink(), host, 0, guard=guard)
    controller.start()
    try:
        address = controller.addresses[0]
        with smtplib.SMTP(*address, timeout=PATIENCE) as client:
            client.sendmail("a@example.net", ["b@example.com"], "Subject: greetings\r\n\r\nhello\r\n")
            with Peer(*address) as second:
                assert second.rest() == f"421-slow down,\r\n421 2 sessions from {host}\r\n".encode()
            assert client.noop()[0] == 250
        eventually(lambda: audit.total() == 0)
        with Peer(*address) as third:
            assert third.line().startswith(b"220 ")
    finally:
        controller.stop()
    assert (policy.errors, guard.failures, guard.accepted, guard.refused) == (0, 0, 2, 1)


# ---- time


def test_runs_that_use_up_their_time_have_a_share_of_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, used = Clock(), Clock()
    monkeypatch.setattr(inbound_audit.sieve.run, "thread_time", used)
    monkeypatch.setattr(inbound_audit.sieve.run, "monotonic", clock)

    def takes_a_second(run: Run) -> None:
        run.check()
        for one in (clock, used):
            one.step(1)
        run.check()

    policy = bench.policy("keep;", on_error="refuse", max_hook_ms=50)
    policy._ration = Ration(1, clock)
    monkeypatch.setattr(policy, "_run", takes_a_second)
    ran = []
    for _ in range(9):
        before = used()
        assert not policy.validate_connect(bench.session())
        ran.append(int(used() - before))
        clock.step(0.5)
    assert ran == [1, 1, 0, 1, 0, 1, 0, 1, 0]
    assert policy.errors == 9
    assert len([message for message in caplog.messages if SUSPENDED in message]) == 1
