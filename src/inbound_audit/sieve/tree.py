"""The parts of a script, and where it is wrong. Names are in lower case: Sieve ignores the case of names."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias, Union

from inbound_audit.errors import PolicyError


class At(NamedTuple):
    """A place in a script; both count from 1, columns in characters."""

    line: int
    column: int


class ScriptError(PolicyError):
    """A script is wrong, or fails, at a place; the message begins with ``line:column:``."""

    def __init__(self, at: At, message: str) -> None:
        self.at = at
        super().__init__(f"{at.line}:{at.column}: {message}")


class Text(NamedTuple):
    """A text without quotes and escapes. ``${x}`` and ``%{m}`` in it are not expanded yet."""

    at: At
    value: str


class Number(NamedTuple):
    at: At
    value: int | float


class Variable(NamedTuple):
    """``$name``."""

    at: At
    name: str


class Element(NamedTuple):
    """``$name[key]``: of a hash by its key, of a list by its number from 0."""

    at: At
    name: str
    key: Text | Number | Variable


class Items(NamedTuple):
    """``[a, b]``."""

    at: At
    members: tuple[Text | Number | Variable | Element, ...]


class Tag(NamedTuple):
    """``:name``."""

    at: At
    name: str


Value: TypeAlias = Text | Number | Variable | Element | Items


class Call(NamedTuple):
    """A name with its arguments: the head of a command, a test, or a function whose value is assigned."""

    at: At
    name: str
    arguments: tuple[Value | Tag, ...]
    tests: tuple[Call, ...]
    depth: int
    """How deep tests stand in one another, this one included."""


class Command(NamedTuple):
    at: At
    name: str
    call: Call
    block: tuple[Statement, ...] | None
    depth: int
    """How deep tests and blocks stand in it."""


class Assignment(NamedTuple):
    """``$a = value;``, or ``($a, $b) = value;``, which is given a list's members."""

    at: At
    names: tuple[str, ...]
    unpacks: bool
    value: Value | Call
    name: str = "="
    depth: int = 0


# Python 3.10 evaluates this line, and the names in quotes could not be joined by a bar.
Statement: TypeAlias = Union["Command", "Assignment"]
