"""The console's prompt: what is typed at a terminal, kept in a history and completed."""

from __future__ import annotations

import codecs
import contextlib
import os
import pty
import re
import select
import signal
import stat
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support.command_line import COMMAND, environment
from tests.support.forked_commands import ForkedCommand, may_be_forked
from tests.support.sharing import NAME, Worker

from inbound_audit.cli.console import session

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")

as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives files away: needs root")

PATIENCE = 120.0
LONG = 1 << 29
COUNTS = f"""
from inbound_audit import InboundAudit
audit = InboundAudit(shared=NAME, capacity=1 << 24, monitors=("{LONG},3",))
audit.series.define("failures", "ip", {LONG}, 3)
audit.series.add("failures", "192.0.2.7", 42)
"""


class Terminal:
    """A console at a terminal of its own."""

    def __init__(self, state: Path, *arguments: str, command: Sequence[str] | None = None, **variables: str) -> None:
        self._ours, theirs = pty.openpty()
        self.before = termios.tcgetattr(self._ours)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        words = ["console", NAME, *arguments]
        env = {**environment(), "TERM": "xterm", "XDG_STATE_HOME": str(state), **variables}
        self.process: subprocess.Popen[bytes] | ForkedCommand
        if command is None and may_be_forked(env):
            self.process = ForkedCommand(words, env, [theirs] * 3, terminal=True)
        else:
            self.process = subprocess.Popen(
                [*(command or COMMAND), *words],
                stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=env,
            )  # fmt: skip
        os.close(theirs)
        self.seen = ""

    def await_text(self, text: str) -> str:
        """What has come up to this text, without what moves the cursor and chooses colours."""
        deadline = time.monotonic() + PATIENCE
        while text not in (plain := re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]", "", self.seen)):
            assert time.monotonic() < deadline, self.seen
            if select.select([self._ours], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):  # it has ended
                    self.seen += self._decoder.decode(os.read(self._ours, 65536))
            if "\x1b[6n" in self.seen:  # it asks where the cursor is
                self.seen = self.seen.replace("\x1b[6n", "")
                os.write(self._ours, b"\x1b[1;1R")
        end = plain.index(text) + len(text)
        self.seen = plain[end:]  # what follows may have come with it
        return plain[:end]

    def rest(self) -> str:
        """All that is left, until the process has closed the terminal. Linux reports that as an error."""
        with contextlib.suppress(OSError):
            while data := os.read(self._ours, 65536):
                self.seen += self._decoder.decode(data)
        return self.seen

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def end(self) -> int:
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def worker(hire) -> Worker:
    return hire(COUNTS)


@contextlib.contextmanager
def terminal(state: Path, *arguments: str, **options: Any) -> Iterator[Terminal]:
    at = Terminal(state, *arguments, **options)
    try:
        yield at
    finally:
        at.close()


def test_what_is_typed_is_answered(worker, tmp_path):
    with terminal(tmp_path) as at:
        at.await_text(f"{NAME}>")
        at.type(f"count_cidr 192.0.2.7 failures {LONG},3 0 0\r")
        at.await_text("\n42")
        at.await_text(f"{NAME}>")
        at.type("shw\r")
        at.await_text("did you mean 'show'?")
        at.type("show ip 192.0.2.7\r")
        at.await_text(f"Rejections {LONG}/2: 0")
        at.type("quit\r")
        assert at.end() == 0


@pytest.mark.parametrize("keys", ["\x04", "exit\r", "half a line\x03\x04"])
def test_ways_to_leave(worker, tmp_path, keys):
    with terminal(tmp_path) as at:
        at.await_text(f"{NAME}>")
        at.type(keys)
        assert at.end() == 0


@pytest.mark.parametrize("kind", ["xterm", "dumb"])
def test_term_leaves_the_terminal_as_it_was(worker, tmp_path, kind):
    with terminal(tmp_path, TERM=kind) as at:
        at.await_text(f"{NAME}>")
        while termios.tcgetattr(at._ours) == at.before:  # a dumb terminal has its prompt a little earlier
            time.sleep(0.001)
        at.process.send_signal(signal.SIGTERM)
        assert at.end() == 128 + signal.SIGTERM
        assert termios.tcgetattr(at._ours) == at.before


TERM_AS_THE_TERMINAL_CHANGES = """
import os, signal, termios
from inbound_audit.cli import main

change = termios.tcsetattr

def change_and_end(*arguments):
    termios.tcsetattr = change
    change(*arguments)
    os.kill(os.getpid(), signal.SIGTERM)

termios.tcsetattr = change_and_end
main()
"""


def test_term_in_the_middle_of_a_change_of_the_terminal(worker, tmp_path):
    with terminal(tmp_path, command=(sys.executable, "-c", TERM_AS_THE_TERMINAL_CHANGES)) as at:
        assert at.end() == 128 + signal.SIGTERM
        assert termios.tcgetattr(at._ours) == at.before


def test_lines_are_remembered_in_a_file_of_the_users_own(worker, tmp_path):
    path = tmp_path / "inbound_audit" / "console_history"
    with terminal(tmp_path) as at:
        at.await_text(f"{NAME}>")
        at.type("cluster shared list\r")
        at.await_text("1 process")
        at.type("quit\r")
        assert at.end() == 0
    assert "cluster shared list" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with terminal(tmp_path) as at:
        at.await_text(f"{NAME}>")
        at.type("\x1b[A\x1b[A\r")  # two up: quit is the last one
        at.await_text("1 process")


def test_where_nothing_can_be_remembered_it_works_all_the_same(worker, tmp_path):
    (tmp_path / "inbound_audit").write_text("in the way")
    with terminal(tmp_path) as at:
        at.await_text("the history is not kept")
        at.await_text(f"{NAME}>")
        at.type("help quit\r")
        at.await_text("Leaves the console.")


@pytest.mark.parametrize("what", ["is not a regular file", pytest.param("belongs to another user", marks=as_root)])
def test_nothing_is_remembered_in_what_is_not_the_users_own(worker, tmp_path, what):
    path = tmp_path / "inbound_audit" / "console_history"
    path.parent.mkdir()
    if what == "belongs to another user":
        path.write_text("\n# 2026-01-01\n+help nothing\n")
        os.chown(path, 65534, 65534)
    else:
        os.mkfifo(path)
    with terminal(tmp_path) as at:
        at.await_text(f"the history is not kept: it {what}")
        at.await_text(f"{NAME}>")
        at.type("help quit\r")
        at.await_text("Leaves the console.")
    if what == "belongs to another user":
        assert path.read_text().endswith("nothing\n")


def test_words_and_names_are_completed(worker, tmp_path):
    with terminal(tmp_path) as at:
        at.await_text(f"{NAME}>")
        for typed, completed in (("count_c", "idr"), (" 192.0.2.7 fa", "ilures"), (" ", f"{LONG},3")):
            at.type(f"{typed}\t")
            at.await_text(completed)
        at.type(" 0 0\r")
        at.await_text("\n42")


def test_colours_are_for_terminals_alone(worker, tmp_path):
    words = ("show", "count", "for", "192.0.2.7", "in", "failures")
    with terminal(tmp_path, *words) as at:
        assert "\x1b[36m     42\x1b[0m" in at.rest()
    with terminal(tmp_path, *words, NO_COLOR="1") as at:
        assert "\x1b[36m" not in at.rest()
    done = subprocess.run([*COMMAND, "console", NAME, *words], capture_output=True, env=environment(), check=True)
    assert b"\x1b" not in done.stdout


def test_the_place_of_the_history(monkeypatch):
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert session.history_path() == "/home/x/.local/state/inbound_audit/console_history"
    monkeypatch.setenv("XDG_STATE_HOME", "/elsewhere")
    assert session.history_path() == "/elsewhere/inbound_audit/console_history"
