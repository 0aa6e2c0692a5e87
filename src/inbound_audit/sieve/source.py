"""A script's file as text: UTF-8, with or without a byte order mark, with line ends of either kind."""

from __future__ import annotations

from pathlib import Path

from inbound_audit.errors import PolicyError
from inbound_audit.sieve.faults import At, ScriptError

MAX_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"


def read(path: Path) -> str:
    """The text of a script; its lines end with a line feed.

    Raises PolicyError when the file is missing, not a regular file, unreadable or larger than `MAX_BYTES`, and
    ScriptError where it is not UTF-8 or has a NUL, which Sieve does not allow (RFC 5228, 2.1).
    """
    try:
        if path.exists() and not path.is_file():
            raise PolicyError(f"{path}: is not a regular file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PolicyError(f"{path}: {error.strerror or error}") from None
    if len(raw) > MAX_BYTES:
        raise PolicyError(f"{path}: is larger than {MAX_BYTES} bytes")
    return decode(raw)


def decode(raw: bytes) -> str:
    """Raises ScriptError."""
    raw = raw.removeprefix(_BOM)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ScriptError(_place(raw[: error.start].decode("utf-8")), "is not UTF-8") from None
    if "\0" in text:
        raise ScriptError(_place(text[: text.index("\0")]), "a NUL character")
    return text.replace("\r\n", "\n")


def _place(before: str) -> At:
    """Where the character stands that comes after `before`."""
    return At(before.count("\n") + 1, len(before) - before.rfind("\n"))
