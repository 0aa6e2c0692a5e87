"""Shells complete commands, options and names of audits, by the script that `completion` prints."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.command_line import environment, run

from inbound_audit import InboundAudit
from inbound_audit.cli import main

BASH = """
COMP_WORDS=({words}); COMP_CWORD=$(({count} - 1))
{function} inbound-audit
printf '%s\\n' "${{COMPREPLY[@]}}"
"""

ZSH = """
compdef() {{ :; }}
_describe() {{ local each; for each in "${{(@P)3}}"; do print -r -- "${{each%%:*}}"; done; }}
compadd() {{ print -rl -- "${{(@P)5}}"; }}
source {script}
words=({words}); CURRENT={count}
{function}
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of programs, with the command."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "inbound-audit").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m inbound_audit "$@"\n')
    (programs / "inbound-audit").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def completed(shell: str, directory: Path, line: str) -> set[str]:
    """What a shell offers at the end of a line."""
    script = directory / "script"
    script.write_bytes(run("completion", shell, command=(str(directory / "bin" / "inbound-audit"),)).stdout)
    words = line.split(" ")
    quoted = " ".join(word or '""' for word in words)
    values = {"words": quoted, "count": len(words), "script": script, "function": "_inbound_audit_completion"}
    program = {
        "bash": f"source {script}\n" + BASH.format(**values),
        "zsh": ZSH.format(**values),
        "fish": f"source {script}\ncomplete --do-complete {shlex.quote(line)}",
    }[shell]
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [shell, *options, "-c", program], capture_output=True, text=True, env=environment(), timeout=200, check=True
    )
    assert done.stderr == ""
    return {found.split("\t")[0] for found in done.stdout.splitlines() if found}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes(shell: str, program: Path, place: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    with InboundAudit(shared="mail", capacity=1 << 20), InboundAudit(shared="web", capacity=1 << 20):
        assert completed(shell, program, "inbound-audit ") == set(main.commands)
        assert completed(shell, program, "inbound-audit top m") == {"mail"}
        assert "--listen" in completed(shell, program, "inbound-audit serve --li")
