"""Values, and what functions make of their arguments.

A variable that was never set is the empty text. Numbers stay numbers until they have to be a text, which nobody can
tell from outside; a hash is handed on as itself, so that two variables may name the same.
"""

from __future__ import annotations

import re
from typing import TypeAlias, Union

from inbound_audit.errors import PolicyError

Scalar: TypeAlias = str | int
Hash: TypeAlias = dict[str, "Value"]
Value: TypeAlias = Union[str, int, list[Scalar], "Hash"]

UNSET = ""
MOST_TEXT = 1 << 16
"""Characters of a text that is put together: a script that doubles one again and again comes to an end."""
MOST_MEMBERS = 1 << 12
"""Members of a list that is put together, for the same reason."""

_NUMBER = re.compile(r"-?[0-9]{1,18}")


def text(value: Value) -> str:
    """A value as ``${name}`` shows it; the members of a list with commas between them. Raises PolicyError for a hash.

    >>> text([1, "two"])
    '1, two'
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        raise PolicyError("a hash is no text")
    return joined(", ".join(map(str, value)))


def joined(made: str) -> str:
    """A text that was put together. Raises PolicyError when it is too long."""
    if len(made) > MOST_TEXT:
        raise PolicyError(f"a text of more than {MOST_TEXT} characters")
    return made


def members(value: Value) -> list[Scalar]:
    """What a comparison goes through: the members of a list, or the one value. Raises PolicyError for a hash."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        raise PolicyError("a hash can't be compared")
    return [value]


def count(value: Value) -> int:
    """How many values there are: members that are not empty (RFC 5229, 5), keys of a hash; none in an empty text."""
    if isinstance(value, dict):
        return len(value)
    return sum(member != "" for member in members(value))


def number(value: Value) -> int:
    """A number, or its digits; the only member of a list, too. Raises PolicyError."""
    if isinstance(value, int):
        return value
    if isinstance(value, list) and len(value) == 1:
        return number(value[0])
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value)
    raise PolicyError(f"{_shown(value)} is no number")


def whole(value: Value) -> int:
    """A number from 0. Raises PolicyError."""
    found = number(value)
    if found < 0:
        raise PolicyError(f"{found} is less than 0")
    return found


def mapping(value: Value) -> Hash:
    """A hash. Raises PolicyError."""
    if not isinstance(value, dict):
        raise PolicyError(f"{_shown(value)} is no hash; hash_create makes one")
    return value


def _shown(value: Value) -> str:
    return "a hash" if isinstance(value, dict) else repr(value)
