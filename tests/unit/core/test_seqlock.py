"""The protocol of one writer and its readers, and the writer lock."""

from __future__ import annotations

import threading

import pytest
from tests.support import inner


@pytest.fixture
def lock() -> inner.SeqLock:
    return inner.SeqLock()


def test_a_walk_without_a_writer_stands(lock: inner.SeqLock) -> None:
    began = lock.begin()
    assert began % 2 == 0
    assert lock.stood(began)


def test_a_walk_beside_a_whole_update_does_not_stand(lock: inner.SeqLock) -> None:
    began = lock.begin()
    lock.open()
    lock.close()
    assert not lock.stood(began)
    assert lock.begin() == began + 2


def test_a_writer_that_stands_still_leaves_an_odd_number(lock: inner.SeqLock) -> None:
    lock.open()
    began = lock.begin()
    assert began % 2 == 1
    assert lock.stood(began)
    lock.close()
    assert not lock.stood(began)


def test_two_changes_in_one_window_are_one_for_a_reader(lock: inner.SeqLock) -> None:
    lock.open()
    began = lock.begin()
    lock.open()
    assert lock.begin() == began
    lock.close()
    assert lock.begin() == began + 1


def test_a_step_between_two_changes_is_an_end_for_a_reader(lock: inner.SeqLock) -> None:
    lock.open()
    began = lock.begin()
    lock.step()
    assert not lock.stood(began)
    assert lock.begin() == began + 2
    lock.close()
    assert lock.begin() % 2 == 0


@pytest.mark.parametrize("first", ["192.0.2.7", "192.0.2.9"])
def test_no_walk_that_is_accepted_loses_a_session_that_moves(first: str) -> None:
    """A walk beside the writer that reads both hosts, in either order, may see the session twice, never not at all: it
    can't have read the target before the move and the source after it."""
    tree = inner.Arena(1 << 16)
    second = {"192.0.2.7": "192.0.2.9", "192.0.2.9": "192.0.2.7"}[first]
    tree.add("192.0.2.7")
    seen = []
    reader = threading.Thread(target=lambda: seen.append(tree.least_and_most(first, second, 3_000_000)))
    reader.start()
    while reader.is_alive():
        tree.move_about("192.0.2.7", "192.0.2.9", 1000)
    reader.join()
    least, most = seen[0]
    assert 1 <= least <= most <= 2


def test_a_move_is_two_updates_for_a_reader() -> None:
    tree = inner.Arena(1 << 16)
    tree.add("192.0.2.7")
    before = tree.seq
    tree.move("192.0.2.7", "192.0.2.9")
    assert tree.seq == before + 4


def test_a_reader_waits_a_bounded_number_of_times(lock: inner.SeqLock) -> None:
    assert not lock.waited(inner.READ_SPINS - 1)
    assert lock.waited(inner.READ_SPINS)


def test_the_lock_excludes(lock: inner.SeqLock) -> None:
    assert lock.try_lock()
    assert not lock.try_lock()
    lock.release()
    assert lock.try_lock()


def test_a_writer_waits_for_the_lock_and_is_counted_while_it_waits(lock: inner.SeqLock) -> None:
    lock.acquire()
    other = threading.Thread(target=lock.acquire)
    other.start()
    while not lock.is_waited_for():
        pass
    lock.release()
    other.join()
    assert not lock.try_lock()
    assert not lock.is_waited_for()


def test_a_rest_ends_although_no_writer_takes_the_lock(lock: inner.SeqLock) -> None:
    lock.acquire()
    other = threading.Thread(target=lock.acquire)
    other.start()
    while not lock.is_waited_for():
        pass
    lock.rest()
    assert lock.is_waited_for()
    lock.release()
    other.join()


def test_locked_sections_of_many_threads_do_not_overlap(lock: inner.SeqLock) -> None:
    seen = []

    def work(name: int) -> None:
        for _ in range(200):
            lock.acquire()
            try:
                seen.append(name)
                seen.append(name)
            finally:
                lock.release()

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 1600
    assert seen[::2] == seen[1::2]
