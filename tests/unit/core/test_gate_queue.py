"""The queue of a gate: first in, first out, bounded; its descriptor is readable exactly while there is something."""

from __future__ import annotations

import select
import sys
import threading
import time
from collections import deque

import pytest
from hypothesis import given
from hypothesis.strategies import integers, lists, sampled_from
from tests.support import inner

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux")


def is_readable(queue) -> bool:
    return bool(select.select([queue.ready], [], [], 0)[0])


@given(
    integers(1, 5), lists(sampled_from(["push", "push", "push", "pop", "pop", "news", "no news", "end"]), max_size=60)
)
def test_as_a_bounded_deque(room, steps):
    queue, gold, news, ended, accepted = inner.GateQueue(room), deque(), False, False, 0
    for number, step in enumerate(steps):
        if step == "push":
            fits = len(gold) < room and not ended
            assert queue.push(number) == fits
            if fits:
                gold.append(number)
                accepted += 1
        elif step == "pop":
            assert queue.pop() == (gold.popleft() if gold else None)
        elif step == "end":
            queue.end()
            ended = True
        else:
            news = step == "news"
            queue.set_news(news)
        assert (queue.size, queue.accepted) == (len(gold), accepted)
        assert is_readable(queue) == (bool(gold) or news or ended)


def test_threads_neither_lose_nor_double_one():
    queue, taken, lock = inner.GateQueue(7), [], threading.Lock()
    each = 3000

    def push(first: int) -> None:
        for number in range(first, first + each):
            while not queue.push(number):
                time.sleep(0)  # lets another thread have the GIL

    def pop() -> None:
        while len(taken) < 2 * each:
            number = queue.pop()
            if number is None:
                time.sleep(0)
                continue
            with lock:
                taken.append(number)

    threads = [threading.Thread(target=push, args=(at * each,)) for at in range(2)]
    threads += [threading.Thread(target=pop) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(2 * each))
    assert not is_readable(queue)
