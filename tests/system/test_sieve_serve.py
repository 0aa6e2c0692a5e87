"""Policies in Sieve in `serve`, and beside other processes."""

from __future__ import annotations

import signal
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.command_line import Serve, run
from tests.support.listening import Peer
from tests.support.sharing import Workers
from tests.support.sieve_support import Bench, bench_of
from tests.support.waiting import PATIENCE
from tests.unit.sieve.test_sieve_policy import FAILS, NOT_TODAY, ONE_A_HOST
from tests.unit.sieve.test_sieve_windows import run as run_script


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from bench_of(tmp_path)


def test_lark_is_loaded_for_a_policy_and_its_absence_names_the_extra() -> None:
    program = """
import sys
sys.modules["lark"] = None
import inbound_audit
try:
    inbound_audit.SievePolicy
except ImportError as error:
    print(error)
"""
    reported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert reported == "SievePolicy needs lark, a parser library: pip install 'inbound-audit[sieve]'\n"


def test_serve_takes_a_policy_in_sieve_and_loads_it_again(bench: Bench) -> None:
    path = bench.write(ONE_A_HOST, "policy.siv")
    with Serve("--policy", str(path)) as server, Peer(*server.addresses[1]) as old:
        assert server.event("policy")["policy"] == f"{path} (Sieve)"
        assert old.line().startswith(b"220")
        with Peer(*server.addresses[1]) as second:
            assert second.rest() == b"421 2 sessions from ::1\r\n"
        path.write_text(NOT_TODAY)
        server.tell(signal.SIGHUP)
        server.event("reloaded")
        with Peer(*server.addresses[0]) as new:
            assert new.rest() == b"421 not today\r\n"
        path.write_text('\n  ec_disconect 421 "not now";')
        server.tell(signal.SIGHUP)
        complaint = server.complaint("not reloaded")
        assert f"{path}:2:3: unknown command 'ec_disconect'; did you mean 'ec_disconnect'?" in complaint
        with Peer(*server.addresses[0]) as new:
            assert new.rest() == b"421 not today\r\n"
        assert old.ask(b"HELO client").startswith(b"250")
        assert old.ask(b"MAIL FROM:<a@example.net>").startswith(b"250")


def test_a_dry_run_of_a_policy_in_sieve(bench: Bench) -> None:
    path = bench.write(NOT_TODAY)
    with Serve("--policy", str(path), "--dry-run") as server:
        assert server.event("policy")["policy"] == f"{path} (Sieve), as a dry run"
        with smtplib.SMTP(*server.addresses[0], timeout=PATIENCE) as client:
            client.sendmail("a@example.net", ["b@example.com"], "Subject: greetings\r\n\r\nhello\r\n")
        total = server.stopped()
        assert (total["accepted"], total["refused"], total["would_refuse"], total["failures"]) == (1, 0, 1, 0)


def test_runs_that_fail_are_reported(bench: Bench) -> None:
    path = bench.write(FAILS)
    with Serve("--policy", str(path), "--on-error", "refuse") as server:
        with Peer(*server.addresses[0]) as peer:
            assert peer.rest() == b"421 service not available, try again later\r\n"
        assert "policy.sieve:1:1: " in server.complaint("is not a duration")
        total = server.stopped()
        assert (total["refused"], total["failures"]) == (1, 1)


@pytest.mark.parametrize("name", ["policy.sieve", "policy.SIV"])
def test_a_wrong_policy_in_sieve_is_reported_in_one_line(bench: Bench, name: str) -> None:
    bench.write("if true {", name)
    done = run("serve", "--listen", "127.0.0.1:0", "--policy", name, cwd=bench.directory)
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1
    assert f"{name}:1:10: the script ends too early".encode() in done.stderr


def test_what_another_process_adds_is_counted(place: Path, tmp_path: Path, hire: Workers) -> None:
    """Also by one in which nothing was ever added, and nothing defined."""
    other = hire(
        'audit = InboundAudit(shared=NAME, capacity=1 << 20); audit.series.define("s", "cidr", 86400, 3)\n'
        'audit.series.add("s", "192.0.2.9", 5)'
    )
    for bench in bench_of(tmp_path, shared="mail"):
        ac = bench.session("192.0.2.7")
        assert run_script(bench, ac, '$n = audit_series "s" "86400,3" "24" 0 1;') == "5"
        run_script(bench, ac, 'audit_series_add "s" "86400,3" 2;')
        assert run_script(bench, ac, '$n = audit_series "s" "86400,3" "24" 0 1;') == "7"
        other.kill()
