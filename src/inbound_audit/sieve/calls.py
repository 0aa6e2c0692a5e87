"""Calls of functions, compiled. Constant arguments are checked when the script is loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from inbound_audit.errors import InboundAuditError, PolicyError
from inbound_audit.sieve import tree
from inbound_audit.sieve.arithmetic import ARITHMETIC
from inbound_audit.sieve.context import CONTEXT
from inbound_audit.sieve.expressions import Expression, constant, expression
from inbound_audit.sieve.faults import ScriptError
from inbound_audit.sieve.functions import Function, Parameter
from inbound_audit.sieve.hashes import HASHES
from inbound_audit.sieve.lists import LISTS
from inbound_audit.sieve.networks import NETWORKS
from inbound_audit.sieve.replies import REPLIES
from inbound_audit.sieve.run import Run
from inbound_audit.sieve.sessions import SESSIONS
from inbound_audit.sieve.values import Value
from inbound_audit.sieve.windows import WINDOWS

FUNCTIONS: dict[str, Function] = {
    **SESSIONS,
    **WINDOWS,
    **NETWORKS,
    **ARITHMETIC,
    **LISTS,
    **HASHES,
    **CONTEXT,
    **REPLIES,
}

Called: TypeAlias = Callable[[Run], "Value | None"]


def call(node: tree.Call, function: Function) -> Called:
    """Calls a function. Raises ScriptError when the arguments are not what it takes."""
    if node.tests:
        first = node.tests[0]
        raise ScriptError(first.at, f"{node.name} takes no test; is a ';' missing before {first.name!r}?")
    given, tagged = _arguments(node, function)
    run = _tagged(function.run, tagged)
    if function.by_hash is not None and len(given) == 1 and constant(given[0]) is None:
        return _by_hash(node, run, function, expression(given[0]))
    if len(given) not in function.takes:
        raise ScriptError(node.at, f"{node.name} takes {_taken(function)}, and not {len(given)}")
    arguments = [_argument(*pair) for pair in zip(given, function.parameters, strict=False)]
    return _applied(run, [node.at, *arguments] if function.placed else arguments)


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
        tagged[argument.name] = _argument(value, function.tags[argument.name])
    return given, tagged


def _tagged(run: Callable[..., Value | None], tagged: dict[str, Any]) -> Callable[..., Value | None]:
    if not tagged:
        return run
    readers = {name: value if callable(value) else partial(_known, value) for name, value in tagged.items()}
    return lambda state, *given: run(state, *given, **{name: reader(state) for name, reader in readers.items()})


def _taken(function: Function) -> str:
    """``2 or 3 arguments (code, reason, counter)``."""
    numbers = " or ".join(map(str, function.takes))
    names = ", ".join(parameter.name for parameter in function.parameters)
    arguments = "argument" if function.takes == (1,) else "arguments"
    return f"{numbers} {arguments}" + f" ({names})" * bool(names) + " or a hash" * (function.by_hash is not None)


def _argument(node: tree.Value, parameter: Parameter) -> Any:
    """An argument that is known, or how it is found out: a callable."""
    known = constant(node)
    if known is None:
        return _worked_out(expression(node), parameter)
    try:
        value = parameter.read(known)
        if parameter.check is not None:
            parameter.check(value)
    except InboundAuditError as error:
        raise ScriptError(node.at, f"{parameter.name}: {error}") from None
    return value


def _worked_out(value_of: Expression, parameter: Parameter) -> Callable[[Run], Any]:
    name, read, _ = parameter

    def worked_out(run: Run) -> Any:
        value = value_of(run)
        try:
            return read(value)
        except InboundAuditError as error:
            raise PolicyError(f"{name}: {error}") from None

    return worked_out


def _applied(run: Callable[..., Value | None], arguments: list[Any]) -> Called:
    if not any(map(callable, arguments)):
        return _with_constants(run, arguments)
    readers = [argument if callable(argument) else partial(_known, argument) for argument in arguments]
    return lambda state: run(state, *[reader(state) for reader in readers])


def _known(value: Any, run: Run) -> Any:
    return value


def _with_constants(run: Callable[..., Value | None], arguments: list[Any]) -> Called:
    # Spelt out for the numbers of arguments that counts and refusals have: an unpacked list costs as much as a count.
    if len(arguments) == 1:
        (first,) = arguments
        return lambda state: run(state, first)
    if len(arguments) == 2:
        first, second = arguments
        return lambda state: run(state, first, second)
    if len(arguments) == 3:
        first, second, third = arguments
        return lambda state: run(state, first, second, third)
    return lambda state: run(state, *arguments)


def _by_hash(node: tree.Call, run: Callable[..., Value | None], function: Function, only: Expression) -> Called:
    """A call whose only argument may turn out to be a hash."""
    by_hash = function.by_hash
    assert by_hash is not None
    read = function.parameters[0].read

    def called(state: Run) -> Value | None:
        value = only(state)
        if isinstance(value, dict):
            return by_hash(state, value)
        if 1 not in function.takes:
            raise PolicyError(f"{node.name} takes {_taken(function)}, and not 1")
        return run(state, read(value))

    return called
