"""`inbound-audit count`, against a count that is obviously right."""

from __future__ import annotations

import ipaddress
import json
import os
import pty
import random
import select
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.support.command_line import COMMAND, environment, lines, run
from tests.support.waiting import PATIENCE, eventually

from inbound_audit.__main__ import main
from inbound_audit.cli.address_input import MAX_COMPLAINTS

FOUR = lines(["192.0.2.7", "192.0.2.9", "2001:db8::7", "198.51.100.1", "192.0.2.7"])
GAP = " " * 25


def test_without_options_a_summary_and_the_largest_hosts_are_printed() -> None:
    done = run("count", given=FOUR)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    summary, top = done.stdout.decode().split("\n\n")
    assert [line.split() for line in summary.splitlines()] == [["5", "sessions"], ["4", "hosts"]]
    assert top.splitlines()[0].split() == ["2", "192.0.2.7/32"]


def test_the_tree_is_printed_as_the_reference_prints_it() -> None:
    hosts = ["10.0.0.103"] * 4 + ["10.0.0.180"] * 14 + ["10.0.0.176"] * 13 + ["2001:db8::7"]
    done = run("count", "--tree", "--reference", given=lines(hosts))
    assert done.returncode == 0, done.stderr
    rows = done.stdout.decode().splitlines()
    assert f"     31{GAP}10.0.0.0/24" in rows
    assert f"      4{GAP}10.0.0.103/32" in rows
    assert f"     27{GAP}10.0.0.176/29" in rows
    assert f"     14{GAP}10.0.0.180/32" in rows
    assert f"      1{GAP}2001:db8::7/128" in rows
    rows = run("count", "--tree", given=lines(hosts)).stdout.decode().splitlines()
    assert rows[:3] == ["     31  10.0.0.0/24", "      4    10.0.0.103/32", "     27    10.0.0.176/29"]


def test_counts_top_and_tree_come_in_that_order() -> None:
    asked = ["--tree", "--top", "1", "--prefixlen", "24,56", "--cidr", "2001:db8::/32", "--cidr", "192.0.2.9"]
    done = run("count", *asked, "-", given=FOUR)
    counts, top, tree = done.stdout.decode().split("\n\n")
    assert [line.split() for line in counts.splitlines()] == [["1", "2001:db8::/32"], ["1", "192.0.2.9"]]
    assert [line.split() for line in top.splitlines()] == [["3", "192.0.2.0/24"]]
    assert len(tree.splitlines()) >= 4


def test_json_is_one_object(tmp_path: Path) -> None:
    file = tmp_path / "addresses"
    file.write_bytes(FOUR)
    asked = ["--json", "--tree", "--top", "2", "--prefixlen", "24,56", "--cidr", "192.0.2.0/24", "--cidr", "::/0"]
    done = run("count", str(file), *asked)
    assert done.stdout.count(b"\n") == 1
    found = json.loads(done.stdout)
    assert (found["sessions"], found["hosts"], found["lines"], found["bad"]) == (5, 4, 5, 0)
    assert found["counts"] == {"192.0.2.0/24": 3, "::/0": 1}
    assert found["top"][0] == {"prefix": "192.0.2.0/24", "count": 3}
    assert len(found["top"]) == 2
    assert {"prefix": "2001:db8::7/128", "count": 1} in found["tree"]
    assert set(json.loads(run("count", "--json", given=FOUR).stdout)) == {"sessions", "hosts", "lines", "bad", "top"}


def test_bad_lines_are_reported_with_their_numbers_and_the_others_are_counted() -> None:
    data = b"192.0.2.7\n192.0.2.300\n\n# a comment\n-198.51.100.1\n 2001:db8::7 # and one\r\n\xff\x00\n- 192.0.2.7\n"
    done = run("count", "--cidr", "::/0", "--cidr", "0.0.0.0/0", given=data)
    assert done.returncode == 1
    reported = done.stderr.decode().splitlines()
    assert [line.split(":")[0] for line in reported] == ["line 2", "line 5", "line 7"]
    assert "'192.0.2.300'" in reported[0]
    assert "'198.51.100.1': has fewer sessions" in reported[1]
    assert [line.split()[0] for line in done.stdout.decode().splitlines()] == ["1", "0"]


def test_many_bad_lines_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    done = run("count", "--json", given=b"nonsense\n" * (MAX_COMPLAINTS + 500) + b"::1\n")
    reported = done.stderr.decode().splitlines()
    assert len(reported) == MAX_COMPLAINTS + 1
    assert "500 more" in reported[-1]
    assert done.returncode == 1
    assert json.loads(done.stdout)["bad"] == MAX_COMPLAINTS + 500


def test_skip_bad_is_no_failure() -> None:
    done = run("count", "--skip-bad", "--json", given=b"nonsense\n::1\n")
    assert done.returncode == 0
    assert b"line 1" in done.stderr
    assert json.loads(done.stdout)["sessions"] == 1


def test_a_million_lines() -> None:
    hosts = random.Random(1)
    rows = [str(ipaddress.IPv4Address(hosts.getrandbits(14) << 10)) for _ in range(1 << 12)]
    rows += [str(ipaddress.IPv6Address(hosts.getrandbits(12) << 70)) for _ in range(1 << 12)]
    asked = ["--json", "--top", "3", "--prefixlen", "16,64", "--cidr", "0.0.0.0/1"]
    done = run("count", *asked, given=lines(rows) * 123)
    assert done.returncode == 0
    truth = Counter(
        str(ipaddress.ip_network((row, 16 if "." in row else 64), strict=False)) for row in rows
    )  # every row comes 123 times
    found = json.loads(done.stdout)
    assert found["lines"] == found["sessions"] == 123 * 2 * (1 << 12)
    assert found["hosts"] == len(set(rows))
    assert [row["count"] for row in found["top"]] == [123 * count for _, count in truth.most_common(3)]
    assert all(row["count"] == 123 * truth[row["prefix"]] for row in found["top"])
    assert found["counts"] == {"0.0.0.0/1": 123 * sum("." in row and int(row.split(".")[0]) < 128 for row in rows)}


def test_a_full_counter_names_the_line_and_the_way_out() -> None:
    hosts = random.Random(1)
    rows = [str(ipaddress.IPv6Address(hosts.randbytes(16))) for _ in range(5000)]
    done = run("count", "--capacity", "64K", given=lines(rows))
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1
    assert b": line " in done.stderr
    assert b"--capacity" in done.stderr


def test_a_reader_that_leaves_is_no_traceback() -> None:
    hosts = random.Random(1)
    rows = [str(ipaddress.IPv4Address(hosts.getrandbits(32))) for _ in range(20000)]
    with subprocess.Popen(
        [*COMMAND, "count", "--tree"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(lines(rows))
        process.stdin.close()
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE) == 1
        assert process.stderr.read() == b""


def on_a_terminal(arguments: Sequence[str], extra: dict[str, str], stdout: bool) -> tuple[bytes, bytes]:
    """Runs `count` with standard error (and output, if wanted) on a terminal; what was written to it, and elsewhere."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "count", *arguments],
        stdin=subprocess.PIPE, stdout=follower if stdout else subprocess.PIPE, stderr=follower,
        env={**environment(), "TERM": "xterm-256color", **extra},
    )  # fmt: skip
    os.close(follower)
    assert process.stdin
    process.stdin.close()
    shown = b""

    def ended() -> bool:
        nonlocal shown
        if select.select([leader], [], [], 0)[0]:
            try:
                data = os.read(leader, 65536)
            except OSError:  # Linux reports the end of a terminal as an error
                data = b""
            shown += data
            return not data
        return False

    try:
        eventually(ended, "the end of what it shows")
        rest = process.stdout.read() if process.stdout else b""
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        os.close(leader)
        if process.stdout:
            process.stdout.close()
    return shown, rest


def test_progress_is_shown_on_a_terminal_only(tmp_path: Path) -> None:
    file = tmp_path / "addresses"
    file.write_bytes(FOUR * 50000)
    shown, written = on_a_terminal([str(file), "--tree"], {}, stdout=False)
    assert b"reading" in shown
    assert b"250,000 lines" in shown
    assert b"\x1b" not in written
    assert run("count", str(file), "--tree").stdout == written


@pytest.mark.parametrize("wanted", [True, False])
def test_colour_is_for_terminals_that_want_it(tmp_path: Path, wanted: bool) -> None:
    file = tmp_path / "addresses"
    file.write_bytes(FOUR)
    shown, _ = on_a_terminal([str(file), "--tree"], {} if wanted else {"NO_COLOR": "1"}, stdout=True)
    assert (b"\x1b[36m" in shown) == wanted
    assert b"2001:db8::7/128" in shown


def test_it_may_be_called_from_a_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "addresses"
    file.write_bytes(FOUR)
    assert main(["count", str(file), "--cidr", "192.0.2.0/24"]) == 0
    assert capsys.readouterr().out.split() == ["3", "192.0.2.0/24"]
