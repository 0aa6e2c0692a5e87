"""Overrides in several processes: seen by all of them, kept over their end, and changed from the command line."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
from pathlib import Path

import pytest
from tests.support.command_line import Serve, run
from tests.support.gates import connect, said
from tests.support.places import mounts_are_possible, run_inside
from tests.support.sharing import NAME, Workers
from tests.support.waiting import eventually

from inbound_audit import InboundAudit
from inbound_audit.overrides import files
from inbound_audit.shared.directory import SharedDirectory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")

JOIN = """
from inbound_audit import InboundAudit, Limits
audit = InboundAudit(shared=NAME, capacity=1 << 24)
mx = audit.listener("SMTP", "mx")
limits = Limits({"/32": 5})
def ask(host):
    with mx.session(host) as ac:
        return ac.override, bool(limits.validate_connect(ac))
"""


def decided(*arguments: str) -> tuple[int, str]:
    done = run(*arguments)
    return done.returncode, (done.stdout + done.stderr).decode()


def listed() -> list[str]:
    done = run("decisions", NAME, "--json")
    return [each["prefix"] for each in json.loads(done.stdout)["decisions"]]


def test_all_processes_follow(place: Path, hire: Workers) -> None:
    workers = [hire(JOIN) for _ in range(3)]
    with InboundAudit(shared=NAME) as audit:
        audit.deny("192.0.2.0/24", why="a test")
        for worker in workers:
            eventually(lambda worker=worker: worker.do("ask('192.0.2.7')") == ("deny", False), "the denial")
        workers[0].do("audit.allow('192.0.2.7')")
        for worker in workers:
            eventually(lambda worker=worker: worker.do("ask('192.0.2.7')") == ("allow", True), "the other word")
        eventually(lambda: len(audit.decisions()) == 2, "both")
        child = workers[1].fork()
        assert child.do("ask('192.0.2.7')") == ("allow", True)
        workers[2].do("audit.lift('192.0.2.0/24')")
        assert workers[2].do("audit.lift('192.0.2.7')") is True
        for worker in (*workers, child):
            eventually(lambda worker=worker: worker.do("ask('192.0.2.7')") == (None, True), "the end")


def test_they_outlast_the_last_process_and_a_killed_one(place: Path, hire: Workers) -> None:
    worker = hire(JOIN)
    worker.do("audit.deny('192.0.2.0/24', for_s=1e6)")
    worker.kill()
    with InboundAudit(shared=NAME) as audit, audit.listener("SMTP").session("192.0.2.7") as ac:
        assert ac.override == "deny"
    assert listed() == ["192.0.2.0/24"]
    assert run("ls").stdout == b""
    assert decided("lift", NAME, "192.0.2.0/24")[0] == 0
    with InboundAudit(shared=NAME) as audit:
        assert audit.decisions() == []
    assert listed() == []


def test_a_writer_that_is_killed_in_the_middle_leaves_a_whole_file(place: Path, hire: Workers) -> None:
    """At any moment, many times: each prefix whose change returned is there, and the next writer is not held up."""
    draw = random.Random(14)
    with InboundAudit(shared=NAME) as audit:
        for at in range(12):
            worker = hire(JOIN)
            worker.start(f"for i in range(10**6): audit.deny(f'10.{at}.{{i >> 8}}.{{i & 255}}')")
            wanted = len(audit.decisions()) + draw.randrange(1, 12)
            eventually(lambda wanted=wanted: len(audit.decisions()) >= wanted, "some changes")
            before = audit.decisions()
            worker.kill()
            with contextlib.closing(SharedDirectory(NAME, read_only=True)) as directory:
                there = {decision.prefix for decision in files.read_all(directory, 0).decisions(0)}
            assert {decision.prefix for decision in before} <= there
            audit.deny(f"192.0.2.{at}")


def test_serve_obeys_the_command_line(place: Path, both_ways: None) -> None:
    with Serve("--shared", NAME, "--limit", "/32=5", listen=["127.0.0.1:0"]) as serve:
        port = serve.addresses[0][1]

        def greeting(source: str) -> bytes:
            with connect(port, source) as peer:
                return peer.recv(100)

        eventually(lambda: greeting("127.0.0.9").startswith(b"220"), "a greeting")
        status, words = decided("deny", NAME, "127.0.0.8/29", "--yes", "--for", "1h", "--why", "a test")
        assert (status, words.startswith(f"{NAME}: 127.0.0.8/29 is denied until ")) == (0, True)
        eventually(lambda: b"access denied" in greeting("127.0.0.9"), "the denial")
        assert greeting("127.0.0.7").startswith(b"220")
        assert decided("allow", NAME, "127.0.0.9")[0] == 0
        eventually(lambda: greeting("127.0.0.9").startswith(b"220"), "the permission")
        assert listed() == ["127.0.0.8/29", "127.0.0.9/32"]
        assert "until" in decided("decisions", NAME)[1]
        assert decided("lift", NAME, "127.0.0.8/29") == (0, f"{NAME}: 127.0.0.8/29 is lifted\n")
        eventually(lambda: greeting("127.0.0.10").startswith(b"220"), "the end")


def test_serve_denies_for_a_limit(place: Path, both_ways: None) -> None:
    limit = "/32=3 rejections/1h then deny for 10m"
    with Serve("--shared", NAME, "--limit", "/32=0", "--limit", limit, listen=["127.0.0.1:0"]) as serve:

        def refused() -> bool:
            with connect(serve.addresses[0][1], "127.0.0.9") as peer:
                return b"access denied" in said(peer)

        eventually(refused, "the denial")
        assert listed() == ["127.0.0.9/32"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["deny", NAME, "192.0.2.7/24"], 2, "has bits beyond its length; write 192.0.2.0/24, or 192.0.2.7"),
        (["deny", NAME, "0.0.0.0/0"], 2, "write --yes to deny them, too"),
        (["deny", NAME, "127.0.0.1"], 2, "write --yes to deny them, too"),
        (["deny", NAME, "127.5.0.0/16"], 2, "write --yes to deny them, too"),
        (["deny", NAME, "::/64"], 2, "write --yes to deny them, too"),
        (["allow", NAME, "::/0"], 2, "write --yes to let them all in"),
        (["deny", NAME, "192.0.2.7", "--for", "0s"], 2, "write a time above 0"),
        (["deny", NAME, "192.0.2.7", "--for", "soon"], 2, "--for"),
        (["deny", NAME, "192.0.2.7", "--until", "2001-01-01"], 2, "is over; write a time to come"),
        (["deny", NAME, "192.0.2.7", "--until", "soon"], 2, "write a time such as"),
        (["deny", NAME, "192.0.2.7", "--for", "1h", "--until", "2999-01-01"], 2, "write one of them"),
        (["deny", NAME, "192.0.2.7", "--why", "a\nb"], 2, "--why"),
        (["deny", "mial", "192.0.2.7"], 1, f"(there is: {NAME})"),
        (["decisions", "mial"], 1, f"(there is: {NAME})"),
        (["lift", NAME, "192.0.2.7"], 1, "has no override of its own"),
        (["decisions", NAME], 0, "there is no override"),
    ],
)
def test_mistakes_say_what_to_write(place: Path, arguments: list[str], status: int, words: str) -> None:
    with InboundAudit(shared=NAME) as audit, audit.listener("SMTP").session("192.0.2.9"):
        found = decided(*arguments)
        assert found[0] == status
        assert words in found[1]
        assert "Traceback" not in found[1]


@pytest.mark.skipif(not mounts_are_possible(), reason="needs root, and mounts of its own")
def test_root_denies_for_a_service_of_another_user(place: Path) -> None:
    run_inside("""
        make("/run/inbound_audit", mode=0o755)
        make("/run/inbound_audit/inbound_audit-mail", OTHER)
        sys.argv[0] = "inbound-audit"
        from inbound_audit.cli import run
        assert run(["deny", "mail", "192.0.2.0/24"]) == 1  # the user is to be named
        assert run(["deny", "mail", "192.0.2.0/24", "--user", str(OTHER)]) == 0
        path = f"/run/inbound_audit/inbound_audit-mail/{OTHER}.overrides"
        assert status(path) == (OTHER, "0o600"), status(path)
        def service():
            with InboundAudit(shared="mail") as audit, audit.listener().session("192.0.2.7") as ac:
                assert ac.override == "deny"
                audit.allow("192.0.2.7")
        as_user(OTHER, service)
        assert status(path) == (OTHER, "0o600"), status(path)
    """)


@pytest.mark.skipif(not mounts_are_possible(), reason="needs root, and mounts of its own")
def test_members_of_a_group_change_what_others_have_said(place: Path) -> None:
    """The directory is sticky, so each has a file; the later word counts."""
    run_inside("""
        make("/run/inbound_audit", mode=0o755)
        make("/run/inbound_audit/inbound_audit-mail", 5001, 0o3770, GROUP)
        os.chmod("/run/inbound_audit/inbound_audit-mail", 0o3770)
        def first():
            with InboundAudit(shared="mail", group=str(GROUP)) as audit:
                audit.deny("192.0.2.0/24")
        def second():
            with InboundAudit(shared="mail", group=str(GROUP)) as audit, audit.listener().session("192.0.2.7") as ac:
                assert ac.override == "deny"
                assert audit.lift("192.0.2.0/24")
                assert ac.override is None
        def third():
            with InboundAudit(shared="mail", group=str(GROUP)) as audit:
                assert audit.decisions() == [], audit.decisions()
        as_user(5001, first, [GROUP])
        as_user(5002, second, [GROUP])
        as_user(5001, third, [GROUP])
    """)


def test_a_stopped_process_holds_up_nothing(place: Path, hire: Workers) -> None:
    worker = hire(JOIN)
    worker.freeze()
    with InboundAudit(shared=NAME) as audit:
        audit.deny("192.0.2.0/24")
        assert audit.decisions()
    worker.thaw()
    eventually(lambda: worker.do("ask('192.0.2.7')") == ("deny", False), "the denial")
    os.kill(worker.pid, signal.SIGTERM)
