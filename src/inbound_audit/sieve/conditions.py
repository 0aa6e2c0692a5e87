"""Tests, compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from inbound_audit.errors import PolicyError, did_you_mean
from inbound_audit.sieve import tree
from inbound_audit.sieve.calls import FUNCTIONS, call
from inbound_audit.sieve.compare import MATCH_TYPES, Relation, numeric, relation
from inbound_audit.sieve.expressions import Expression, constant, expression
from inbound_audit.sieve.faults import ScriptError
from inbound_audit.sieve.networks import CHECK_CIDR
from inbound_audit.sieve.run import Run
from inbound_audit.sieve.values import Value, count, members, number, text

Condition: TypeAlias = Callable[[Run], bool]

_WITH_OPERATOR = ("value", "count")


def condition(node: tree.Call) -> Condition:
    """Compiles a test. Raises ScriptError for one that is not known, or takes something else."""
    make = TESTS.get(node.name)
    if make is None:
        if node.name in FUNCTIONS:
            raise ScriptError(node.at, f"{node.name} is not a test; is a ';' missing before it?")
        raise ScriptError(node.at, f"unknown test {node.name!r}{did_you_mean(node.name, TESTS)}")
    return make(node)


def _true(node: tree.Call) -> Condition:
    _takes(node, arguments=0, tests=(0, 0))
    return lambda run: True


def _false(node: tree.Call) -> Condition:
    _takes(node, arguments=0, tests=(0, 0))
    return lambda run: False


def _not(node: tree.Call) -> Condition:
    _takes(node, arguments=0, tests=(1, 1))
    test = condition(node.tests[0])
    return lambda run: not test(run)


def _all_of(node: tree.Call) -> Condition:
    tests = _several(node)

    def all_of(run: Run) -> bool:
        # A loop: a generator costs as much as three tests.
        for test in tests:  # noqa: SIM110
            if not test(run):
                return False
        return True

    return all_of


def _any_of(node: tree.Call) -> Condition:
    tests = _several(node)

    def any_of(run: Run) -> bool:
        for test in tests:  # noqa: SIM110
            if test(run):
                return True
        return False

    return any_of


def _several(node: tree.Call) -> list[Condition]:
    _takes(node, arguments=0, tests=(1, None))
    return [condition(test) for test in node.tests]


def _isset(node: tree.Call) -> Condition:
    """Whether a list has a member of that number, or a hash that key."""
    whole_of, key_of = map(expression, _takes(node, arguments=2, tests=(0, 0)))

    def isset(run: Run) -> bool:
        whole, key = whole_of(run), key_of(run)
        if isinstance(whole, dict):
            return text(key) in whole
        return isinstance(whole, list) and 0 <= number(key) < len(whole)

    return isset


def _takes(node: tree.Call, *, arguments: int, tests: tuple[int, int | None]) -> list[tree.Value]:
    """The arguments of a test that knows no tags. Raises ScriptError unless all is there, and nothing else."""
    least, most = tests
    if len(node.tests) < least or (most is not None and len(node.tests) > most):
        wanted = {(0, 0): "no test", (1, 1): "one test"}.get((least, most or 0), "a list of tests")
        raise ScriptError(node.tests[0].at if node.tests else node.at, f"{node.name} takes {wanted}")
    values = [argument for argument in node.arguments if not isinstance(argument, tree.Tag)]
    if len(node.arguments) != arguments or len(values) != arguments:
        place = node.arguments[0].at if node.arguments and not arguments else node.at
        raise ScriptError(place, f"{node.name} takes {arguments or 'no'} arguments" + " and no tag" * (arguments > 0))
    return values


# ---- ec_test


def _ec_test(node: tree.Call) -> Condition:
    """``ec_test [match type] [:comparator NAME] VALUE KEY``; both may be lists, and one pair that matches will do."""
    match, asked, (subject, key) = _compared(node, "a value and a key to compare it with")
    return _comparison(match, asked, expression(subject), key)


def _vctx(node: tree.Call) -> Condition:
    """``vctx_conn [match type] [:comparator NAME] NAMES KEY``: of the context variables that are set."""
    match, asked, (names, key) = _compared(node, "names of context variables and a key to compare their values with")
    scope, names_of = node.name, expression(names)

    def values(run: Run) -> Value:
        known = run.context[scope]
        return [known[name] for name in map(text, members(names_of(run))) if name in known]

    return _comparison(match, asked, values, key)


def _check_cidr(node: tree.Call) -> Condition:
    called = call(node, CHECK_CIDR)
    return lambda run: bool(called(run))


def _compared(node: tree.Call, expected: str) -> tuple[str, Relation, list[tree.Value]]:
    """The match type of a comparison, what it asks, and its two values."""
    if node.tests:
        first = node.tests[0]
        raise ScriptError(first.at, f"{node.name} takes no test; is a ';' missing before {first.name!r}?")
    match, operator, comparator, values = _tags(node)
    if len(values) != 2:
        raise ScriptError(node.at, f"{node.name} takes {expected}, and not {len(values)} values")
    try:
        return match, relation(match, operator, comparator), values
    except PolicyError as error:
        raise ScriptError(node.at, str(error)) from None


def _comparison(match: str, asked: Relation, subject_of: Expression, key: tree.Value) -> Condition:
    if match == "count":
        subject_of = _counted(subject_of)
    if constant(key) is None:
        if match == "regex":
            raise ScriptError(key.at, "a pattern of :regex is constant, without ${} or %{}")
        return _against_any(asked, subject_of, expression(key))
    keys = [_key(asked, member) for member in (key.members if isinstance(key, tree.Items) else (key,))]
    return _against_one(asked, subject_of, keys[0]) if len(keys) == 1 else _against(asked, subject_of, keys)


def _key(asked: Relation, node: tree.Value) -> Any:
    """A key that is the same in every run, made ready once."""
    known = constant(node)
    assert isinstance(known, (str, int, float))
    try:
        return asked.key(known)
    except PolicyError as error:
        raise ScriptError(node.at, str(error)) from None


def _tags(node: tree.Call) -> tuple[str, str | None, str | None, list[tree.Value]]:
    """Match type, operator, comparator, and what stands besides the tags, which may stand anywhere."""
    match: str | None = None
    operator: str | None = None
    comparator: str | None = None
    values: list[tree.Value] = []
    arguments = iter(node.arguments)
    for argument in arguments:
        if not isinstance(argument, tree.Tag):
            values.append(argument)
        elif argument.name == "comparator":
            if comparator is not None:
                raise ScriptError(argument.at, "a second :comparator")
            comparator = _name_behind(argument, next(arguments, None))
        elif argument.name in MATCH_TYPES:
            if match is not None:
                raise ScriptError(argument.at, f":{argument.name} beside :{match}, and a test has one match type")
            match = argument.name
            if match in _WITH_OPERATOR:
                operator = _name_behind(argument, next(arguments, None)).lower()
        else:
            hint = did_you_mean(argument.name, (*MATCH_TYPES, "comparator"))
            raise ScriptError(argument.at, f"{node.name} knows no tag :{argument.name}{hint}")
    return match or "is", operator, comparator, values


def _name_behind(tag: tree.Tag, node: tree.Value | tree.Tag | None) -> str:
    found = None if node is None or isinstance(node, tree.Tag) else constant(node)
    if not isinstance(found, str):
        raise ScriptError(tag.at if node is None else node.at, f":{tag.name} expects a constant text after it")
    return found


def _counted(value_of: Expression) -> Expression:
    return lambda run: count(value_of(run))


def _against_one(asked: Relation, subject_of: Expression, key: Any) -> Condition:
    made, holds = asked.subject, asked.holds
    counts = made is numeric

    def test(run: Run) -> bool:
        value = subject_of(run)
        if counts and isinstance(value, (int, float)):
            return holds(value, key)
        if isinstance(value, (str, int, float)):
            return holds(made(value), key)
        return any(holds(made(member), key) for member in members(value))

    return test


def _against(asked: Relation, subject_of: Expression, keys: list[Any]) -> Condition:
    def test(run: Run) -> bool:
        return _matches(asked, subject_of(run), keys)

    return test


def _against_any(asked: Relation, subject_of: Expression, key_of: Expression) -> Condition:
    def test(run: Run) -> bool:
        return _matches(asked, subject_of(run), [asked.key(member) for member in members(key_of(run))])

    return test


def _matches(asked: Relation, value: Value, keys: list[Any]) -> bool:
    subjects = [asked.subject(member) for member in members(value)]
    return any(asked.holds(subject, key) for subject in subjects for key in keys)


TESTS: dict[str, Callable[[tree.Call], Condition]] = {
    "true": _true,
    "false": _false,
    "not": _not,
    "allof": _all_of,
    "anyof": _any_of,
    "isset": _isset,
    "ec_test": _ec_test,
    "vctx_conn": _vctx,
    "vctx_mess": _vctx,
    "check_cidr": _check_cidr,
}
