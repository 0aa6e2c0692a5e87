"""`make tsan` in its short form: threads in the native core at once, under ThreadSanitizer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.support import racing
from tests.support.effort import effort

pytestmark = [pytest.mark.tooling, pytest.mark.timeout(1200)]  # each test compiles the core

CORE = racing.SOURCE / "inbound_audit" / "_core"
STEPS = effort(5000, 20_000)  # of each thread

# A file of the core, a line of it, and what the line becomes: each is a mistake that ThreadSanitizer has to find.
MUTANTS = {
    "a plain store where readers may be": (
        "node.pxd",
        "store8(keys_of(n, v6) + slot, byte)",
        "keys_of(n, v6)[slot] = byte",
    ),
    "a lock that orders nothing": ("bits.h", "(v), __ATOMIC_ACQUIRE)", "(v), __ATOMIC_RELAXED)"),
}


@pytest.fixture(scope="module", autouse=True)
def sanitizer(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where no program can be made that ThreadSanitizer watches."""
    source = tmp_path_factory.mktemp("nothing") / "nothing.c"
    source.write_text("int main(void) { return 0; }\n")
    command = [racing.compiler(), "-fsanitize=thread", source, "-o", source.with_suffix("")]
    if shutil.which(racing.compiler()) is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(f"{racing.compiler()} has no ThreadSanitizer (Debian: apt install libtsan2)")


def test_no_access_races_and_every_sum_is_exact(tmp_path: Path) -> None:
    done = racing.run(racing.build(tmp_path), STEPS, seed=1)
    assert "ThreadSanitizer" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
    assert "every count is the sum of the tallies" in done.stdout


def test_the_lanes_of_a_gate_do_not_race(tmp_path: Path) -> None:
    done = racing.run(racing.build(tmp_path, name="gate_races"), STEPS // 5, seed=1)
    assert "ThreadSanitizer" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
    assert "each has one end" in done.stdout


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mistake_is_reported(tmp_path: Path, name: str) -> None:
    room, line, mistake = MUTANTS[name]
    source = (CORE / room).read_text()
    assert source.count(line) == 1
    shutil.copytree(racing.SOURCE, tmp_path / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (tmp_path / "src" / "inbound_audit" / "_core" / room).write_text(source.replace(line, mistake))
    done = racing.run(racing.build(tmp_path / "out", tmp_path / "src"), STEPS, seed=1)
    assert done.returncode != 0
    assert "WARNING: ThreadSanitizer: data race" in done.stderr
