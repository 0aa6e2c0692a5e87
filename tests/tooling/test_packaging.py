"""What is published: the sdist holds what a build needs, and the wheel built from it works where nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src"

# What `import inbound_audit` must not load: extras, and the Lua that only a Lua policy needs.
NOT_AT_IMPORT = (
    *("PIL", "aiosmtpd", "click", "lark", "lupa", "numpy", "prompt_toolkit", "rich", "starlette", "textual", "uvicorn"),
)


def start(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end where neither the directory nor the environment leads back into this tree."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([str(part) for part in command], cwd=ROOT.anchor, env=env, capture_output=True, text=True)


def run(*command: str | Path) -> str:
    """Standard output of a command that has to succeed."""
    done = start(*command)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist, and the wheel that was built from that sdist alone."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    return out


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of a virtual environment that holds the wheel and nothing else, not even its dependencies."""
    venv = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    (wheel,) = dist.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--python", venv / "bin" / "python")
    run(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel)
    return venv / "bin"


@pytest.mark.tooling
def test_the_sdist_holds_all_that_a_build_and_its_tests_need(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        str(path.relative_to(ROOT))
        for folder in ("src", "tests", "examples", "benchmarks", "fuzz")
        for suffix in ("py", "pyi", "pyx", "pxd", "pxi", "lua", "h", "service", "socket", "typed")
        for path in (ROOT / folder).rglob(f"*.{suffix}")
    } | {
        "setup.py",
        "pyproject.toml",
        "Makefile",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "mkdocs.yml",
        "tools/venv.sh",
    }
    assert wanted <= held
    made = {name for name in held if name.endswith((".c", ".so", ".pyc"))}
    assert {name for name in made if not name.startswith(("examples/", "benchmarks/", "fuzz/"))} == set()


@pytest.mark.tooling
def test_the_wheel_holds_what_runs_and_no_sources_of_the_core(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        str(path.relative_to(SOURCES))
        for suffix in ("py", "pyi", "lua", "h", "service", "socket", "typed")
        for path in SOURCES.rglob(f"*.{suffix}")
        if not {"_core", "_ext"} & set(path.parts)
    }
    assert "inbound_audit/py.typed" in wanted
    assert wanted <= held
    assert not [name for name in held if name.endswith((".pyx", ".pxd", ".pxi", ".c")) or "/_core/" in name]


@pytest.mark.tooling
@pytest.mark.skipif(sys.platform != "linux", reason="the linker strips the library on Linux alone")
def test_the_wheel_is_small(dist: Path) -> None:
    """The library is built without debug information and without the names of local symbols."""
    (wheel,) = dist.glob("*.whl")
    assert wheel.stat().st_size < 3 << 19


@pytest.mark.tooling
def test_the_wheel_counts_where_nothing_else_is_installed(installed: Path) -> None:
    program = """
import inbound_audit
counter = inbound_audit.PrefixCounter()
counter.add("192.0.2.7")
counter.add("2001:db8::7")
print(counter.count("192.0.2.0/24"), counter.count("2001:db8::/32"), inbound_audit.__file__)
"""
    ipv4, ipv6, file = run(installed / "python", "-I", "-c", program).split()
    assert (ipv4, ipv6) == ("1", "1")
    assert Path(file).is_relative_to(installed.parent)


@pytest.mark.tooling
def test_the_command_without_its_extra_says_what_to_install(installed: Path) -> None:
    done = start(installed / "inbound-audit", "--help")
    assert done.returncode != 0
    assert "inbound-audit[cli]" in done.stderr
    assert "Traceback" not in done.stderr


def test_import_loads_nothing_that_it_does_not_use() -> None:
    program = f"import sys, inbound_audit; print(*sorted(set(sys.modules) & set({NOT_AT_IMPORT!r})))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []
