"""`inbound-audit why`: each process says what it would decide, and the log says what was decided."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.command_line import Serve, run
from tests.support.listening import Peer
from tests.support.waiting import eventually

from inbound_audit import InboundAudit, cli, inquiries

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes count together on Linux"),
    pytest.mark.usefixtures("place"),
]


def why(*arguments: str, given: bytes = b"") -> tuple[int, dict[str, Any]]:
    done = run("why", "asked", *arguments, "--json", given=given)
    return done.returncode, json.loads(done.stdout)


def serving(*arguments: str) -> Serve:
    return Serve("--shared", "asked", *arguments, listen=["127.0.0.1:0"])


def test_each_limit_with_its_count_and_the_log(tmp_path: Path):
    path = tmp_path / "log"
    limits = ("--limit", "/32=1", "--limit", "/24=300/5m", "--limit", "partner:total=9")
    networks = ("--network", "partner=192.0.2.0/24", "--exempt", "198.51.100.0/24", "--decision-log", str(path))
    with serving(*limits, *networks) as server, Peer(*server.addresses[0]) as peer:
        assert peer.line().startswith(b"220 ")
        with Peer(*server.addresses[0]) as second:
            assert second.rest().startswith(b"421 ")
        eventually(lambda: path.exists() and path.read_text().endswith("\n"), "a line")
        status, answer = why("127.0.0.1")
        assert (status, answer["let_in"]) == (1, False)
        (row,) = answer["listeners"]
        assert (row["pid"], row["service"], row["listener"]) == (server.pid, "SMTP", "default")
        assert (row["over"], row["network"], row["log"]) == ("default /32", "default", str(path))
        of_address, of_network = row["limits"]
        assert of_address == {"limit": "default /32", "prefix": "127.0.0.1/32", "count": 1, "most": 1, "over": True}
        assert (of_network["prefix"], of_network["count"], of_network["over"]) == ("127.0.0.0/24", 2, False)
        (line,) = answer["log"]
        assert (line["client"], line["limit"]) == ("127.0.0.1", "default /32")
        assert why("127.0.0.1", "--last", "0")[1]["log"] == []
        status, answer = why("127.0.0.2")  # the line is about another address
        assert (status, answer["let_in"], answer["log"]) == (0, True, [])
        assert why("192.0.2.9")[1]["listeners"][0]["network"] == "partner"
        status, answer = why("::ffff:198.51.100.7")
        assert (status, answer["address"], answer["listeners"][0]["network"]) == (0, "198.51.100.7", "exempt")
        said = run("why", "asked", "127.0.0.1").stdout.decode()
        assert said.startswith("127.0.0.1 would be refused\n")
        assert "default /32" in said
        assert "1 of 1  over" in said
        assert "\x1b" not in said
        # other limits, with the same counts, and another log
        assert why("127.0.0.1", "--limit", "/32=2")[0] == 0
        assert why("127.0.0.1", "--limit", "/32=2/1h")[0] == 0
        status, answer = why("127.0.0.1", "--limit", "/24,/48=1", "--log", "-", given=path.read_bytes() + b"{}\nx\n")
        assert (status, len(answer["log"])) == (1, 1)


def test_an_override_decides_whatever_the_limits_say():
    with serving("--limit", "/32=0"):
        assert run("deny", "asked", "198.51.100.0/24", "--why", "a flood").returncode == 0
        assert run("allow", "asked", "192.0.2.7").returncode == 0
        eventually(lambda: why("198.51.100.7")[1]["listeners"][0].get("override"), "the server's own denial")
        status, answer = why("198.51.100.7")
        assert (status, answer["let_in"]) == (1, False)
        override = answer["listeners"][0]["override"]
        assert (override["prefix"], override["action"], override["why"]) == ("198.51.100.0/24", "deny", "a flood")
        said = run("why", "asked", "198.51.100.7").stdout.decode()
        assert "denied: 198.51.100.0/24, by " in said
        assert ", a flood" in said
        eventually(lambda: why("192.0.2.7")[0] == 0, "the server's own permission")
        assert why("192.0.2.8")[0] == 1  # over the limit


def test_a_dry_run_and_workers():
    with serving("--limit", "/0=0", "--dry-run", "--workers", "2"):
        status, answer = why("192.0.2.7")
        assert (status, answer["let_in"], len(answer["listeners"])) == (0, True, 2)
        assert all(row["over"] == "default /0" and row["dry_run"] for row in answer["listeners"])
        said = run("why", "asked", "192.0.2.7").stdout.decode()
        assert said.count("refused") == 0
        assert said.count("let in by a dry run of default /0") == 1
        assert said.count("processes ") == 1


def test_a_script_is_named_and_asked_only_if_given(tmp_path: Path):
    script = tmp_path / "policy.lua"
    script.write_text(
        """
local policy = {}
function policy:validate_connect(ac, vctx)
  if ac.remote_addr:find("192.0.2.", 1, true) then vctx:disconnect(550, "not you") end
end
msys.registerModule("policy", policy)
"""
    )
    with serving("--policy", str(script)):
        status, answer = why("192.0.2.7")
        assert (status, answer["let_in"], answer["listeners"][0]["script"]) == (3, None, str(script))
        assert "decides" in run("why", "asked", "192.0.2.7").stdout.decode()
        status, answer = why("192.0.2.7", "--policy", str(script))
        assert (status, answer["listeners"][0]["code"]) == (1, 550)
        assert why("203.0.113.7", "--policy", str(script))[0] == 0


class Says:
    """A guard of a process that says anything."""

    def __init__(self, **members: Any) -> None:
        self.answer = {"service": "SMTP", "listener": "mx", "policy": None, "dry_run": False, "let_in": True, **members}

    def would_decide(self, address: str) -> dict[str, Any]:
        return self.answer

    def decides_by(self) -> dict[str, Any]:
        return self.answer


def test_a_process_can_name_nothing_but_a_file_of_its_user(tmp_path: Path):
    (tmp_path / "log").write_text('{"client": "192.0.2.7", "done": "refused"}\n')
    (tmp_path / "link").symlink_to(tmp_path / "log")
    (tmp_path / "null").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    wrong = {
        str(tmp_path): "it is not a regular file",
        str(tmp_path / "pipe"): "it is not a regular file",
        str(tmp_path / "null"): "it is not a regular file",
        "/dev/full": "it is not a regular file",
        "log": "it is not an absolute path",
        "-": "it is not an absolute path",
        "/a\0b": "embedded null byte",
        "/\ud800": "surrogates not allowed",
        str(tmp_path / "none"): "no such file",
    }
    if os.geteuid() == 0:
        (tmp_path / "other").write_text('{"client": "192.0.2.7", "done": "secret"}\n')
        os.chown(tmp_path / "other", 12345, -1)
        wrong[str(tmp_path / "other")] = "it belongs to another user than the process that names it"
    with InboundAudit(shared="asked", capacity=1 << 20) as audit:
        audit.listener("SMTP", "mx")
        guards = [Says(log=path) for path in (*wrong, str(tmp_path / "log"), str(tmp_path / "link"))]
        for guard in guards:
            inquiries.note(audit, guard)
        done = run("why", "asked", "192.0.2.7", "--json")
    assert (done.returncode, json.loads(done.stdout)["log"]) == (0, [{"client": "192.0.2.7", "done": "refused"}] * 2)
    said = done.stderr.decode().splitlines()
    for why_not in wrong.values():
        assert len([line for line in said if why_not in line]) == list(wrong.values()).count(why_not), why_not


@pytest.mark.parametrize(
    "members",
    [
        {"log": 5},
        {"service": ["SMTP"]},
        {"let_in": "no"},
        {"limits": 7},
        {"limits": [{"limit": "x", "prefix": None, "count": 1, "most": "2", "over": False}]},
        {"override": "all"},
        {"override": {"prefix": "x", "by": 7, "why": ""}},
        {"script": 1},
    ],
    ids=str,
)
def test_an_answer_that_is_none_is_a_line(members: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    """The command in this process: it starts no thread."""
    with InboundAudit(shared="asked", capacity=1 << 20) as audit:
        audit.listener("SMTP", "mx")
        says = Says(**members)
        inquiries.note(audit, says)
        assert cli.run(["why", "asked", "192.0.2.7"]) == 3
    assert f"process {os.getpid()} sent a malformed answer" in capsys.readouterr().err


def test_what_is_not_known():
    assert run("why", "asked", "192.0.2.7").returncode == 3
    with serving():
        done = run("why", "asked", "192.0.2.7", "--service", "IMAP")
        assert done.returncode == 3
        assert b"no process of 'asked' decides" in done.stderr
    for wrong in (
        ["192.0.2.0/24"],
        ["192.0.2.7", "--exempt", "::1"],
        ["192.0.2.7", "--policy", "x", "--limit", "/0=1"],
    ):
        assert run("why", "asked", *wrong).returncode == 2
