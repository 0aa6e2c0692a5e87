"""Where a policy's scripts lie, and what `require` finds. Everything is read as bytes: Lua has no encoding."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from inbound_audit.errors import PolicyError

_BYTECODE = b"\x1b"
_BOM = b"\xef\xbb\xbf"


class Source(NamedTuple):
    """A script: its text, and the name that Lua puts before the line number of an error (after the ``@``)."""

    text: bytes
    chunkname: bytes


class Sources:
    """The policy's own file and the places where the modules that it requires are looked for: beside it, then `search`.

    Names in errors are relative to the policy's directory: Lua cuts long ones, at the wrong end.
    """

    def __init__(self, path: str | PathLike[str], search: Sequence[str | PathLike[str]] = ()) -> None:
        self.path = Path(path)
        self._directory = self.path.parent
        places = [self._directory, *map(Path, search)]
        self.templates = ";".join(f"{place / '?.lua'};{place / '?' / 'init.lua'}" for place in places)

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
            if path.is_file():
                return self._read(path)
            tried.append(f"no file '{path}'")
        raise PolicyError(f"module '{module}' not found: {', '.join(tried) or 'package.path is empty'}")

    def _read(self, path: Path) -> Source:
        try:
            if path.exists() and not path.is_file():
                raise PolicyError(f"{path}: is no regular file")
            text = path.read_bytes()
        except OSError as error:
            raise PolicyError(f"{path}: {error.strerror or error}") from None
        if text.startswith(_BYTECODE):
            raise PolicyError(f"{path}: is Lua bytecode; a policy must be source")
        return Source(text.removeprefix(_BOM), b"@" + self._name(path).encode("utf-8", "surrogateescape"))

    def _name(self, path: Path) -> str:
        try:
            return str(path.relative_to(self._directory))
        except ValueError:
            return str(path)
