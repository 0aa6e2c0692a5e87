"""Comparators (RFC 4790) and match types (RFC 5228, 5231): the questions that tests ask of two values."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from inbound_audit.errors import PolicyError, did_you_mean
from inbound_audit.policy import patterns
from inbound_audit.sieve.values import Scalar, text

INFINITE = float("inf")
OCTET, CASEMAP, NUMERIC = "i;octet", "i;ascii-casemap", "i;ascii-numeric"
COMPARATORS = (OCTET, CASEMAP, NUMERIC)
MATCH_TYPES = ("is", "contains", "matches", "regex", "value", "count")

_LEADING = re.compile(r"-?[0-9]+(\.[0-9]+)?")
MAX_DIGITS = 4000  # int() refuses longer ones
_UPPER = {code: code - 32 for code in range(ord("a"), ord("z") + 1)}
_OPERATORS = ("gt", "ge", "lt", "le", "eq", "ne")  # as Python calls them, too


class Relation(NamedTuple):
    """One question: what subject and key are made into, and when the two then match."""

    subject: Callable[[Scalar], Any]
    key: Callable[[Scalar], Any]
    holds: Callable[[Any, Any], bool]
    is_quick: bool = True
    """A short text is compared in some microseconds."""


def numeric(value: Scalar) -> int | float:
    """The number that a text begins with. A text without one is infinite, and equal to every other such text.

    The rule is that of RFC 4790 (9.1.1), which knows neither sign nor fraction. Here both count: a series may be below
    zero, and a rate has a fraction.
    """
    if isinstance(value, (int, float)):
        return value
    found = _LEADING.match(value)
    if not found or len(found[0]) > MAX_DIGITS:
        return INFINITE
    return float(found[0]) if found[1] else int(found[0])


def folded_text(value: Scalar) -> str:
    """ASCII letters in upper case, every other character unchanged (RFC 4790, 9.2.1)."""
    return text(value).translate(_UPPER)


_MADE: dict[str, Callable[[Scalar], Any]] = {OCTET: text, CASEMAP: folded_text, NUMERIC: numeric}


def relation(match: str, name: str, comparator: str | None) -> Relation:
    """What a match type asks; `name` is the operator of ``:value`` and ``:count``.

    Raises PolicyError for an unknown name, and for a pair that does not fit: numbers have no parts.
    """
    chosen = comparator or (NUMERIC if match == "count" else OCTET)
    if chosen not in COMPARATORS:
        raise PolicyError(f"no comparator {chosen!r} (there are {', '.join(COMPARATORS)})")
    made = _MADE[chosen]
    if match in ("value", "count"):
        return Relation(made, made, _operator(name, chosen))
    if match == "is":
        return Relation(made, made, operator.eq)
    if chosen == NUMERIC:
        raise PolicyError(f":{match} compares parts of a text, which {NUMERIC} can't do")
    if match == "contains":
        return Relation(made, made, operator.contains)
    compiled = patterns.glob if match == "matches" else patterns.regex
    return Relation(text, lambda key: compiled(text(key), chosen == CASEMAP), _found, is_quick=False)


def _operator(name: str, comparator: str) -> Callable[[Any, Any], bool]:
    if name == "bitwise-and":
        if comparator != NUMERIC:
            raise PolicyError(f"bitwise-and needs the comparator {NUMERIC}")
        return _common_bits
    if name not in _OPERATORS:
        known = (*_OPERATORS, "bitwise-and")
        raise PolicyError(f"no operator {name!r} (there are {', '.join(known)}){did_you_mean(name, known)}")
    compare: Callable[[Any, Any], bool] = getattr(operator, name)
    return compare


def _common_bits(subject: int | float, key: int | float) -> bool:
    return isinstance(subject, int) and isinstance(key, int) and subject & key != 0


def _found(subject: str, pattern: patterns.Pattern) -> bool:
    return patterns.search(pattern, subject) is not None
