"""Builds tests/support/races.pyx and gate_races.pyx as programs under ThreadSanitizer, and runs them.

    python -m tests.support.racing STEPS [SEED]

The core is compiled into it as C that touches no Python, as into the fuzz targets (fuzz/build.py).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from fuzz.build import SOURCE, WARNINGS, translate

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "build" / "tsan"

OPTIONS = ["-std=gnu11", "-O1", "-g", "-pthread", "-D_GNU_SOURCE", "-DCYTHON_WITHOUT_ASSERTIONS=1"]
# gcc warns of each fence that ThreadSanitizer does not know it: no access of the core relies on one (room `bits`).
SANITIZER = ["-fsanitize=thread", "-Wno-tsan", "-include", HERE / "races.h"]
LINKING = ["-no-pie", "-Wl,--unresolved-symbols=ignore-all"]


def compiler() -> str:
    return os.environ.get("CC") or "gcc"


def build(out: Path = OUT, core: Path = SOURCE, name: str = "races") -> Path:
    """The program of that name. `core` is the folder that has the core's sources. Raises CalledProcessError."""
    out.mkdir(parents=True, exist_ok=True)
    program = out / name
    source = translate(name, out, HERE, core)
    includes = [f"-I{path}" for path in (core, HERE, sysconfig.get_path("include"))]
    subprocess.run(
        [compiler(), *OPTIONS, *SANITIZER, *WARNINGS, *includes, source, "-o", program, *LINKING], check=True
    )
    return program


def fixed_addresses() -> list[str]:
    """What starts a program whose addresses are not drawn, where the system permits it: older ThreadSanitizers end at
    addresses that they do not expect."""
    command = ["setarch", platform.machine(), "-R"]
    if (
        shutil.which("setarch") is None
        or subprocess.run([*command, "true"], capture_output=True, check=False).returncode
    ):
        return []
    return command


def run(program: Path, steps: int, seed: int) -> subprocess.CompletedProcess[str]:
    """One run. The exit status is not 0 if ThreadSanitizer reports something (in `stderr`), or a sum is wrong.
    The first report ends the run; TSAN_OPTIONS=halt_on_error=0 shows all."""
    command = [*fixed_addresses(), str(program), str(steps), str(seed)]
    environment = {"TSAN_OPTIONS": "halt_on_error=1", **os.environ}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def main(steps: int, seed: int) -> int:
    status = 0
    for name, times in (("races", 1), ("gate_races", 10)):
        done = run(build(name=name), steps // times, seed)  # a connection takes longer than a step
        print(done.stderr, done.stdout, sep="", end="")
        status = status or done.returncode
    return status


if __name__ == "__main__":
    sys.exit(main(int(float(sys.argv[1])), int(sys.argv[2]) if len(sys.argv) > 2 else 1))
