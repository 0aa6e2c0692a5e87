"""The time that a script may take once it has taken too much."""

from __future__ import annotations

from tests.support.timing import Clock

from inbound_audit.ration import Ration


def test_what_was_taken_comes_back_while_others_run() -> None:
    clock = Clock()
    ration = Ration(4, clock)
    assert (ration.left_s, ration.is_whole) == (4, True)
    clock.step(3)
    ration.spend(3)
    assert (ration.left_s, ration.is_whole) == (1, False)
    clock.step(2)
    assert ration.left_s == 3
    clock.step(10)
    assert (ration.left_s, ration.is_whole) == (4, True)


def test_who_always_takes_too_much_has_half_of_the_time() -> None:
    clock = Clock()
    ration = Ration(4, clock)
    taken = 0
    for _ in range(1000):
        if ration.left_s > 0:
            clock.step(3)
            ration.spend(3)
            taken += 3
        else:
            clock.step(1)
    passed = clock() - Clock()()
    assert 0.49 < taken / passed < 0.51


def test_a_block_gets_what_is_left_and_spends_its_time() -> None:
    clock = Clock()
    ration = Ration(4, clock)
    for left, taken in ((4, 3), (1, 3), (0, 0)):
        with ration.spending() as left_s:
            assert left_s == left
            clock.step(taken)
    assert ration.left_s == -2
