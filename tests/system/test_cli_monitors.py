"""`inbound-audit serve --monitor`: what happened over time, in one process and in several, asked from another one."""

from __future__ import annotations

import contextlib
import ipaddress
import random
import smtplib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.command_line import Serve
from tests.support.listening import Peer
from tests.support.waiting import PATIENCE, eventually
from tests.unit.cli.test_cli_parts import settings

from inbound_audit import InboundAudit
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.service import parts

shared = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")

NAME = "monitored"
DAYS = "86400,3"  # so long that what was counted is in window 0 or 1 when it is asked for
KINDS = ("connections", "receptions", "rejections")
HOSTS = ("127.0.0.1", "::1")
SENDER, RECIPIENT, MESSAGE = "a@example.net", "b@example.com", "Subject: x\r\n\r\nx\r\n"


@pytest.fixture
def audit(place: Path) -> Iterator[InboundAudit]:
    """One more process that counts in the same audit, and has counted nothing."""
    with InboundAudit(shared=NAME, capacity=1 << 20, monitors=[DAYS]) as audit:
        yield audit


def seen(audit: InboundAudit, host: str) -> tuple[int, ...]:
    return tuple(getattr(audit, kind)(DAYS, host, 0, 1) for kind in KINDS)


def deliver(server: Serve, way: int) -> None:
    with smtplib.SMTP(*server.addresses[way], timeout=PATIENCE) as client:
        client.sendmail(SENDER, [RECIPIENT], MESSAGE)


def refused(server: Serve, way: int) -> None:
    with Peer(*server.addresses[way]) as peer:
        assert peer.rest().startswith(b"421 ")


@shared
@pytest.mark.parametrize("workers", [1, 3])
def test_what_a_server_has_seen_is_seen_by_all(audit: InboundAudit, workers: int) -> None:
    options = ("--workers", str(workers), "--shared", NAME, "--monitor", " 300 , 6", "--monitor", DAYS)
    with Serve(*options, "--limit", "/32,/128=1") as server, contextlib.ExitStack() as held:
        for way in (0, 1):
            for _ in range(6):
                deliver(server, way)
                eventually(lambda: audit.total() == 0, "the end of a session")
            kept = held.enter_context(smtplib.SMTP(*server.addresses[way], timeout=PATIENCE))
            for _ in range(4):
                refused(server, way)
            kept.sendmail(SENDER, [RECIPIENT], MESSAGE)
            # A gate records a rejection when the peer has its reply already.
            eventually(lambda way=way: seen(audit, HOSTS[way]) == (11, 7, 4), "what it has seen")
            kept.quit()
            eventually(lambda: audit.total() == 0, "the end of the last session")
        assert server.stopped()["accepted"] == 14
    eventually(lambda: seen(audit, HOSTS[0]) == (0, 0, 0), "the end of the server: its windows go with it")


@shared
def test_a_policy_sees_what_other_workers_have_seen(audit: InboundAudit, tmp_path: Path) -> None:
    """Three connections a day are enough, whoever of four workers takes them; what follows is refused."""
    policy = tmp_path / "policy.sieve"
    policy.write_text(f"""
        $which = hash_create;
        hash_set $which "monitor" "{DAYS}";
        hash_set $which "period_end" 1;
        $connections = ec_ip_connections $which;
        $refusals = ec_ip_rejections_cluster $which;
        if ec_test :value "gt" :comparator "i;ascii-numeric" "${{connections}}" "3" {{
          ec_disconnect 421 "${{connections}} connections and ${{refusals}} refusals";
        }}
    """)
    with Serve("--workers", "4", "--shared", NAME, "--monitor", DAYS, "--policy", str(policy)) as server:
        for way in (0, 1):
            for _ in range(3):
                deliver(server, way)
            for number in range(5):
                with Peer(*server.addresses[way]) as peer:
                    assert peer.rest() == b"421 %d connections and %d refusals\r\n" % (4 + number, number)
            assert seen(audit, HOSTS[way]) == (8, 3, 5)


def test_the_options_arrive(tmp_path: Path) -> None:
    given: dict[str, Any] = {"capacity": 1 << 20, "monitor": ("300,2", "60, 1"), "monitor_bytes": 9 * 16384}
    with parts(settings(**given, state=str(tmp_path / "state"))) as (audit, _):
        assert audit.monitors == ("300,2", "60,1")
        listener = audit.listener("SMTP")
        rng = random.Random(3)
        hosts = [str(ipaddress.IPv6Address(0x20010DB8 << 96 | rng.getrandbits(64))) for _ in range(5000)]
        for host in hosts:
            listener.session(host).close()
        # So many do not fit into 16 KiB, so their networks are all that is left of them.
        assert audit.connections(0, "2001:db8::/32", 0, 1) == 5000
        assert sum(audit.connections(0, host, 0, 1) for host in hosts) < 5000


def test_snapshots_lie_in_the_given_directory(tmp_path: Path) -> None:
    for total in (3, 6):
        with parts(settings(capacity=1 << 20, monitor=(), monitor_bytes=1 << 28, state=str(tmp_path))) as (audit, _):
            audit.series.define("kept", "ip", 86400, 3, persist=True)
            audit.series.add("kept", "192.0.2.7", 3)
            assert audit.series.count("kept", "192.0.2.7", 0, 1) == total


@shared
@pytest.mark.parametrize("workers", [1, 3])
def test_what_a_policy_logs_lies_there_too(place: Path, tmp_path: Path, workers: int) -> None:
    policy, state = tmp_path / "policy.sieve", tmp_path / "state"
    policy.write_text("""
        $add = hash_create;
        hash_set $add "series" "visits";
        hash_set $add "monitor" "86400,3";
        hash_set $add "serialize" 1;
        audit_series_add $add;
    """)
    options = ("--workers", str(workers), "--shared", NAME, "--state", str(state), "--policy", str(policy))
    with Serve(*options) as server:
        for _ in range(5):
            deliver(server, 0)
            deliver(server, 1)
        server.stopped()
    assert state.stat().st_mode & 0o777 == 0o700
    lines = [line.split() for path in state.rglob("*.log") for line in path.read_text().splitlines()]
    assert sorted(line[-1] for line in lines if line[-1] in HOSTS) == ["127.0.0.1"] * 5 + ["::1"] * 5


def test_without_options_nothing_is_counted_over_time(tmp_path: Path) -> None:
    with parts(settings(capacity=1 << 20, monitor=(), monitor_bytes=1 << 28)) as (audit, _):
        assert audit.monitors == ()


def test_no_room_is_reported_with_the_options_that_matter() -> None:
    many = tuple(f"{seconds},1024" for seconds in range(60, 76))
    with (
        pytest.raises(Failure, match="another --capacity, such as 1G or --monitor-bytes"),
        parts(settings(capacity=1 << 20, monitor=many, monitor_bytes=1 << 48)),
    ):
        pass
