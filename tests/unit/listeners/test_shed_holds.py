"""Which networks are dropped, for how long, and what fits into a program."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.packet_machine import check

from inbound_audit.errors import CidrError
from inbound_audit.listeners.packet_filter import MAX_INSTRUCTIONS, ranges_of
from inbound_audit.listeners.shed import fitting
from inbound_audit.listeners.shed_rules import MAX_NETWORKS, Holds, Shed
from inbound_audit.shedding import ShedNetwork

ONE, OTHER = "192.0.2.7/32", "198.51.100.9/32"
NOTHING = ranges_of(())


def names(holds: Holds, now: float) -> list[str]:
    return [one.network for one in holds.dropped(now)]


@pytest.fixture
def holds() -> Holds:
    return Holds(Shed(refusals_per_s=10, hold_s=8, max_hold_s=30))


def test_only_who_is_over_the_rate_is_dropped(holds: Holds) -> None:
    holds.note(0, [(10.0, ONE), (10.5, OTHER)])
    assert holds.dropped(0) == [ShedNetwork(OTHER, 10.5, 8.0)]
    assert holds.dropped(7.5) == [ShedNetwork(OTHER, 10.5, 0.5)]
    assert holds.dropped(8) == []


def test_who_goes_on_is_dropped_twice_as_long_up_to_a_bound(holds: Holds) -> None:
    now, lengths = 0.0, []
    for _ in range(5):
        holds.note(now, [(50.0, ONE)])
        lengths.append(holds.dropped(now)[0].seconds_left)
        now += lengths[-1] + 1
    assert lengths == [8, 16, 30, 30, 30]


def test_who_is_quiet_as_long_as_it_was_dropped_is_forgotten(holds: Holds) -> None:
    holds.note(0, [(50.0, ONE)])
    holds.note(16, [(50.0, ONE)])
    assert holds.dropped(16)[0].seconds_left == 8
    holds.note(24 + 7.9, [(50.0, ONE)])
    assert holds.dropped(31.9)[0].seconds_left == 16


def test_what_was_accepted_before_the_program_makes_no_hold_longer(holds: Holds) -> None:
    holds.note(0, [(50.0, ONE)])
    holds.note(1, [(50.0, ONE)])
    assert holds.dropped(1) == [ShedNetwork(ONE, 50.0, 7.0)]


def test_the_worst_come_first_and_their_number_is_bounded(holds: Holds) -> None:
    holds.note(0, [(11.0 + one, f"10.0.{one // 256}.{one % 256}/32") for one in range(MAX_NETWORKS + 9)])
    dropped = holds.dropped(0)
    assert len(dropped) == MAX_NETWORKS
    assert [one.refusals_per_s for one in dropped] == sorted((one.refusals_per_s for one in dropped), reverse=True)
    holds.keep(dropped[:2], 0)
    assert names(holds, 0) == [one.network for one in dropped[:2]]


def test_who_does_not_fit_is_counted_again_and_who_was_let_in_is_remembered(holds: Holds) -> None:
    holds.note(0, [(50.0, ONE)])
    holds.note(9, [(60.0, OTHER)])
    holds.keep([], 9)
    assert names(holds, 9) == []
    holds.note(10, [(50.0, ONE), (60.0, OTHER)])
    assert [one.seconds_left for one in holds.dropped(10)] == [8, 16]


@given(st.integers(0, 200), st.integers(64, MAX_INSTRUCTIONS))
def test_as_many_as_fit_are_dropped(number: int, most: int) -> None:
    wanted = [ShedNetwork(f"2001:db8:{one:x}::/64", 200.0 - one, 1.0) for one in range(number)]
    dropped, program = fitting(wanted, NOTHING, 0, most)
    assert dropped == wanted[: len(dropped)]
    assert len(program) <= most
    assert bool(program) is bool(dropped)
    if dropped:
        check(program)
    if len(dropped) < number:
        _, longer = fitting(wanted[: len(dropped) + max(1, number // 4)], NOTHING, 0, 1 << 20)
        assert len(longer) > most


@pytest.mark.parametrize(
    "options",
    [
        {"refusals_per_s": 0},
        {"refusals_per_s": float("nan")},
        {"hold_s": 0},
        {"hold_s": 700},
        {"max_hold_s": 1e9},
        {"prefixlen": (0, 64)},
        {"prefixlen": (33, 64)},
        {"prefixlen": (32, 129)},
    ],
)
def test_values_that_make_no_sense_are_errors(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Shed(**options)


def test_a_spared_network_is_checked() -> None:
    with pytest.raises(CidrError):
        Shed(never=("10.0.0.0/33",))
