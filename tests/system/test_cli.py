"""The command line as a whole: its help, its exit statuses, and one line on standard error for a mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.command_line import COMMAND, environment, run

import inbound_audit.cli
from inbound_audit.__main__ import main

FAILURES = {
    "serve --policy missing.lua": "missing.lua",
    "serve --policy .": "--policy",
    "serve --tls-cert missing.pem": "missing.pem",
    "serve --tls-cert no.pem": "no.pem",
    "serve --maildir no.pem/box": "no.pem/box",
    "serve --listen 192.0.2.1:25": "192.0.2.1:25",
    "serve --listen [2001:db8::1]:25": "[2001:db8::1]:25",
    "serve --capacity 1K": "--capacity",
    "count --capacity 1K": "--capacity",
    "count missing.txt": "missing.txt",
    "count .": "is a directory",
}


@pytest.mark.parametrize(("line", "message"), FAILURES.items(), ids=FAILURES)
def test_a_failure_is_one_line_that_names_it(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own: a server confines the one that it runs in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no.pem").write_text("this is no certificate\n")
    output = run(*line.split())
    assert output.returncode == 1
    assert output.stdout == b""
    assert message in output.stderr.decode()
    assert output.stderr.count(b"\n") == 1


@pytest.mark.parametrize("line", ["--help", "-h", "", "serve --help", "count --help", "replay --help"])
def test_help_ends_with_examples_and_exit_statuses(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 0
    output = capsys.readouterr()
    assert "Examples:\n  inbound-audit" in output.out.replace("\n    ", "\n  ")
    assert "Exit status: 0" in output.out
    assert output.err == ""


def test_help_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["serve"], ["count"], ["console"], ["help"]):
        assert main(["help", *words]) == 0
        text = capsys.readouterr().out
        assert main([*words, "--help"]) == 0
        assert text == capsys.readouterr().out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("inbound-audit, version ")


def test_it_is_a_command_of_its_own() -> None:
    done = run("count", "--nonsense")
    assert done.returncode == 2
    assert b"--nonsense" in done.stderr


def test_an_interrupt_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inbound_audit.cli.main, "invoke", interrupt)
    assert main(["count"]) == 1
    assert capsys.readouterr().err.strip() == "inbound-audit: interrupted"


@pytest.mark.parametrize("line", ["count", "count --json", "--help"])
def test_output_that_cannot_be_written_is_one_line(line: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, *line.split()], stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"inbound-audit: no space left on device\n"


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=200, env=environment(), check=False
    )


@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [
        ("click", "count", "cli"),
        ("lark", "console mail", "cli"),
        ("rich", "count", "cli"),
        ("aiosmtpd", "serve", "smtp"),
    ],
)
def test_a_missing_library_names_its_extra(missing: str, command: str, extra: str) -> None:
    done = python(
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"from inbound_audit.__main__ import main; sys.exit(main({command.split()!r}))"
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"pip install 'inbound-audit[{extra}]'" in done.stderr


def test_a_command_imports_only_what_it_runs() -> None:
    done = python(
        "import sys; from inbound_audit.__main__ import main\n"
        "main(['--help']); print(sorted({'aiosmtpd', 'asyncio', 'lupa', 'rich', 'ssl'} & set(sys.modules)))\n"
        "main(['count', '/dev/null']); print(sorted({'aiosmtpd', 'asyncio', 'lupa', 'ssl'} & set(sys.modules)))\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[]") == 2, done.stdout
