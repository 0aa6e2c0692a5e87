"""Builds the floor with the switches of the core, into .bench/, and loads it from there."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from types import ModuleType

from benchmarks.scale import OUT

_SOURCE = Path(__file__).with_suffix(".pyx")
_BUILT = OUT / ("floor" + sysconfig.get_config_var("EXT_SUFFIX"))


def _build() -> None:
    """Imported here: only who measures needs a compiler."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    extension = Extension("floor", [str(_SOURCE)], extra_compile_args=["-O3", "-fvisibility=hidden"])
    directives = {"language_level": 3, "binding": False, "cdivision": True, "wraparound": False}
    modules = cythonize([extension], build_dir=str(OUT / "build"), compiler_directives=directives, quiet=True)
    command = Distribution({"ext_modules": modules}).get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(OUT), str(OUT / "build")
    command.ensure_finalized()
    command.run()


def load_floor() -> ModuleType:
    """The module with the class `Floor`, compiled if it is not there or older than its source."""
    OUT.mkdir(exist_ok=True)
    if not _BUILT.exists() or _BUILT.stat().st_mtime < _SOURCE.stat().st_mtime:
        _build()
    spec = importlib.util.spec_from_file_location("floor", _BUILT)
    if spec is None or spec.loader is None:
        raise ImportError(f"{_BUILT.name} is no extension module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
