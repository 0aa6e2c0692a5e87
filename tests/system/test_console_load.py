"""`load` of the console: what a log says is counted once, whoever loads it, how often, and whoever dies meanwhile."""

from __future__ import annotations

import fcntl
import json
import sys
import time
from pathlib import Path

import pytest
from tests.support.command_line import run
from tests.support.sharing import NAME, Worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")

LONG = 1 << 29  # seconds: windows that don't turn while a test runs
NOW = int(time.time()) * 1_000_000

COUNTS = f"""
from inbound_audit import InboundAudit
audit = InboundAudit(shared=NAME, capacity=1 << 24, state=state)
audit.series.define("failures", "ip", {LONG}, 3, **how)
"""


@pytest.fixture
def state(tmp_path, monkeypatch) -> Path:
    directory = tmp_path / "state"
    monkeypatch.setenv("INBOUND_AUDIT_STATE", str(directory))
    return directory


@pytest.fixture
def join(hire, state):
    def join(**how: bool) -> Worker:
        worker = hire()
        worker.do(COUNTS, state=str(state), how=how)
        return worker

    return join


def load(*words: str, status: int = 0) -> tuple[dict[str, int], str]:
    """The sums that it answers, and its complaints."""
    done = run("console", NAME, "--json", "load", *words)
    assert done.returncode == status, done.stderr
    return (json.loads(done.stdout)["rows"][0] if done.stdout else {}), done.stderr.decode()


def count(worker: Worker, cidr: str = "0.0.0.0/0") -> object:
    return worker.do("audit.series.count('failures', cidr, 0, 2)", cidr=cidr)


def log(path: Path, *lines: tuple[int, int, int | str, str], ago: int = 0) -> str:
    """Writes lines of log id, number, count and key."""
    with open(path, "a") as file:
        for id, number, by, key in lines:
            file.write(f"{id:016x} {number} {NOW - ago * 1_000_000} {by} {key}\n")
    return str(path)


def test_what_a_dead_process_had_logged_is_counted_again_once(join):
    dead, alive = join(serialize=True), join(serialize=True)
    dead.do("for i in range(50): audit.series.add('failures', f'192.0.2.{i}', i + 1)")
    dead.do("audit.series.add('failures', '198.51.100.1', -3)")
    alive.do("audit.series.add('failures', '192.0.2.7', 100)")
    assert load("failures")[0] == {"lines": 52, "added": 0, "known": 52, "out_of_view": 0, "failed": 0, "bad": 0}
    dead.kill()
    dead.await_end()
    sums, complaints = load("failures")
    assert (sums["added"], sums["known"], complaints) == (51, 1, "")
    assert count(alive) == 100 + 50 * 51 // 2 - 3
    for _ in range(2):
        assert load("failures")[0]["added"] == 0
    late = join()
    assert load("failures")[0]["added"] == 0  # it is asked of all
    assert count(late) == 100 + 50 * 51 // 2 - 3
    text = run("console", NAME, "inbound_audit", "load", "failures").stdout.decode()
    assert text == "failures: 52 lines, 0 counted, 52 known, 0 too old\n"


def test_only_what_lies_beyond_is_loaded(join, tmp_path):
    worker = join()
    path = log(tmp_path / "x.log", (7, 1, 5, "192.0.2.1"), (8, 1, 1, "192.0.2.1"), (7, 2, 1, "192.0.2.2"))
    assert load("failures", path)[0]["added"] == 3
    log(tmp_path / "x.log", (7, 3, 1, "192.0.2.3"), (8, 2, 2, "2001:db8::1"), (9, 1, 4, "192.0.2.4"))
    assert (load("failures", path)[0]["added"], count(worker), count(worker, "::/0")) == (3, 12, 2)
    assert load("failures", path)[0] == {"lines": 6, "added": 0, "known": 6, "out_of_view": 0, "failed": 0, "bad": 0}


def test_lines_come_into_the_windows_of_their_time(join, tmp_path):
    worker = join()
    path = log(tmp_path / "x.log", (7, 1, 5, "192.0.2.1"))
    log(tmp_path / "x.log", (7, 2, 3, "192.0.2.1"), ago=LONG)
    log(tmp_path / "x.log", (7, 3, 9, "192.0.2.1"), ago=3 * LONG)
    sums, _ = load("failures", path)
    assert (sums["added"], sums["out_of_view"]) == (2, 1)
    assert worker.do("[audit.series.count('failures', '192.0.2.1', v) for v in range(3)]") == [5, 3, 0]
    assert load("failures", path)[0]["known"] == 3


def test_lines_that_cannot_be_read_or_counted_are_reported(join, tmp_path):
    worker = join()
    path = log(tmp_path / "x.log", (7, 1, 5, "192.0.2.1"), (7, 2, 5, "no-address"))
    with open(path, "a") as file:
        file.writelines(f"line {number}\n" for number in range(15))
    log(tmp_path / "x.log", (7, 3, 1, "192.0.2.1"))
    sums, complaints = load("failures", path)
    assert sums == {"lines": 3, "added": 2, "known": 0, "out_of_view": 0, "failed": 1, "bad": 15}
    assert f"{path}:3: " in complaints
    assert "and 5 more lines that can't be read" in complaints
    assert "no-address" in complaints
    assert count(worker) == 6


def test_a_removal_is_about_the_lines_before_it(join, tmp_path):
    worker = join()
    lines = [(7, 1, 5, "192.0.2.1"), (8, 1, 4, "192.0.2.1"), (7, 2, "remove", "192.0.2.1"), (7, 3, 1, "192.0.2.1")]
    path = log(tmp_path / "x.log", *lines, (7, 4, 2, "192.0.2.2"))
    assert load("failures", path)[0]["added"] == 2
    assert (count(worker, "192.0.2.1"), count(worker, "192.0.2.2")) == (1, 2)
    # Of lines that were counted before, that is taken away again which no removal had kept from being counted.
    log(tmp_path / "x.log", (7, 5, 6, "192.0.2.1"), (8, 2, "remove", "192.0.2.1"), (8, 3, 9, "192.0.2.1"))
    load("failures", path)
    assert (count(worker, "192.0.2.1"), count(worker, "192.0.2.2")) == (9, 2)
    load("failures", path)
    assert (count(worker, "192.0.2.1"), count(worker, "192.0.2.2")) == (9, 2)


def test_a_long_log_goes_in_pieces(join, tmp_path, monkeypatch):
    from inbound_audit.cli.console import replay

    worker = join()
    hosts = [f"10.{i >> 8}.{i & 255}.1" for i in range(3 * replay.MAX_ROWS + 7)]
    path = log(tmp_path / "x.log", *((7, number, 1, host) for number, host in enumerate(hosts, 1)))
    assert load("failures", path)[0]["added"] == len(hosts)
    assert count(worker) == len(hosts)
    assert load("failures", path)[0]["added"] == 0


def test_a_byte_order_mark_is_no_part_of_the_first_line(join, tmp_path):
    worker = join()
    (tmp_path / "x.log").write_bytes(b"\xef\xbb\xbf")
    path = log(tmp_path / "x.log", (7, 1, 5, "192.0.2.1"))
    assert load("failures", path)[0]["added"] == 1
    assert count(worker) == 5


def test_texts_are_loaded(hire, state, tmp_path):
    worker = hire("from inbound_audit import InboundAudit\naudit = InboundAudit(shared=NAME, capacity=1 << 24)")
    worker.do(f"audit.series.define('names', 'string', {LONG}, 2)")
    path = log(tmp_path / "x.log", (7, 1, 5, "j%C3%BCrgen%20m"), (7, 2, 2, "%0A"))
    assert load("names", path)[0]["added"] == 2
    assert worker.do("audit.series.count('names', 'jürgen m')") == 5


def test_nothing_is_loaded_when_one_does_not_answer(join, tmp_path):
    one, other = join(), join()
    path = log(tmp_path / "x.log", (7, 1, 5, "192.0.2.1"))
    other.freeze()
    _, complaints = load("failures", path, status=1)
    assert f"process {other.pid} did not answer" in complaints
    other.thaw()
    assert count(one) == 0
    assert load("failures", path)[0]["added"] == 1


def test_two_do_not_load_a_log_at_once(join, tmp_path):
    worker = join()
    path = log(tmp_path / "x.log", (7, 1, 5, "192.0.2.1"))
    with open(path) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another process is loading it" in load("failures", path, status=1)[1]
    assert count(worker) == 0


def test_an_unknown_series(join, tmp_path):
    join()
    assert "no process has defined that series" in load("other", log(tmp_path / "x.log"), status=1)[1]
    assert "no such file" in load("failures", status=1)[1]


def test_what_was_loaded_is_persisted_with_its_marks(join, tmp_path):
    """Who adopts the counts of a dead process knows as well what it had loaded."""
    dead = join(persist=True)
    path = log(tmp_path / "x.log", (7, 1, 5, "192.0.2.1"), (7, 2, 1, "192.0.2.2"))
    assert load("failures", path)[0]["added"] == 2
    dead.do("audit.series.save()")
    dead.kill()
    dead.await_end()
    heir = join(persist=True)
    assert count(heir) == 6
    assert load("failures", path)[0] == {"lines": 2, "added": 0, "known": 2, "out_of_view": 0, "failed": 0, "bad": 0}
    assert count(heir) == 6
