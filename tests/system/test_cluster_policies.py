"""Policies that refuse because of what was recorded on another node: two hosts with an agent each, over Zenoh."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.agent_hosts import Host, hosts_of
from tests.support.waiting import eventually

from inbound_audit import InboundAudit, Limits, Session, load_policy
from inbound_audit._ipcount import MONITOR_KINDS
from inbound_audit.policy.base import ScriptPolicy

pytest.importorskip("zenoh")
pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="shared mode needs Linux")]

MONITOR = "300,6"
MAX = 4
LUA = f"""
local mod = {{}}

function mod:init()
  msys.audit_series.define("failures", "ip", 3600, 24, {{ replicate = "cluster" }})
end

function mod:validate_connect(ac, vctx)
  local here = msys.audit.connections("{MONITOR}", {{ cidr = "/24", endv = 1 }})
  local all = msys.audit.connections("{MONITOR}", {{ cidr = "/24", endv = 1, cluster = true }})
  if all > {MAX} then
    return vctx:disconnect(421, "busy: " .. here .. " of " .. all)
  end
  local failures = msys.audit_series.count("failures", {{ endv = 1 }})
  if failures > {MAX} then
    return vctx:disconnect(421, failures .. " failures")
  end
end

msys.registerModule("cluster", mod)
"""
SIEVE = f"""
$h = hash_create;
hash_set $h "mask" "24";
hash_set $h "period_end" 1;
$here = ec_ip_connections $h;
$all = ec_ip_connections_cluster $h;
if ec_test :value "gt" :comparator "i;ascii-numeric" $all {MAX} {{
  ec_disconnect 421 "busy: ${{here}} of ${{all}}";
}}
$failures = audit_series "failures" "3600,24" "32" 0 1;
if ec_test :value "gt" :comparator "i;ascii-numeric" $failures {MAX} {{
  ec_disconnect 421 "${{failures}} failures";
}}
"""


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    with hosts_of(2) as hosts:
        yield hosts


@pytest.fixture
def audits(hosts: list[Host]) -> Iterator[tuple[InboundAudit, InboundAudit]]:
    with hosts[0].audit(monitors=[MONITOR]) as here, hosts[1].audit(monitors=[MONITOR]) as there:
        for audit in (here, there):
            audit.series.define("failures", "ip", 3600, 24, replicate="cluster")
        for host in hosts:
            host.start("--monitor", MONITOR)
        yield here, there


@pytest.fixture(params=["lua", "sieve"])
def policy(
    request: pytest.FixtureRequest, audits: tuple[InboundAudit, InboundAudit], tmp_path: Path
) -> Iterator[ScriptPolicy]:
    path = tmp_path / f"policy.{request.param}"
    path.write_text(LUA if request.param == "lua" else SIEVE)
    made = load_policy(path, audit=audits[0])
    yield made
    assert made.errors == 0, made.last_error


def reply(policy: ScriptPolicy, audit: InboundAudit, host: str) -> str:
    """What a client is refused with; empty if it is let in."""
    with audit.listener().session(host) as ac:
        verdict = policy.validate_connect(ac)
    return "" if verdict else verdict.text


def failures_of(audit: InboundAudit) -> tuple[int, ...]:
    return tuple(audit.series.count("failures", host, 0, 1) for host in ("198.51.100.1", "2001:db8::1"))


def check_console(host: Host) -> None:
    """What the console says of the same counts."""
    view = ", view of 2 of 2 nodes"
    listed = [f"monitor '{kind}' {MONITOR}{view}" for kind in MONITOR_KINDS] + [f"series 'failures' 3600,24{view}"]
    host.await_output(lambda said: said.splitlines()[1:] == listed, "console", "mail", "cluster", "shared", "list")

    def has_all_connections(said: str) -> bool:
        return sum(row["count"] for row in json.loads(said)["rows"] if row["kind"] == "connections") == MAX

    show = ("console", "mail", "--json", "inbound_audit", "show", "ip", "192.0.2.0/24")
    host.await_output(has_all_connections, *show)
    count = ("console", "mail", "inbound_audit", "count_cidr", "::/0", "failures", "3600,24", "0", "1")
    host.await_output(lambda said: said == f"{MAX + 1}\n", *count)


def test_events_on_another_node_refuse_a_client(
    hosts: list[Host], audits: tuple[InboundAudit, InboundAudit], policy: ScriptPolicy
) -> None:
    here, there = audits
    for number in range(MAX):
        there.listener().session(f"192.0.2.{number}").close()
    there.series.add("failures", "198.51.100.1", MAX)
    there.series.add("failures", "2001:db8::1", MAX + 1)
    eventually(lambda: here.connections(MONITOR, "192.0.2.0/24", 0, 1, cluster=True) == MAX)
    eventually(lambda: failures_of(here) == (MAX, MAX + 1))
    check_console(hosts[0])
    assert reply(policy, here, "203.0.113.1") == ""
    came = 0

    def is_busy() -> bool:
        """On a busy machine the lease of a node may end for a moment. Each time one asks is a connection more."""
        nonlocal came
        came += 1
        return reply(policy, here, "192.0.2.200") == f"busy: {came} of {MAX + came}"

    eventually(is_busy, "a refusal because of what is counted there")
    assert reply(policy, here, "198.51.100.1") == ""
    here.series.add("failures", "198.51.100.1")
    eventually(lambda: failures_of(here) == (MAX + 1, MAX + 1))
    assert reply(policy, here, "198.51.100.1") == f"{MAX + 1} failures"
    assert reply(policy, here, "2001:db8::1") == f"{MAX + 1} failures"
    assert reply(policy, here, "2001:db8::2") == ""
    # What a node recorded goes with it, and comes back with it.
    hosts[1].agent.kill()
    eventually(lambda: here.connections(MONITOR, "192.0.2.0/24", 0, 1, cluster=True) == came)
    eventually(lambda: failures_of(here) == (1, 0))
    came += 1
    assert reply(policy, here, "192.0.2.200") == ("" if came <= MAX else f"busy: {came} of {came}")
    assert reply(policy, here, "2001:db8::1") == ""
    hosts[1].start("--monitor", MONITOR)
    eventually(lambda: here.connections(MONITOR, "192.0.2.0/24", 0, 1, cluster=True) == came + MAX)
    eventually(is_busy, "a refusal because of what is counted there again")
    eventually(lambda: here.series.count("failures", "2001:db8::1", 0, 1) == MAX + 1)
    assert reply(policy, here, "2001:db8::1") == f"{MAX + 1} failures"


def test_managers_alone_count_what_is_replicated_to_them(hosts: list[Host]) -> None:
    with hosts[0].audit() as manager, hosts[1].audit() as other:
        for audit in (manager, other):
            for replicate in ("none", "cluster", "manager"):
                audit.series.define(replicate, "ip", 3600, 24, replicate=replicate)
                audit.series.add(replicate, "192.0.2.1")
        hosts[0].start("--manager")
        hosts[1].start()
        for audit, counts in ((manager, [1, 2, 2]), (other, [1, 2, 1])):
            eventually(lambda audit=audit, counts=counts: counts_of(audit) == counts, "the counts of each series")
        # What is said later comes in the same way: nothing of it was on its way only.
        for audit in (manager, other):
            for replicate in ("none", "cluster", "manager"):
                audit.series.add(replicate, "192.0.2.2", 10)
        for audit, counts in ((manager, [11, 22, 22]), (other, [11, 22, 11])):
            eventually(lambda audit=audit, counts=counts: counts_of(audit) == counts, "the later counts of each series")


# ---- limits over time

DAYS = 12_000
"""The border of such windows was in 2002, and is in 2035."""
LONG = f"{DAYS * 86400},2"


def test_limits_over_time_count_the_events_of_other_nodes(hosts: list[Host]) -> None:
    rates = {"/24,/64": [f"{MAX}/{DAYS}d", f"{MAX} receptions/{DAYS}d"]}
    everywhere, alone = Limits(rates, cluster=True), Limits(rates)
    with hosts[0].audit([LONG]) as here, hosts[1].audit([LONG]) as there, ExitStack() as at_end:
        for host in hosts:
            host.start("--monitor", LONG)

        def session(host: str) -> Session:
            return at_end.enter_context(here.listener().session(host))

        for number in range(MAX - 1):
            there.listener().session(f"192.0.2.{number}").close()
        with there.listener().session("2001:db8::1") as ac:
            ac.record_reception(MAX + 1)
        eventually(lambda: here.connections(LONG, "192.0.2.0/24", 0, 1, cluster=True) == MAX - 1)
        eventually(lambda: here.receptions(LONG, "2001:db8::/64", 0, 1, cluster=True) == MAX + 1)
        last, other = session("192.0.2.200"), session("198.51.100.1")
        assert everywhere.validate_connect(last)
        beyond = [session("192.0.2.201"), session("2001:db8::2")]

        def refused() -> list[bool]:
            assert everywhere.validate_connect(other)
            assert all(alone.validate_connect(ac) for ac in beyond)
            return [not everywhere.validate_connect(ac) for ac in beyond]

        eventually(lambda: refused() == [True, True], "what both have recorded is more than the limit")
        hosts[1].agent.kill()
        eventually(lambda: refused() == [False, False], "a node that is lost takes its events along")
        hosts[1].start("--monitor", LONG)
        eventually(lambda: refused() == [True, True], "its next agent brings them back")


def counts_of(audit: InboundAudit) -> list[int]:
    return [audit.series.count(name, "192.0.2.0/24", 0, 1) for name in audit.series.names]
