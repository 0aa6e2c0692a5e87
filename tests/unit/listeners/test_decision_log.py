"""The decision log: which decisions are lines, what a line says, and what becomes of too many lines and lost ones."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis.strategies import characters, text
from tests.support import listening
from tests.support.gates import connect, gated, said, take_all
from tests.support.gates import end as end_all

from inbound_audit import InboundAudit, Limits, LuaPolicy, Session, Verdict
from inbound_audit.listeners import Guard
from inbound_audit.listeners.decision_log import DecisionLog
from inbound_audit.listeners.log_sinks import LogFile
from inbound_audit.policy.base import Policy
from inbound_audit.policy.dry_run import DryRun
from inbound_audit.policy.message import Message
from inbound_audit.policy.verdict import DENIED, MAX_TEXT, REFUSE
from inbound_audit.sieve.policy import SievePolicy

audit = listening.audit  # a fixture
linux = pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux")

PEER = ("192.0.2.7", 4242)


class Kept:
    """A sink that keeps lines, or loses them."""

    path = "kept"

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.loses = False

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def write(self, lines: list[str]) -> int:
        if self.loses:
            return len(lines)
        self.lines += lines
        return 0

    def reopen(self) -> None: ...

    def close(self) -> None: ...


class Answers(Policy):
    """Answers with each of these in turn, or raises it."""

    def __init__(self, *answers: Verdict | Exception) -> None:
        self.answers = list(answers)

    def validate_connect(self, ac: Session) -> Verdict:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def sink() -> Kept:
    return Kept()


@pytest.fixture
def log(sink: Kept) -> Iterator[DecisionLog]:
    made = DecisionLog(sink, node=lambda: "mx1")
    yield made
    made.close()


def without_time(row: dict[str, Any]) -> dict[str, Any]:
    assert row.pop("time").endswith("Z")
    return row


CONNECTION = {"node": "mx1", "service": "SMTP", "listener": "mx", "client": "192.0.2.7", "port": 4242}


def test_a_refusal_by_a_limit_says_which_one_and_what_it_counted(audit: InboundAudit, log: DecisionLog, sink: Kept):
    guard = Guard(audit.listener("SMTP", "mx"), Limits({"/32": 9, "/24,/48": 1}, code=450, text="no"), decisions=log)
    admissions = [
        guard.admit(PEER),
        guard.admit(PEER),
        guard.admit(("2001:db8::7", 1)),
        guard.admit(("2001:db8::8", 2)),
    ]
    log.flush()
    first, second = map(without_time, sink.rows)
    why = {"done": "refused", "by": "limit", "hook": "validate_connect", "limit": "default /24,/48"}
    answer = {"code": 450, "text": "no"}
    assert first == {**CONNECTION, **why, "prefix": "192.0.2.0/24", "count": 2, "most": 1, **answer}
    assert second["client"] == "2001:db8::8"
    assert (second["prefix"], second["count"], second["most"]) == ("2001:db8::/48", 2, 1)
    for admission in admissions:
        admission.close()


def test_a_limit_over_time_and_a_total_are_named(audit: InboundAudit, log: DecisionLog, sink: Kept):
    networks = {"partner": {"prefixes": ["198.51.100.0/24"], "total": 0}}
    guard = Guard(audit.listener("SMTP"), Limits({"/32": "1/5m"}, networks=networks), decisions=log)
    for peer in (PEER, PEER, ("198.51.100.1", 1)):
        guard.admit(peer).close()
    log.flush()
    over_time, total = sink.rows
    assert over_time["limit"] == "default /32 connections/5m"
    assert (over_time["prefix"], over_time["count"], over_time["most"]) == ("192.0.2.7/32", 2, 1)
    assert (total["limit"], total["count"], total["most"]) == ("partner total", 1, 0)
    assert "prefix" not in total


@pytest.mark.parametrize("policy", [None, Limits({"/32": 9}), Answers()], ids=["none", "limits", "another"])
def test_an_override_is_named_with_its_reason(audit: InboundAudit, log: DecisionLog, sink: Kept, policy: Any):
    audit.deny("192.0.2.0/24", why="a flood")
    guard = Guard(audit.listener("SMTP"), policy, decisions=log)
    guard.admit(PEER).close()
    log.flush()
    (row,) = sink.rows
    assert (row["by"], row["prefix"], row["why"]) == ("override", "192.0.2.0/24", "a flood")
    assert (row["client"], row["code"], row["text"]) == ("192.0.2.7", 421, DENIED.text)
    assert "limit" not in row


def test_a_dry_run_of_limits_says_what_it_would_have_refused(audit: InboundAudit, log: DecisionLog, sink: Kept):
    guard = Guard(audit.listener("SMTP"), Limits({"/32": 1}, dry_run=True), decisions=log)
    admissions = [guard.admit(PEER), guard.admit(PEER), guard.admit(("192.0.2.8", 1))]
    assert all(admission.let_in for admission in admissions)
    log.flush()
    (row,) = sink.rows
    assert (row["done"], row["by"], row["count"], row["code"]) == ("dry run", "limit", 2, 421)
    for admission in admissions:
        admission.close()


def test_a_dry_run_of_a_policy_says_the_verdict(audit: InboundAudit, log: DecisionLog, sink: Kept):
    policy = DryRun(Answers(Verdict(False, 550, "go away"), Verdict()))
    guard = Guard(audit.listener("SMTP"), policy, decisions=log)
    for _ in range(2):
        guard.admit(PEER).close()
    log.flush()
    (row,) = sink.rows
    assert (row["done"], row["by"], row["code"], row["text"]) == ("dry run", "policy", 550, "go away")


def test_a_tarpit_is_a_line_and_an_acceptance_if_wanted(audit: InboundAudit, sink: Kept):
    log = DecisionLog(sink, accepted=True)
    guard = Guard(audit.listener("SMTP"), Answers(Verdict(tarpit=2.5), Verdict()), decisions=log)
    for _ in range(2):
        admission = guard.admit(PEER)
        admission.hook("validate_ehlo", "mx.example")
        admission.close()
    log.close()
    tarpit, accepted = sink.rows
    assert (tarpit["done"], tarpit["tarpit"], tarpit["by"]) == ("tarpit", 2.5, "policy")
    assert (accepted["done"], accepted["client"]) == ("accepted", "192.0.2.7")
    assert "by" not in accepted


LUA = """
local policy = {}
function policy:validate_connect(ac, vctx)
  if ac.remote_port == 1 then
    vctx:disconnect(550, "not you")
  end
  vctx:tarpit(1)
end
function policy:validate_rcptto(msg, str, ac, vctx)
  vctx:set_code(550, "no such user")
  return 0
end
msys.registerModule("policy", policy)
"""


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("ffi", [None, False])
def test_a_script_and_its_line_are_named(
    audit: InboundAudit, log: DecisionLog, sink: Kept, tmp_path: Path, ffi: bool | None, dry: bool
):
    script = tmp_path / "policy.lua"
    script.write_text(LUA)
    policy = LuaPolicy(script, ffi=ffi)
    guard = Guard(audit.listener("SMTP"), DryRun(policy) if dry else policy, decisions=log)
    admission = guard.admit(PEER)
    assert admission.hook("validate_rcptto", "user@example.com", Message()).lets_in == dry
    admission.close()
    guard.admit(("192.0.2.7", 1)).close()
    log.flush()
    assert {row["script"] for row in sink.rows} == {str(script)}
    assert all(row["by"] == "script" for row in sink.rows)
    found = [(row["done"], row["hook"], row["line"]) for row in sink.rows]
    done = "dry run" if dry else "refused"
    assert found[-2:] == [(done, "validate_rcptto", 10), (done, "validate_connect", 5)]
    assert found[:-2] == ([] if dry else [("tarpit", "validate_connect", 7)])
    policy.close()


def test_a_sieve_script_and_its_line_are_named(audit: InboundAudit, log: DecisionLog, sink: Kept, tmp_path: Path):
    script = tmp_path / "policy.sieve"
    script.write_text('\n\nec_action 550 "no";\n')
    policy = SievePolicy(script)
    guard = Guard(audit.listener("SMTP"), policy, decisions=log)
    guard.admit(PEER).close()
    log.flush()
    (row,) = sink.rows
    assert (row["by"], row["script"], row["line"], row["code"]) == ("script", str(script), 3, 550)
    policy.close()


def test_a_policy_that_fails_and_a_peer_that_is_not_counted(audit: InboundAudit, log: DecisionLog, sink: Kept):
    guard = Guard(audit.listener("SMTP"), Answers(ValueError("broken")), on_error="refuse", decisions=log)
    guard.admit(PEER).close()
    guard.admit(("no address", 1)).close()
    log.flush()
    assert [(row["by"], row.get("client")) for row in sink.rows] == [("failure", "192.0.2.7"), ("uncounted", None)]


def test_a_policy_that_can_t_explain_itself_keeps_its_verdict(audit: InboundAudit, log: DecisionLog, sink: Kept):
    class Broken(Answers):
        def explain(self, ac: object) -> None:
            raise ValueError("broken")

    guard = Guard(audit.listener("SMTP"), Broken(REFUSE), decisions=log)
    admission = guard.admit(PEER)
    assert not admission.let_in
    admission.close()
    log.flush()
    assert [row["by"] for row in sink.rows] == ["policy"]
    assert guard.failures == 1


@given(text(characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="\u2028\u2029"), max_size=40))
def test_no_text_makes_a_second_line(words: str):
    sink = Kept()
    log = DecisionLog(sink)
    verdict = Verdict(False, 550, words.replace("x", "\n"))
    log.decided(None, "validate_connect", verdict, None)
    log.close()
    (line,) = sink.lines
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line).get("text", "") == verdict.text


def test_what_is_beyond_the_rate_is_left_out_and_counted(sink: Kept):
    now = 0.0
    log = DecisionLog(sink, rate=3, clock=lambda: now)
    for second in range(3):
        now = second
        for _ in range(5):
            log.decided(None, "validate_connect", REFUSE, None)
        log.flush()
        log.flush()
    log.decided(None, "validate_connect", REFUSE, None)
    log.close()
    assert [row.get("left_out", "line") for row in sink.rows] == ["line", "line", "line", 2] * 3 + [1]
    assert log.left_out == 7


def test_lines_that_are_lost_are_counted(sink: Kept):
    log = DecisionLog(sink)
    sink.loses = True
    for _ in range(4):
        log.decided(None, "validate_connect", REFUSE, None)
    log.flush()
    assert log.left_out == 4
    sink.loses = False
    log.decided(None, "validate_connect", REFUSE, None)
    log.close()
    assert [row.get("left_out", "line") for row in sink.rows] == ["line", 4]
    log.decided(None, "validate_connect", REFUSE, None)
    log.flush()
    assert len(sink.lines) == 2


def test_a_rate_below_one_is_an_error(sink: Kept):
    with pytest.raises(ValueError, match="rate=0"):
        DecisionLog(sink, rate=0)


# ---- gates


@linux
def test_each_refusal_of_a_gate_is_a_line(audit: InboundAudit, log: DecisionLog, sink: Kept):
    guard = Guard(audit.listener("SMTP", "mx"), Limits({"/32": 1}, text="one is enough"), decisions=log)
    with gated(guard.listener, guard.policy, guard=guard) as (gate, port):
        with connect(port, "127.0.0.5"):
            taken = take_all(gate, 1)
            ports = []
            for _ in range(5):
                with connect(port, "127.0.0.5") as peer:
                    ports.append(peer.getsockname()[1])
                    assert said(peer).startswith(b"421 ")
            end_all(taken)
        log.flush()
    assert [row["port"] for row in sink.rows] == ports
    expected = {"client": "127.0.0.5", "done": "refused", "by": "limit", "limit": "default /32", "count": 2, "most": 1}
    for row in sink.rows:
        assert {**row, **expected, "service": "SMTP", "listener": "mx", "prefix": "127.0.0.5/32"} == row
        assert row["text"] == "one is enough"


@linux
@pytest.mark.parametrize("limits", [None, Limits({"/32": 9})], ids=["none", "limits"])
def test_a_gate_s_override_is_named_with_its_reason(
    audit: InboundAudit, log: DecisionLog, sink: Kept, limits: Limits | None
):
    audit.deny("127.0.0.5", why="a flood")
    guard = Guard(audit.listener("SMTP"), limits, decisions=log)
    with gated(guard.listener, limits, guard=guard) as (_, port), connect(port, "127.0.0.5") as peer:
        assert said(peer).startswith(b"421 ")
        log.flush()
    (row,) = sink.rows
    assert (row["by"], row["prefix"], row["why"]) == ("override", "127.0.0.5/32", "a flood")
    assert (row["done"], row["text"]) == ("refused", DENIED.text)


@linux
def test_a_gate_s_dry_run_full_queue_and_end_are_lines(audit: InboundAudit, log: DecisionLog, sink: Kept):
    guard = Guard(audit.listener("SMTP"), Limits({"/32": 0}, dry_run=True), decisions=log)
    gate = gated(guard.listener, guard.policy, guard=guard, backlog=1)
    with gate as (_, port), connect(port, "127.0.0.5"), connect(port, "127.0.0.6") as second:
        assert b"busy" in said(second)
    log.flush()
    found = [(row["client"], row["done"], row["by"]) for row in sink.rows]
    assert sorted(found) == [
        ("127.0.0.5", "dry run", "limit"),
        ("127.0.0.5", "refused", "closing"),
        ("127.0.0.6", "dry run", "limit"),
        ("127.0.0.6", "refused", "busy"),
    ]


@linux
def test_a_limit_that_was_exchanged_keeps_its_name(audit: InboundAudit, log: DecisionLog, sink: Kept):
    guard = Guard(audit.listener("SMTP"), Limits({"/32": 0}), decisions=log)
    with gated(guard.listener, guard.policy, guard=guard) as (gate, port):
        for key in ("/32", "/24", "/16,/48", "/8"):
            guard.policy = Limits({key: 0})
            with connect(port) as peer:
                assert said(peer)
    log.flush()
    assert [row["prefix"] for row in sink.rows] == ["127.0.0.1/32", "127.0.0.0/24", "127.0.0.0/16", "127.0.0.0/8"]
    assert len(gate._noted_rules) == 1


@linux
def test_what_a_gate_has_no_place_for_is_left_out(audit: InboundAudit, sink: Kept):
    log = DecisionLog(sink, rate=2)
    guard = Guard(audit.listener("SMTP"), Limits({"/32": 0}), decisions=log)
    with gated(guard.listener, guard.policy, guard=guard) as (_, port):
        for _ in range(7):
            with connect(port) as peer:
                assert said(peer)
    log.close()
    lines = [row for row in sink.rows if "left_out" not in row]
    assert len(lines) + log.left_out == 7
    assert sum(row.get("left_out", 0) for row in sink.rows) == log.left_out
    assert log.left_out > 0


# ---- files


def test_a_file_is_made_for_its_owner_and_group(tmp_path: Path):
    before = os.umask(0)
    try:
        sink = LogFile(str(tmp_path / "log"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(tmp_path / "log").st_mode) == 0o640
    sink.close()
    sink.close()


def test_a_renamed_file_is_made_anew(tmp_path: Path):
    path = tmp_path / "log"
    path.write_text("before\n")
    sink = LogFile(str(path))
    assert sink.write(["one", "two"]) == 0
    path.rename(tmp_path / "log.1")
    assert sink.write(["three"]) == 0
    path.unlink()
    sink.reopen()
    assert sink.write(["four"]) == 0
    assert (tmp_path / "log.1").read_text() == "before\none\ntwo\n"
    assert path.read_text() == "four\n"
    sink.close()


def test_a_file_that_can_t_be_made_anew_is_written_on(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = tmp_path / "folder"
    folder.mkdir()
    sink = LogFile(str(folder / "log"))
    folder.rename(tmp_path / "other")
    assert sink.write(["one"]) == 0
    with pytest.raises(FileNotFoundError):
        sink.reopen()
    assert (tmp_path / "other" / "log").read_text() == "one\n"
    assert "can't be opened anew" in caplog.text
    sink.close()


def test_several_processes_may_append_to_one_file(tmp_path: Path):
    sinks = [LogFile(str(tmp_path / "log")) for _ in range(3)]
    for number in range(30):
        assert sinks[number % 3].write([str(number)] * 2) == 0
    assert (tmp_path / "log").read_text().split() == [str(number // 2) for number in range(60)]
    for sink in sinks:
        sink.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_loses_lines_and_says_so(caplog: pytest.LogCaptureFixture):
    sink = LogFile("/dev/full")
    assert sink.write(["one", "two"]) == 2
    assert "/dev/full has lost 2 lines" in caplog.text
    sink.close()


@pytest.mark.parametrize("room", range(12))
def test_a_line_that_was_written_in_part_harms_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int):
    path, lines, write = tmp_path / "log", ["aaa", "bbb", "ccc"], os.write
    sink = LogFile(str(path))
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: write(fd, data[:room]))
        lost = sink.write(lines)
        assert lost == 3 - (room + 1) // 4
    assert sink.write(["ddd"]) == 0
    found = path.read_text().split("\n")
    assert [line for line in found if line in lines] == lines[: 3 - lost]
    assert found[-2:] == ["ddd", ""]
    sink.close()


def test_a_long_text_is_one_line(audit: InboundAudit, log: DecisionLog, sink: Kept):
    log.decided(None, "validate_connect", Verdict(False, 550, "\u00e9" * MAX_TEXT), None)
    log.flush()
    assert len(sink.rows[0]["text"]) == MAX_TEXT
