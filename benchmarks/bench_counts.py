"""Opening, closing and counting sessions: against the floor, and against what a dict costs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.measure import Race, timed
from benchmarks.peers import AllDicts
from benchmarks.scale import ROUNDS
from benchmarks.workloads import WORKLOADS
from inbound_audit import InboundAudit, Listener, Session

RANDOM = WORKLOADS["random"]
COUNT = 'x.inbound_session_count("/24")'
FLOOR = "floor.inbound_session_count(x)"


@contextmanager
def open_sessions(addresses: list[str]) -> Iterator[tuple[InboundAudit, Listener, list[Session]]]:
    """An audit with a session open from each of the addresses."""
    with InboundAudit() as audit:
        listener = audit.listener("SMTP")
        sessions = [listener.session(address) for address in addresses]
        yield audit, listener, sessions
        for session in sessions:
            session.close()


def new_texts(draw: random.Random, number: int) -> list[str]:
    """Addresses as they come from a socket: the strings are new, and hardly one of a hundred thousand is open."""
    return [".".join(map(str, draw.randbytes(4))) for _ in range(number)]


def count_race(floor: Callable[[], Any], sessions: list[Session], order: list[int]) -> Race:
    """One floor object over and over, against the sessions in that order. A third subject would empty the caches."""
    asked = [sessions[at] for at in order]
    return Race({"floor": timed(COUNT, [floor()] * len(order)), "count": timed(COUNT, asked)})


def test_count_with_a_thousand_open(floor: Callable[[], Any], hold: Callable[..., None]) -> None:
    with open_sessions(RANDOM.texts(1_000)) as (_, _, sessions):
        order = random.Random(1).choices(range(1_000), k=20_000)
        hold("count-1k", count_race(floor, sessions, order), "count", "floor", ROUNDS)


def test_count_with_a_hundred_thousand_open(floor: Callable[[], Any], hold: Callable[..., None]) -> None:
    with open_sessions(RANDOM.texts(100_000)) as (_, _, sessions):
        order = random.Random(2).choices(range(100_000), k=100_000)
        hold("count-100k", count_race(floor, sessions, order), "count", "floor", ROUNDS)


def test_count_of_texts_never_seen(hold: Callable[..., None]) -> None:
    """The texts are made anew for each round; the dict is asked for its own keys, whose hashes it knows."""
    addresses = RANDOM.texts(1_000_000)
    table = dict.fromkeys(addresses, 1)
    draw = random.Random(3)
    texts: list[str] = []
    keys: list[str] = []

    def prepare() -> None:
        texts[:] = [f"{text}/{draw.randint(8, 32)}" for text in new_texts(draw, 20_000)]
        keys[:] = draw.choices(addresses, k=20_000)

    with open_sessions(addresses) as (audit, _, _):
        subjects = {
            "dict.get": timed("table.get(x)", keys, table=table),
            "count": timed("audit.inbound_session_count(x)", texts, audit=audit),
        }
        hold("count-text", Race(subjects, prepare), "count", "dict.get", ROUNDS)


def test_open_and_close(floor: Callable[[], Any], hold: Callable[..., None]) -> None:
    fresh: list[str] = []
    draw = random.Random(4)
    with open_sessions(RANDOM.texts(100_000)) as (_, listener, _):
        subjects = {
            "floor": timed(FLOOR, fresh, floor=floor()),
            "open and close": timed("listener.session(x).close()", fresh, listener=listener),
        }

        def prepare() -> None:
            fresh[:] = new_texts(draw, 5_000)

        race = Race(subjects, prepare)
        hold("open-close", race, "open and close", "floor", ROUNDS)


def test_open_and_close_against_dicts(hold: Callable[..., None]) -> None:
    addresses = RANDOM.texts(100_000)
    # The dicts are hundreds of megabytes and leave cold caches behind; over a long batch ours finds them warm again.
    fresh: list[str] = []
    fewer: list[str] = []
    draw = random.Random(5)
    peer = AllDicts(4)
    for address in addresses:
        peer.add(address)
    with open_sessions(addresses) as (_, listener, _):
        subjects = {
            "33 dict updates each way": timed("peer.add(x); peer.remove(x)", fewer, peer=peer),
            "open and close": timed("listener.session(x).close()", fresh, listener=listener),
        }

        def prepare() -> None:
            fresh[:] = new_texts(draw, 20_000)
            fewer[:] = fresh[:2_000]

        race = Race(subjects, prepare)
        hold("open-close-dict", race, "33 dict updates each way", "open and close", ROUNDS)
