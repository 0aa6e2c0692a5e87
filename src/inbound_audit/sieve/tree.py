"""The parts of a script. Names are in lower case: Sieve ignores the case of names."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias, Union

from inbound_audit.sieve.faults import At


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


class Block(NamedTuple):
    statements: tuple[Statement, ...]
    depth: int


class Command(NamedTuple):
    call: Call
    block: Block | None

    @property
    def at(self) -> At:
        return self.call.at

    @property
    def name(self) -> str:
        return self.call.name


class Assignment(NamedTuple):
    """``$a = value;``, or ``($a, $b) = value;``, which is given a list's members."""

    at: At
    names: tuple[str, ...]
    unpacks: bool
    value: Value | Call

    @property
    def name(self) -> str:
        """That of no command."""
        return "="


# Python 3.10 evaluates this line, and the names in quotes could not be joined by a bar.
Statement: TypeAlias = Union["Command", "Assignment"]
