"""Eight threads make, change and ask everything at once; in the end each sum is exact. Also without the GIL."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from inbound_audit import InboundAudit, Listener, PrefixCounter, Session
from inbound_audit._ipcount import SeriesStore
from inbound_audit.errors import InboundAuditError

THREADS, ROUNDS = 8, 300
SERVICES = ("SMTP", "IMAP", "POP3")


@pytest.fixture(autouse=True)
def many_switches() -> Iterator[None]:
    """With the GIL, threads change after a few bytecodes."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def together(work: Callable[[int], None], threads: int = THREADS) -> None:
    """Runs `work` with the number of its thread in all threads at the same time. Raises the first error of one."""
    start = threading.Barrier(threads)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            start.wait()
            work(number)
        except BaseException as error:
            errors.append(error)

    made = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in made:
        thread.start()
    for thread in made:
        thread.join()
    for error in errors:
        raise error


@pytest.fixture
def audit() -> Iterator[InboundAudit]:
    with InboundAudit(capacity=1 << 22, monitors=["1000000000,2"], monitor_bytes=1 << 22) as audit:
        yield audit


def test_sessions_listeners_and_series_at_once(audit: InboundAudit) -> None:
    opened: list[list[Session]] = [[] for _ in range(THREADS)]
    kept: list[dict[tuple[str, str], Listener]] = [{} for _ in range(THREADS)]

    def work(number: int) -> None:
        for turn in range(ROUNDS):
            key = (SERVICES[turn % 3], f"listener {turn % 7}")
            listener = kept[number].setdefault(key, audit.listener(*key))
            assert audit.listener(*key) is listener
            session = listener.session(f"10.{number}.{turn >> 8}.{turn & 255}")
            session.rebind(f"2001:db8:{number}::{turn:x}")
            session.record_reception(2)
            assert session.inbound_session_count(None) >= 1
            assert audit.inbound_session_count(f"2001:db8:{number}::/48", key[0]) >= 1
            opened[number].append(session)
            series = audit.series
            series.define("all", "ip", 1 << 30, 2, max_bytes=1 << 20)
            series.define(f"own {number} {turn % 5}", "ip", 1 << 30, 1, max_bytes=1 << 16)
            series.add("all", session, 3)
            series.add("all", f"198.51.100.{number}", -1)
            series.add(f"own {number} {turn % 5}", session)
            if turn % 3 == 0:
                listener.session("203.0.113.9").close()

    together(work)
    opens = THREADS * (ROUNDS + ROUNDS // 3)
    assert all(listeners == kept[0] for listeners in kept)
    for listeners in kept:
        assert all(listeners[key] is kept[0][key] for key in kept[0])
    assert sum(audit.total(service) for service in SERVICES) == THREADS * ROUNDS
    assert sum(listener.total for listener in kept[0].values()) == THREADS * ROUNDS
    assert len({session.conn_id for sessions in opened for session in sessions}) == THREADS * ROUNDS
    assert audit.connections(0, "0.0.0.0/0", 0, 1) + audit.connections(0, "::/0", 0, 1) == opens
    assert audit.receptions(0, "::/0", 0, 1) == 2 * THREADS * ROUNDS
    assert audit.uncounted == 0
    assert audit.series.count("all", "::/0", 0, 1) == 3 * THREADS * ROUNDS
    assert audit.series.count("all", "0.0.0.0/0", 0, 1) == -THREADS * ROUNDS
    names = {f"own {number} {turn}" for number in range(THREADS) for turn in range(5)}
    assert set(audit.series.names) == names | {"all"}
    assert sum(audit.series.count(name, "::/0") for name in names) == THREADS * ROUNDS
    SeriesStore(audit).check()
    for listener in kept[0].values():
        listener._check()
    together(lambda number: [session.close() for session in opened[number]] and None)
    assert [audit.total(service) for service in SERVICES] == [0, 0, 0]


def test_a_session_that_all_threads_close_is_closed_once(audit: InboundAudit) -> None:
    listener = audit.listener()
    held = listener.session("192.0.2.7")
    for _ in range(20):
        sessions = [listener.session("192.0.2.7") for _ in range(50)]
        together(lambda _, sessions=sessions: [session.close() for session in sessions] and None)  # type: ignore[misc]
        assert listener.total == 1
    held.close()
    listener._check()


def test_the_first_use_of_an_audit_in_all_threads() -> None:
    """Each thread gets the same objects, and one definition is the first."""
    for _ in range(10):
        with InboundAudit(capacity=1 << 20) as audit:
            seen: list[tuple[int, int]] = []

            def work(number: int, audit: InboundAudit = audit, seen: list[tuple[int, int]] = seen) -> None:
                listener, series = audit.listener("NEW", "one"), audit.series
                series.define("s", "ip", 1 << 30, 1, max_bytes=1 << 16)
                series.add("s", "192.0.2.7", -1)
                seen.append((id(listener), id(series)))

            together(work)
            assert len(set(seen)) == 1
            assert audit.service_types.count("NEW") == 1
            assert audit.series.names == ("s",)
            assert audit.series.count("s", "192.0.2.7") == -THREADS


def test_one_counter_and_many_that_come_and_go() -> None:
    counter = PrefixCounter(capacity=1 << 22)
    batch = b"".join(bytes((10, 0, i >> 8, i & 255)) for i in range(500))

    def work(number: int) -> None:
        for turn in range(ROUNDS):
            other = PrefixCounter(capacity=1 << 16)
            other.add(f"192.0.2.{number}", turn + 1)
            assert other.total == turn + 1
            counter.add("192.0.2.7", 3)
            counter.add_many(batch)
            counter.remove("192.0.2.7")
            assert len(counter.count_many(batch)) == 500

    together(work)
    assert counter.count("192.0.2.7") == 2 * THREADS * ROUNDS
    assert counter.count("10.0.0.0/8") == 500 * THREADS * ROUNDS
    counter._check()


def test_an_audit_that_is_closed_in_the_midst() -> None:
    """Threads that still use it get an error or a count, and nothing is left."""
    for _ in range(10):
        audit = InboundAudit(capacity=1 << 20)
        audit.series.define("s", "ip", 1 << 30, 1, max_bytes=1 << 16)

        def work(number: int, audit: InboundAudit = audit) -> None:
            if number == 0:
                audit.close()
                return
            for turn in range(ROUNDS):
                try:
                    listener = audit.listener("SMTP", f"{turn % 5}")
                    with listener.session("192.0.2.7"):
                        audit.series.add("s", "192.0.2.7")
                        audit.series.define(f"s{number}{turn}", "ip", 1 << 30, 1, max_bytes=1 << 16)
                except InboundAuditError:  # the audit is closed
                    return

        together(work)
        assert audit.total() == 0
