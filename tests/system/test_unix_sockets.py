"""A server is killed while it makes its Unix socket, or while it listens there: the next one starts."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.waiting import PATIENCE

from inbound_audit.cli import sockets
from inbound_audit.cli.sockets import UnixEndpoint

STARTER = """
import os, socket, sys
from inbound_audit.cli import sockets

def stop(*arguments):
    print("here", flush=True)
    sys.stdin.read()

step = sys.argv[2]
if step == "locks":
    sockets._is_abandoned = stop
elif step == "has bound":
    socket.socket.listen = stop
held = sockets.bind([sockets.UnixEndpoint(sys.argv[1])])
stop()
"""


@pytest.mark.parametrize("step", ["locks", "has bound", "listens"])
def test_what_a_killed_server_leaves_does_not_hold_up_the_next(step: str, tmp_path: Path) -> None:
    path = str(tmp_path / "milter")
    command = [sys.executable, "-c", STARTER, path, step]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "here\n"
        starter.kill()
        starter.wait(PATIENCE)
    (listening,) = sockets.bind([UnixEndpoint(path)])
    with listening, socket.socket(socket.AF_UNIX) as caller:
        caller.connect(path)
    assert [each.name for each in tmp_path.iterdir()] == ["milter"]
