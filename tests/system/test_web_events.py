"""What clients of `inbound-audit web` see: whole looks and changes, the end of an audit and its return."""

from __future__ import annotations

import contextlib
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.pages import Copy, WebServer
from tests.support.waiting import eventually

from inbound_audit import InboundAudit, Session
from inbound_audit.web.application import STATIC
from inbound_audit.web.changes import AGED

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")

FAST = ("--interval", "0.1s")


@pytest.fixture
def audit(place: Path) -> Iterator[InboundAudit]:
    with InboundAudit(shared="mail", monitors=["60,5"]) as made:
        made.listener()
        yield made


@pytest.fixture
def server(audit: InboundAudit) -> Iterator[WebServer]:
    with WebServer(*FAST) as made:
        yield made


def test_the_page_and_its_files_are_served_without_data(server: WebServer) -> None:
    with server.opened("/") as answer:
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        assert (answer.status, answer.read()) == (200, (STATIC / "index.html").read_bytes())
    with server.opened("/static/main.js") as answer:
        assert (answer.status, answer.headers["X-Content-Type-Options"]) == (200, "nosniff")
    for outside in ("/static/../web.py", "/static/%2e%2e/hub.py", "/static//etc/passwd", "/nothing"):
        assert server.ask(outside) == (404, {"error": "not found"})


def without_ages(look: dict[str, Any]) -> dict[str, Any]:
    """An age alone is no change."""
    return {**look, **{name: [{**row, "age_s": None} for row in look[name]] for name in AGED}}


def test_changes_add_up_to_the_whole_look(audit: InboundAudit, server: WebServer) -> None:
    """Of two clients one begins in the middle: what it gets whole is what the other has from changes."""
    draw = random.Random(4)
    addresses = [f"192.0.{draw.randrange(4)}.{draw.randrange(256)}" for _ in range(60)]
    addresses += [f"2001:db8::{draw.randrange(4)}:{draw.randrange(256):x}" for _ in range(60)]
    copy, changes = Copy(), 0
    with contextlib.ExitStack() as held, server.events("rows=40") as events:
        sessions: list[Session] = []
        copy.take(next(events))
        for _ in range(12):
            sessions += [audit.listener().session(address) for address in draw.sample(addresses, 20)]
            draw.shuffle(sessions)
            while len(sessions) > 60:
                sessions.pop().close()
            event = next(events)
            changes += event[0] == "change"
            copy.take(event)
            with server.events("rows=40") as others:
                name, whole = next(others)
            assert name == "look"
            while copy.look["id"] < whole["id"]:
                event = next(events)
                changes += event[0] == "change"
                copy.take(event)
            if copy.look["id"] == whole["id"]:
                assert without_ages(copy.look) == without_ages(whole)
        held.callback(lambda: [session.close() for session in sessions])
    assert changes >= 12


def test_the_audit_ends_and_comes_back(place: Path) -> None:
    with WebServer(*FAST, "--wait") as server, server.events() as events:
        for address in ("192.0.2.7", "192.0.2.8"):
            _, gone = next(event for event in events if event[0] == "gone")
            status, said = server.ask("/api/look")
            assert status == 503
            assert all("'mail': no process is attached to it" in error for error in (gone["error"], said["error"]))
            with InboundAudit(shared="mail") as audit, audit.listener().session(address):
                # That there is no directory any more is another reason: it may be said, too.
                assert next(event for event in events if event[0] != "gone")[0] == "look"
                eventually(lambda: server.ask("/api/look")[1].get("total") == 1, "the session")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_streams_and_the_server(
    audit: InboundAudit, server: WebServer, number: signal.Signals
) -> None:
    with server.events() as events, server.events("rows=7") as others:
        next(events)
        next(others)
        assert server.stop(number) == 0
        assert {name for name, _ in (*events, *others)} <= {"change"}
    assert server.complaints() == ""
