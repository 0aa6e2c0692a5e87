"""Functions of texts and lists: ``split``, ``join``, ``reverse``, ``ec_tolower``, ``ec_pcre_match``."""

from __future__ import annotations

from inbound_audit.errors import PolicyError
from inbound_audit.policy.patterns import regex
from inbound_audit.sieve.functions import Function, Parameter
from inbound_audit.sieve.run import Run
from inbound_audit.sieve.values import MAX_MEMBERS, Scalar, Value, joined, members, text


def delimiter(value: Value) -> str:
    """Reads a text between members. Raises PolicyError for the empty one, which would be everywhere."""
    found = text(value)
    if not found:
        raise PolicyError("a delimiter is a text of one character or more")
    return found


def split(run: Run, by: str, whole: str) -> Value:
    """The members of a text; O(text)."""
    if whole.count(by) >= MAX_MEMBERS:
        raise PolicyError(f"a list of more than {MAX_MEMBERS} members")
    found: list[Scalar] = [*whole.split(by)]
    return found


def join(run: Run, by: str, found: list[Scalar]) -> Value:
    return joined(by.join(map(text, found)))


def reverse(run: Run, value: Value) -> Value:
    """A list from its last member to its first, a text from its last character to its first."""
    return value[::-1] if isinstance(value, list) else text(value)[::-1]


def reverse_delim(run: Run, by: str, whole: str) -> Value:
    return by.join(reversed(whole.split(by)))


def ec_tolower(run: Run, value: str) -> Value:
    return joined(value.lower())


def ec_pcre_match(run: Run, subject: str, pattern: str) -> Value:
    """What matched, then each captured part, "" where it took no part; an empty list without a match. O(subject)."""
    found = regex(pattern).search(subject)
    parts: list[Scalar] = [] if found is None else [found.group(0), *(part or "" for part in found.groups())]
    return parts


def _pattern(value: str) -> None:
    regex(value)


def _anything(value: Value) -> Value:
    return value


_DELIMITER, _TEXT = Parameter("delimiter", delimiter), Parameter("string", text)
_SPLIT = Function(split, (_DELIMITER, _TEXT), (2,), has_value=True)

LISTS = {
    "split": _SPLIT,
    "ec_explode": _SPLIT,
    "join": Function(join, (Parameter("delimiter", text), Parameter("stringlist", members)), (2,), has_value=True),
    "reverse": Function(reverse, (Parameter("string or stringlist", _anything),), (1,), has_value=True),
    "reverse_delim": Function(reverse_delim, (_DELIMITER, _TEXT), (2,), has_value=True),
    "ec_tolower": Function(ec_tolower, (_TEXT,), (1,), has_value=True),
    "ec_pcre_match": Function(ec_pcre_match, (_TEXT, Parameter("pattern", text, _pattern)), (2,), has_value=True),
}
