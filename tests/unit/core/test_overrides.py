"""Overrides decide by the longest match that has not expired: against a dictionary and `ipaddress`."""

from __future__ import annotations

import ipaddress
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.timing import Clock

from inbound_audit import InboundAudit, Limits
from inbound_audit._ipcount import MAX_OVERRIDES, publish_overrides
from inbound_audit.errors import CidrError

NO_END = (1 << 63) - 1

# Few addresses, so that prefixes hold one another and are changed again.
HOSTS = [
    "192.0.2.0",
    "192.0.2.7",
    "192.0.2.255",
    "192.0.3.1",
    "10.0.0.1",
    "255.255.255.255",
    "2001:db8::7",
    "2001:db8::8",
]
PREFIXES = st.builds(
    lambda host, length: str(ipaddress.ip_network(f"{host}/{length if ':' in host else length // 4}", strict=False)),
    st.sampled_from(HOSTS),
    st.sampled_from([0, 4, 32, 64, 88, 92, 96, 100, 124, 127, 128]),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["deny", "allow"]), PREFIXES, st.none() | st.integers(1, 20)),
        st.tuples(st.just("lift"), PREFIXES),
        st.tuples(st.just("wait"), st.integers(1, 15)),
    ),
    max_size=30,
)


class Gold:
    """Overrides in the fewest words."""

    def __init__(self) -> None:
        self.there: dict[str, tuple[str, float]] = {}

    def decide(self, host: str, now: float) -> str | None:
        address = ipaddress.ip_address(host)
        found = [
            (ipaddress.ip_network(prefix).prefixlen, action)
            for prefix, (action, until) in self.there.items()
            if until > now and address.version == ipaddress.ip_network(prefix).version
            if address in ipaddress.ip_network(prefix)
        ]
        return max(found)[1] if found else None


@given(STEPS)
def test_the_longest_match_that_holds_decides(steps) -> None:
    clock, gold = Clock(), Gold()
    with InboundAudit(clock=clock) as audit:
        limits = Limits({"/0": 0})
        sessions = [audit.listener("SMTP").session(host) for host in HOSTS]
        for step in steps:
            if step[0] == "wait":
                clock.seconds += step[1]
            elif step[0] == "lift":
                there = gold.there.pop(step[1], (None, 0))[1] > clock.seconds
                assert audit.lift(step[1]) == there
            else:
                action, prefix, for_s = step
                (audit.deny if action == "deny" else audit.allow)(prefix, for_s=for_s)
                gold.there[prefix] = action, float("inf") if for_s is None else clock.seconds + for_s
            for session in sessions:
                expected = gold.decide(session.remote_ip, clock.seconds)
                assert session.override == expected
                decision = session.decision
                assert (decision and decision.action) == expected
                assert limits.validate_connect(session).accepted == (expected == "allow")
            held = {decision.prefix: decision.action for decision in audit.decisions()}
            assert held == {prefix: action for prefix, (action, until) in gold.there.items() if until > clock.seconds}
        for session in sessions:
            session.close()


def test_an_expired_override_gives_way_to_the_one_around_it() -> None:
    """At that moment, although nothing was changed."""
    clock = Clock()
    with InboundAudit(clock=clock) as audit, audit.listener("SMTP").session("192.0.2.7") as ac:
        audit.deny("192.0.0.0/16")
        audit.allow("192.0.2.0/24", for_s=10)
        audit.deny("192.0.2.7", for_s=5)
        seen = []
        for _ in range(3):
            seen.append(ac.override)
            clock.seconds += 5
        assert seen == ["deny", "allow", "deny"]


def test_maps_are_used_again_beside_readers() -> None:
    """Other threads ask while maps are published, thousands of times: each answer is of one of the two maps."""
    rows = [
        [(f"10.{i >> 8}.{i & 255}.0/24", "deny", NO_END) for i in range(number)] + [("0.0.0.0/0", "allow", NO_END)]
        for number in (3, 50)
    ]
    with InboundAudit() as audit, audit.listener("SMTP").session("10.0.2.9") as ac:
        wrong, stop = [], threading.Event()

        def ask() -> None:
            while not stop.is_set():
                if ac.override != "deny":
                    wrong.append(ac.override)

        publish_overrides(audit, rows[0])
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for at in range(600):
            publish_overrides(audit, rows[at % 2])
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong


def test_a_map_that_grows_and_shrinks() -> None:
    with InboundAudit() as audit, audit.listener("SMTP").session("10.0.2.9") as ac:
        for number in (1, 64, 65, 1000, 3, MAX_OVERRIDES, 0, 70):
            publish_overrides(audit, [(f"10.{i >> 8}.{i & 255}.0/24", "deny", NO_END) for i in range(number)])
            assert ac.override == ("deny" if number > 2 else None)


def test_what_is_published_is_bounded_and_checked() -> None:
    with InboundAudit() as audit:
        with pytest.raises(ValueError, match="at most 10000"):
            publish_overrides(audit, [("10.0.0.0/8", "deny", 1)] * (MAX_OVERRIDES + 1))
        with pytest.raises(CidrError):
            publish_overrides(audit, [("10.0.0.0/8", "deny", 1), ("x", "deny", 1)])
        with pytest.raises(ValueError, match=r"."):
            publish_overrides(audit, [("10.0.0.0/8", "nothing", 1)])
