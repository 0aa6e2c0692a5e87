"""Griffe extension: the reference is made of the docstrings that `help()` shows.

The stub of the native core has the types, and the built core has the docstrings: they stand once, in the .pxi files.
Examples in docstrings become blocks of code.
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from typing import Any

import griffe

NATIVE = "inbound_audit._ipcount"
EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)  # up to the next empty line


def native_docstring(path: str) -> str | None:
    """The docstring of what the core has under a path such as ``inbound_audit._ipcount.Session.close``."""
    found: Any = import_module(NATIVE)
    for name in path.removeprefix(NATIVE).lstrip(".").split("."):
        found = getattr(found, name, None)
    documented = inspect.isroutine(found) or inspect.isclass(found) or inspect.isgetsetdescriptor(found)
    return inspect.getdoc(found) if documented else None


class Docstrings(griffe.Extension):
    """Fills in docstrings of native objects, and fences the examples of all."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is None and obj.path.startswith(f"{NATIVE}."):
            text = native_docstring(obj.path)
            obj.docstring = griffe.Docstring(text, parent=obj) if text else None
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(lambda example: f"```pycon\n{example.group()}\n```", obj.docstring.value)
