"""Calls of functions, compiled. What can be said of the arguments without a session is said when a script is loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from inbound_audit.errors import InboundAuditError, PolicyError
from inbound_audit.sieve import tree
from inbound_audit.sieve.expressions import Expression, constant, expression
from inbound_audit.sieve.faults import ScriptError
from inbound_audit.sieve.functions import Function, Parameter
from inbound_audit.sieve.hashes import HASHES
from inbound_audit.sieve.replies import REPLIES
from inbound_audit.sieve.run import Run
from inbound_audit.sieve.sessions import SESSIONS
from inbound_audit.sieve.values import Value
from inbound_audit.sieve.windows import WINDOWS

FUNCTIONS: dict[str, Function] = {**SESSIONS, **WINDOWS, **HASHES, **REPLIES}

Called: TypeAlias = Callable[[Run], "Value | None"]


def call(node: tree.Call) -> Called:
    """Calls a known function. Raises ScriptError when the arguments are not what it takes."""
    function = FUNCTIONS[node.name]
    if node.tests:
        first = node.tests[0]
        raise ScriptError(first.at, f"{node.name} takes no test; is a ';' missing before {first.name!r}?")
    given = [_positional(node, argument) for argument in node.arguments]
    run: Callable[..., Value | None] = function.run
    if function.placed:
        run = _placed(run, node)
    if function.by_hash is not None and len(given) == 1 and constant(given[0]) is None:
        return _by_hash(node, run, function, expression(given[0]))
    if len(given) not in function.takes:
        raise ScriptError(node.at, f"{node.name} takes {_taken(function)}, and not {len(given)}")
    return _applied(run, [_argument(*pair) for pair in zip(given, function.parameters, strict=False)])


def _positional(node: tree.Call, argument: tree.Value | tree.Tag) -> tree.Value:
    if isinstance(argument, tree.Tag):
        raise ScriptError(argument.at, f"{node.name} takes no tag, and so no :{argument.name}")
    return argument


def _placed(run: Callable[..., Value | None], node: tree.Call) -> Callable[..., Value | None]:
    return lambda state, *arguments: run(state, node.at, *arguments)


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
        except PolicyError as error:
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
    # Spelt out for the numbers of arguments that counts have: an unpacked list costs as much as a count.
    if len(arguments) == 1:
        (first,) = arguments
        return lambda state: run(state, first)
    if len(arguments) == 2:
        first, second = arguments
        return lambda state: run(state, first, second)
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
