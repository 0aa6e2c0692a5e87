"""`ls` lists the audits in which processes count, and a shell completes their names."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from inbound_audit import InboundAudit
from inbound_audit.cli import NAME, main, run
from inbound_audit.shared.places import known_audits


def listed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    assert run(["ls", "--json"]) == 0
    rows: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return rows


def completed(arguments: list[str], incomplete: str) -> list[str]:
    shell = BashComplete(main, {}, NAME, "_INBOUND_AUDIT_COMPLETE")
    return [item.value for item in shell.get_completions(arguments, incomplete)]


def test_audits_are_listed_while_processes_count(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(capsys) == []
    with InboundAudit(shared="mail", capacity=1 << 20) as mail, InboundAudit(shared="web", capacity=1 << 20) as web:
        with mail.listener().session("192.0.2.7"), mail.listener("Control").session("::1"):
            web.listener()
            rows = listed(capsys)
        assert [(row["name"], row["processes"], row["sessions"], row["why"]) for row in rows] == [
            ("mail", 1, 2, None),
            ("web", 1, 0, None),
        ]
        assert run(["ls"]) == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["name", "mail", "web"]
    assert listed(capsys) == []


def test_without_any_a_line_says_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls"]) == 0
    printed = capsys.readouterr()
    assert (printed.out, "--shared NAME" in printed.err) == ("", True)


def test_what_is_no_audit_is_not_listed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "inbound_audit-file").write_text("")
    (place / "inbound_audit-empty").mkdir()
    (place / "inbound_audit-").mkdir()
    (place / "inbound_audit-\n").mkdir()
    for name in ("other", "inbound_audit--x"):
        (place / name).mkdir()
        (place / name / "1.owner").write_text("")
    assert known_audits() == []
    assert listed(capsys) == []


def test_a_directory_that_is_refused_is_listed_with_the_reason(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = place / "inbound_audit-open"
    directory.mkdir()
    (directory / "1.owner").write_text("")
    directory.chmod(0o777)
    (row,) = listed(capsys)
    assert (row["name"], row["processes"]) == ("open", None)
    assert row["why"]
    assert run(["ls"]) == 0
    assert "open" in capsys.readouterr().out


def test_a_directory_that_cannot_be_read_is_named_as_such_and_not_completed(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place.chmod(0o755)
    directory = place / "inbound_audit-other"
    directory.mkdir(mode=0)
    with not_as_root():
        (row,) = listed(capsys)
        assert (row["name"], row["processes"]) == ("other", None)
        assert row["why"]
        assert completed(["top"], "") == []


@contextlib.contextmanager
def not_as_root() -> Iterator[None]:
    """As another user, if this one may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("command", ["top", "show", "ps", "console", "cluster", "agent", "metrics"])
def test_names_of_audits_are_completed(place: Path, command: str) -> None:
    with InboundAudit(shared="mail", capacity=1 << 20), InboundAudit(shared="web", capacity=1 << 20):
        assert completed([command], "") == ["mail", "web"]
        assert completed([command], "w") == ["web"]


def test_commands_and_options_are_completed() -> None:
    assert completed([], "com") == ["completion"]
    assert "--listen" in completed(["serve"], "--li")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_with_the_variable_that_is_read(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert f"_INBOUND_AUDIT_COMPLETE={shell}_complete" in capsys.readouterr().out
