"""What a gate has decided, on its way to the decision log: first in, first out, bounded; what is lost is counted."""

from __future__ import annotations

import threading
import time
from collections import deque

from hypothesis import given
from hypothesis.strategies import integers, lists, tuples
from tests.support import inner
from tests.support.effort import effort

ROOM = inner.GATE_DECISIONS_ROOM


@given(lists(tuples(integers(0, ROOM + 9), integers(0, ROOM + 9)), max_size=4))
def test_as_a_bounded_deque(rounds):
    ring, gold, number, lost = inner.GateDecisions(), deque(), 0, 0
    for notes, takes in rounds:
        for _ in range(notes):
            ring.note(number)
            if len(gold) < ROOM:
                gold.append(number)
            else:
                lost += 1
            number += 1
        for _ in range(takes):
            assert ring.take() == (gold.popleft() if gold else None)
        assert ring.lost == lost


def test_nothing_is_noted_without_places():
    ring = inner.GateDecisions(False)
    ring.note(1)
    assert ring.take() is None
    assert ring.lost == 0


def test_one_thread_writes_beside_one_that_reads():
    ring, number, taken = inner.GateDecisions(), effort(20_000, 200_000), []
    ended = threading.Event()

    def write() -> None:
        for one in range(number):
            ring.note(one)
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    while True:
        last = ended.is_set()
        found = ring.take()
        if found is not None:
            taken.append(found)
        elif last:
            break
        else:
            time.sleep(0)
    writer.join()
    assert len(taken) + ring.lost == number
    assert taken == sorted(set(taken))
