"""Every example in the README is run, and its tables are compared with the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from inbound_audit import InboundAudit
from inbound_audit.policy.limits import STOCK_LIMITS

pytestmark = pytest.mark.usefixtures("place")  # what somebody really counts may be called "mail" too

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


@pytest.mark.parametrize("code", blocks("python"))
def test_python(code):
    exec(compile(code, "README.md", "exec"), {})


def test_the_first_example_has_about_ten_lines():
    code = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(code) <= 11


def test_lua(tmp_path):
    from inbound_audit import LuaPolicy

    (code,) = blocks("lua")
    (tmp_path / "my_policy.lua").write_text(code)
    policy = LuaPolicy(tmp_path / "my_policy.lua")
    with InboundAudit() as audit:
        sessions = [audit.listener().session(f"192.0.2.{i}") for i in range(101)]
        verdict = policy.validate_connect(sessions[-1])
        assert (bool(verdict), verdict.code) == (False, 421)
        sessions.pop().close()
        assert policy.validate_connect(sessions[-1])
    policy.close()


def commands() -> list[str]:
    return [line[2:] for text in blocks("console") for line in text.splitlines() if line.startswith("$ ")]


LOOKS = ("inbound-audit ps ", "inbound-audit top ", "inbound-audit show ", "inbound-audit metrics ")


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith(LOOKS)])
def test_looks_from_outside(command):
    with InboundAudit(shared="mail") as audit, audit.listener().session("192.0.2.7"):
        arguments = [sys.executable, "-m", "inbound_audit", *command.split()[1:]]
        run = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=200)
    assert run.returncode == 0, run.stderr
    assert re.search(rf"^ +1 .*192\.0\.2\.|{os.getpid()}\b.*\b1\b|_sessions\{{.* 1\.0", run.stdout, re.MULTILINE)


def test_every_command_is_known():
    """What is run below, what installs, and what other tests run (`make test` is how you got here)."""
    known = (
        "make serve ",
        "make cluster",
        "make test ",
        "pip install inbound-audit",
        "inbound-audit serve ",
        *LOOKS,
        "printf ",
    )
    assert all(command.startswith(known) for command in commands())


def test_count_on_the_command_line():
    (command,) = [command for command in commands() if command.startswith("printf")]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = command.replace("inbound-audit ", f"{sys.executable} -m inbound_audit ")
    run = subprocess.run(
        command, shell=True, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    assert run.returncode == 0, run.stderr
    assert re.search(r"\b1\s+192\.0\.2\.7/32$", run.stdout, re.MULTILINE)
    assert re.search(r"192\.0\.2\.0/24\s+1\b|\b1\s+192\.0\.2\.0/24", run.stdout)


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("inbound-audit serve")])
def test_serve_understands_the_options(command):
    """The options parse, and `serve` stops at the policy file that only the README has, not before."""
    arguments = command.split()[1:]
    arguments[arguments.index(":2525")] = "127.0.0.1:0"
    if "--policy" in arguments:
        run = subprocess.run(
            [sys.executable, "-m", "inbound_audit", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        assert run.returncode != 0
        assert "my_policy.lua" in run.stderr
    else:
        from inbound_audit.cli import main

        with main.make_context("inbound-audit", list(arguments)) as context:
            name, serve, rest = main.resolve_command(context, list(arguments))
            parsed = serve.make_context(name, rest, parent=context)
        assert parsed.params


ROWS = re.findall(r"^\| [^|`]+ \| `(.+?)` \| \[[^]]+\]\((docs/[\w/]+\.md)", README, re.MULTILINE)


@pytest.mark.parametrize(("line", "page"), ROWS, ids=[line for line, _ in ROWS])
def test_what_stands_in_front_is_what_its_page_does(line, page):
    """The examples of each page are run (test_docs.py, test_postfix_*.py); the options of a command parse."""
    if line.startswith("inbound-audit "):
        from inbound_audit.cli import main

        with main.make_context("inbound-audit", line.split()[1:]) as context:
            name, command, rest = main.resolve_command(context, line.split()[1:])
            assert command.make_context(name, rest, parent=context).params
    else:
        assert line in "\n".join(
            re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
        )


def test_each_kind_of_server_has_its_row():
    assert len(ROWS) >= 12


def test_the_tables_say_what_the_code_does():
    assert STOCK_LIMITS == {"/32,/64": 10, "/24,/48": 100, "/0": 20000}
    assert '{"/32,/64": 10, "/24,/48": 100, "/0": 20000}' in README
