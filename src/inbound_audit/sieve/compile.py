"""Statements, compiled: a script becomes one callable, made of callables.

A block returns whether the script is over. `stop` and `keep` end it at once; a reply ends it with the rule that it
stands in: plain actions after it are still taken (the reference's own examples set a reply and then disconnect), and
nothing from the next `if` on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from inbound_audit.errors import did_you_mean
from inbound_audit.sieve import tree
from inbound_audit.sieve.assign import assignment
from inbound_audit.sieve.calls import FUNCTIONS, call
from inbound_audit.sieve.conditions import TESTS, Condition, condition
from inbound_audit.sieve.faults import At, ScriptError, failed_at
from inbound_audit.sieve.require import without_require
from inbound_audit.sieve.run import Run

Step: TypeAlias = Callable[[Run], object]
"""A statement; returns something true if the script is over."""
Block: TypeAlias = Callable[[Run], bool]

_ENDS = ("stop", "keep")
_BRANCHES = ("if", "elsif", "else")
_COMMANDS = ("require", *_BRANCHES, *_ENDS, *FUNCTIONS)


def script(statements: Sequence[tree.Statement]) -> Block:
    """Compiles a whole script. Raises ScriptError, also for one without any statement: it protects from nothing."""
    commands = without_require(statements, (*_COMMANDS, *TESTS))
    if not commands:
        raise ScriptError(At(1, 1), "the script does nothing; a policy has an action such as ec_action, or keep")
    return _block(commands)


def _block(statements: Sequence[tree.Statement]) -> Block:
    steps: list[tuple[Step, At]] = []
    ends = over = False
    for group in _grouped(statements):
        first = group[0]
        over |= ends and first.name == "if"
        step = _step(group)  # of what is never reached, too: for the errors in it
        if step is not None and not over:
            steps.append((step, first.at))
        over |= first.name in _ENDS
        ends |= over or _is_terminal(first)
    return _sequence(steps, ends)


def _grouped(statements: Sequence[tree.Statement]) -> list[list[tree.Statement]]:
    """Each statement by itself, and an ``if`` together with its ``elsif`` and ``else``."""
    groups: list[list[tree.Statement]] = []
    following: tuple[str, ...] = ()
    for statement in statements:
        if statement.name in following:
            groups[-1].append(statement)
        else:
            groups.append([statement])
        following = {"if": ("elsif", "else"), "elsif": following}.get(statement.name, ())
    return groups


def _step(group: list[tree.Statement]) -> Step | None:
    """What a group does; None if it does nothing but end the script."""
    first = group[0]
    if isinstance(first, tree.Assignment):
        return assignment(first)
    if first.name == "if":
        return _chain([command for command in group if isinstance(command, tree.Command)])
    return _plain(first)


def _is_terminal(statement: tree.Statement) -> bool:
    """A reply is; a bare ``ec_disconnect`` sets none."""
    function = FUNCTIONS.get(statement.name)
    return (
        isinstance(statement, tree.Command)
        and function is not None
        and function.ends
        and statement.call.arguments != ()
    )


def _sequence(steps: list[tuple[Step, At]], ends: bool) -> Block:
    def block(run: Run) -> bool:
        for step, at in steps:
            try:
                if step(run):
                    return True
            except ScriptError:
                raise
            except Exception as error:
                raise failed_at(at, error) from error
        return ends

    return block


def _plain(command: tree.Command) -> Step | None:
    node = command.call
    if node.name in ("elsif", "else"):
        raise ScriptError(node.at, f"{node.name} without an if before it")
    if node.name == "require":
        raise ScriptError(node.at, "require stands before everything else")
    if node.name in TESTS:
        raise ScriptError(node.at, f"{node.name} is a test; it stands after an if")
    if node.name not in _COMMANDS:
        raise ScriptError(node.at, f"unknown command {node.name!r}{did_you_mean(node.name, _COMMANDS)}")
    if command.block is not None:
        raise ScriptError(node.at, f"{node.name} has no block; it ends with a ';'")
    if node.name in _ENDS:
        if node.arguments or node.tests:
            raise ScriptError([*node.arguments, *node.tests][0].at, f"{node.name} takes nothing; is a ';' missing?")
        return None
    called = call(node, FUNCTIONS[node.name])
    if not FUNCTIONS[node.name].has_value:
        return called

    def plain(run: Run) -> None:
        called(run)

    return plain


def _chain(commands: list[tree.Command]) -> Step:
    """An ``if`` with its ``elsif`` and ``else``."""
    branches = [(_test(command), _body(command), command.at) for command in commands]

    def chain(run: Run) -> bool:
        for test, body, at in branches:
            try:
                chosen = test(run)
            except Exception as error:
                raise failed_at(at, error) from error
            if chosen:
                return body(run)
        return False

    return chain


def _test(command: tree.Command) -> Condition:
    node = command.call
    if node.arguments:
        wanted = "nothing" if node.name == "else" else "a test"
        raise ScriptError(node.arguments[0].at, f"{node.name} takes {wanted} and a block")
    if node.name == "else":
        if node.tests:
            raise ScriptError(node.tests[0].at, "else takes no test; elsif does")
        return lambda run: True
    if len(node.tests) != 1:
        raise ScriptError(node.at, f"{node.name} takes one test; allof and anyof join several")
    return condition(node.tests[0])


def _body(command: tree.Command) -> Block:
    if command.block is None:
        raise ScriptError(command.at, f"{command.name} without a block in braces")
    return _block(command.block.statements)
