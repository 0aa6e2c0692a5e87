"""Values, and what functions make of their arguments.

A variable that was never set is the empty text. Numbers become texts only where a text is
needed. A hash is passed by reference, so two variables may name the same one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias, Union

from inbound_audit.errors import PolicyError

Scalar: TypeAlias = str | int | float
Hash: TypeAlias = dict[str, "Value"]
Value: TypeAlias = Union[str, int, float, list[Scalar], "Hash"]

UNSET = ""
MAX_TEXT = 1 << 16
"""Characters of a text that is put together: a script that doubles one again and again comes to an end."""
MAX_MEMBERS = 1 << 12
"""Members of a list that is put together, for the same reason."""

_NUMBER = re.compile(r"(-?[0-9]{1,18})(\.[0-9]{1,18})?")


def text(value: Value) -> str:
    """A value as ``${name}`` shows it; the members of a list with commas between them. Raises PolicyError for a hash.

    A number with a fraction has six digits after the point, as in the reference.

    >>> text([1, "two", 0.5])
    '1, two, 0.500000'
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.6f}"
    if isinstance(value, dict):
        raise PolicyError("a hash can't become a text")
    return joined(", ", value)


def joined(between: str, parts: Iterable[Scalar]) -> str:
    """The texts of parts, put together. Raises PolicyError when the whole would be too long, before it is made."""
    texts = list(map(text, parts))
    if sum(map(len, texts)) + len(between) * max(len(texts) - 1, 0) > MAX_TEXT:
        raise PolicyError(f"a text of more than {MAX_TEXT} characters")
    return between.join(texts)


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


def real(value: Value) -> int | float:
    """A number, or its digits; the only member of a list, too. Raises PolicyError."""
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, list) and len(value) == 1:
        return real(value[0])
    if isinstance(value, str) and (found := _NUMBER.fullmatch(value)):
        return float(value) if found[2] else int(value)
    raise PolicyError(f"{_shown(value)} is not a number")


def number(value: Value) -> int:
    """A number without a fraction: ``3``, or ``3.000000`` as the result of a calculation. Raises PolicyError."""
    found = real(value)
    if found != int(found):
        raise PolicyError(f"{_shown(value)} has a fraction; ec_floor, ec_ceil and ec_round make a whole number of it")
    return int(found)


def whole(value: Value) -> int:
    """A number from 0. Raises PolicyError."""
    found = number(value)
    if found < 0:
        raise PolicyError(f"{found} is less than 0")
    return found


def mapping(value: Value) -> Hash:
    """A hash. Raises PolicyError."""
    if not isinstance(value, dict):
        raise PolicyError(f"{_shown(value)} is not a hash; hash_create makes one")
    return value


def _shown(value: Value) -> str:
    return "a hash" if isinstance(value, dict) else repr(value)
