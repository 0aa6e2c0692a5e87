"""A pause between two checks shows that this host stood still."""

from __future__ import annotations

from inbound_audit.cluster.agent import MAX_WAIT_S
from inbound_audit.cluster.leases import HEARTBEAT_S, LEASE_S, SILENCE_S
from inbound_audit.cluster.stand_still import MAX_PAUSE_S, StandStill


def test_a_long_pause_is_a_stand_still_and_short_ones_are_none() -> None:
    stand_still, now = StandStill(10.0), 10.0
    for pause_s, found in (
        (0.0, False),
        (MAX_PAUSE_S - 0.01, False),
        (MAX_PAUSE_S + 0.01, True),
        (0.1, False),
        (1e6, True),
    ):
        before, now = stand_still.ended_at, now + pause_s
        assert stand_still.check(now) == found
        assert stand_still.ended_at == (now if found else before)


def test_a_pause_that_is_not_found_makes_no_node_seem_silent() -> None:
    assert min(SILENCE_S, LEASE_S) > MAX_PAUSE_S + HEARTBEAT_S
    assert MAX_WAIT_S <= MAX_PAUSE_S / 2
