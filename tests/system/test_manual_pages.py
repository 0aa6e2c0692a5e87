"""Manual pages: what the tools that read them say, and that nothing of a command's help is left out."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from inbound_audit.cli import main, run

COMMANDS = sorted(main.commands)
needs_mandoc = pytest.mark.skipif(shutil.which("mandoc") is None, reason="needs mandoc")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pages") / "man" / "man1"
    assert run(["man", "--directory", str(directory)]) == 0
    return directory


def rendered(file: Path) -> str:
    """In one line. What is bold is a letter, a backspace and the letter again."""
    command = ["mandoc", "-Tascii", "-Owidth=200", file]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return " ".join(re.sub(".\b", "", text).split())


def test_each_command_has_a_page(pages: Path) -> None:
    assert sorted(file.name for file in pages.iterdir()) == sorted(
        ["inbound-audit.1", *(f"inbound-audit-{name}.1" for name in COMMANDS)]
    )


@needs_mandoc
def test_mandoc_has_nothing_against_them(pages: Path) -> None:
    done = subprocess.run(["mandoc", "-Tlint", "-Wwarning", *pages.iterdir()], capture_output=True, text=True)
    # A date would differ from build to build.
    assert [line for line in done.stdout.splitlines() if "missing date" not in line] == []


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_groff_has_nothing_against_them(pages: Path) -> None:
    done = subprocess.run(["groff", "-man", "-ww", "-z", *pages.iterdir()], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@needs_mandoc
@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_has_all_of_a_commands_help(pages: Path, name: str) -> None:
    text = rendered(pages / f"inbound-audit-{name}.1").lower()
    command = main.commands[name]
    context = click.Context(command, info_name=name)
    words = [command.help or "", command.epilog or ""]
    for option in command.get_params(context):
        words += (
            option.get_help_record(context) or ()
            if isinstance(option, click.Option)
            else [option.make_metavar(context)]
        )
    for one in " ".join(words).replace("\b", "").split():
        assert one.rstrip(":.").lower() in text, one


def test_the_examples_stand_as_they_are_written(pages: Path) -> None:
    example = "inbound-audit ls --json | jq -r '.[].name'"
    assert example in (main.commands["ls"].epilog or "")
    assert example.replace("-", r"\-").replace("'", r"\(aq") in (pages / "inbound-audit-ls.1").read_text()


def test_a_page_is_printed(capsys: pytest.CaptureFixture[str], pages: Path) -> None:
    for arguments, file in (([], "inbound-audit.1"), (["serve"], "inbound-audit-serve.1")):
        assert run(["man", *arguments]) == 0
        assert capsys.readouterr().out == (pages / file).read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["nothing"], 2, "No such command 'nothing'"),
        (["serve", "--directory", "x"], 2, "leave out COMMAND"),
        (["--directory", "/dev/null/x"], 1, "/dev/null/x: not a directory"),
    ],
)
def test_a_mistake_is_named(arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["man", *arguments]) == status
    assert said in capsys.readouterr().err
