"""Overrides over a cluster: hosts with an agent each, over both engines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.agent_hosts import Host, hosts_of
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

from inbound_audit import InboundAudit, Limits
from inbound_audit.overrides.audit import wish_of
from inbound_audit.overrides.entry import BY_LIMIT

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="shared mode needs Linux")]


@pytest.fixture(params=["zenoh", "redis"])
def two(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Host]]:
    pytest.importorskip(request.param)
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer(tmp_path)) if request.param == "redis" else None
        yield stack.enter_context(hosts_of(2, server))


def lets_in(audit: InboundAudit, client: str) -> bool:
    with audit.listener().session(client) as ac:
        return bool(Limits({"/32": 5}).validate_connect(ac))


def done(host: Host, *arguments: str) -> str:
    done = host.run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_one_host_decides_holds_on_the_other(two: list[Host]) -> None:
    one, other = two
    with one.audit() as here, other.audit() as there:
        one.start()
        done(one, "deny", "mail", "192.0.2.0/24", "--why", "a flood")
        other.start()  # it was not there when that was said
        eventually(lambda: not lets_in(there, "192.0.2.7"), "the denial")
        listed = json.loads(done(other, "decisions", "mail", "--json"))["decisions"]
        assert listed == json.loads(done(one, "decisions", "mail", "--json"))["decisions"]
        assert [(row["prefix"], row["why"], row["node"]) for row in listed] == [
            ("192.0.2.0/24", "a flood", os.uname().nodename)
        ]
        assert there.lift("192.0.2.0/24")
        eventually(lambda: lets_in(here, "192.0.2.7"), "the end")
        here._overrides.change([wish_of("deny", "198.51.100.7", 600.0, "over /32=5")], BY_LIMIT)
        eventually(there.decisions, "a change that is said at once")
        assert f"  limit at {os.uname().nodename}: over /32=5\n" in done(other, "decisions", "mail")


def test_an_agent_that_was_away_gets_and_says_what_changed_meanwhile(two: list[Host]) -> None:
    one, other = two
    with one.audit() as here, other.audit() as there:
        one.start()
        other.start()
        here.deny("192.0.2.0/24")
        eventually(lambda: not lets_in(there, "192.0.2.7"), "the denial")
        one.agent.kill()
        one.agent.wait()
        here.deny("198.51.100.0/24")
        there.lift("192.0.2.0/24")
        one.start()
        for audit in (here, there):
            eventually(lambda audit=audit: lets_in(audit, "192.0.2.7"), "the end of the one")
            eventually(lambda audit=audit: not lets_in(audit, "198.51.100.7"), "the other")
