"""Readers beside writers: Python threads, and LuaJIT, which reads with the GIL released."""

from __future__ import annotations

import contextlib
import ipaddress
import random
import threading
from collections.abc import Callable

import pytest
from tests.support.threads import lua_reader, running
from tests.support.waiting import eventually

from inbound_audit import InboundAudit, PrefixCounter
from inbound_audit.errors import AddressError, CapacityError

luajit = pytest.importorskip("lupa.luajit21")

STEADY = 60  # sessions in 10.1.0.0/16 and 2001:db8:1::/48 that move about but never end
WRITERS = 3


def steady_host(rng: random.Random, v6: bool) -> str:
    if v6:
        return str(ipaddress.IPv6Address((0x20010DB80001 << 80) | (rng.getrandbits(9) << 60) | rng.getrandbits(3)))
    return f"10.1.{rng.randrange(4)}.{rng.randrange(256)}"


def churn(listener, seed: int) -> Callable[[threading.Event], None]:
    """Opens and closes around the steady ones, a burst at a time, so that nodes split, grow, shrink and go."""

    def job(stop):
        rng = random.Random(seed)
        while not stop.is_set():
            hosts = [f"10.{rng.choice((0, 2, 3))}.{rng.randrange(3)}.{rng.randrange(256)}" for _ in range(150)]
            hosts += [f"2001:db8:{rng.randrange(2, 9):x}::{rng.randrange(400):x}" for _ in range(100)]
            for session in [listener.session(host) for host in hosts]:
                session.close()

    return job


def wander(sessions, seed: int, v6: bool) -> Callable[[threading.Event], None]:
    def job(stop):
        rng = random.Random(seed)
        while not stop.is_set():
            rng.choice(sessions).rebind(steady_host(rng, v6))

    return job


@pytest.mark.parametrize("reader", ["python", "luajit"])
@pytest.mark.parametrize("v6", [False, True])
def test_counts_are_never_torn(reader, v6):
    """Sessions that only move are counted the same at every moment, while others come and go around them."""
    audit = InboundAudit()
    listener = audit.listener()
    rng = random.Random(1)
    sessions = [listener.session(steady_host(rng, v6)) for _ in range(STEADY)]
    asking = listener.session("192.0.2.7")
    cidrs = ["2001:db8:1::/48", "2001:db8::/47"] if v6 else ["10.1.0.0/16", "10.1.0.0/21"]
    with running(*(churn(listener, seed) for seed in range(WRITERS - 1)), wander(sessions, 9, v6)):
        for cidr in cidrs:
            if reader == "luajit":
                rounds = 2_000_000
                least, most, _ = lua_reader(asking)(cidr, STEADY, rounds)
            else:
                rounds = 20_000
                seen = [asking.inbound_session_count(cidr) for _ in range(rounds)]
                least, most = min(seen), max(seen)
            # One more is what a reader sees beside a writer that lost its processor in mid-move, as long as that lasts.
            assert STEADY <= least <= most <= STEADY + 1
            eventually(lambda cidr=cidr: asking.inbound_session_count(cidr) == STEADY, "the right count")
    listener._check()
    for session in [*sessions, asking]:
        session.close()
    assert audit.total() == 0


def test_bounds_hold_for_sums_that_change():
    """Each writer has at most one session open: every sum lies between none and all of them."""
    audit = InboundAudit()
    listener = audit.listener()
    asking = listener.session("192.0.2.7")

    def one_at_a_time(seed):
        def job(stop):
            rng = random.Random(seed)
            while not stop.is_set():
                listener.session(f"10.{rng.randrange(4)}.{rng.randrange(2)}.{rng.randrange(64)}").close()

        return job

    with running(*(one_at_a_time(seed) for seed in range(WRITERS))):
        ask = lua_reader(asking)
        for cidr in ("10.0.0.0/8", "10.0.0.0/15", "10.1.0.0/20", "10.1.1.0/26", "0.0.0.0/1"):
            least, most, _ = ask(cidr, 0, 200_000)
            assert 0 <= least <= most <= WRITERS
    asking.close()
    listener._check()
    assert audit.total() == 0


def test_totals_are_exact_at_the_end():
    """Threads open, close, close twice, move and drop on shared listeners; what is left is what is counted."""
    audit = InboundAudit()
    listeners = [audit.listener(name=name) for name in ("mx", "submission")]
    left: list[list] = []

    def life(seed):
        rng = random.Random(seed)
        mine = []
        for _ in range(4000):
            if rng.random() < 0.55 or not mine:
                mine.append(rng.choice(listeners).session((f"10.0.{rng.randrange(8)}.{rng.randrange(256)}", 1)))
            elif rng.random() < 0.2:
                rng.choice(mine).rebind(f"2001:db8::{rng.randrange(999)}")
            else:
                session = mine.pop(rng.randrange(len(mine)))
                session.close()
                session.close()
        left.append(mine)

    threads = [threading.Thread(target=life, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sessions = [session for mine in left for session in mine]
    assert len(left) == 8
    assert audit.total() == len(sessions)
    assert sum(n for n, _ in audit.top(10_000)) == len(sessions)
    for listener in listeners:
        listener._check()
    for session in sessions:
        assert session.inbound_session_count() >= 1
        session.close()
    assert audit.total() == 0


def test_one_of_many_closes_counts_once():
    listener = InboundAudit().listener()
    for _ in range(300):
        session = listener.session("192.0.2.7")
        barrier = threading.Barrier(4)

        def close(session=session, barrier=barrier):
            barrier.wait()
            session.close()

        threads = [threading.Thread(target=close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert listener.total == 0


def test_long_walks_do_not_stop_writers_and_meet_what_stays():
    """Rows for what is there all the time are exact; the rest may come or not."""
    audit = InboundAudit()
    listener = audit.listener()
    stay = [listener.session(f"10.1.{i}.{j}") for i in range(20) for j in range(20)]
    with running(churn(listener, 1), churn(listener, 2)):
        for _ in range(30):
            rows = {prefix: n for n, prefix in audit.tree() if prefix.startswith("10.1.")}
            assert all(rows[f"{session.remote_ip}/32"] == 1 for session in stay)
            assert rows["10.1.0.0/19"] == 400
            assert audit.top(1, prefixlen=(16, 0))[0][0] >= 400
    for session in stay:
        session.close()
    assert audit.total() == 0


def test_batches_beside_single_changes():
    """`add_many` frees the GIL: other threads change the same tree between its blocks."""
    counter = PrefixCounter()
    packed = b"".join(bytes((10, 0, i >> 8, i & 255)) for i in range(40_000))

    def single(stop):
        while not stop.is_set():
            counter.add("10.0.0.1")
            counter.remove("10.0.0.1")

    with running(single, single):
        for _ in range(10):
            counter.add_many(packed)
            assert sum(counter.count_many(packed)) >= 40_000
    counter._check()
    assert counter.total == 400_000
    assert counter.count("10.0.0.1") == 10


def test_a_reader_beside_a_writer_that_never_rests():
    """Deep walks beside a batch that changes one host over and over: each is overtaken often, and never wrong."""
    counter = PrefixCounter()
    deep = [f"2001:db8:1:2:3:4:{i:x}:{j:x}" for i in range(0, 65536, 257) for j in (0, 1, 256)]
    for host in deep:
        counter.add(host)
    hot = bytes((192, 0, 2, 7)) * 200_000

    def batches(stop):
        while not stop.is_set():
            counter.add_many(hot)

    with running(batches):
        for host in deep * 5:
            assert counter.count(host) == 1
            assert counter.count(f"{host}/95") == len(deep)
    counter._check()


def test_an_undone_batch_leaves_what_others_added_after_a_clear():
    """`clear` beside a batch that will not fit: what the batch added before is gone, and is not taken away again."""
    counter = PrefixCounter(capacity=262_144)
    packed = random.Random(1).randbytes(4 * 60_000)
    added = 0

    def batches(stop):
        while not stop.is_set():
            with contextlib.suppress(CapacityError):
                counter.add_many(packed)

    with running(batches):
        for i in range(200):
            counter.clear()
            first = packed[4 * i : 4 * i + 4]
            try:
                counter.add(first, 5)
            except CapacityError:
                continue
            added += 1
            counter.remove(first, 5)  # all five are there, whatever the batch has done meanwhile
    assert added
    counter._check()


@pytest.mark.parametrize("v6", [False, True])
def test_a_batch_that_does_not_fit_is_undone(v6):
    counter = PrefixCounter(capacity=65536)
    counter.add("192.0.2.7", 3)
    before = list(counter.items())
    with pytest.raises(CapacityError, match=r"address \d+ of 100000: .*full"):
        counter.add_many(random.Random(1).randbytes(100_000 * (16 if v6 else 4)), version=6 if v6 else 4)
    counter._check()
    assert list(counter.items()) == before
    with pytest.raises(AddressError):
        counter.remove("192.0.2.8")
