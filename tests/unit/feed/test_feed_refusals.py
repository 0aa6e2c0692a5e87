"""The latest refusals: the ends of decision logs while they grow, are replaced, or hold something else."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.timing import Clock
from tests.support.waiting import eventually

from inbound_audit import InboundAudit, Limits, inquiries
from inbound_audit.feed import Feed, Source
from inbound_audit.feed.decision_lines import decisions
from inbound_audit.feed.refusals import MAX_LOGS, MAX_READ, MAX_REFUSALS, Refusals, refusal_of
from inbound_audit.listeners import Guard
from inbound_audit.listeners.decision_log import DecisionLog
from inbound_audit.listeners.log_sinks import LogFile

USER = os.geteuid()


def line(second: int, **more: object) -> str:
    at = f"2026-11-28T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}.000Z"
    return json.dumps({"time": at, "client": "192.0.2.7", "done": "refused", "count": second, **more}) + "\n"


def never_later() -> float:
    """A clock that is after each of those times."""
    return 1e11


def counts(refusals: Refusals) -> list[int | None]:
    return [row.count for row in refusals.rows]


def test_lines_are_read_once_and_as_soon_as_they_are_whole(tmp_path: Path) -> None:
    log, refusals = tmp_path / "log", Refusals(never_later)
    log.write_text(line(1) + line(2) + line(3, done="accepted") + '{"time": "2026-11-28T00:00:03Z", "left_out": 7}\n')
    assert refusals.refresh([(str(log), USER)]) == []
    assert counts(refusals) == [2, 1]
    with log.open("a") as file:
        file.write(line(4) + line(5)[:20])
    refusals.refresh([(str(log), USER)])
    assert counts(refusals) == [4, 2, 1]
    with log.open("a") as file:
        file.write(line(5)[20:])
    for _ in range(2):
        refusals.refresh([(str(log), USER)])
        assert counts(refusals) == [5, 4, 2, 1]


def test_a_log_that_is_replaced_or_cut_short_is_read_from_its_beginning(tmp_path: Path) -> None:
    log, refusals = tmp_path / "log", Refusals(never_later)
    log.write_text(line(1) + line(2))
    refusals.refresh([(str(log), USER)])
    log.rename(tmp_path / "log.1")
    assert "No such file" in refusals.refresh([(str(log), USER)])[0]
    assert counts(refusals) == [2, 1]
    log.write_text(line(3) + line(4) + line(5))
    refusals.refresh([(str(log), USER)])
    assert counts(refusals) == [5, 4, 3, 2, 1]
    log.write_text(line(6))
    refusals.refresh([(str(log), USER)])
    assert counts(refusals)[:2] == [6, 5]


def test_of_a_large_log_the_end_is_read(tmp_path: Path) -> None:
    log, refusals = tmp_path / "log", Refusals(never_later)
    many = MAX_READ // len(line(1)) + 1000
    for begin in (0, many):
        with log.open("a") as file:
            file.write("".join(map(line, range(begin, begin + many))))
        refusals.refresh([(str(log), USER)])
        newest = begin + many - 1
        assert counts(refusals) == list(range(newest, newest - MAX_REFUSALS, -1))
    with log.open("a") as file:
        file.write("x" * (2 * MAX_READ))  # a line without an end
    refusals.refresh([(str(log), USER)])
    with log.open("a") as file:
        file.write("x\n" + line(80_000))
    refusals.refresh([(str(log), USER)])
    assert counts(refusals)[0] == 80_000


def test_several_logs_are_in_the_order_of_their_times(tmp_path: Path) -> None:
    refusals = Refusals(never_later)
    logs = [tmp_path / f"{i}" for i in range(MAX_LOGS + 1)]
    for i, log in enumerate(logs):
        log.write_text(line(i) + line(100 - i))
    named = [(str(log), USER) for log in logs]
    assert refusals.refresh(named) == [f"{MAX_LOGS + 1} decision logs: {MAX_LOGS} of them are read"]
    assert counts(refusals) == [*range(100, 100 - MAX_LOGS, -1), *reversed(range(MAX_LOGS))]
    refusals.refresh(named[3:4])
    assert counts(refusals) == [97, 3]


def test_lines_of_the_future_hide_no_later_ones(tmp_path: Path) -> None:
    """A process may write any time."""
    clock = Clock(datetime(2026, 11, 28, 0, 5, tzinfo=timezone.utc).timestamp())
    refusals, false, true = Refusals(clock), tmp_path / "false", tmp_path / "true"
    named = [(str(log), USER) for log in (false, true)]
    false.write_text("".join(line(1000 + i) for i in range(MAX_REFUSALS)))
    true.write_text("")
    refusals.refresh(named)
    assert counts(refusals)[0] == 999 + MAX_REFUSALS
    clock.step(60)
    with true.open("a") as file:
        file.write(line(330) + line(290))
    refusals.refresh(named)
    assert counts(refusals)[:2] == [330, 999 + MAX_REFUSALS]
    assert len(counts(refusals)) == MAX_REFUSALS


def test_nothing_but_a_regular_file_of_that_user_is_opened(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(line(1))
    os.mkfifo(tmp_path / "pipe")
    refusals = Refusals(never_later)
    named = [str(tmp_path / "pipe"), str(tmp_path), "/dev/full", "log", "/a\0b", "/\ud800", "/none\n"]
    failures = refusals.refresh([*((path, USER) for path in named), (str(tmp_path / "log"), USER + 1)])
    assert len(failures) == len(named) + 1
    assert all(sentence.isprintable() for sentence in failures)
    assert counts(refusals) == []


values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=400)
members = st.sampled_from(
    ["time", "client", "done", "by", "limit", "prefix", "count", "most", "text", "why", "service"]
)
times = st.sampled_from(["2026-11-28T09:00:00.123Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "now"])


@given(st.dictionaries(members, values), times)
def test_whatever_a_line_says_can_be_shown(given_members: dict[str, object], at: str) -> None:
    data = json.dumps({"time": at, "done": "refused", **given_members}).encode()
    for row in decisions([data]):
        found = refusal_of(row)
        if found is not None:
            texts = [value for value in vars(found[1]).values() if isinstance(value, str)]
            assert all(text.isprintable() and len(text) <= 10 * 300 for text in texts)
            json.dumps(vars(found[1]), allow_nan=False).encode()


@pytest.mark.usefixtures("place")
def test_a_look_has_the_refusals_of_the_processes(tmp_path: Path) -> None:
    log = DecisionLog(LogFile(str(tmp_path / "log")))
    with InboundAudit(shared="looked-at", capacity=1 << 20) as audit:
        listener = audit.listener("SMTP", "mx")
        guard = Guard(listener, Limits({"/32": 0}), decisions=log)
        guard.admit(("192.0.2.7", 40112)).close()
        log.flush()
        with Feed("looked-at") as feed:
            look = feed.look()
            (row,) = look.refusals
            assert (row.client, row.by, row.limit, row.prefix) == ("192.0.2.7", "limit", "default /32", "192.0.2.7/32")
            assert (row.count, row.most, row.service, row.listener) == (1, 0, "SMTP", "mx")
            assert look.notes == ()
            guard.admit(("192.0.2.8", 40112)).close()
            log.flush()
            assert [one.client for one in feed.look().refusals] == ["192.0.2.8", "192.0.2.7"]
            assert [one.client for one in feed.look(Source(pid=os.getpid())).refusals] == ["192.0.2.8", "192.0.2.7"]
            assert json.loads(json.dumps(feed.look().as_json()))["refusals"][0]["client"] == "192.0.2.8"
    log.close()


@pytest.mark.usefixtures("place")
def test_a_look_says_why_there_are_no_refusals() -> None:
    with InboundAudit(shared="looked-at", capacity=1 << 20) as audit, Feed("looked-at") as feed:
        guard = Guard(audit.listener("SMTP", "mx"), Limits({"/32": 0}))
        (note,) = feed.look().notes
        assert note.startswith("the decision log is written by no process")
        assert "--decision-log FILE" in note
        guard.close_all()


class Says:
    """A guard of a process that says anything."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def would_decide(self, address: str) -> inquiries.Answer:
        return {}

    def decides_by(self) -> inquiries.Answer:
        return self.answer  # type: ignore[return-value]


SENT = {"service": "SMTP", "listener": "mx", "policy": None, "dry_run": False}


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    "answer", [7, {}, {**SENT, "log": 7}, {**SENT, "service": None}, {**SENT, "arguments": []}], ids=str
)
def test_an_answer_that_is_none_is_a_sentence(answer: object) -> None:
    with InboundAudit(shared="looked-at", capacity=1 << 20) as audit, Feed("looked-at") as feed:
        audit.listener("SMTP", "mx")
        says = Says(answer)
        inquiries.note(audit, says)
        eventually(lambda: f"process {os.getpid()} sent a malformed answer" in feed.look().notes)
        del says
