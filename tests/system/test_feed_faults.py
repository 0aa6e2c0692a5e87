"""Looks while processes are stopped, killed and damaged, and while an audit goes away and comes back."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.sharing import Worker, Workers, file_of
from tests.support.waiting import eventually

from inbound_audit.errors import SharedStateError
from inbound_audit.feed import Feed, Look, Source

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(sys.platform != "linux", reason="processes count together on Linux"),
]

JOIN = """
from inbound_audit import InboundAudit, Limits
from inbound_audit.listeners import Guard
from inbound_audit.listeners.decision_log import DecisionLog
from inbound_audit.listeners.log_sinks import LogFile
audit = InboundAudit(shared="mail", monitors=["60,5"], capacity=1 << 20)
listener = audit.listener("SMTP", "mx")
sessions = []
def open_sessions(n, host):
    sessions.extend(listener.session(host) for _ in range(n))
def decide(most, log):
    global guard, decisions
    decisions = DecisionLog(LogFile(log))
    guard = Guard(listener, Limits({"/32": most}), decisions=decisions)
def refuse(host):
    guard.admit((host, 1)).close()
    decisions.flush()
"""


def until(feed: Feed, holds: Callable[[Look], object], what: str) -> Look:
    looks: list[Look] = []

    def come() -> object:
        looks[:] = [feed.look()]
        return holds(looks[0])

    eventually(come, what)
    return looks[0]


def joined(hire: Workers, n: int, tmp_path: Path) -> list[Worker]:
    workers = hire.hire(n, JOIN)
    for i, worker in enumerate(workers):
        worker.do("decide(1, log); open_sessions(3, host)", log=str(tmp_path / f"log{i}"), host=f"192.0.2.{i}")
    return workers


def test_a_stopped_process_is_counted_and_named_and_a_dead_one_is_dropped(hire: Workers, tmp_path: Path) -> None:
    one, two, three = joined(hire, 3, tmp_path)
    two.freeze()
    with Feed("mail") as feed:
        # Those who were too slow for the first question are asked again.
        look = until(feed, lambda look: len(look.notes) == 1, "the answers of the others")
        assert look.notes == (f"process {two.pid} did not answer within 0.3 s",)
        assert look.picture.total == 9
        assert [(row.prefix, row.count, row.most) for row in look.limits] == [("192.0.2.0/32", 3, 1)]
        one.do("refuse('192.0.2.0')")
        look = until(feed, lambda look: look.refusals, "a refusal")
        assert [(row.client, row.count) for row in look.refusals] == [("192.0.2.0", 4)]
        assert {row.pid for row in look.processes} == {one.pid, two.pid, three.pid}
        one.kill()
        one.await_end()
        look = until(feed, lambda look: look.picture.total == 6 and look.limits, "the end of its sessions")
        assert {row.pid for row in look.processes} == {two.pid, three.pid}
        assert look.limits[0].prefix == "192.0.2.1/32"
        two.thaw()
        until(feed, lambda look: not look.notes, "its answer")


def test_a_damaged_file_is_a_row_and_the_others_are_counted(hire: Workers, tmp_path: Path) -> None:
    one, two = joined(hire, 2, tmp_path)
    file = file_of(two.pid)
    with open(file.path, "r+b") as stream:
        stream.write(b"nonsense")
    file.close()
    with Feed("mail") as feed:
        look = until(feed, lambda look: look.limits, "the answer of the other one")
        assert look.picture.total == 3
        damaged = [row.damaged for row in look.processes if row.damaged]
        assert damaged == ["does not begin with the mark of an owner's file"]
        assert [row.count for row in look.limits] == [3]
        json.dumps(look.as_json(), allow_nan=False)
        assert one.pid in {row.pid for row in look.processes}


def test_the_audit_goes_away_and_comes_back(hire: Workers, tmp_path: Path) -> None:
    (one,) = joined(hire, 1, tmp_path)
    with Feed("mail") as feed:
        assert feed.look().picture.total == 3
        assert feed.look(Source(pid=one.pid)).picture.total == 3
        one.do("[session.close() for session in sessions]; audit.close()")
        for ask in (feed.look, lambda: feed.would_refuse(["/32=1"]), lambda: feed.history("192.0.2.0/24")):
            eventually(lambda ask=ask: fails(ask), "its end")  # type: ignore[misc]
        (two,) = joined(hire, 1, tmp_path)
        look = until(feed, lambda look: look.limits, "the limits of the new process")
        assert look.picture.total == 3
        assert look.changes == (0,) * len(look.changes)
        assert fails(lambda: feed.look(Source(pid=one.pid)))
        assert feed.look(Source(pid=two.pid)).picture.total == 3


def fails(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except SharedStateError:
        return True
    return False


def test_several_threads_look_while_processes_come_and_go(hire: Workers, tmp_path: Path) -> None:
    joined(hire, 1, tmp_path)
    errors: list[BaseException] = []
    stop = threading.Event()

    def look(source: Source) -> None:
        while not stop.is_set():
            try:
                found = feed.look(source, 20)
                assert found.picture.total >= 3
                assert len(found.changes) == len(found.refused) == len(found.picture.rows)
                feed.would_refuse(["/32=1", "/24=1/1m"])
            except BaseException as error:
                errors.append(error)
                return

    with Feed("mail") as feed:
        sources = [Source(), Source(listener="mx"), Source(monitor="60,5", endv=4)]
        threads = [threading.Thread(target=look, args=(source,)) for source in sources]
        for thread in threads:
            thread.start()
        for _ in range(5):
            (passing,) = hire.hire(1, JOIN)
            passing.do("open_sessions(5, '198.51.100.1')")
            passing.kill()
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors
