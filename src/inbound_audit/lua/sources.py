"""Where a policy's scripts lie, and what `require` finds. Everything is read as bytes: Lua has no encoding."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from inbound_audit.errors import PolicyError
from inbound_audit.regular_file import Directories, read_regular

MAX_BYTES = 1 << 26
"""Bytes of one file of a policy."""
MAX_TEMPLATES = 100
"""Places of package.path."""
MAX_SEARCHED = 8192
"""Characters of a module's name and of package.path together: all of it is searched in one call."""

_BYTECODE = b"\x1b"
_BOM = b"\xef\xbb\xbf"


class Source(NamedTuple):
    """A script: its text, and the name that Lua puts before the line number of an error (after the ``@``)."""

    text: bytes
    chunkname: bytes


class Sources:
    """The policy's own file, and the modules in its directories.

    Names in errors are relative to the policy's directory: Lua cuts long ones, at the wrong end.
    """

    def __init__(self, path: str | PathLike[str], search: Sequence[str | PathLike[str]] = ()) -> None:
        self.path = Path(path)
        self.directories = Directories(path, search)
        self.templates = ";".join(f"{place / '?.lua'};{place / '?' / 'init.lua'}" for place in self.directories.all)

    def main(self) -> Source:
        """The policy's own file. Raises PolicyError if it can't be read, or is not source."""
        return self._read(self.path)

    def find(self, module: str, templates: str) -> Source:
        """What ``require(module)`` loads: the first of the ``;``-separated templates that is a file.

        Raises PolicyError that lists where was looked, or names the file that can't be read.
        """
        places = [place for place in templates.split(";") if place]
        if len(places) > MAX_TEMPLATES or len(templates) + len(module) * templates.count("?") > MAX_SEARCHED:
            raise PolicyError(f"package.path has at most {MAX_TEMPLATES} places and {MAX_SEARCHED} characters")
        tried = []
        for place in places:
            try:
                path = self.directories.locate(place.replace("?", module.replace(".", "/")))
            except PolicyError as error:
                tried.append(str(error))
                continue
            if _is_file(path):
                return self._read(path)
            tried.append(f"no file '{path}'")
        raise PolicyError(f"module '{module}' not found: {', '.join(tried) or 'package.path is empty'}")

    def _read(self, path: Path) -> Source:
        text = read_regular(path, MAX_BYTES)[0] or b""
        if text.startswith(_BYTECODE):
            raise PolicyError(f"{path}: is Lua bytecode; a policy must be source")
        return Source(text.removeprefix(_BOM), b"@" + self._name(path).encode("utf-8", "surrogateescape"))

    def _name(self, path: Path) -> str:
        try:
            return str(path.absolute().relative_to(self.directories.own))
        except ValueError:
            return str(path)


def _is_file(path: Path) -> bool:
    """Raises PolicyError if that can't be said: `Path.is_file` takes a file that can't be reached for none."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise PolicyError(f"{path}: {error.strerror}") from None
