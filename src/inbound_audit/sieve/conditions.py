"""Tests, compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from inbound_audit.errors import PolicyError, did_you_mean
from inbound_audit.sieve import tree
from inbound_audit.sieve.calls import FUNCTIONS, call, no_tests
from inbound_audit.sieve.compare import MATCH_TYPES, Relation, relation
from inbound_audit.sieve.expressions import Expression, constant, expression
from inbound_audit.sieve.functions import AsIs, Function, function
from inbound_audit.sieve.networks import CHECK_CIDR
from inbound_audit.sieve.run import SMALL, Run, with_checks
from inbound_audit.sieve.tree import ScriptError
from inbound_audit.sieve.values import Scalar, Value, count, members, number, text

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


def _always(holds: bool, node: tree.Call) -> Condition:
    _check_tests(node, "no test", not node.tests)
    return lambda run: holds


def _not(node: tree.Call) -> Condition:
    _check_tests(node, "one test", len(node.tests) == 1)
    test = condition(node.tests[0])
    return lambda run: not test(run)


def _first(decides: bool, node: tree.Call) -> Condition:
    """Of several tests: asks one after the other until one decides."""
    _check_tests(node, "a list of tests", bool(node.tests))
    nested = any(test.tests for test in node.tests)

    def check(run: Run) -> bool:
        run.check()
        return not decides

    tests = with_checks([condition(test) for test in node.tests] + [check] * nested, check)

    def first(run: Run) -> bool:
        for test in tests:
            if test(run) is decides:
                return decides
        return not decides

    return first


def _check_tests(node: tree.Call, takes: str, fits: bool) -> None:
    """Raises ScriptError for other tests than it takes, and for an argument."""
    if not fits:
        raise ScriptError(node.tests[0].at if node.tests else node.at, f"{node.name} takes {takes}")
    if node.arguments:
        raise ScriptError(node.arguments[0].at, f"{node.name} takes no arguments")


def isset(run: Run, whole: AsIs, key: AsIs) -> Value:
    """Whether a list has a member of that number, or a hash that key."""
    if isinstance(whole, dict):
        return text(key) in whole
    return isinstance(whole, list) and 0 <= number(key) < len(whole)


def _called(function: Function, node: tree.Call) -> Condition:
    """A test that is a function of values."""
    return call(node, function)  # type: ignore[return-value]  # it returns a bool


# ---- comparisons


def _ec_test(node: tree.Call) -> Condition:
    """``ec_test [match type] [:comparator NAME] VALUE KEY``; both may be lists, and one pair that matches will do."""
    return _comparison(node, "a value and a key to compare it with", expression)


def _vctx(node: tree.Call) -> Condition:
    """``vctx_conn [match type] [:comparator NAME] NAMES KEY``: of the context variables that are set."""

    def values_of(names: tree.Value) -> Expression:
        names_of = expression(names)

        def values(run: Run) -> Value:
            run.check()
            known = run.context[node.name]
            return [known[name] for name in map(text, members(names_of(run))) if name in known]

        return values

    return _comparison(node, "names of context variables and a key to compare their values with", values_of)


def _comparison(node: tree.Call, expected: str, subject: Callable[[tree.Value], Expression]) -> Condition:
    """Compares what `subject` makes of the first value with the second one, a key or several."""
    no_tests(node)
    match, operator, comparator, values = _tags(node)
    if len(values) != 2:
        raise ScriptError(node.at, f"{node.name} takes {expected}, and not {len(values)} values")
    try:
        asked = relation(match, operator, comparator)
    except PolicyError as error:
        raise ScriptError(node.at, str(error)) from None
    subject_of, key = subject(values[0]), values[1]
    if match == "count":
        subject_of = _counted(subject_of)
    if constant(key) is None:
        if match == "regex":
            raise ScriptError(key.at, "a pattern of :regex is constant, without ${} or %{}")
        return _against(asked, subject_of, _keys(asked, expression(key)))
    keys = [_key(asked, member) for member in (key.members if isinstance(key, tree.Items) else (key,))]
    return _against_one(asked, subject_of, keys[0]) if len(keys) == 1 else _against(asked, subject_of, lambda run: keys)


def _counted(value_of: Expression) -> Expression:
    return lambda run: count(value_of(run))


def _key(asked: Relation, node: tree.Value) -> Any:
    """A key that is the same in every run, made ready once."""
    known = constant(node)
    assert isinstance(known, (str, int, float))
    try:
        return asked.key(known)
    except PolicyError as error:
        raise ScriptError(node.at, str(error)) from None


def _keys(asked: Relation, key_of: Expression) -> Callable[[Run], list[Any]]:
    def keys(run: Run) -> list[Any]:
        found = []
        for member in members(key_of(run)):
            run.check()
            found.append(asked.key(member))
        return found

    return keys


def _tags(node: tree.Call) -> tuple[str, str, str | None, list[tree.Value]]:
    """Match type, operator, comparator, and what stands besides the tags, which may stand anywhere."""
    match = comparator = None
    operator = ""
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
    found = constant(node)
    if not isinstance(found, str):
        raise ScriptError(tag.at if node is None else node.at, f":{tag.name} expects a constant text after it")
    return found


def _against_one(asked: Relation, subject_of: Expression, key: Any) -> Condition:
    made, holds = asked.subject, asked.holds

    def test(run: Run) -> bool:
        value = subject_of(run)
        if isinstance(value, (int, float)) or (isinstance(value, str) and len(value) <= SMALL and asked.is_quick):
            return holds(made(value), key)
        return _any_holds(run, asked, members(value), [key])

    return test


def _against(asked: Relation, subject_of: Expression, keys_of: Callable[[Run], list[Any]]) -> Condition:
    return lambda run: _any_holds(run, asked, members(subject_of(run)), keys_of(run))


def _any_holds(run: Run, asked: Relation, subjects: list[Scalar], keys: list[Any]) -> bool:
    """Whether one pair matches. Each subject, and each pair, may take as long as `Run.check` allows."""
    for member in subjects:
        run.check()
        subject = asked.subject(member)
        for key in keys:
            run.check()
            if asked.holds(subject, key):
                return True
    return False


TESTS: dict[str, Callable[[tree.Call], Condition]] = {
    "true": partial(_always, True),
    "false": partial(_always, False),
    "not": _not,
    "allof": partial(_first, False),
    "anyof": partial(_first, True),
    "isset": partial(_called, function(isset)),
    "ec_test": _ec_test,
    "vctx_conn": _vctx,
    "vctx_mess": _vctx,
    "check_cidr": partial(_called, CHECK_CIDR),
}
