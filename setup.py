"""Builds the native core; everything else about the package stands in pyproject.toml.

Two environment variables change what is compiled and nothing else:

    INBOUND_AUDIT_DEBUG=1     bounds checks and assertions on, -O1 -g, and each compiler warning is an error
    INBOUND_AUDIT_SANITIZE=1  the same under AddressSanitizer and UndefinedBehaviorSanitizer

Each variant has its own build directory, so that no variant reuses an object file of another.
"""

import os
import sys
from glob import glob

from setuptools import Extension, setup

SANITIZE = os.environ.get("INBOUND_AUDIT_SANITIZE") == "1"
DEBUG = SANITIZE or os.environ.get("INBOUND_AUDIT_DEBUG") == "1"
VARIANT = "sanitize" if SANITIZE else "debug" if DEBUG else "release"

WARNINGS = ["-Wall", "-Wextra", "-Werror"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]

# The core is one unit. By default GCC lets a unit grow by 40 %, and then calls what a count could have inlined: see
# `make bench-instructions`. CPython's own flags say -g.
RELEASE = ["-O3", "-g0", "--param=inline-unit-growth=100"]
compile_args = ["-O1", "-g", *WARNINGS] if DEBUG else RELEASE
link_args = SANITIZERS * SANITIZE
if not DEBUG and sys.platform == "linux":
    link_args.append("-Wl,-s")  # without the names of local symbols the library is half as large

core = Extension(
    "inbound_audit._ipcount",
    sources=["src/_ipcount.pyx"],
    include_dirs=["src"],  # the core's headers are included as "inbound_audit/_core/bits.h"
    # A room is inlined where it is cimported: without these a changed .pxd would leave the old binary in place.
    depends=["setup.py", *glob("src/inbound_audit/_*/*.px[di]"), *glob("src/inbound_audit/_*/*.h")],
    # Cython's assert would take the GIL inside `nogil` code; outside the debug build it is not even compiled.
    define_macros=[] if DEBUG else [("CYTHON_WITHOUT_ASSERTIONS", "1")],
    undef_macros=["NDEBUG"] if DEBUG else [],
    extra_compile_args=[*compile_args, "-fvisibility=hidden", *SANITIZERS * SANITIZE],
    extra_link_args=link_args,
)

directives = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "initializedcheck": DEBUG,
    "wraparound": False,  # handles and slots are unsigned: an index below zero is a bug, not the last item
    "cdivision": True,
    "binding": False,  # methods stay C method descriptors: a third of the price of a call
    "embedsignature": True,
    "embedsignature.format": "clinic",  # so that inspect.signature, help() and stubtest see the signatures
    "auto_pickle": False,  # a tree is an address range of this process; stubtest also trips over the helpers
    "autotestdict": False,
    "freethreading_compatible": True,  # each class says in its lock rule what protects it
}

build_ext = {"cython_directives": directives, "cython_include_dirs": "src", "cython_c_in_temp": True}
setup(ext_modules=[core], options={"build": {"build_base": f"build/{VARIANT}"}, "build_ext": build_ext})
