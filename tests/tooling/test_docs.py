"""Every example in docs/ is run; commands are known, and links lead somewhere. New pages are found by themselves."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("**/*.md"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CODE_OF_CONDUCT.md", *PAGES]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """What follows a prompt; a command may go on behind a backslash at the end of a line."""
    text = "\n".join(blocks(page, "console")).replace("\\\n", " ")
    return [line[2:] for line in text.splitlines() if line.startswith("$ ")]


@pytest.mark.usefixtures("place")  # what is counted on this machine may be called "mail" too
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_python(page, monkeypatch):
    """The blocks of a page are one program, read from top to bottom, started at the top of the repository."""
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {}
    for code in blocks(page, "python"):
        exec(compile(code, page.name, "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "toml")], ids=name_of)
def test_toml(page, tmp_path):
    """Each block is a configuration file of its own."""
    from inbound_audit.cli.config.document import Document

    for text in blocks(page, "toml"):
        (tmp_path / "inbound-audit.toml").write_text(text)
        assert Document(str(tmp_path / "inbound-audit.toml")).options("serve") is not None


def test_blocks_have_a_language_that_is_tested():
    known = {"toml", "python", "lua", "sieve", "console", "c", "text", "ini", ""}
    found = {
        (name_of(page), language)
        for page in TEXTS
        for language in re.findall(r"^```(\w*)\n.*?^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    }
    assert sorted(pair for pair in found if pair[1] not in known) == []


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_make_targets_exist(page):
    named = re.findall(r"(?:^\$ |`)make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE)
    assert sorted(set(named) - TARGETS) == []


COMMANDS = [(page, line) for page in PAGES for line in commands(page) if re.search(r"(^|[|;&] *)inbound-audit ", line)]


@pytest.mark.parametrize(
    ("page", "line"), COMMANDS, ids=lambda value: name_of(value) if isinstance(value, Path) else value
)
def test_the_command_line_understands_its_options(page, line):
    """Options parse: each `inbound-audit ...` of a page, behind a pipe or in front of one, without running it."""
    import click

    from inbound_audit.cli import main
    from inbound_audit.cli.config.document import Document

    words = shlex.split(re.split(r"[|<>&]", line[line.index("inbound-audit ") :])[0])[1:]
    context = main.make_context("inbound-audit", list(words))
    name, command, rest = main.resolve_command(context, list(words))
    assert isinstance(command, click.Command)
    with pytest.MonkeyPatch.context() as patch:  # files of an example need not exist
        patch.setattr(click.Path, "convert", lambda _, value, *rest: value)
        patch.setattr(Document, "__init__", lambda document, _: None)
        patch.setattr(Document, "options", lambda *_: {})
        assert command.make_context(name, rest, parent=context).params is not None


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_is_in_the_site():
    """`make docs` fails for a page that no menu has; here without the tools of the site."""
    menu = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text("utf-8").partition("nav:")[2]))
    assert {str(page.relative_to(ROOT / "docs")) for page in PAGES} == menu


def test_the_stress_of_threads_runs_without_the_gil():
    """The forge's job for a free-threaded Python runs `make test-core` alone."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    recipe = re.search(r"^test-core:.*\n\t(.*)", makefile, re.MULTILINE)
    assert recipe is not None
    assert "threads.py" in recipe[1]
    assert "make test-core EXTRAS=" in (ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8")


@pytest.mark.parametrize("workflow", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=name_of)
def test_workflows_run_make_targets(workflow):
    """What a forge runs can be run anywhere."""
    steps = re.findall(r"^ *- run: (.*?)(?:  #.*)?$", workflow.read_text("utf-8"), re.MULTILINE)
    assert steps
    targets = [step.removeprefix("make ").replace("${{ matrix.build }}", "debug").split()[0] for step in steps]
    assert [target for target in targets if target not in TARGETS] == []
