"""Builds tests/support/inner.pyx in place: python tests/support/build_inner.py

The core is compiled into it as the debug build compiles it: bounds checks, assertions, and each warning is an error.
With INBOUND_AUDIT_SANITIZE=1 it is built under AddressSanitizer and UndefinedBehaviorSanitizer, beside the core of that
build. With the argument `soak` tests/support/soak.pyx is built instead, as fast as the release build.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parents[2]
SANITIZE = os.environ.get("INBOUND_AUDIT_SANITIZE") == "1"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]

# Under sanitizers the compiler takes three times as long with -O1, and the tests hardly less without.
compiled = ["-O0", "-g1", *SANITIZERS] if SANITIZE else ["-O1", "-g"]
inner = Extension(
    "inner",
    sources=["tests/support/inner.pyx"],
    include_dirs=["src"],
    undef_macros=["NDEBUG"],
    extra_compile_args=[*compiled, "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"],
    extra_link_args=SANITIZERS * SANITIZE,
)
soak = Extension(
    "soak",
    sources=["tests/support/soak.pyx"],
    include_dirs=["src"],
    define_macros=[("CYTHON_WITHOUT_ASSERTIONS", "1")],
    extra_compile_args=["-O2", "-g0", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"],
)
directives = {"language_level": 3, "wraparound": False, "cdivision": True}
options = {
    "build": {"build_base": "build/inner"},
    "build_ext": {
        "build_lib": "build/sanitize/lib/tests/support" if SANITIZE else "tests/support",
        "force": True,
        "cython_directives": directives,
        "cython_include_dirs": "src",
        "cython_c_in_temp": True,
    },
}

if __name__ == "__main__":
    os.chdir(ROOT)
    extension = soak if sys.argv[1:] == ["soak"] else inner
    # `src` and `tests` hold pyproject.toml's package; this extension is no part of it.
    sys.argv[1:] = ["--quiet", "--no-user-cfg", "build_ext"]
    options["build"]["build_base"] = f"build/{extension.name}"
    setup(name=extension.name, packages=[], py_modules=[], ext_modules=[extension], options=options)
