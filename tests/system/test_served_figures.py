"""What servers have done is measured from outside, and what a killed one had done is not there any more."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.command_line import Serve, begun
from tests.support.listening import Peer
from tests.support.waiting import eventually

from inbound_audit.metrics.figures import SharedAudit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")


def served(shared: SharedAudit) -> dict[str, float]:
    return {
        figure.labels["what"]: figure.value for figure in shared.figures() if figure.name == "served" and figure.value
    }


def becomes(shared: SharedAudit, check: Callable[[dict[str, float]], bool]) -> None:
    eventually(lambda: check(served(shared)), "what was served")


def test_what_workers_have_done_until_they_are_killed(place: Path) -> None:
    with (
        Serve("--shared", "mail", "--workers", "2", "--quiet") as server,
        contextlib.closing(SharedAudit("mail")) as shared,
        contextlib.ExitStack() as peers,
    ):
        for _ in range(8):
            peers.enter_context(contextlib.closing(begun(server.addresses[0])))
        becomes(shared, lambda found: found == {"opened": 8, "accepted": 8})
        os.kill(server.workers[0], signal.SIGKILL)
        os.kill(server.workers[1], signal.SIGKILL)
        becomes(shared, lambda found: not found)


def test_refusals_are_measured(place: Path) -> None:
    with (
        Serve("--shared", "mail", "--limit", "/32=1") as server,
        contextlib.closing(SharedAudit("mail")) as shared,
        contextlib.closing(begun(server.addresses[0])),
        contextlib.closing(Peer(*server.addresses[0])) as refused,
    ):
        assert refused.line().startswith(b"421")
        becomes(shared, lambda found: found == {"opened": 2, "accepted": 1, "refused": 1})


def test_what_the_decision_log_leaves_out_is_measured(place: Path) -> None:
    options = ("--shared", "mail", "--limit", "/32=0", "--decision-log", "/dev/full", "--no-landlock")
    with (
        Serve(*options) as server,
        contextlib.closing(SharedAudit("mail")) as shared,
        contextlib.closing(Peer(*server.addresses[0])) as refused,
    ):
        assert refused.line().startswith(b"421")
        becomes(shared, lambda found: found == {"opened": 1, "refused": 1, "unlogged": 1})
