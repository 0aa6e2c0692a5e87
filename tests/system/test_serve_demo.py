"""`make serve` without arguments: a listener and its page, which end together."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.command_line import environment
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")


@pytest.fixture
def directory(place: Path, tmp_path: Path) -> Path:
    """Where it is started; its decision log goes below it."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


SIGNAL_WHILE_IT_STARTS = """
import os, subprocess
class Popen(subprocess.Popen):
    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        os.kill(os.getpid(), {:d})
subprocess.Popen = Popen
"""


@contextlib.contextmanager
def started(directory: Path, page: str, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """It in a process group of its own, as a terminal has it; `before`: code that runs first. Ends all of it."""
    run = f"serve_demo.run(['--listen', '127.0.0.1:0'], ['--listen', {page!r}])"
    code = f"{before}\nimport sys, serve_demo; sys.exit({run})"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=directory, env={**environment(), "PYTHONPATH": str(ROOT / "tools")},
        text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def read_until(process: subprocess.Popen[str], *patterns: str) -> str:
    """What it writes until there is a line for each of them."""
    assert process.stdout is not None
    text = ""
    while not all(re.search(pattern, text) for pattern in patterns):
        line = process.stdout.readline()
        assert line, text
        text += line
    return text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_listener_and_its_page_end_together(directory: Path, place: Path, number: signal.Signals) -> None:
    with started(directory, "127.0.0.1:0") as process:
        read_until(process, r"serving http://127\.0\.0\.1:\d+/\n", r"(?i)listening")
        if number == signal.SIGINT:  # as Ctrl-C: to all of them
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        assert process.stdout is not None
        rest = process.stdout.read()  # to its end: no process is left that could write
        assert process.wait(PATIENCE) == 0, rest
    assert "Traceback" not in rest
    assert not list(place.glob("*/*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_while_the_listener_is_started_ends_both(directory: Path, number: signal.Signals) -> None:
    with started(directory, "127.0.0.1:0", SIGNAL_WHILE_IT_STARTS.format(number)) as process:
        assert "Traceback" not in process.communicate(timeout=PATIENCE)[0]  # its end: no process is left


def test_the_listener_goes_on_if_the_port_of_the_page_is_taken(directory: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        started(directory, f"127.0.0.1:{taken.getsockname()[1]}") as process,
    ):
        text = read_until(process, "goes on without the page", r"(?i)listening")
        assert "address already in use" in text
        assert process.poll() is None
        process.terminate()
        assert process.wait(PATIENCE) == 0
