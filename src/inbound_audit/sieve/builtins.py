"""Functions of what a script has at hand: numbers, texts, lists, hashes, and context variables.

Results of arithmetic are numbers with a fraction, as in the reference: ``ec_add 1 2`` is ``3.000000``. ``ec_mod`` of
whole numbers is whole. ``ec_round`` rounds away from zero, as the reference's page and its example say;
``ec_nearbyint`` takes the nearest whole number.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Annotated

from inbound_audit.errors import PolicyError
from inbound_audit.policy.patterns import regex, search
from inbound_audit.sieve.functions import AsHash, AsIs, AsList, AsReal, AsText, Reader, function, functions
from inbound_audit.sieve.run import Run
from inbound_audit.sieve.values import MAX_MEMBERS, UNSET, Scalar, Value, text

# ---- numbers


def _calculated(calculate: Callable[[float, float], float], run: Run, first: AsReal, second: AsReal) -> Value:
    return _finite(calculate(float(first), float(second)))


def _rounded(calculate: Callable[[float], float], run: Run, number: AsReal) -> Value:
    return _finite(calculate(number))


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise PolicyError("the result is too large for a number")
    return float(value) + 0.0  # never -0.0


def ec_div(run: Run, first: AsReal, second: AsReal) -> Value:
    return _finite(float(first) / _divisor(second))


def ec_mod(run: Run, first: AsReal, second: AsReal) -> Value:
    """The remainder has the sign of the first number, as in C."""
    _divisor(second)
    if isinstance(first, int) and isinstance(second, int):
        remainder = abs(first) % abs(second)
        return -remainder if first < 0 else remainder
    return _finite(math.fmod(first, second))


def _divisor(value: float) -> float:
    if value == 0:
        raise PolicyError("a division by zero")
    return value


def _away_from_zero(value: float) -> float:
    return math.ceil(value) if value > 0 else math.floor(value)


# ---- texts and lists


def _delimiter(value: Value) -> str:
    """Reads a text between members. Raises PolicyError for the empty one, which would be everywhere."""
    found = text(value)
    if not found:
        raise PolicyError("a delimiter is a text of one character or more")
    return found


Delimiter = Annotated[str, Reader(_delimiter)]
Either = Annotated[Value, Reader(lambda value: value, "string or stringlist")]
Pattern = Annotated[str, Reader(text, check=regex)]


def split(run: Run, delimiter: Delimiter, string: AsText) -> Value:
    """The members of a text; O(text)."""
    if string.count(delimiter) >= MAX_MEMBERS:
        raise PolicyError(f"a list of more than {MAX_MEMBERS} members")
    run.check()
    found: list[Scalar] = [*string.split(delimiter)]
    return found


def join(run: Run, delimiter: AsText, stringlist: AsList) -> Value:
    return run.joined(delimiter, stringlist)


def reverse(run: Run, value: Either) -> Value:
    """A list from its last member to its first, a text from its last character to its first."""
    return value[::-1] if isinstance(value, list) else run.joined("", [text(value)[::-1]])


def reverse_delim(run: Run, delimiter: Delimiter, string: AsText) -> Value:
    return run.joined(delimiter, reversed(string.split(delimiter)))


def ec_tolower(run: Run, string: AsText) -> Value:
    return run.joined("", [string.lower()])


def ec_pcre_match(run: Run, string: AsText, pattern: Pattern) -> Value:
    """What matched, then each captured part, "" where it took no part; an empty list without a match. O(string)."""
    run.check()
    found = search(regex(pattern), string)
    parts: list[Scalar] = [] if found is None else [found.group(0), *(part or "" for part in found.groups())]
    return parts


# ---- hashes


def hash_create(run: Run) -> Value:
    return {}


def hash_set(run: Run, into: AsHash, key: AsText, value: AsIs) -> None:
    if len(into) >= MAX_MEMBERS and key not in into:
        raise PolicyError(f"a hash of more than {MAX_MEMBERS} keys")
    into[key] = value


def hash_get(run: Run, of: AsHash, key: AsText) -> Value:
    return of.get(key, UNSET)


def hash_keys(run: Run, of: AsHash) -> Value:
    """In the order in which the keys were first set."""
    return [*of]


def hash_values(run: Run, of: AsHash) -> Value:
    """In the order of the keys; a list as one text. Raises PolicyError for a hash among them."""
    return [value if isinstance(value, (int, float)) else run.joined("", [text(value)]) for value in of.values()]


# ---- context variables: what a script keeps of the connection and of the message

SCOPES = ("vctx_conn", "vctx_mess")


def vctx_get(scope: str, run: Run, key: AsText) -> Value:
    return run.context[scope].get(key, UNSET)


def vctx_set(scope: str, run: Run, key: AsText, value: AsText) -> None:
    run.context[scope][key] = value


def vctx_delete(scope: str, run: Run, key: AsText) -> None:
    run.context[scope].pop(key, None)


BUILTINS = {
    **{f"ec_{name}": function(partial(_calculated, getattr(operator, name))) for name in ("add", "sub", "mul")},
    **functions(ec_div, ec_mod),
    **{f"ec_{name}": function(partial(_rounded, getattr(math, name))) for name in ("floor", "ceil", "trunc")},
    "ec_nearbyint": function(partial(_rounded, round)),
    "ec_round": function(partial(_rounded, _away_from_zero)),
    **functions(split, join, reverse, reverse_delim, ec_tolower, ec_pcre_match),
    "ec_explode": function(split),
    **functions(hash_create, hash_set, hash_get, hash_keys, hash_values),
    **{
        f"{scope}_{run.__name__.removeprefix('vctx_')}": function(partial(run, scope))
        for scope in SCOPES
        for run in (vctx_get, vctx_set, vctx_delete)
    },
}
