"""`inbound-audit replay`: options in, tables, JSON or a page out. In the test's own process."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
from tests.support.gold_replay import postfix_log

from inbound_audit.cli import run

LOG = [
    "Feb  6 12:00:00 mx1 postfix/smtpd[1]: connect from a.example[192.0.2.7]",
    "Feb  6 12:00:01 mx1 postfix/smtpd[2]: connect from a.example[192.0.2.7]",
    "Feb  6 12:00:02 mx1 postfix/smtpd[3]: connect from a.example[192.0.2.9]",
    "Feb  6 13:00:03 mx1 postfix/smtpd[1]: disconnect from a.example[192.0.2.7] commands=1",
    "Feb  6 13:00:04 mx1 postfix/smtpd[1]: connect from a.example[2001:db8::7]",
]
MTIME = datetime(2026, 2, 7, tzinfo=timezone.utc).timestamp()


@pytest.fixture
def log(tmp_path: Path) -> str:
    return write(tmp_path / "mail.log", LOG)


def write(path: Path, lines: list[str], mtime: float = MTIME) -> str:
    path.write_text("\n".join(lines) + "\n")
    os.utime(path, (mtime, mtime))
    return str(path)


@pytest.fixture
def replay(capsys, monkeypatch):
    """Runs the command: its exit status, what it wrote, and what it said on standard error."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments: str) -> tuple[int, str, str]:
        status = run(["replay", "--zone", "UTC", *arguments])
        return (status, *capsys.readouterr())

    return call


def test_tables(replay, log):
    status, out, err = replay(log, "--limit", "/32,/64=1", "--limit", "/24,/48=5")
    assert (status, err) == (0, "")
    words = [line.split() for line in out.splitlines()]
    assert "4 connections from 2026-02-06T12:00:00+00:00 to 2026-02-06T13:00:04+00:00" in out
    assert ["default", "/32,/64", "1", "25%", "192.0.2.7/32", "1"] in words
    assert ["2026-02-06T12:00:00+00:00", "3", "1"] in words
    assert ["/24,/48", "1", "3", "3", "3", "3"] in words
    assert "3 sessions open at the end of the log." in out


def test_json(replay, log):
    status, out, _ = replay(log, "--limit", "/32,/64=1", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["files"] == [{"file": log, "format": "postfix", "lines": 5, "bad": 0}]
    assert (found["connections"], found["refused"], found["hosts"]) == (4, 1, 3)
    assert found["networks"] == {"/24": 1, "/64": 1}
    assert [each["length"] for each in found["lengths"]] == ["/32,/64", "/24,/48"]


def test_a_configuration_file_is_replayed_as_it_is_served(replay, log, tmp_path):
    """Its limits, those of its networks, and what the command's own table says; the command line comes first."""
    file = tmp_path / "inbound-audit.toml"
    partner = 'network.partner = {prefixes = ["192.0.2.9"], total = 0}\n'
    file.write_text(
        f'limit = {{"/32,/64" = 1}}\n{partner}[serve]\nworkers = 2\n[replay]\nlogs = ["{log}"]\njson = true\n'
    )
    status, out, _ = replay("--config", str(file))
    assert (status, json.loads(out)["refused"]) == (0, 2)
    assert json.loads(out)["policy"] == "/32,/64=1 partner:total=0"
    out = replay(log, "--config", str(file), "--limit", "/24,/48=7")[1]
    assert (json.loads(out)["policy"], json.loads(out)["refused"]) == ("/24,/48=7 partner:total=0", 1)
    file.write_text(f'{partner}[replay]\ncolumn = {{address = "src"}}\nformat = "csv"\nsuggest = "0%"\n')
    assert "has no column 'src'" in replay(log, "--config", str(file))[2]
    assert "logs = [...] in the file of --config" in replay("--config", str(file))[2]


def test_the_stock_limits_hold_without_others(replay, log):
    assert "by /32,/64=10 /24,/48=100 /0=20000" in replay(log)[1]


def test_suggestions_are_replayed(replay, log):
    status, out, _ = replay(log, "--suggest", "25%")
    assert status == 0
    assert "--limit /32,/64=1 --limit /24,/48=2 --limit /32,/64=1/1m --limit /32,/64=1/5m" in out
    assert "Replayed with all of them: 2 refused (50%)." in out
    assert "would have been refused" not in out


MAIL = [
    *LOG[:2],
    "Feb  6 12:00:01 mx1 postfix/smtpd[1]: NOQUEUE: reject: RCPT from a.example[192.0.2.7]: 554 5.7.1 no",
    "Feb  6 12:00:01 mx1 postfix/smtpd[2]: 4F1A2: client=a.example[192.0.2.7]",
    *LOG[2:],
    "Feb  6 13:00:04 mx1 postfix/smtpd[9]: NOQUEUE: reject: RCPT from a.example[192.0.2.7]: 554 5.7.1 no",
]


def test_limits_on_what_was_received_and_rejected(replay, tmp_path):
    path = write(tmp_path / "mail.log", MAIL)
    limits = ("--limit", "/24=0 rejections/1h", "--limit", "/32=1 receptions/1h")
    status, out, err = replay(path, *limits)
    assert (status, err) == (0, "")
    assert "1 message received, 1 rejection" in out
    assert "1 line of a session whose connect is not in the log." in out
    assert ["default", "/24", "rejections/1h", "1", "25%", "192.0.2.0/24", "1"] in [x.split() for x in out.splitlines()]


@pytest.mark.parametrize(
    ("limit", "name"), [("/32,/64=1", "default /32,/64"), ("/32,/64=1/1h", "default /32,/64 connections/1h")]
)
def test_what_a_limit_denies_has_a_row_of_its_own(replay, tmp_path, limit, name):
    head = "Feb  6 12:0{} mx1 postfix/smtpd[{}]: "
    log = [
        head.format("0:00", 1) + "connect from a.example[192.0.2.7]",
        head.format("0:01", 2) + "connect from a.example[192.0.2.7]",
        head.format("0:02", 1) + "disconnect from a.example[192.0.2.7] ehlo=1 quit=1 commands=2",
        head.format("9:00", 3) + "connect from a.example[192.0.2.7]",
        head.format("9:01", 4) + "connect from b.example[192.0.2.8]",
    ]
    asked = write(tmp_path / "mail.log", log), "--year", "2026", "--limit", f"{limit} then deny for 10m"
    status, out, err = replay(*asked)
    assert (status, err) == (0, "")
    assert f"2 would have been refused (50%) by {limit} then deny for 10m" in out
    rows = [line.split() for line in out.splitlines()]
    assert [*name.split(), "1", "25%", "192.0.2.7/32", "1"] in rows
    assert [*name.split(), "then", "deny", "1", "25%", "192.0.2.7/32", "1"] in rows
    assert json.loads(replay(*asked, "--json")[1])["refused"] == 2


def test_suggestions_over_time_are_replayed(replay, tmp_path):
    path = write(tmp_path / "mail.log", MAIL)
    found = json.loads(replay(path, "--suggest", "25%", "--json")[1])
    assert [f"{each['limit']} {each['would_refuse']}" for each in found["suggestions"]] == [
        "/32,/64=1 1", "/24,/48=2 1",
        *["/32,/64=1/1m 1", "/32,/64=1/5m 1", "/32,/64=1/1h 1"],
        *["/24,/48=2/1m 1", "/24,/48=2/5m 1", "/24,/48=2/1h 1"],
        *[f"/24,/48=1 {kind}/{span} 0" for kind in ("receptions", "rejections") for span in ("1m", "5m", "1h")],
    ]  # fmt: skip
    assert (found["receptions"], found["rejections"], found["check"]["refused"]) == (1, 1, 2)
    text = replay(path, "--suggest", "25%")[1]
    assert "--limit '/24,/48=1 rejections/1h'" in text


def test_a_page(replay, log, tmp_path):
    page = tmp_path / "page.html"
    assert replay(log, "--html", str(page))[0] == 0
    assert "4 connections" in page.read_text("utf-8")
    status, _, err = replay(log, "--html", str(tmp_path / "none" / "page.html"))
    assert (status, "cannot write" in err) == (1, True)


@pytest.mark.parametrize("name", ["stock.lua", "stock.sieve"])
def test_a_policy(replay, tmp_path, name):
    lines = [line.replace("192.0.2", "203.0.113").replace("smtpd[", f"smtpd[{n}") for n in range(9) for line in LOG[:2]]
    status, out, _ = replay(write(tmp_path / "many.log", lines), "--policy", f"examples/policies/{name}")
    assert status == 0
    assert "421 connection limit exceeded" in out


def test_bad_lines_are_shown_and_the_others_replayed(replay, tmp_path):
    path = write(tmp_path / "mail.log", [*LOG, "torn", "Feb  6 13:00:05 mx1 postfix/smtpd[9]: connect from a[unknown]"])
    status, out, err = replay(path)
    assert status == 1
    assert "line 6 is no line of a log of postfix: 'torn'" in err
    assert "'unknown': is not an address" in err
    assert "4 connections" in out
    assert replay(path, "--skip-bad")[0] == 0


def test_many_bad_lines_are_counted(replay, tmp_path):
    _, _, err = replay(write(tmp_path / "mail.log", LOG + ["torn"] * 30))
    assert err.count("torn") == 10
    assert "and 20 more lines that can't be read" in err


def test_packed_logs_in_the_order_of_their_time(replay, tmp_path):
    """The last one first; a session goes on in the next log."""
    zstd = pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    paths = []
    packers = (gzip.compress, bz2.compress, lzma.compress, zstd.compress, bytes)
    for number, (line, pack) in enumerate(zip(LOG, packers, strict=True)):
        path = tmp_path / f"mail.log.{number}"
        path.write_bytes(pack(line.encode() + b"\n"))
        os.utime(path, (MTIME, MTIME))
        paths.insert(0, str(path))
    found = json.loads(replay(*paths, "--limit", "/32,/64=1", "--json")[1])
    assert (found["connections"], found["refused"], found["unmatched"], found["back"]) == (4, 1, 0, 0)
    assert found["files"][0]["lines"] == 1


def test_standard_input_is_read_once(replay, log, monkeypatch):
    with open(log) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        status, out, err = replay("-", "--year", "2026", "--suggest", "0%")
    assert (status, err) == (0, "")
    assert "standard input: postfix, 5 lines" in out
    assert "can't be read twice" in out


def test_the_progress_of_each_pass_ends_with_all_bytes_and_lines(replay, tmp_path, monkeypatch):
    shown: dict[str, list[dict[str, float]]] = {}

    @contextlib.contextmanager
    def progress(label, *, total):
        steps = shown.setdefault(label, [{"total": total}])
        yield lambda **fields: steps.append(fields)

    monkeypatch.setattr(sys.modules["inbound_audit.cli.replay"], "progress", progress)
    paths = [write(tmp_path / f"mail.log.{seed}", list(postfix_log(9000, seed))) for seed in range(2)]
    size = sum(os.path.getsize(path) for path in paths)
    assert replay(*paths, "--year", "2026", "--suggest", "1%")[0] == 0
    assert sorted(shown) == ["checking", "replaying"]
    for first, *others, last in shown.values():
        assert first == {"total": size}
        assert last == {"completed": size, "lines": 18_000}
        assert len(others) >= 2


def test_a_pipe_is_read_once(replay, log):
    """As the shell's ``<(zcat mail.log.gz)``: a second reader of it would find nothing."""
    read, write_end = os.pipe()
    os.write(write_end, Path(log).read_bytes())
    os.close(write_end)
    try:
        status, out, err = replay(f"/dev/fd/{read}", "--year", "2026", "--suggest", "0%")
    finally:
        os.close(read)
    assert (status, err) == (0, "")
    assert "4 connections" in out
    assert "can't be read twice" in out


def test_exempt_clients_are_left_out_of_what_is_suggested(replay, log):
    found = json.loads(replay(log, "--suggest", "0%", "--exempt", "192.0.2.7", "--json")[1])
    assert [each["limit"] for each in found["suggestions"][:3]] == ["/32,/64=1", "/24,/48=1", "/32,/64=1/1m"]
    assert (found["check"], found["connections"], found["hosts"]) == ({"refused": 0, "limits": {}}, 4, 3)


def test_a_log_with_connects_alone(replay, tmp_path):
    lines = [line for line in LOG if ": connect" in line]
    found = json.loads(replay(write(tmp_path / "a.log", lines), "--duration", "1s", "--limit", "/32=1", "--json")[1])
    assert (found["refused"], found["overdue"], found["unfinished"]) == (0, 3, 1)


def test_a_file_without_a_line_end_and_an_empty_one(replay, tmp_path):
    path = tmp_path / "mail.log"
    path.write_text("\n".join(LOG))
    assert "4 connections" in replay(str(path), "--year", "2026")[1]
    path.write_text("")
    status, _, err = replay(str(path))
    assert (status, "has no connection of a known format" in err) == (1, True)
    assert "0 connections" in replay(str(path), "--format", "postfix")[1]


def test_a_log_that_is_longer_than_a_block(replay, tmp_path):
    lines = list(postfix_log(8000, seed=2))
    found = json.loads(replay(write(tmp_path / "mail.log", lines), "--year", "2026", "--json")[1])
    assert (found["lines"], found["bad"], found["back"]) == (8000, 0, 0)
    assert found["connections"] == sum(": connect from" in line for line in lines)
    assert found["first"].startswith("2026-12-31")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "Missing argument 'LOG...'"),
        (("none.log",), 1, "cannot read none.log: no such file or directory"),
        (("/",), 1, "cannot read /: is a directory"),
        (("-", "-"), 2, "- is standard input: write it alone, or files"),
        (("{nginx}", "--duration", "1s", "--limit", "/24=20 rejections/1h"), 1, "write limits of connections, such as"),
        (("{log}", "--limit", "/24"), 2, "such as /24=100"),
        (("{log}", "--limit", "/24=1", "--limit", "/24=2"), 2, "the same length twice"),
        (("{log}", "--limit", "a:/24=1"), 2, "no network is named 'a'"),
        (("{log}", "--network", "a=10.0.0.0/8"), 2, "write its limit, such as --limit a:/24=100"),
        (("{log}", "--network", "a=::/8", "--network", "a=::/9", "--limit", "a:/9=1"), 2, "the same name twice"),
        (("{log}", "--policy", "x.lua", "--limit", "/24=1"), 2, "write the limits in the policy"),
        (("{log}", "--policy", "none.lua"), 1, "none.lua"),
        (("{log}", "--suggest", "0.1"), 2, "such as 0.1%"),
        (("{log}", "--suggest", "200%"), 2, "from 0% to 100%"),
        (("{log}", "--length", "/33x"), 2, "'/33x'"),
        (("{log}", "--zone", "Nowhere/Here"), 2, "such as UTC or Europe/Berlin"),
        (("{log}", "--year", "26"), 2, "from 1970"),
        (("{log}", "--column", "who=x"), 2, "write one of address, time"),
        (("{log}", "--column", "address=x"), 1, "has no column 'x'"),
        (("{log}", "--format", "csv"), 1, "has no column 'address'"),
        (("{log}", "--format", "sendmail"), 2, "postfix"),
        (("{nginx}",), 1, "write it, such as --duration 5s"),
        (("{log}", "--service", "a" * 300), 1, "service type"),
    ],
)
def test_what_to_write_instead(replay, log, tmp_path, arguments, status, message):
    access = '192.0.2.7 - - [06/Feb/2026:12:00:00 +0000] "GET / HTTP/1.1" 200 1 "-" "-"'
    nginx = write(tmp_path / "access.log", [access])
    found, _, err = replay(*(each.format(log=log, nginx=nginx) for each in arguments))
    assert (found, message in err) == (status, True), err
    assert err.count("\n") == 1


def test_the_page_shows_what_is_printed(replay, tmp_path, monkeypatch):
    """docs/howto/replay.md: its log, its command, and the command's output."""
    page = Path("docs/howto/replay.md").read_text("utf-8")
    text, command = (page.partition(f"```{kind}\n")[2].partition("```")[0] for kind in ("text", "console"))
    line, _, expected = command.partition("\n")
    (tmp_path / "mail.log").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = replay(*line.split()[3:])
    assert (status, err) == (0, "")
    assert [each.rstrip() for each in out.splitlines()] == expected.splitlines()
