"""Builds the native targets: libFuzzer programs by clang, or programs that only replay files by any compiler.

The core is compiled into each program as C that touches no Python: the parts of a Cython module that need Python are
never called, so its names may stay undefined.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).parent
NATIVE = HERE / "native"
SOURCE = HERE.parent / "src"

DIRECTIVES = {"language_level": "3", "wraparound": "False", "cdivision": "True"}
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-function", "-Wno-unused-parameter", "-Wno-unused-variable"]
SANITIZERS = "address,undefined"
COMMON = ["-std=gnu11", "-O2", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all"]
COMMON.append("-DCYTHON_WITHOUT_ASSERTIONS=1")  # an assertion of Cython would take the GIL


def names() -> list[str]:
    """The native targets."""
    return sorted(path.stem for path in NATIVE.glob("*.pyx"))


def translate(name: str, out: Path, native: Path, core: Path = SOURCE) -> Path:
    """The C of a target, made by Cython. `core` is the folder that has the core's sources."""
    made = out / f"{name}.c"
    options = [word for item in DIRECTIVES.items() for word in ("-X", "=".join(item))]
    command = [sys.executable, "-m", "cython", *options, "-I", core, "-o", made, native / f"{name}.pyx"]
    subprocess.run(command, check=True)
    return made


def build(name: str, out: Path, *, compiler: str, fuzzer: bool, native: Path = NATIVE) -> Path:
    """The program of a target in the folder `out`. Raises CalledProcessError.

    `fuzzer`: with libFuzzer, which only clang has; else it replays files. `native` holds the sources.
    """
    out.mkdir(parents=True, exist_ok=True)
    program = out / name
    includes = [f"-I{path}" for path in (SOURCE, native, out, sysconfig.get_path("include"))]
    sanitizers = [f"-fsanitize={'fuzzer,' if fuzzer else ''}{SANITIZERS}"] + ([] if fuzzer else ["-DREPLAY"])
    sources = [translate(name, out, native), native / "driver.c", native / "reader.c"]
    command = [compiler, *COMMON, *WARNINGS, *sanitizers, *includes, *sources, "-o", program]
    subprocess.run([*command, "-no-pie", "-Wl,--unresolved-symbols=ignore-all"], check=True)
    return program
