"""Builds tests/support/inner.pyx in place: python tests/support/build_inner.py

The core is compiled into it as the debug build compiles it: bounds checks, assertions, and each warning is an error.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parents[2]

inner = Extension(
    "inner",
    sources=["tests/support/inner.pyx"],
    include_dirs=["src"],
    undef_macros=["NDEBUG"],
    extra_compile_args=["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"],
)
directives = {"language_level": 3, "wraparound": False, "cdivision": True}
options = {
    "build": {"build_base": "build/inner"},
    "build_ext": {
        "build_lib": "tests/support",
        "force": True,
        "cython_directives": directives,
        "cython_include_dirs": "src",
        "cython_c_in_temp": True,
    },
}

if __name__ == "__main__":
    os.chdir(ROOT)
    # `src` and `tests` hold pyproject.toml's package; this extension is no part of it.
    sys.argv[1:] = ["--quiet", "--no-user-cfg", "build_ext"]
    setup(name="inner", packages=[], py_modules=[], ext_modules=[inner], options=options)
