"""Runs the models in docs/model/ by Spin: each to its end without an error, and each mutant to an error.

    python tools/models.py              the whole models: some minutes
    python tools/models.py --quick      smaller ones, as the tests run them
    python tools/models.py fork         one model

A model is a file NAME.pml. A comment ``quick: -DX=1`` in it says how the smaller form is made, and ``checker: -DX`` how
the checker is compiled for it. ``#ifdef MUTANT_X`` makes a mutant. A step has a name in a comment ``step: NAME/STEP``;
code that does it says ``model: NAME/STEP``.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "docs" / "model"
MAX_MEMORY_MB = 8192
COMPILER = ("gcc", "-w", "-DSAFETY", "-DCOLLAPSE", f"-DMEMLIM={MAX_MEMORY_MB}")


class Result(NamedTuple):
    """`complete`: each state was visited. `seconds`: of processor time. `output`: what the checker wrote."""

    errors: int
    states: int
    megabytes: float
    seconds: float
    complete: bool
    output: str


def names() -> list[str]:
    return sorted(path.stem for path in MODELS.glob("*.pml"))


def source(name: str) -> str:
    return (MODELS / f"{name}.pml").read_text()


def mutants(name: str) -> list[str]:
    return sorted(set(re.findall(r"\bMUTANT_\w+", source(name))))


def steps(name: str) -> set[str]:
    return set(re.findall(rf"step: ({name}/[a-z_]+)", source(name)))


def quick_defines(name: str) -> list[str]:
    return _options(name, "quick")


def _options(name: str, kind: str) -> list[str]:
    found = re.search(rf"{kind}: ((?:-D\w+(?:=\d+)? ?)+)", source(name))
    return found[1].split() if found else []


def steps_in_code() -> set[str]:
    """What the comments of the code name: ``model: NAME/STEP, NAME/STEP``."""
    found: set[str] = set()
    for path in sorted((ROOT / "src").rglob("*")):
        if path.suffix in {".py", ".pyx", ".pxd", ".pxi", ".h"}:
            for line in re.findall(r"\bmodel: ((?:[a-z]+/[a-z_]+(?:, )?)+)", path.read_text()):
                found.update(line.split(", "))
    return found


def explore(name: str, *defines: str) -> Result:
    """Visits all states of a model, or those up to the first error. Raises CalledProcessError for a broken model."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, f"{name}.pml")
        model.write_text(source(name))
        _run(["spin", "-a", *defines, model.name], folder)
        speed = "-O0" if defines else "-O2"  # the compiler takes longer than a smaller form or a mutant
        _run([*COMPILER, speed, *_options(name, "checker"), "-o", "pan", "pan.c"], folder)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        output = _run(["./pan", "-m1000000"], folder)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    errors, states = re.search(r"errors: (\d+)", output), re.search(r"([\d.e+]+) states, stored", output)
    memory = re.search(r"([\d.]+)\s+total actual memory usage", output)
    if errors is None or states is None or memory is None:
        raise RuntimeError(f"{name}: the checker did not say what it found:\n{output}")
    complete = not re.search("not completed|too small|max search depth|out of memory|pan: reached", output)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Result(int(errors[1]), int(float(states[1])), float(memory[1]), seconds, complete, output)


def _run(command: list[str], folder: str) -> str:
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs the models in docs/model/.")
    parser.add_argument("--quick", action="store_true", help="run the smaller form of each model")
    parser.add_argument("names", nargs="*", default=names())
    arguments = parser.parse_args()
    good = True
    for name in arguments.names:
        defines = quick_defines(name) if arguments.quick else []
        result = explore(name, *defines)
        sound = result.errors == 0 and result.complete
        good = good and sound
        size = f"{result.states:,} states, {result.megabytes:,.0f} MB, {result.seconds:,.0f} s"
        print(f"{name}: {size}, {'no error' if sound else 'FAILED'}", flush=True)
        if not sound:
            print(result.output)
        for mutant in mutants(name):
            caught = explore(name, *quick_defines(name), f"-D{mutant}").errors > 0
            good = good and caught
            print(f"{name}: {mutant}: {'caught' if caught else 'NOT CAUGHT'}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
