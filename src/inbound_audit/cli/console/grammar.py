"""The grammar of a console's commands: each command's usage line is its syntax.

Words in lower case stand for themselves, words in capitals for values (`values`), and what is in brackets may be left
out; such parts stand at the end of a line, in any order. ``inbound_audit`` may be left out before the commands that
begin with it: no two commands are the same without it.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from inbound_audit.cli.console.values import VALUES

PREFIX = "inbound_audit"

_ITEM = re.compile(r"\[([^\[\]]+)\]|(\S+)")


class WrongSyntax(ValueError):
    """A line that is no command. `usage`: the lines that it could have been meant as."""

    def __init__(self, text: str, usage: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.usage = tuple(usage)

    def __str__(self) -> str:
        """All in one line."""
        return super().__str__() + (f" (usage: {' | '.join(self.usage)})" if self.usage else "")


class Syntax(NamedTuple):
    """The form of a command: items that must be there, then groups of which each may be."""

    usage: str
    items: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]

    @property
    def words(self) -> tuple[str, ...]:
        """What it begins with."""
        values = [at for at, item in enumerate(self.items) if is_value(item)]
        return self.items[: values[0]] if values else self.items


class Read(NamedTuple):
    """How far a line was read as a command: its values, and what could come next (words and names of values)."""

    values: dict[str, Any]
    expected: tuple[str, ...]
    complete: bool


def syntax(usage: str) -> Syntax:
    """The syntax that a usage line says."""
    items: list[str] = []
    groups: list[tuple[str, ...]] = []
    for group, item in _ITEM.findall(usage.replace("[/MASK]", "<MASK>")):
        if group:
            groups.append(tuple(group.split()))
        else:
            items.append(item.replace("<MASK>", "[/MASK]"))
    return Syntax(usage, tuple(items), tuple(groups))


def is_value(item: str) -> bool:
    return item in VALUES


def split(line: str) -> list[str]:
    """The words of a line, as a shell would see them. Raises WrongSyntax."""
    try:
        return shlex.split(line)
    except ValueError:
        raise WrongSyntax("a quotation mark has no other") from None


def bare(words: Sequence[str]) -> Sequence[str]:
    """Without the prefix that may be left out."""
    return words[1:] if words and words[0].lower() == PREFIX else words


# ---- which command it is


def choose(words: Sequence[str], syntaxes: Iterable[Syntax]) -> Syntax:
    """The syntax that begins as the words do. Raises WrongSyntax with what was expected in the place of the first word
    that no command has there."""
    left = [(bare(one.words), one) for one in syntaxes]
    words = bare(words)
    for at in range(max(len(start) for start, _ in left) + 1):
        whole = [one for start, one in left if len(start) == at]
        if len(left) == 1 and whole:
            return whole[0]
        known = sorted({start[at] for start, _ in left if len(start) > at})
        if at == len(words):
            if whole:
                return whole[0]
            raise WrongSyntax(_missing(words, known), usage_of(one for _, one in left) if at else ())
        matching = [(start, one) for start, one in left if len(start) > at and start[at] == words[at].lower()]
        if not matching:
            if whole:
                return whole[0]
            raise WrongSyntax(_unknown(words, at, known), usage_of(one for _, one in left) if at else ())
        left = matching
    raise AssertionError(words)


def usage_of(syntaxes: Iterable[Syntax]) -> list[str]:
    return [one.usage for one in syntaxes]


def _missing(words: Sequence[str], known: Sequence[str]) -> str:
    after = f" after {words[-1]!r}" if words else ""
    return f"{_one_of(known)} is missing{after}"


def _unknown(words: Sequence[str], at: int, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(words[at].lower(), known, 1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    if at == 0:
        return f"{words[0]!r} is no command{hint or '; help lists all'}"
    return f"{words[at]!r}: {_one_of(known)} is expected after {words[at - 1]!r}{hint}"


def _one_of(known: Sequence[str]) -> str:
    quoted = [repr(word) for word in known]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


# ---- its values


def read(one: Syntax, words: Sequence[str]) -> Read:
    """Reads the words of a line as that command. Raises WrongSyntax where they can't be."""
    start = bare(one.words)
    words = list(bare(words))
    at = len(start)
    values: dict[str, Any] = {}
    for item in one.items[len(one.words) :]:
        if at >= len(words):
            return Read(values, (item,), False)
        at = _read_item(one, item, words, at, values)
    left = list(one.groups)
    while at < len(words):
        group = _group(one, left, words, at)
        left.remove(group)
        for item in group:
            if at >= len(words):
                return Read(values, (item,), False)
            at = _read_item(one, item, words, at, values)
    return Read(values, tuple(group[0] for group in left), True)


def _read_item(one: Syntax, item: str, words: Sequence[str], at: int, values: dict[str, Any]) -> int:
    """Where the next item begins."""
    if not is_value(item):
        if words[at].lower() != item:
            raise WrongSyntax(f"{words[at]!r}: {item!r} is expected after {words[at - 1]!r}", [one.usage])
        return at + 1
    value = VALUES[item]
    # As many words as make sense together: a date may have three.
    reasons: dict[str, str] = {}
    for size in range(min(value.words, len(words) - at), 0, -1):
        text = " ".join(words[at : at + size])
        try:
            values[item] = value.read(text)
            return at + size
        except ValueError as error:
            reasons.setdefault(str(error), text)
    why, text = next(iter(reasons.items())) if len(reasons) > 1 else (next(iter(reasons)), words[at])
    why = why if why.startswith(repr(text)) else f"{text!r}: {why}"
    raise WrongSyntax(f"{item}: {why}", [one.usage])


def _group(one: Syntax, left: Sequence[tuple[str, ...]], words: Sequence[str], at: int) -> tuple[str, ...]:
    """The group that begins with the next word."""
    for group in left:
        if group[0] == words[at].lower():
            return group
    known = [group[0] for group in left]
    for group in left:
        if is_value(group[0]) and (len(left) == 1 or _is_one(group[0], words[at])):
            return group
    if not known:
        raise WrongSyntax(f"{words[at]!r} is one word too many", [one.usage])
    nearest = difflib.get_close_matches(words[at].lower(), known, 1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise WrongSyntax(f"{words[at]!r}: {_one_of(known)} could follow {words[at - 1]!r}{hint}", [one.usage])


def _is_one(item: str, word: str) -> bool:
    try:
        VALUES[item].read(word)
    except ValueError:
        return False
    return True


def parse(words: Sequence[str], syntaxes: Iterable[Syntax]) -> tuple[Syntax, dict[str, Any]]:
    """The command that a line is, and its values. Raises WrongSyntax with what was expected."""
    one = choose(words, syntaxes)
    found = read(one, words)
    if not found.complete:
        item = found.expected[0]
        what = f"{item} ({VALUES[item].example})" if is_value(item) else repr(item)
        raise WrongSyntax(f"{what} is missing after {words[-1]!r}", [one.usage])
    return one, found.values


def expected(words: Sequence[str], syntaxes: Iterable[Syntax]) -> list[tuple[Syntax, str, dict[str, Any]]]:
    """What could follow these words: a word or the name of a value, for each command, and the values so far."""
    found: list[tuple[Syntax, str, dict[str, Any]]] = []
    for one in syntaxes:
        for start in dict.fromkeys((one.words, tuple(bare(one.words)))):
            lower = tuple(word.lower() for word in words[: len(start)])
            if len(words) < len(start) and start[: len(words)] == lower:
                found.append((one, start[len(words)], {}))
            elif len(words) >= len(start) and lower == start:
                try:
                    so_far = read(one, words)
                except WrongSyntax:
                    continue
                found += [(one, item, so_far.values) for item in so_far.expected]
    return found
