"""Assignments, compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from inbound_audit.errors import did_you_mean
from inbound_audit.sieve import tree
from inbound_audit.sieve.calls import FUNCTIONS, call
from inbound_audit.sieve.expressions import expression
from inbound_audit.sieve.faults import ScriptError
from inbound_audit.sieve.run import Run
from inbound_audit.sieve.values import UNSET, Value

Assign: TypeAlias = Callable[[Run], None]


def assignment(node: tree.Assignment) -> Assign:
    """Raises ScriptError when what is assigned has no value."""
    value_of = _assigned(node.value)
    if not node.unpacks:
        (name,) = node.names

        def assign(run: Run) -> None:
            run.variables[name] = value_of(run)

        return assign
    if len(node.names) == 1:
        (name,) = node.names

        def assign_first(run: Run) -> None:
            value = value_of(run)
            if type(value) is list:
                value = value[0] if value else UNSET
            run.variables[name] = value

        return assign_first

    def assign_each(run: Run) -> None:
        value = value_of(run)
        found: Iterator[Value] = iter(value if isinstance(value, list) else [value])
        for name in node.names:
            run.variables[name] = next(found, UNSET)

    return assign_each


def _assigned(node: tree.Value | tree.Call) -> Callable[[Run], Value]:
    if not isinstance(node, tree.Call):
        return expression(node)
    function = FUNCTIONS.get(node.name)
    if function is None:
        with_value = [name for name, known in FUNCTIONS.items() if known.has_value]
        raise ScriptError(node.at, f"unknown function {node.name!r}{did_you_mean(node.name, with_value)}")
    if not function.has_value:
        raise ScriptError(node.at, f"{node.name} has no value")
    return call(node, function)  # type: ignore[return-value]  # it has a value
