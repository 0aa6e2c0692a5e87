"""Statements, compiled: a script becomes one callable, made of callables.

A block returns whether the script is over. `stop` and `keep` end it at once; a reply ends it with the rule that it
stands in: plain actions after it are still taken (the reference's own examples set a reply and then disconnect), and
nothing from the next `if` on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from inbound_audit.errors import PolicyError, did_you_mean
from inbound_audit.sieve import tree
from inbound_audit.sieve.calls import FUNCTIONS, assignment, call
from inbound_audit.sieve.compare import COMPARATORS
from inbound_audit.sieve.conditions import TESTS, Condition, condition
from inbound_audit.sieve.expressions import constant
from inbound_audit.sieve.run import Run, with_checks
from inbound_audit.sieve.tree import At, ScriptError

Step: TypeAlias = Callable[[Run], object]
"""A statement; returns something true if the script is over."""
Block: TypeAlias = Callable[[Run], bool]

EXTENSIONS = ("variables", "relational", "regex", *(f"comparator-{comparator}" for comparator in COMPARATORS))
_ENDS = ("stop", "keep")
_COMMANDS = ("require", "if", "elsif", "else", *_ENDS, *FUNCTIONS)


def script(statements: Sequence[tree.Statement]) -> Block:
    """Compiles a whole script. Raises ScriptError, also for one without any statement: it protects from nothing."""
    number = 0
    for number, statement in enumerate(statements):
        if not (isinstance(statement, tree.Command) and statement.name == "require"):
            return _block(statements[number:])
        _require(statement)
    raise ScriptError(At(1, 1), "the script does nothing; a policy has an action such as ec_action, or keep")


def _require(command: tree.Command) -> None:
    """Raises ScriptError for a ``require`` of what is neither a command nor an extension."""
    node = command.call
    only = node.arguments[0] if len(node.arguments) == 1 and not node.tests and command.block is None else None
    known = {*_COMMANDS, *TESTS, *EXTENSIONS}
    for wanted in only.members if isinstance(only, tree.Items) else (only,):
        name = constant(wanted) if isinstance(wanted, tree.Text) else None
        if wanted is None or not isinstance(name, str):
            raise ScriptError(node.at, "require takes a text or a list of texts")
        if name.lower() not in known:
            raise ScriptError(wanted.at, f"{name!r} is not available{did_you_mean(name, sorted(known))}")


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
    known = FUNCTIONS.get(statement.name)
    return known is not None and known.ends and isinstance(statement, tree.Command) and statement.call.arguments != ()


def _sequence(steps: list[tuple[Step, At]], ends: bool) -> Block:
    if steps:
        steps = with_checks(steps, (Run.check, steps[0][1]))

    def block(run: Run) -> bool:
        for step, at in steps:
            try:
                if step(run):
                    return True
            except ScriptError:
                raise
            except Exception as error:
                raise _failed_at(at, error) from error
        return ends

    return block


def _failed_at(at: At, error: Exception) -> ScriptError:
    """What went wrong while the statement at a place ran."""
    if isinstance(error, MemoryError):
        return ScriptError(at, "not enough memory")
    # The text of our own errors and of ValueError is enough; of others the class is the most important part.
    kind = "" if isinstance(error, (PolicyError, ValueError)) else f"{type(error).__name__}: "
    return ScriptError(at, f"{kind}{error}")


def _plain(command: tree.Command) -> Step | None:
    node, name = command.call, command.name
    why = ""
    if name in ("elsif", "else"):
        why = f"{name} without an if before it"
    elif name == "require":
        why = "require stands before everything else"
    elif name in TESTS:
        why = f"{name} is a test; it stands after an if"
    elif name not in _COMMANDS:
        why = f"unknown command {name!r}{did_you_mean(name, _COMMANDS)}"
    elif command.block is not None:
        why = f"{name} has no block; it ends with a ';'"
    if why:
        raise ScriptError(node.at, why)
    if name in _ENDS:
        if node.arguments or node.tests:
            raise ScriptError([*node.arguments, *node.tests][0].at, f"{name} takes nothing; is a ';' missing?")
        return None
    called = call(node, FUNCTIONS[name])
    if not FUNCTIONS[name].has_value:
        return called

    def plain(run: Run) -> None:
        called(run)

    return plain


def _chain(commands: list[tree.Command]) -> Step:
    """An ``if`` with its ``elsif`` and ``else``."""
    made = [(_test(command), _body(command), command.at) for command in commands]
    branches = with_checks(made, (_checked, made[0][1], made[0][2]))

    def chain(run: Run) -> bool:
        for test, body, at in branches:
            try:
                if not test(run):
                    continue
                run.check()
            except Exception as error:
                raise _failed_at(at, error) from error
            return body(run)
        return False

    return chain


def _checked(run: Run) -> bool:
    """A test that fails, unless the run has taken too long."""
    run.check()
    return False


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
    return _block(command.block)
