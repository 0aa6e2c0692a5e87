"""`inbound-audit map`: a drawing of processes that count, as a file of the kind that was asked for."""

from __future__ import annotations

import itertools
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.support.command_line import COMMAND, environment
from tests.support.sharing import Worker
from tests.support.waiting import PATIENCE

from inbound_audit.__main__ import main
from inbound_audit.cli import run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")

COUNTS = """
from inbound_audit import InboundAudit
audit = InboundAudit(shared=NAME, capacity=1 << 24, monitors=("300,6",))
audit.series.define("failures", "ip", 300, 6)
audit.series.add("failures", "203.0.113.9", 3)
mx, other = audit.listener("SMTP", name="mx"), audit.listener("SMTP", name="other")
kept = [mx.session(f"198.51.100.{n % 8}") for n in range(40)] + [other.session("2001:db8::7")]
kept[0].record_rejection(7)
"""

CLUSTER = """
import ipaddress
from inbound_audit._ipcount import NODE_STATES, NodeTrees
from tests.support import gold_records
agent = InboundAudit(shared=NAME, capacity=1 << 24)
trees = NodeTrees(agent)
node = trees.add("mx2")
node.set_many(gold_records.encode({ipaddress.ip_address("203.0.113.1"): 4}))
node.set_word(NODE_STATES["heard"], 7)
trees.add("mx1").set_word(NODE_STATES["this host"])
"""

Draw = Callable[..., tuple[int, str, str]]


@pytest.fixture
def worker(hire: Callable[[str], Worker]) -> Worker:
    return hire(COUNTS)


@pytest.fixture
def draw(worker: Worker, capsys: pytest.CaptureFixture[str]) -> Draw:
    """Runs the command: its exit status, what it wrote, and what it said on standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        status = run(["map", "mail", *arguments])
        return (status, *capsys.readouterr())

    return call


def words(svg: str) -> list[str]:
    """The texts and the titles, in their order."""
    return [each.text or "" for each in ElementTree.fromstring(svg).iter() if each.tag.endswith(("}text", "}title"))]


def test_an_svg_on_standard_output(draw: Draw) -> None:
    status, svg, err = draw()
    assert (status, err) == (0, "")
    found = words(svg)
    assert "mail: open SMTP sessions" in found
    assert any(text.endswith("UTC, 41 in all, 7 refused, 1 process") for text in found)
    assert "198.51.100.0/29: 40, 7 refused" in found
    assert {"IPv4: 40 sessions", "IPv6: 1 sessions", "2001:db8::7: 1"} <= set(found)


def test_what_is_counted_is_in_the_heading(draw: Draw, worker: Worker) -> None:
    for arguments, heading, prefix in (
        (("--listener", "other"), "open SMTP sessions of the listener other", "2001:db8::7: 1"),
        (("--from", str(worker.pid)), f"open SMTP sessions, process {worker.pid}", "198.51.100.0/29: 40"),
        (("--prefix", "198.51.100.0/31"), "open SMTP sessions in 198.51.100.0/31", "198.51.100.1: 5"),
        (
            ("--monitor", "5m,6", "--window", "0-1"),
            "connections in windows 0 to 1 of the monitor 5m,6",
            "198.51.100.0/29: 40",
        ),
        (
            ("--monitor", "300,6", "--kind", "rejections", "--window", "0-5", "--colour", "refusals"),
            "rejections in windows 0 to 5 of the monitor 300,6",
            "198.51.100.0: 7, 7 refused",
        ),
        (("--series", "failures", "--window", "0-1"), "windows 0 to 1 of the series failures", "203.0.113.9: 3"),
    ):
        status, svg, err = draw(*arguments)
        assert (status, err) == (0, "")
        found = words(svg)
        assert f"mail: {heading}" in found
        assert any(text.startswith(prefix) for text in found)


def test_files_are_of_the_kind_that_their_names_say(draw: Draw, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    svg, png, other = tmp_path / "map.svg", tmp_path / "map.PNG", tmp_path / "picture"
    svg.write_text("an older one")
    assert draw("-o", str(svg), "--width", "600") == (0, "", "")
    assert ElementTree.parse(svg).getroot().attrib["width"] == "600"
    assert draw("-o", str(png), "--width", "600") == (0, "", "")
    assert draw("-o", str(other), "--format", "png") == (0, "", "")
    with image.open(png) as opened:
        assert (opened.format, opened.width) == ("PNG", 600)
    assert other.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["-o", "map.jpg"], 2, "write a file that ends with .svg or .png, or --format too"),
        (["-o", "none/map.svg"], 1, "cannot write none/map.svg: no such file or directory"),
        (["--kind", "rejections"], 2, "write the monitor, too"),
        (["--window", "0"], 2, "write a monitor or a series, too"),
        (["--window", "2-1", "--series", "failures"], 2, "write a window, or the first and the last one"),
        (["--listener", "\udcff"], 2, "--listener '\\udcff': write a name in UTF-8"),
        (["-o", "."], 2, "write a file that ends with .svg or .png"),
        (["-o", ".", "--format", "svg"], 1, "cannot write .: is a directory"),
        (["-o", "/proc/map.svg"], 1, "cannot write /proc/map.svg: no such file or directory"),
        (["-o", "/dev/full", "--format", "svg"], 1, "cannot write /dev/full: no space left on device"),
        (["--listener", "mz"], 1, "no listener of SMTP is named 'mz' (there is: mx, other)"),
        (["--monitor", "60,6"], 1, "no such monitor (known: 300,6)"),
        (["--monitor", "300,6", "--window", "6"], 1, "windows"),
        (["--series", "hits"], 1, "no such series (known: failures)"),
        (["--service", "SMPT"], 1, "did you mean 'SMTP'"),
        (["--prefix", "192.0.2.0/33"], 2, "/33"),
        (["--from", "1"], 1, "no process with the id 1"),
        (["--node", "mx2"], 1, "no such node"),
        (["--rows", "1"], 2, "from 2 to 65536"),
        (["--width", "10"], 2, "from 320 to 8192"),
    ],
)
def test_a_mistake_is_one_line(draw: Draw, arguments: list[str], status: int, message: str) -> None:
    found, out, err = draw(*arguments)
    assert (found, out) == (status, "")
    assert message in err
    assert len(err.splitlines()) == 1


SESSIONS = {"--service": ("SMTP", "inbound_cidr"), "--listener": ("mx",)}
WINDOWS = {"--monitor": ("300,6",), "--series": ("failures",)}
PLACES = {"--from": ("PID",), "--node": ("mx1", "mx2")}
"""mx1 is this host."""


def combinations() -> Iterator[tuple[str, ...]]:
    """Every choice of values for these options, each given or not."""
    given = {**SESSIONS, **WINDOWS, **PLACES}
    for values in itertools.product(*((None, *known) for known in given.values())):
        yield tuple(word for pair in zip(given, values, strict=True) if pair[1] for word in pair)


def mistake(options: Mapping[str, str]) -> str | None:
    """What the command says of these options; None: it draws."""
    windows = [name for name in WINDOWS if name in options]
    excluded = [name for name in (*SESSIONS, *WINDOWS) if name in options]
    if len(windows) == 2:
        return "--monitor excludes --series"
    if windows and excluded != windows:
        names = " and ".join(sorted(set(excluded) - set(windows)))
        return f"{windows[0]} excludes {names}: windows are of all listeners of all services together"
    if "--from" in options and "--node" in options:
        return "--from excludes --node"
    of_sessions = [name for name in excluded if name != "--service"]
    if options.get("--node") == "mx2" and of_sessions:
        return f"--node mx2: of another node this host has the open SMTP sessions alone, so leave out {of_sessions[0]}"
    return None


def test_every_option_of_what_is_counted_is_heeded_or_an_error(draw: Draw, worker: Worker) -> None:
    worker.do(CLUSTER)
    for words_given in combinations():
        arguments = [str(worker.pid) if word == "PID" else word for word in words_given]
        options = dict(zip(arguments[::2], arguments[1::2], strict=True))
        status, svg, err = draw(*arguments)
        if wrong := mistake(options):
            assert (status, svg) == (2, ""), arguments
            assert wrong in err
        else:
            assert (status, err) == (0, ""), arguments
            assert any(f"UTC, {counted(options)} in all" in text for text in words(svg)), arguments


def counted(options: Mapping[str, str]) -> int:
    """The total of what the command draws."""
    if options.get("--node") == "mx2":
        return 4
    if "--series" in options:
        return 3
    if "--listener" in options:
        return 40
    return 45 if options.get("--service") == "inbound_cidr" else 41


def test_names_that_others_chose_are_text_alone(draw: Draw, worker: Worker) -> None:
    hostile = "a\n\u202e<b>"
    worker.do(f"kept.append(audit.listener('SMTP', name={hostile!r}).session('192.0.2.9'))")
    status, svg, err = draw("--listener", hostile)
    assert (status, err) == (0, "")
    assert "mail: open SMTP sessions of the listener a\\n\\u202e<b>" in words(svg)
    assert draw("--listener", "mz")[2].endswith("(there is: a\\n\\u202e<b>, mx, other)\n")


def test_without_standard_output_it_ends_without_a_word(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert draw() == (0, "", "")


def test_no_audit_of_that_name(draw: Draw, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["map", "mial"]) == 1
    assert "there is: mail" in capsys.readouterr().err


def test_without_pillow_there_is_no_png(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert main(["map", "mail", "-o", str(tmp_path / "map.png")]) == 1
    assert capsys.readouterr().err == "inbound-audit: needs PIL: pip install 'inbound-audit[map]'\n"
    assert not (tmp_path / "map.png").exists()
    assert main(["map", "mail", "-o", str(tmp_path / "map.svg")]) == 0


def test_a_png_is_never_written_to_a_terminal(worker: Worker) -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [*COMMAND, "map", "mail", "--format", "png"],
            env=environment(), stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
    finally:
        os.close(theirs)
        os.close(ours)
    assert done.returncode == 2
    assert "a terminal can't show PNG: write a file, such as -o map.png" in done.stderr
