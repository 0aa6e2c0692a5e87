"""Functions of numbers: ``ec_add`` and the others that a rate needs.

Results are numbers with a fraction, as in the reference: ``ec_add 1 2`` is ``3.000000``. ``ec_mod`` of whole numbers is
whole. ``ec_round`` rounds away from zero, as the reference's page and its example say; ``ec_nearbyint`` takes the
nearest whole number.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

from inbound_audit.errors import PolicyError
from inbound_audit.sieve.functions import Function, Parameter
from inbound_audit.sieve.run import Run
from inbound_audit.sieve.values import Value, real

Number = int | float


def _finite(value: Number) -> float:
    if not math.isfinite(value):
        raise PolicyError("the result is too large for a number")
    return float(value) + 0.0  # never -0.0


def _of_two(calculate: Callable[[Number, Number], Number]) -> Function:
    def run(_: Run, first: Number, second: Number) -> Value:
        return _finite(calculate(float(first), float(second)))

    return Function(run, (Parameter("number", real), Parameter("number", real)), (2,), has_value=True)


def _of_one(calculate: Callable[[Number], Number]) -> Function:
    return Function(lambda _, value: _finite(calculate(value)), (Parameter("number", real),), (1,), has_value=True)


def _divide(first: Number, second: Number) -> Number:
    if second == 0:
        raise PolicyError("a division by zero")
    return first / second


def _modulus(_: Run, first: Number, second: Number) -> Value:
    """The remainder has the sign of the first number, as in C."""
    if second == 0:
        raise PolicyError("a division by zero")
    if isinstance(first, int) and isinstance(second, int):
        remainder = abs(first) % abs(second)
        return -remainder if first < 0 else remainder
    return _finite(math.fmod(first, second))


def _away_from_zero(value: Number) -> Number:
    return math.ceil(value) if value > 0 else math.floor(value)


ARITHMETIC = {
    "ec_add": _of_two(operator.add),
    "ec_sub": _of_two(operator.sub),
    "ec_mul": _of_two(operator.mul),
    "ec_div": _of_two(_divide),
    "ec_mod": Function(_modulus, (Parameter("number", real), Parameter("number", real)), (2,), has_value=True),
    "ec_floor": _of_one(math.floor),
    "ec_ceil": _of_one(math.ceil),
    "ec_trunc": _of_one(math.trunc),
    "ec_nearbyint": _of_one(round),
    "ec_round": _of_one(_away_from_zero),
}
