"""`inbound-audit watch` as a process on a terminal, and without one."""

from __future__ import annotations

import signal
import sys
import termios

import pytest
from tests.support.command_line import run
from tests.support.sharing import NAME, Worker
from tests.support.terminals import Terminal

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")

COUNTS = """
from inbound_audit import InboundAudit
audit = InboundAudit(shared=NAME, capacity=1 << 22, monitors=("300,6",))
kept = [audit.listener().session("192.0.2.7"), audit.listener("IMAP").session("2001:db8::7")]
"""


@pytest.fixture
def worker(hire) -> Worker:
    return hire(COUNTS)


def test_keys_are_obeyed_until_q_and_the_terminal_is_as_before(worker: Worker) -> None:
    with Terminal("watch", NAME, "--interval", "100ms") as terminal:
        terminal.shows("192.0.2.7/32")
        terminal.type(b"s")
        terminal.shows("open IMAP default")
        terminal.type(b"g2001:db8::9\r")
        terminal.shows("nothing is")
        worker.do("kept.append(audit.listener('IMAP').session('192.0.2.99'))")
        terminal.shows("192.0.2.99/32")
        terminal.type(b"q")
        assert terminal.end() == 0
        assert terminal.shown.rindex("\x1b[?1049l") > terminal.shown.rindex("\x1b[?1049h")
        assert termios.tcgetattr(terminal.leader) == terminal.before


def test_term_ends_it_and_gives_the_terminal_back(worker: Worker) -> None:
    with Terminal("watch", NAME, extra={"NO_COLOR": "1", "TERM": "linux"}) as terminal:
        terminal.shows("192.0.2.7/32")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 0
        assert "\x1b[?1049l" in terminal.shown
        assert termios.tcgetattr(terminal.leader) == terminal.before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothere"], "nothere"),
        ([NAME, "--service", "IMPA"], "did you mean 'IMAP'?"),
        ([NAME, "--monitor", "60,5"], "'60,5': no such monitor (known: 300,6)"),
        ([NAME, "--listener", "x"], "no listener of SMTP is named 'x' (there is: default)"),
        ([NAME, "--series", "x"], "'x': no such series"),
        ([NAME, "--service", "IMAP", "--series", "x"], "--series excludes --service"),
    ],
)
def test_what_cannot_be_looked_at_is_said_before_the_screen_is_taken(
    worker: Worker, arguments: list[str], said: str
) -> None:
    with Terminal("watch", *arguments) as terminal:
        assert terminal.end() == (2 if "excludes" in said else 1)
        assert said in terminal.shown
        assert "\x1b[?1049h" not in terminal.shown
        assert terminal.shown.count("\n") == 1


def test_without_a_terminal_it_names_what_needs_none(worker: Worker) -> None:
    done = run("watch", NAME)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"inbound-audit: watch needs a terminal; write inbound-audit top mail --json\n"
    with Terminal("watch", NAME, extra={"TERM": "dumb"}) as terminal:
        assert terminal.end() == 1
        assert "watch needs a terminal" in terminal.shown
    assert run("watch", NAME, "--listener", "a", "--series", "b").returncode == 1
