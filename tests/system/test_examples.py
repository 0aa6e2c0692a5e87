"""The examples, run as a reader would run them: as programs of their own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.support.listening import Peer
from tests.support.waiting import PATIENCE, eventually

import inbound_audit

EXAMPLES = Path(__file__).parents[2] / "examples"
PAGE = (EXAMPLES.parent / "docs" / "listeners.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PACKAGES = str(Path(inbound_audit.__file__).parents[1])  # that are under test, wherever they were built

every_host = pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
every_signal = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)


@contextlib.contextmanager
def running(name: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    """An example listening on a free port; yields it and where it says that it listens. It must say nothing wrong."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments, "0"]
    environment = {**os.environ, "PYTHONPATH": PACKAGES}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        try:
            assert run.stdout is not None
            *words, host, port = run.stdout.readline().split() or ["", ""]
            if words != ["listening", "on"]:
                run.kill()
                pytest.fail(run.communicate()[1])
            yield run, (host, int(port))
        finally:
            run.kill()


def stop(run: subprocess.Popen[str], number: signal.Signals) -> str:
    """Ends an example as a user would; returns its last output."""
    run.send_signal(number)
    said, complaints = run.communicate(timeout=PATIENCE)
    assert (complaints, run.returncode) == ("", 0)
    return said


@every_host
@every_signal
def test_asyncio_server(host: str, number: signal.Signals) -> None:
    with running("asyncio_server.py", host) as (run, address), Peer(*address) as one:
        assert one.line() == f"hello {host}, your network has 1 open\n".encode()
        two = Peer(*address)
        assert two.line() == f"hello {host}, your network has 2 open\n".encode()
        assert one.ask(b"over") == b"over\r\n"
        with Peer(*address) as three:
            assert three.rest() == b"connection limit exceeded\n"
        two.reset()
        eventually(lambda: greeting(address) == f"hello {host}, your network has 2 open\n".encode())
        assert re.fullmatch(r"\d+ accepted, \d+ refused, [12] open\n", stop(run, number))
        assert one.rest() == b""


def greeting(address: tuple[str, int]) -> bytes:
    with Peer(*address) as peer:
        return peer.line()


@every_host
@every_signal
def test_aiosmtpd_server(host: str, number: signal.Signals) -> None:
    pytest.importorskip("aiosmtpd")
    with running("aiosmtpd_server.py", host) as (run, address):
        assert run.stdout is not None
        with closing(smtplib.SMTP(*address)) as one, closing(smtplib.SMTP(*address)) as two:
            one.sendmail("a@example.com", ["b@example.com"], "Subject: hello\r\n\r\nhello\r\n")
            assert run.stdout.readline() == f"{host} (2 open): 25 bytes\n"
            with pytest.raises(smtplib.SMTPConnectError, match="connection limit exceeded"):
                smtplib.SMTP(*address)
            said = stop(run, number)
            assert {one.getreply()[0], two.getreply()[0]} == {421}  # the service is shutting down
        prefix = f"{host}/{128 if ':' in host else 32}"
        # The refused connection may still be on its way out.
        assert re.fullmatch(rf"2 accepted, 1 refused; open now: \[\([23], '{prefix}'\)\]\n", said)


@pytest.mark.parametrize("code", BLOCKS, ids=lambda code: code.split("\n")[-2].strip())
def test_the_code_of_the_listeners_page_runs(code: str) -> None:
    """What needs a running server is in functions, which the programs above are like."""
    pytest.importorskip("aiosmtpd")
    exec(compile(code, "listeners.md", "exec"), {})


def test_the_links_of_the_listeners_page() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (EXAMPLES.parent / "docs" / link).exists(), link


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_fits_on_a_page(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60
