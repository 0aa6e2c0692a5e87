"""Where a policy's scripts lie, and what `require` finds. Everything is read as bytes: Lua has no encoding."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from inbound_audit.errors import PolicyError
from inbound_audit.regular_file import read_regular

MAX_BYTES = 1 << 26
"""Bytes of one file of a policy."""

_BYTECODE = b"\x1b"
_BOM = b"\xef\xbb\xbf"
_OUTSIDE = "lies outside of the policy's directory and of those of search (serve --policy-dir)"


class Source(NamedTuple):
    """A script: its text, and the name that Lua puts before the line number of an error (after the ``@``)."""

    text: bytes
    chunkname: bytes


class Sources:
    """The policy's own file, and the directories in which all other files lie that it reads: its own, then `search`.

    Names in errors are relative to the policy's directory: Lua cuts long ones, at the wrong end.
    """

    def __init__(self, path: str | PathLike[str], search: Sequence[str | PathLike[str]] = ()) -> None:
        self.path = Path(path)
        self._directory = self.path.parent
        self._places = [self._directory, *map(Path, search)]
        self.templates = ";".join(f"{place / '?.lua'};{place / '?' / 'init.lua'}" for place in self._places)

    def main(self) -> Source:
        """The policy's own file. Raises PolicyError if it can't be read, or is not source."""
        return self._read(self.path)

    def find(self, module: str, templates: str) -> Source:
        """What ``require(module)`` loads: the first of the ``;``-separated templates that is a file.

        Raises PolicyError that lists where was looked, or names the file that can't be read.
        """
        tried = []
        for template in filter(None, templates.split(";")):
            path = Path(template.replace("?", module.replace(".", "/")))
            if not self._is_inside(path):
                tried.append(f"'{path}' {_OUTSIDE}")
            elif path.is_file():
                return self._read(path)
            else:
                tried.append(f"no file '{path}'")
        raise PolicyError(f"module '{module}' not found: {', '.join(tried) or 'package.path is empty'}")

    def check_list(self, name: str) -> None:
        """Raises PolicyError if an address list of that name lies outside of the directories. O(links on the way).

        Relative names start from the policy's directory.
        """
        path = self._directory / name.removeprefix("file://")
        if not self._is_inside(path):
            raise PolicyError(f"{path}: {_OUTSIDE}")

    def _is_inside(self, path: Path) -> bool:
        """Whether a path lies in one of the directories once ``..`` and all links are followed."""
        try:
            real = path.resolve()
            return any(real.is_relative_to(place.resolve()) for place in self._places)
        except (OSError, RuntimeError, ValueError):  # a loop of links, a NUL in the name
            return False

    def _read(self, path: Path) -> Source:
        text = read_regular(path, MAX_BYTES)[0] or b""
        if text.startswith(_BYTECODE):
            raise PolicyError(f"{path}: is Lua bytecode; a policy must be source")
        return Source(text.removeprefix(_BOM), b"@" + self._name(path).encode("utf-8", "surrogateescape"))

    def _name(self, path: Path) -> str:
        try:
            return str(path.relative_to(self._directory))
        except ValueError:
            return str(path)
