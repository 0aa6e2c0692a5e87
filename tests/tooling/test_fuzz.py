"""The fuzz targets over their corpora, and the native ones over drawn inputs: without a fuzzer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import build, run
from tests.support.effort import effort

pytestmark = pytest.mark.tooling

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "fuzz" / "corpus"
MAX_CORPUS_BYTES = 300_000


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The native targets as programs that replay files, made on first use."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler")
    out = tmp_path_factory.mktemp("native")
    return {name: build.build(name, out, compiler=compiler, fuzzer=False) for name in build.names()}


def executions(command: list[object]) -> int:
    """Runs a target to its end, which has to be a good one, and returns how many inputs it had."""
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    done = subprocess.run(
        [str(word) for word in command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[0])


@pytest.mark.parametrize("name", build.names())
def test_a_native_target_over_its_corpus(program: dict[str, Path], name: str) -> None:
    files = sorted((CORPUS / name).iterdir())
    assert executions([program[name], *files]) == len(files) > 0


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("address", effort(100_000, 2_000_000)),  # against inet_pton and inet_ntop
        ("arguments", effort(100_000, 1_000_000)),
        ("trie", effort(5_000, 40_000)),  # of 43 steps each, against a model
        ("tree_bytes", effort(1_000, 20_000)),  # forged bytes under the readers and the writer
        ("tree_walks", effort(200, 2_000)),
        ("records", effort(20_000, 200_000)),
        ("c_reader", effort(1_000, 20_000)),
        ("forward_header", effort(50_000, 500_000)),
    ],
)
def test_a_native_target_over_drawn_inputs(program: dict[str, Path], name: str, inputs: int) -> None:
    assert executions([program[name], "--random", 1, inputs]) == inputs


@pytest.mark.parametrize("name", run.python_names())
def test_a_python_target_over_its_corpus(name: str) -> None:
    command: list[object] = [sys.executable, "-W", "error", "-m", "fuzz.python_target", name, "--replay"]
    assert executions(command) == len(list((CORPUS / name).iterdir())) > 0


def test_each_corpus_belongs_to_a_target_and_is_small() -> None:
    assert sorted(folder.name for folder in CORPUS.iterdir()) == sorted(run.names())
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) <= MAX_CORPUS_BYTES


def test_a_property_that_does_not_hold_ends_a_native_target(tmp_path: Path, program: dict[str, Path]) -> None:
    """The model and the tree differ by one step: the target says so."""
    source = (ROOT / "fuzz" / "native" / "trie.pyx").read_text()
    wrong = source.replace("model[i] += n if code == codes.OK else 0", "model[i] += n + 1 if code == codes.OK else 0")
    assert wrong != source
    name = "trie"
    folder = tmp_path / "native"
    shutil.copytree(ROOT / "fuzz" / "native", folder)
    (folder / "trie.pyx").write_text(wrong)
    broken = build.build(name, tmp_path, compiler="gcc", fuzzer=False, native=folder)
    done = subprocess.run([broken, "--random", "1", "100"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "FAILED: " in done.stderr
