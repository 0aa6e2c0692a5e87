"""``require``: the extensions that a script needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from inbound_audit.errors import did_you_mean
from inbound_audit.sieve import tree
from inbound_audit.sieve.compare import COMPARATORS
from inbound_audit.sieve.expressions import constant
from inbound_audit.sieve.faults import ScriptError

EXTENSIONS = ("variables", "relational", "regex", *(f"comparator-{comparator}" for comparator in COMPARATORS))


def without_require(statements: Sequence[tree.Statement], commands: Iterable[str]) -> Sequence[tree.Statement]:
    """The statements after those that only require. Raises ScriptError for what is neither a command nor known."""
    known = {*commands, *EXTENSIONS}
    for number, statement in enumerate(statements):
        if not (isinstance(statement, tree.Command) and statement.call.name == "require"):
            return statements[number:]
        _check(statement, known)
    return ()


def _check(command: tree.Command, known: set[str]) -> None:
    node = command.call
    only = node.arguments[0] if len(node.arguments) == 1 and not node.tests and command.block is None else None
    for wanted in only.members if isinstance(only, tree.Items) else (only,):
        name = constant(wanted) if isinstance(wanted, tree.Text) else None
        if wanted is None or not isinstance(name, str):
            raise ScriptError(node.at, "require takes a text or a list of texts")
        if name.lower() not in known:
            raise ScriptError(wanted.at, f"{name!r} is not available{did_you_mean(name, sorted(known))}")
