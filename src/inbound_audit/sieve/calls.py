"""Calls of functions and assignments, compiled. Constant arguments are checked when the script is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from inbound_audit.errors import InboundAuditError, PolicyError, did_you_mean
from inbound_audit.sieve import tree
from inbound_audit.sieve.builtins import BUILTINS
from inbound_audit.sieve.counts import COUNTS
from inbound_audit.sieve.expressions import Expression, constant, expression
from inbound_audit.sieve.functions import Function, Parameter, Runner
from inbound_audit.sieve.networks import NETWORKS
from inbound_audit.sieve.replies import REPLIES
from inbound_audit.sieve.run import Run
from inbound_audit.sieve.tree import ScriptError
from inbound_audit.sieve.values import UNSET, Value

FUNCTIONS: dict[str, Function] = {**COUNTS, **NETWORKS, **BUILTINS, **REPLIES}

Called: TypeAlias = Callable[[Run], "Value | None"]


def assignment(node: tree.Assignment) -> Callable[[Run], None]:
    """Raises ScriptError when what is assigned has no value."""
    value_of = _assigned(node.value)
    names = node.names
    first = names[0]

    def assign(run: Run) -> None:
        run.variables[first] = value_of(run)

    def assign_each(run: Run) -> None:
        value = value_of(run)
        found = value if isinstance(value, list) else [value]
        run.variables.update(zip(names, [*found, *[UNSET] * len(names)], strict=False))

    return assign_each if node.unpacks else assign


def _assigned(node: tree.Value | tree.Call) -> Expression:
    if not isinstance(node, tree.Call):
        return expression(node)
    function = FUNCTIONS.get(node.name)
    if function is None:
        with_value = [name for name, known in FUNCTIONS.items() if known.has_value]
        raise ScriptError(node.at, f"unknown function {node.name!r}{did_you_mean(node.name, with_value)}")
    if not function.has_value:
        raise ScriptError(node.at, f"{node.name} has no value")
    return call(node, function)  # type: ignore[return-value]  # it has a value


def no_tests(node: tree.Call) -> None:
    """Raises ScriptError for a call that has tests."""
    if node.tests:
        first = node.tests[0]
        raise ScriptError(first.at, f"{node.name} takes no test; is a ';' missing before {first.name!r}?")


def call(node: tree.Call, function: Function) -> Called:
    """Calls a function. Raises ScriptError when the arguments are not what it takes."""
    no_tests(node)
    given, tagged = _arguments(node, function)
    if function.by_hash is not None and len(given) == 1 and constant(given[0]) is None:
        return _by_hash(node, function, function.by_hash, expression(given[0]))
    if len(given) not in function.takes:
        raise ScriptError(node.at, f"{node.name} takes {_taken(function)}, and not {len(given)}")
    arguments = [_argument(*pair) for pair in zip(given, function.parameters, strict=False)]
    try:
        named = zip(function.options, arguments, strict=False)
        function.check({name: value for name, value in named if not callable(value)})
    except InboundAuditError as error:
        raise ScriptError(node.at, str(error)) from None
    return _applied(function.run, [node.at, *arguments] if function.placed else arguments, tagged)


def _arguments(node: tree.Call, function: Function) -> tuple[list[tree.Value], dict[str, Any]]:
    """The arguments by position, and the value of each tag, by its name."""
    given: list[tree.Value] = []
    tagged: dict[str, Any] = {}
    arguments = iter(node.arguments)
    for argument in arguments:
        if not isinstance(argument, tree.Tag):
            given.append(argument)
            continue
        if argument.name not in function.tags:
            known = "".join(f" (there is :{name})" for name in function.tags) or ", and takes none"
            raise ScriptError(argument.at, f"{node.name} knows no tag :{argument.name}{known}")
        value = next(arguments, None)
        if value is None or isinstance(value, tree.Tag) or argument.name in tagged:
            raise ScriptError(argument.at, f":{argument.name} may be given once, with one value after it")
        tagged[argument.name] = _argument(value, function.options[argument.name])
    return given, tagged


def _taken(function: Function) -> str:
    """``2 or 3 arguments (code, reason, counter)``."""
    numbers = " or ".join(map(str, function.takes))
    names = ", ".join(parameter.name for parameter in function.parameters)
    arguments = "argument" if function.takes == (1,) else "arguments"
    return f"{numbers} {arguments}" + f" ({names})" * bool(names) + " or a hash" * (function.by_hash is not None)


def _argument(node: tree.Value, parameter: Parameter) -> Any:
    """An argument that is known, or how it is found out: a callable."""
    name, (read, _, check), _ = parameter
    known = constant(node)
    if known is None:
        value_of = expression(node)

        def worked_out(run: Run) -> Any:
            value = value_of(run)
            try:
                return read(value)
            except InboundAuditError as error:
                raise PolicyError(f"{name}: {error}") from None

        return worked_out
    try:
        value = read(known)
        if check is not None:
            check(value)
    except InboundAuditError as error:
        raise ScriptError(node.at, f"{name}: {error}") from None
    return value


def _applied(run: Runner, arguments: list[Any], tagged: dict[str, Any]) -> Called:
    if tagged or any(map(callable, arguments)):
        readers, named = list(map(_reader, arguments)), {name: _reader(value) for name, value in tagged.items()}
        return lambda state: run(
            state, *[read(state) for read in readers], **{name: read(state) for name, read in named.items()}
        )
    # Spelt out for the numbers of arguments that counts and refusals have: an unpacked list costs as much as a count.
    first, second, third = [*arguments, None, None, None][:3]
    if len(arguments) == 1:
        return lambda state: run(state, first)
    if len(arguments) == 2:
        return lambda state: run(state, first, second)
    if len(arguments) == 3:
        return lambda state: run(state, first, second, third)
    return lambda state: run(state, *arguments)


def _reader(argument: Any) -> Callable[[Run], Any]:
    return argument if callable(argument) else lambda run: argument


def _by_hash(node: tree.Call, function: Function, by_hash: Function, only: Expression) -> Called:
    """A call whose only argument may turn out to be a hash."""
    read = function.parameters[0].reader.read

    def called(run: Run) -> Value | None:
        value = only(run)
        if isinstance(value, dict):
            return by_hash.run(run, **by_hash.read_options(value))
        if 1 not in function.takes:
            raise PolicyError(f"{node.name} takes {_taken(function)}, and not 1")
        return function.run(run, read(value))

    return called
