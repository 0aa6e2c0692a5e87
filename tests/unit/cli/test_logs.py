"""Lines on standard error: plain for people, JSON for programs, and limited where peers provoke them."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from inbound_audit.cli import logs


def provoke() -> None:
    logs.say("a line")
    logging.getLogger("inbound_audit.shared").warning("%s is damaged", "x.owner")
    logging.getLogger("another").info("not shown")
    try:
        raise ValueError("wrong")
    except ValueError:
        logging.getLogger("another").exception("failed")


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with logs.to_standard_error(as_json=False):
        provoke()
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["a line", "x.owner is damaged", "failed"]
    assert lines[-1] == "ValueError: wrong"


def test_json_lines_all(capsys: pytest.CaptureFixture[str]) -> None:
    with logs.to_standard_error(as_json=True):
        logs.set_up(verbose=False)
        provoke()
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(one["level"], one["message"].splitlines()[0]) for one in found] == [
        ("warning", "a line"),
        ("warning", "x.owner is damaged"),
        ("error", "failed"),
    ]
    assert found[2]["message"].endswith("ValueError: wrong")
    assert all(one["time"].endswith("+00:00") for one in found)


@pytest.mark.parametrize("as_json", [True, False])
def test_refusals_are_shown_when_asked_for(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    package = logging.getLogger("inbound_audit")
    before = package.level
    try:
        with logs.to_standard_error(as_json):
            logs.set_up(verbose=True)
            package.info("refused 192.0.2.7")
    finally:
        package.setLevel(before)
    (line,) = capsys.readouterr().err.splitlines()
    assert (json.loads(line)["message"] if as_json else line[9:]) == ("" if as_json else "INFO ") + "refused 192.0.2.7"


def test_nothing_is_left_behind(capsys: pytest.CaptureFixture[str]) -> None:
    handlers = list(logging.getLogger().handlers)
    with logs.to_standard_error(as_json=False):
        pass
    assert logging.getLogger().handlers == handlers
    assert sys.stderr


def test_a_library_that_repeats_itself_is_limited(capsys: pytest.CaptureFixture[str]) -> None:
    with logs.to_standard_error(as_json=False):
        for number in range(5):
            logging.getLogger("another").warning("number %d", number)
        logging.getLogger("another").warning("elsewhere")
        for error in (ValueError("one"), TypeError("other"), ValueError("one more")):
            logging.getLogger("another").warning("failed: %s", error)
    assert capsys.readouterr().err.splitlines() == ["number 0", "elsewhere", "failed: one", "failed: other"]
