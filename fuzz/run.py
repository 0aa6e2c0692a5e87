"""Runs the fuzz targets: python -m fuzz.run [--seconds S] [--seed N] [--at-once N] [TARGET...]

The native targets are built with clang; without it, or without atheris, their targets are left out, and a line says
why. Each target begins with its corpus. A line for each target says how many executions it made. The exit status is 1
if a target has found something: the input lies in build/fuzz/findings, and its path and the last lines are printed.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from fuzz import build

HERE = Path(__file__).parent
OUT = HERE.parent / "build" / "fuzz"
FINDINGS = OUT / "findings"
SUPPORT = {"__init__", "smtp_server"}
"""Files beside the Python targets that are no targets."""

MAX_LENGTHS = {"trie": 384, "tree_bytes": 2048, "tree_walks": 2048, "c_reader": 2600, "snapshots": 1024}
"""Bytes of an input, where it is not DEFAULT_MAX_LENGTH."""
DEFAULT_MAX_LENGTH = 512

OPTIONS = ["-timeout=30", "-rss_limit_mb=2048", "-print_final_stats=1"]
"""The time is that of the clock on the wall; the drivers themselves end what takes a second of processor time."""

GRACE_S = 180
_EXECUTIONS = re.compile(r"^(?:stat::number_of_executed_units: |Done )(\d+)", re.MULTILINE)
_SHOWN_LINES = 25


class Result(NamedTuple):
    """What became of a target. `found`: the files of inputs that it has found."""

    executions: int
    seconds: float
    failed: bool
    found: list[Path]
    output: str


def python_names() -> list[str]:
    """The Python targets."""
    return sorted(path.stem for path in (HERE / "python").glob("*.py") if path.stem not in SUPPORT)


def names() -> list[str]:
    return [*build.names(), *python_names()]


def missing(name: str) -> str | None:
    """Why a target can't run here."""
    if name in build.names():
        return None if shutil.which("clang") else "there is no clang"
    return None if find_spec("atheris") else "there is no atheris for this Python"


def command_of(name: str) -> list[str]:
    """The program of a target, which is built if it is native. Raises CalledProcessError."""
    if name in build.names():
        return [str(build.build(name, OUT, compiler="clang", fuzzer=True))]
    return [sys.executable, "-m", "fuzz.python_target", name]


def run(name: str, seconds: int, seed: int) -> Result:
    """Runs one target for so many seconds, from its corpus and from what earlier runs have found interesting.

    The inputs are drawn from `seed`; 0: from another one each time.
    """
    began = time.monotonic()
    learned, before = OUT / "learned" / name, set(FINDINGS.glob(f"{name}-*"))
    learned.mkdir(parents=True, exist_ok=True)
    FINDINGS.mkdir(parents=True, exist_ok=True)
    length = f"-max_len={MAX_LENGTHS.get(name, DEFAULT_MAX_LENGTH)}"
    where = [f"-artifact_prefix={FINDINGS / name}-", str(learned), str(HERE / "corpus" / name)]
    command = [*command_of(name), f"-max_total_time={seconds}", f"-seed={seed}", length, *OPTIONS, *where]
    environment = {**os.environ, "PYTHONHASHSEED": str(seed) if seed else "random"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds + GRACE_S,
            check=False,
        )
        output, failed = done.stdout.decode("utf-8", "replace"), done.returncode != 0
    except subprocess.TimeoutExpired as error:
        output, failed = (error.stdout or b"").decode("utf-8", "replace") + "\ndoes not end", True
    found = sorted(set(FINDINGS.glob(f"{name}-*")) - before)
    executions = max(map(int, _EXECUTIONS.findall(output)), default=0)
    return Result(executions, time.monotonic() - began, failed, found, output)


def line_of(name: str, result: Result) -> str:
    rate = result.executions / result.seconds if result.seconds else 0.0
    state = "FAILED" if result.failed else "ok"
    return f"{name:16} {state:6} {result.executions:14,} executions in {result.seconds:4.0f} s, {rate:9,.0f}/s"


def report(name: str, seconds: int, seed: int, say: Callable[[str], object]) -> bool:
    """Runs a target and says what became of it. Returns whether it has found something."""
    why = missing(name)
    if why is not None:
        say(f"{name:16} skipped: {why}")
        return False
    try:
        result = run(name, seconds, seed)
    except subprocess.CalledProcessError as error:
        say(f"{name:16} FAILED: {error}")
        return True
    say(line_of(name, result))
    if result.failed:
        say("\n".join(result.output.splitlines()[-_SHOWN_LINES:]))
        for path in result.found:
            say(f"the input: {path}")
    return result.failed


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs the fuzz targets.")
    parser.add_argument("--seconds", type=int, default=60, help="seconds for each target")
    parser.add_argument("--seed", type=int, default=0, help="the inputs are drawn from it; 0: another one each time")
    parser.add_argument("--at-once", type=int, default=2, help="targets that run at once")
    parser.add_argument("target", nargs="*", help=f"the targets, all by default: {', '.join(names())}")
    options = parser.parse_args()
    wanted = options.target or names()
    if unknown := sorted(set(wanted) - set(names())):
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(names())}")
    say = functools.partial(print, flush=True)
    with ThreadPoolExecutor(options.at_once) as pool:
        failed = list(pool.map(lambda name: report(name, options.seconds, options.seed, say), wanted))
    print(f"{len(wanted)} targets, {sum(failed)} with a finding")
    return 1 if any(failed) else 0


if __name__ == "__main__":
    sys.exit(main())
