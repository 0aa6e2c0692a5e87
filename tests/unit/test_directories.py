"""Directories that are made, or are there: a call to the system that fails is named, whichever it is."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.failing_calls import Failing

from inbound_audit.cli import privileges
from inbound_audit.cli.console import session
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.maildir import Maildir
from inbound_audit.descriptor import make_directories, make_directory
from inbound_audit.persist.state_directory import StateDirectory


class Notes:
    """In place of the console: what it would print."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def a_maildir(path: Path) -> None:
    Maildir(str(path)).close()


def a_state_directory(path: Path) -> None:
    StateDirectory(path).close()


def a_history(path: Path) -> None:
    notes: Any = Notes()
    os.environ["XDG_STATE_HOME"] = str(path)
    session._history(notes)
    if notes.texts:
        raise Failure(notes.texts[0])


def one_of_serve(path: Path) -> None:
    privileges._make_for(-1, -1, str(path))


def one(path: Path) -> None:
    make_directories(str(path))


MAKERS = [a_maildir, a_state_directory, a_history, one_of_serve, one]


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/nowhere")  # put back afterwards


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("there", "call", "number"),
    [
        (True, "stat", errno.EACCES),
        (True, "stat", errno.EIO),
        (True, "mkdir", errno.EIO),
        (False, "mkdir", errno.ENOSPC),
    ],
)
def test_the_call_that_failed_is_named(
    make: Callable[[Path], None],
    there: bool,
    call: str,
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if there:
        make(tmp_path / "0" / "sub")
    failing = Failing(monkeypatch, tmp_path, call, number)
    at, reached = 0, True
    while reached:
        at += 1
        path = tmp_path / ("0" if there else str(at)) / "sub"
        failing.fails_at, failing.calls = at, 0
        try:
            make(path)
        except Exception as error:
            text = error.format_message() if isinstance(error, Failure) else str(error)
            assert os.strerror(number).lower() in text.lower(), (at, text)
        reached = failing.calls >= at
        failing.fails_at = 0
        make(path)
    assert at > 1


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("above", [False, True])
def test_a_file_in_the_place_of_a_directory(make: Callable[[Path], None], above: bool, tmp_path: Path) -> None:
    file = tmp_path / "inbound_audit"
    file.write_text("kept")
    with pytest.raises(Exception, match=r"(?i)not a directory"):
        make(file / "sub" if above else tmp_path if make is a_history else file)
    assert file.read_text() == "kept"


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "link", tmp_path / "link" / "sub"):
        with pytest.raises(FileNotFoundError, match="link"):
            make_directories(str(path))


def test_modes(tmp_path: Path) -> None:
    make_directories(str(tmp_path / "a" / "b" / "c"), mode_above=0o750)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b", "a/b/c")]
    assert modes == [0o750, 0o750, 0o700]
    assert not make_directory(tmp_path / "a", 0o777)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o750


def test_a_maildir_is_where_the_messages_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard library's Maildir takes ~ for the user's home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    box = Maildir("~/mail")
    box._store("Subject: a test\n\n")
    box.close()
    assert len(list((tmp_path / "~" / "mail" / "new").iterdir())) == 1
    assert list((tmp_path / "home").iterdir()) == []
