"""`inbound-audit console`: what its commands answer and change, with real processes that count."""

from __future__ import annotations

import csv
import json
import re
import shlex
import socket
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.support.command_line import COMMAND, Serve, environment, run
from tests.support.sharing import NAME, Worker
from tests.support.waiting import PATIENCE

from inbound_audit.shared import View

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")

GAP = " " * 25

# Windows of 17 years don't turn while a test runs.
LONG = 1 << 29
SIZE = f"{LONG},3"

COUNTS = f"""
from inbound_audit import InboundAudit
audit = InboundAudit(shared=NAME, capacity=1 << 24, monitors=("{SIZE}", "1000000000,1"))
audit.series.define("failures", "ip", {LONG}, 3)
audit.series.define("texts", "string", {LONG}, 2)
mx, kept = audit.listener("SMTP", "mx"), []
def add(key, count, window=0):
    import time
    audit.series.add_at("failures", key, count, (int(time.time()) - window * {LONG}) * 1000000)
"""


@pytest.fixture
def crew(hire) -> tuple[Worker, Worker]:
    """Two processes with windows, series and open sessions."""
    one, other = hire.hire(2, COUNTS)
    one.do("kept += [mx.session('10.0.0.1'), mx.session('10.0.0.1'), mx.session('2001:db8::7')]")
    one.do("kept[0].record_reception(4); kept[2].record_rejection()")
    other.do("kept += [mx.session('10.0.0.1'), mx.session('10.0.0.2')]\nkept[1].record_rejection(2)")
    one.do("add('192.0.2.7', 5); add('192.0.2.8', 2, 1); add('2001:db8::1', 1); add('2001:db8::ff', 1, 2)")
    other.do("add('192.0.2.7', 1); add('198.51.100.1', 9, 1); add('192.0.2.200', 3, 2)")
    return one, other


def console(*words: str) -> str:
    """What a command that succeeds writes, and nothing beside it."""
    done = run("console", NAME, *words)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    return done.stdout.decode()


def failing(*words: str, status: int = 1) -> str:
    """What a command says that fails; nothing is answered."""
    done = run("console", NAME, *words)
    assert (done.returncode, done.stdout) == (status, b"")
    assert done.stderr.count(b"\n") == 1
    return done.stderr.decode()


def piped(*lines: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[bytes]:
    return run("console", NAME, *options, given="".join(f"{line}\n" for line in lines).encode())


def check_complaints(table: list[tuple[list[str], str]]) -> None:
    """A line of complaint for each of these commands, each with these words."""
    lines = [words[0] if len(words) == 1 else shlex.join(words) for words, _ in table]
    done = piped(*lines)
    assert (done.returncode, done.stdout) == (1, b"")
    complaints = done.stderr.decode().splitlines()
    for number, ((_, said), complaint) in enumerate(zip(table, complaints, strict=True), 1):
        assert complaint.startswith(f"line {number}: ")
        assert said in complaint


# ---- windows


def test_show_ip(crew):
    expected = []
    for kind, first in (("Connections", 3), ("Receptions", 4), ("Rejections", 0)):
        expected += [f"{kind} {LONG}/0: {first}", f"{kind} {LONG}/1: 0", f"{kind} {LONG}/2: 0"]
        expected += [f"{kind} 1000000000/0: {first}"]
    assert console("inbound_audit", "show", "ip", "10.0.0.1").splitlines() == expected


@pytest.mark.parametrize(
    ("cidr", "counts"),
    [
        ("10.0.0.0/24", (4, 4, 2)),
        ("10.0.0.99/255.255.255.0", (4, 4, 2)),
        ("2001:db8::/32", (1, 0, 1)),
        ("::ffff:10.0.0.2", (1, 0, 2)),
        ("192.0.2.1", (0, 0, 0)),
    ],
)
def test_show_ip_of_a_prefix(crew, cidr, counts):
    rows = console("show", "ip", cidr).splitlines()
    assert tuple(int(row.split(": ")[1]) for row in rows if f"{LONG}/0" in row) == counts


def test_show_all_is_csv(crew):
    rows = list(csv.reader(console("inbound_audit", "show", "all").splitlines()))
    assert rows[0] == ["kind", "series", "interval", "num_windows", "window", "address", "count"]
    assert all(len(row) == 7 for row in rows)
    assert ["connections", "", str(LONG), "3", "0", "10.0.0.1", "3"] in rows
    assert ["rejections", "", "1000000000", "1", "0", "2001:db8::7", "1"] in rows
    assert [row[4:] for row in rows if row[1] == "failures"] == [
        ["0", "192.0.2.7", "6"], ["0", "2001:db8::1", "1"],
        ["1", "192.0.2.8", "2"], ["1", "198.51.100.1", "9"],
        ["2", "192.0.2.200", "3"], ["2", "2001:db8::ff", "1"],
    ]  # fmt: skip


COUNTED = [
    (["192.0.2.0/24", "failures", SIZE, "0", "2"], 11),
    (["192.0.2.0/24", "failures", f" {LONG} , 3", "1", "1"], 2),
    (["192.0.2.7", "failures", SIZE, "0", "0"], 6),
    (["::/0", "failures", SIZE, "0", "2"], 2),
    (["10.0.0.0/8", "connections", SIZE, "0", "1"], 4),
    (["10.0.0.0/8", "rejections", "1000000000,1", "0", "0"], 2),
    (["203.0.113.0/24", "failures", SIZE, "0", "2"], 0),
]


def test_count_cidr(crew):
    assert console("inbound_audit", "count_cidr", *COUNTED[0][0]) == f"{COUNTED[0][1]}\n"
    done = piped(*(shlex.join(["inbound_audit", "count_cidr", *words]) for words, _ in COUNTED))
    assert done.stdout.decode().split() == [str(count) for _, count in COUNTED]


# ---- the query


ONE_DAY = (datetime.now() - timedelta(seconds=LONG)).strftime("%Y%m%d")  # of the window before this one

QUERIES = [
    ("192.0.2.0/24 in failures", "6 192.0.2.7/32, 3 192.0.2.200/32, 2 192.0.2.8/32"),
    ("192.0.2.0/24 in failures order by cidr", "6 192.0.2.7/32, 2 192.0.2.8/32, 3 192.0.2.200/32"),
    ("192.0.2.0/24 in failures limit 1 order by count", "6 192.0.2.7/32"),
    ("0.0.0.0/0 in failures cidrsize 24", "11 192.0.2.0/24, 9 198.51.100.0/24"),
    ("0.0.0.0/0 in failures cidrsize 0", "20 0.0.0.0/0"),
    ("192.0.2.7 in failures", "6 192.0.2.7/32"),
    ("::/0 in failures cidrsize 64", "2 2001:db8::/64"),
    ("2001:db8::/120 in failures order by cidr", "1 2001:db8::1/128, 1 2001:db8::ff/128"),
    ("203.0.113.0/24 in failures", ""),
    ("0.0.0.0/0 in failures since 2010-01-01 order by cidr", "6 192.0.2.7/32, 2 192.0.2.8/32, 9 198.51.100.1/32"),
    ("0.0.0.0/0 in failures since '2022-01-01 09:30'", "6 192.0.2.7/32"),
    ("0.0.0.0/0 in failures since 2022-01-01 09:30 limit 9", "6 192.0.2.7/32"),
    ("0.0.0.0/0 in failures since 2022-01-01T09:30:00Z", "6 192.0.2.7/32"),
    ("0.0.0.0/0 in failures since 10 minutes ago", "6 192.0.2.7/32"),
    ("0.0.0.0/0 in failures since 6000 days ago limit 1", "9 198.51.100.1/32"),
    ("0.0.0.0/0 in failures since yesterday limit 1", "6 192.0.2.7/32"),
    (f"0.0.0.0/0 in failures on {ONE_DAY}", "9 198.51.100.1/32, 2 192.0.2.8/32"),
    (
        f"0.0.0.0/0 in failures from {ONE_DAY}T000000 to now order by cidr",
        "6 192.0.2.7/32, 2 192.0.2.8/32, 9 198.51.100.1/32",
    ),
    ("0.0.0.0/0 in failures threshold 6", "9 198.51.100.1/32, 6 192.0.2.7/32"),
    (
        "192.0.2.0/24 in failures cidrsize 24 to 26",
        "11 192.0.2.0/24, 8 192.0.2.0/25, 8 192.0.2.0/26, 3 192.0.2.128/25, 3 192.0.2.192/26",
    ),
    ("192.0.2.0/24 in failures aggregate limit 1", "6 192.0.2.7/32"),
    ("192.0.2.0/24 in union(failures, manual)", "7 192.0.2.7/32, 3 192.0.2.200/32, 2 192.0.2.8/32"),
    ("192.0.2.0/24 in union( failures,manual ) threshold 7", "7 192.0.2.7/32"),
    ("192.0.2.0/24 in failures, manual", "[6, 1] 192.0.2.7/32, [3, 0] 192.0.2.200/32, [2, 0] 192.0.2.8/32"),
    (f"192.0.2.0/24 in manual,failures {SIZE} limit 2 order by cidr", "[1, 6] 192.0.2.7/32, [0, 2] 192.0.2.8/32"),
    (f"0.0.0.0/0 in connections {SIZE}", "3 10.0.0.1/32, 1 10.0.0.2/32"),
    (f'0.0.0.0/0 in rejections "{LONG}, 3" since 1 hour ago', "2 10.0.0.2/32"),
]


def test_show_count(crew):
    crew[0].do(f"audit.series.define('manual', 'cidr', {LONG}, 3); audit.series.add('manual', '192.0.2.7', 1)")
    done = piped(*(f"show count for {words}" for words, _ in QUERIES), options=("--json",))
    assert (done.returncode, done.stderr) == (0, b"")
    answers = [json.loads(line)["rows"] for line in done.stdout.splitlines()]
    for (words, expected), rows in zip(QUERIES, answers, strict=True):
        found = ", ".join(f"{row.get('count', row.get('counts'))} {row['prefix']}" for row in rows)
        assert (words, found) == (words, expected)


def test_aggregate_daily_has_a_row_per_day(crew):
    words = ("show", "count", "for", "192.0.2.0/24", "in", "failures", "cidrsize", "24", "aggregate", "daily")
    rows = json.loads(console("--json", *words))["rows"]
    assert [row["count"] for row in rows] == [3, 2, 6]
    assert [row["day"] for row in rows] == sorted(row["day"] for row in rows)
    begin = datetime.fromtimestamp(time.time() // LONG * LONG)
    assert rows[-1]["day"] == f"{begin:%Y-%m-%d}"
    assert console(*words).splitlines()[-1] == f"{begin:%Y-%m-%d}        6{GAP}192.0.2.0/24"


def test_show_available(crew):
    lines = console("show", "available").splitlines()
    assert [line.partition(" :")[0] for line in lines][-2:] == [f"failures {SIZE}", f"texts {LONG},2"]
    end = datetime.fromtimestamp(time.time() // LONG * LONG + LONG)
    begin = end - timedelta(seconds=3 * LONG)
    assert any(line.endswith(f"=> {end:%Y%m%dT%H%M%S}") for line in lines)
    row = next(r for r in json.loads(console("--json", "show", "available"))["rows"] if r["series"] == "failures")
    assert datetime.fromisoformat(row["from"]).timestamp() == max(begin.timestamp(), 0)


def test_the_form_with_an_instance(crew, place):
    for name in (NAME, "inbound_audit1"):
        assert console(f"inbound_audit:{name}", "show", "ip", "10.0.0.1") == console("show", "ip", "10.0.0.1")
    other = place / f"inbound_audit-{NAME}2"
    other.mkdir(mode=0o700)
    (other / "0123456789abcdef.owner").touch()
    said = failing(f"inbound_audit:{NAME}2", "add", "failures", SIZE, "192.0.2.7", "1")
    assert f"start one for '{NAME}2'" in said


def test_a_row_is_as_in_a_tree(crew):
    assert console("show", "count", "for", "192.0.2.7", "in", "failures") == f"      6{GAP}192.0.2.7/32\n"


def test_since_longer_ago_than_there_are_windows_is_noted(crew):
    done = piped("show count for 192.0.2.0/24 in failures since 1971-01-01")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 3
    assert "goes back 3 windows" in done.stderr.decode()


# ---- what changes counts


def test_add_and_subtract(crew):
    assert console("inbound_audit", "add", "failures", SIZE, "192.0.2.7", "10") == f"failures {LONG}/0: 16\n"
    assert console("inbound_audit", "subtract", "failures", SIZE, "192.0.2.7", "4") == f"failures {LONG}/0: 12\n"
    for worker in crew:
        assert worker.do("audit.series.count('failures', '192.0.2.7')") == 12
    assert console("add", "new", "1000000000,2", "2001:db8::9", "3") == "new 1000000000/0: 3\n"
    assert console("count_cidr", "2001:db8::/32", "new", "1000000000,2", "0", "1") == "3\n"
    done = run("console", NAME, "add", "failurs", SIZE, "192.0.2.7", "1")
    assert (done.returncode, done.stdout.decode()) == (0, f"failurs {LONG}/0: 1\n")
    assert "a new series is defined; did you mean 'failures'?" in done.stderr.decode()
    assert console("add", "texts", f"{LONG},2", "jürgen müller", "7") == f"texts {LONG}/0: 7\n"
    assert sorted(worker.do("audit.series.count('texts', 'jürgen müller')") for worker in crew) == [7, 7]


def test_delete_ip(crew):
    answer = console("inbound_audit", "delete_ip", "192.0.2.7", "failures", SIZE)
    assert sorted(answer.splitlines()) == sorted(f"removed from failures {SIZE} of process {w.pid}" for w in crew)
    assert console("count_cidr", "192.0.2.0/24", "failures", SIZE, "0", "2") == "5\n"
    assert crew[0].do("audit.series.count('failures', '192.0.2.7', 0, 2)") == 0
    assert "nothing is counted for it" in failing("delete_ip", "192.0.2.7", "failures", SIZE)
    assert "nothing is counted for it" in failing("delete_ip", "nothing", "texts", f"{LONG},2")
    console("add", "texts", f"{LONG},2", "a b", "2")
    assert console("delete_ip", "a b", "texts", f"{LONG},2").startswith("removed from texts")


def test_a_stopped_process(crew):
    """Queries do not wait for it, `add` asks another process, and `delete_ip` says which process did not answer."""
    one, other = crew
    one.freeze()
    assert "192.0.2.7/32" in console("show", "count", "for", "192.0.2.7", "in", "failures")
    assert f"{LONG}/0: 3\n" in console("show", "ip", "10.0.0.1")
    assert console("add", "failures", SIZE, "192.0.2.7", "1") == f"failures {LONG}/0: 7\n"
    assert f"process {one.pid} did not answer" in failing("delete_ip", "192.0.2.7", "failures", SIZE)
    other.freeze()
    said = failing("add", "failures", SIZE, "192.0.2.7", "1")
    assert f"process {one.pid} did not answer" in said
    assert f"process {other.pid} did not answer" in said
    one.thaw()
    other.thaw()
    assert console("count_cidr", "192.0.2.7", "failures", SIZE, "0", "0") == "5\n"


def test_one_that_was_killed(crew):
    one, other = crew
    other.freeze()  # so that it removes nothing
    one.kill()
    one.await_end()
    assert f"{LONG}/0: 1\n" in console("show", "ip", "10.0.0.1")
    other.thaw()
    assert console("add", "failures", SIZE, "192.0.2.7", "1") == f"failures {LONG}/0: 2\n"
    assert console("delete_ip", "192.0.2.7", "failures", SIZE).count("\n") == 1
    assert str(other.pid) in console("cluster", "shared", "show", "inbound_cidr", "from", str(other.pid))
    assert str(one.pid) in failing("cluster", "shared", "show", "inbound_cidr", "from", str(one.pid))
    other.kill()
    other.await_end()
    assert "no process is attached" in failing("add", "failures", SIZE, "192.0.2.7", "1")
    assert console("cluster", "shared", "list") == "lazy, snapped cidrtree 'inbound_cidr', 0 processes\n"


# ---- what is shared


def test_cluster_shared_show(crew):
    assert console("cluster", "shared", "show", "inbound_cidr") == (
        "lazy, snapped cidrtree 'inbound_cidr', view 'global'\n"
        f"      4{GAP}10.0.0.0/30\n"
        f"      3{GAP}10.0.0.1/32\n"
        f"      1{GAP}10.0.0.2/32\n"
        f"      1{GAP}2001:db8::7/128\n"
    )
    other = crew[1]
    with View(NAME, pid=other.pid) as view:
        owner_id = view.owners[0].id
    for node in (str(other.pid), owner_id):
        assert console("cluster", "shared", "show", "inbound_cidr", "from", node) == (
            f"lazy, snapped cidrtree 'inbound_cidr', view '{node}'\n"
            f"      2{GAP}10.0.0.0/30\n"
            f"      1{GAP}10.0.0.1/32\n"
            f"      1{GAP}10.0.0.2/32\n"
        )
    for unknown in ("1", "0123456789abcdef", "x", "-3", "9" * 30):
        assert unknown in failing("cluster", "shared", "show", "inbound_cidr", "from", unknown)


def test_cluster_shared_list(crew):
    lines = console("cluster", "shared", "list").splitlines()
    assert lines[0] == "lazy, snapped cidrtree 'inbound_cidr', 2 processes"
    assert f"series 'failures' {SIZE}" in lines
    assert f"series 'texts' {LONG},2" in lines
    assert "monitor 'rejections' 1000000000,1" in lines
    assert len(lines) == 1 + 6 + 2


# ---- what is wrong


WRONG = [
    (["shw", "ip"], "'shw' is not a command; did you mean 'show'?"),
    (["show", "ipp", "192.0.2.1"], "did you mean 'ip'?"),
    (["show", "ip"], "CIDR (192.0.2.0/24 or 192.0.2.7) is missing after 'ip' (usage: inbound_audit show ip"),
    (["show", "ip", "192.0.2.1/33"], "usage: inbound_audit show ip CIDR"),
    (["show", "ip", "/24"], "usage: inbound_audit show ip CIDR"),
    (["show", "ip", "192.0.2.1", "now"], "'now' is an extra word"),
    (["count_cidr", "192.0.2.1", "failures", "300", "0", "1"], "PARAMETERS: '300': write the seconds"),
    (["count_cidr", "192.0.2.1", "failures", SIZE, "0"], "END"),
    (["count_cidr", "192.0.2.1", "failures", SIZE, "0", "-1"], "END: '-1'"),
    (["add", "failures", SIZE, "192.0.2.1", "0"], "INCREMENT: '0': write a whole number from 1"),
    (["add", "failures", SIZE, "192.0.2.1", "4294967296"], "from 1 to 4294967295"),
    (["cluster", "shared", "shwo"], "did you mean 'show'?"),
    (["cluster", "shared", "show", "inbound_cidr", "form", "1"], "did you mean 'from'?"),
    (["show", "count", "for", "::/0", "of", "failures"], "'of': 'in' is expected after '::/0'"),
    (["show", "count", "for", "::/0", "in", "failures", "ordr", "by", "cidr"], "did you mean 'order'?"),
    (["show", "count", "for", "::/0", "in", "failures", "order", "by", "size"], "order by count or cidr"),
    (["show", "count", "for", "::/0", "in", "failures", "limit", "1", "limit", "2"], "limit is given twice"),
    (["show", "count", "for", "::/0", "in", "failures", "since", "yore"], "write a date such as"),
    (["show", "count", "for", "::/0", "in", "failures", "since", "10", "moons", "ago"], "10 minutes ago"),
    (["inbound_audit"], "is missing"),
    (["show", "count", "for", "::/0", "in", "failures", "since", "yesterday", "limt", "5"], "did you mean 'limit'?"),
    (["show", "count", "for", "::/0", "in", "failures", "since", "yesterday", "on", "monday"], "time is given twice"),
    (["show", "count", "for", "::/0", "in", "union(failures"], "is missing after 'failures'"),
    (["show", "count", "for", "::/0", "in", "failures,"], "NAME (the name of a series) is missing after ','"),
    (['show ip "192.0.2.1'], "quotation mark"),
    (["help", "shw"], "did you mean 'show'?"),
]  # fmt: skip


def test_wrong_syntax(crew):
    assert WRONG[0][1] in failing(*WRONG[0][0], status=2)
    check_complaints(WRONG)


FAILING = [
    (["count_cidr", "192.0.2.1", "nothing", SIZE, "0", "1"], "there is: connections 1000000000,1"),
    (["count_cidr", "192.0.2.1", "failures", "300,6", "0", "1"], f"there is: failures {SIZE}"),
    (["count_cidr", "192.0.2.1", "failures", SIZE, "0", "3"], "has 0 to 2"),
    (["count_cidr", "192.0.2.1", "failures", SIZE, "2", "1"], "has 0 to 2"),
    (["show", "count", "for", "::/0", "in", "connections"], "there are several"),
    (["show", "count", "for", "::/0", "in", "texts"], "can't be listed"),
    (["show", "count", "for", "10.0.0.0/8", "in", "failures", "cidrsize", "7"], "prefixes of 8 to 32"),
    (["show", "count", "for", "10.0.0.0/8", "in", "failures", "cidrsize", "33"], "prefixes of 8 to 32"),
    (["show", "count", "for", "10.0.0.0/8", "in", "failures", "since", "2200-01-01"], "in the future"),
    (["show", "count", "for", "10.0.0.0/8", "in", "failures", "since", "9999-12-31T23:59:59Z"], "in the future"),
    (["add", "connections", SIZE, "192.0.2.1", "1"], "only series can be changed"),
    (["add", "failures", "300,6", "192.0.2.1", "1"], "not 300,6"),
    (["add", "failures", SIZE, "192.0.2.0/24", "1"], "192.0.2.0/24"),
    (["add", "huge", "300,99999", "192.0.2.1", "1"], "99999"),
    (["delete_ip", "192.0.2.1", "nothing", SIZE], "no process of 'mail' counts that"),
    (["load", "failures", "/does/not/exist"], "cannot read /does/not/exist: no such file"),
    (["load", "nothere"], f"no process counts a series 'nothere' (there is: failures {SIZE}, texts {LONG},2)"),
    (["load", "failures"], "load failures FILE"),
    (["show", "count", "for", "::/0", "in", "failures,", "nothere"], "nothere: no process"),
    (["show", "count", "for", "::/0", "in", "failures", "from", "now", "to", "2026-01-01"], "the earlier date first"),
    (["show", "count", "for", "::/0", "in", "failures", "on", "1971-01-01"], "goes back 3 windows"),
]


def test_what_fails_says_why(crew):
    assert FAILING[0][1] in failing(*FAILING[0][0], status=1)
    check_complaints(FAILING)


def test_no_such_audit(place):
    done = run("console", "unknown", "help")
    assert done.returncode == 1
    assert b"'unknown'" in done.stderr


# ---- lines from a pipe


def test_lines_from_a_pipe(crew):
    done = piped(
        "# a comment, and an empty line",
        "",
        f"inbound_audit add failures {SIZE} 192.0.2.99 1",
        f"  add failures {SIZE} 192.0.2.99 2  ",
        f"count_cidr 192.0.2.99 failures {SIZE} 0 0",
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == [f"failures {LONG}/0: 1", f"failures {LONG}/0: 3", "3"]


def test_a_failure_keeps_no_line_from_being_done(crew):
    done = piped("show ipp", "count_cidr 192.0.2.7 nothing 1,1 0 0", f"count_cidr 192.0.2.7 failures {SIZE} 0 0")
    assert done.returncode == 1
    assert done.stdout == b"6\n"
    complaints = done.stderr.decode().splitlines()
    assert complaints[0].startswith("line 1: 'ipp'")
    assert complaints[1].startswith("line 2: nothing 1,1")
    assert len(complaints) == 2


def test_quit_ends_the_lines(crew):
    for word in ("quit", "exit", "inbound_audit quit", "EXIT"):
        done = piped(word, "nonsense")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_each_line_sees_the_processes_of_that_moment(crew, hire):
    with subprocess.Popen(
        [*COMMAND, "console", NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdin
        assert process.stdout

        def say(line: str) -> str:
            assert process.stdin
            assert process.stdout
            process.stdin.write(line + "\n")
            process.stdin.flush()
            return process.stdout.readline()

        assert "2 processes" in say("cluster shared list")
        for _ in range(8):
            process.stdout.readline()
        late = hire(COUNTS + "add('192.0.2.7', 10)")
        assert say(f"count_cidr 192.0.2.7 failures {SIZE} 0 0") == "16\n"
        late.kill()
        late.await_end()
        assert say(f"count_cidr 192.0.2.7 failures {SIZE} 0 0") == "6\n"
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


def test_a_reader_that_leaves_is_no_traceback(crew):
    crew[0].do("for i in range(20000): add(f'10.{i >> 8}.{i & 255}.1', 1)")
    with subprocess.Popen(
        [*COMMAND, "console", NAME, "show", "all"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE) == 1
        assert b"Traceback" not in process.stderr.read()


def test_what_a_process_has_named_is_not_obeyed_by_a_terminal(crew):
    crew[0].do("audit.series.define('señor', 'ip', 1000000000, 1)")
    assert "series 'señor' 1000000000,1" in console("cluster", "shared", "list")


# ---- JSON


def test_json_is_an_object_a_command(crew):
    one, _ = crew
    found = json.loads(console("--json", "inbound_audit", "show", "ip", "10.0.0.1"))
    assert (found["command"], found["cidr"]) == ("show ip", "10.0.0.1")
    assert found["rows"][0] == {"kind": "connections", "interval": LONG, "num_windows": 3, "window": 0, "count": 3}
    assert len(found["rows"]) == 12
    found = json.loads(console("show", "count", "for", "192.0.2.0/24", "in", "failures", "limit", "1", "--json"))
    assert found == {
        "command": "show count", "cidr": "192.0.2.0/24", "series": "failures", "interval": LONG, "num_windows": 3,
        "start": 0, "end": 2, "rows": [{"prefix": "192.0.2.7/32", "count": 6}],
    }  # fmt: skip
    found = json.loads(console("--json", "cluster", "shared", "show", "inbound_cidr", "from", str(one.pid)))
    assert found["from"] == str(one.pid)
    assert found["rows"][0] == {"prefix": "10.0.0.1/32", "count": 2}
    found = json.loads(console("--json", "show", "all"))
    assert {"kind", "series", "interval", "num_windows", "window", "address", "count"} == set(found["rows"][0])
    found = json.loads(console("--json", "add", "failures", SIZE, "192.0.2.7", "1"))
    assert (found["series"], found["key"], found["by"], found["rows"][0]["count"]) == ("failures", "192.0.2.7", 1, 7)


def test_every_line_has_its_line_in_json(crew):
    lines = ["help quit", "nonsense", f"count_cidr 192.0.2.7 failures {SIZE} 0 0", "", "show ip x"]
    done = piped(*lines, options=("--json",))
    assert done.returncode == 1
    first, second, third, fourth = map(json.loads, done.stdout.splitlines())
    assert first["rows"][0]["usage"] == "quit"
    assert second["command"] == "nonsense"
    assert "not a command" in second["error"]
    assert third["rows"] == [{"count": 6}]
    assert "error" in fourth
    assert done.stderr.count(b"\n") == 2


# ---- help


def test_what_the_reference_has_and_this_does_not_is_named(crew):
    assert "not part of inbound_audit" in failing("cache", "details")


def test_help(crew):
    lines = console("help").splitlines()
    assert len(lines) == 16
    for line in lines:
        assert re.fullmatch(r"[a-z].*  [A-Z].*\.", line), line  # the form, then what it does
    assert any(line.startswith("inbound_audit count_cidr CIDR SERIES PARAMETERS START END  ") for line in lines)
    assert console("?").splitlines() == lines
    assert console("inbound_audit", "count_cidr", "?") == console("help", "count_cidr")
    for words in (["help", "count_cidr"], ["help", "inbound_audit", "count_cidr"]):
        usage, about = console(*words).splitlines()
        assert usage == "inbound_audit count_cidr CIDR SERIES PARAMETERS START END"
        assert about.startswith("    The count of a prefix")
    assert console("help", "show").count("usage") == 0
    assert console("help", "cluster", "shared").count("\n    ") == 2


def test_its_help_has_examples():
    done = run("console", "--help")
    assert done.returncode == 0
    assert b"Examples:" in done.stdout
    assert b"Exit status:" in done.stdout


def test_the_prompts_library_is_not_loaded_for_a_command(crew):
    code = "import sys; from inbound_audit.__main__ import main; main(['console', sys.argv[1], 'help', 'quit']); "
    code += "print('prompt_toolkit' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, NAME], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


# ---- with a listener


def test_a_running_server_is_asked(place: Path):
    with Serve("--shared", NAME, "--monitor", SIZE, listen=("127.0.0.1:0",)) as server:
        host, port = server.addresses[0]
        with socket.create_connection((host, port)) as connection:
            connection.recv(100)
            assert f"Connections {LONG}/0: 1\n" in console("show", "ip", "127.0.0.1")
        assert console("add", "manual", SIZE, "192.0.2.7", "2") == f"manual {LONG}/0: 2\n"
        assert console("delete_ip", "192.0.2.7", "manual", SIZE).startswith("removed from manual")
        assert console("count_cidr", "192.0.2.7", "manual", SIZE, "0", "2") == "0\n"
